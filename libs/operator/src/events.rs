//! Kubernetes Events: repeated ones are one Event with a count, and their number is bounded.
//!
//! An Event is a courtesy to people. One that cannot be written is logged and never fails a reconcile.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::{Instant, timeout};

use crate::telemetry::chain;

/// Events at once, and the seconds after which one more is allowed: a fleet that fails together must not
/// fill etcd. client-go's correlator has 25 per object; ours counts per process.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 5.0;

/// The API refuses longer notes.
const NOTE_BYTES: usize = 1024;

/// Longest wait for one Event.
const REQUEST: Duration = Duration::from_secs(5);

/// Publishes Events of one component.
pub struct Events {
    recorder: Recorder,
    allowance: Mutex<Allowance>,
}

/// A token bucket.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        self.left = (self.left + gained).min(BURST);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

impl Events {
    /// Events of `component` (such as `edgenode-controller`) as the replica `instance`.
    #[must_use]
    pub fn new(client: Client, component: &str, instance: &str) -> Self {
        let reporter = Reporter { controller: component.to_owned(), instance: Some(instance.to_owned()) };
        let allowance = Allowance { left: BURST, at: Instant::now() };
        Self { recorder: Recorder::new(client, reporter), allowance: Mutex::new(allowance) }
    }

    /// Something went as it should.
    pub async fn normal(&self, about: &ObjectReference, reason: &str, action: &str, note: impl Into<String>) {
        self.publish(EventType::Normal, about, reason, action, note.into()).await;
    }

    /// Something needs eyes.
    pub async fn warning(
        &self,
        about: &ObjectReference,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        self.publish(EventType::Warning, about, reason, action, note.into()).await;
    }

    async fn publish(
        &self,
        type_: EventType,
        about: &ObjectReference,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let name = about.name.as_deref().unwrap_or_default();
        let allowed = self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if !allowed {
            tracing::debug!(about = name, reason, note, "Event left out: too many");
            return;
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: action.to_owned(),
            secondary: None,
        };
        match timeout(REQUEST, self.recorder.publish(&event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(about = name, reason, error = chain(&error), "cannot publish an Event")
            }
            Err(_) => tracing::warn!(about = name, reason, "cannot publish an Event: no answer"),
        }
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > NOTE_BYTES {
        let end = note.floor_char_boundary(NOTE_BYTES - '…'.len_utf8());
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Allowance, BURST, shortened};

    #[test]
    fn events_are_bounded_and_come_back() {
        let start = Instant::now();
        let mut allowance = Allowance { left: BURST, at: start };
        assert_eq!((0..1000).filter(|_| allowance.take(start)).count(), 100);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), 10);
    }

    #[test]
    fn notes_fit_and_stay_text() {
        assert_eq!(shortened("short".into()), "short");
        let long = shortened("ä".repeat(2000));
        assert!(long.len() <= 1024 && long.ends_with('…'), "{}", long.len());
    }
}
