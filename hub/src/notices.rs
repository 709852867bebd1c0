//! Events of the hub, for people: removals that wait, reports that the API server refused, and certificates that were
//! copied, as it seems.
//!
//! In: what sessions meet. Out: Events on the object that it is about, one an object and reason in ten minutes, and
//! few in all: a guard that trips for a whole fleet names some of its nodes here; the condition of each node says
//! it anyway. Nothing waits for an Event, and one that finds no room is left out.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use selvedge_crds::{Device, EdgeNode};
use selvedge_model::EntryKind;
use selvedge_operator::BoxError;
use selvedge_operator::events::Events;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::status::Target;

/// The same of the same object is said again after this; an Event lives for an hour.
const QUIET: Duration = Duration::from_secs(600);
/// Events at once of one reason, and how long it takes until one more is allowed: enough to see what is the matter,
/// and at most 80 of a reason and replica in etcd.
const MOST: u32 = 20;
const ONE_MORE: Duration = Duration::from_secs(60);

/// One Event, to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    about: ObjectReference,
    reason: Reason,
    note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    RemovalsHeld,
    ReportRefused,
    OldCertificate,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::RemovalsHeld => "RemovalsHeld",
            Self::ReportRefused => "ReportRefused",
            Self::OldCertificate => "OldCertificate",
        }
    }

    const fn action(self) -> &'static str {
        match self {
            Self::RemovalsHeld => "Remove",
            Self::ReportRefused => "Report",
            Self::OldCertificate => "Admit",
        }
    }
}

/// How many Events of one reason there may be.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Option<Instant>,
    /// When it was said of which uid: those of the last minutes, so no more than are allowed.
    said: HashMap<String, Instant>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: MOST, since: None, said: HashMap::new() }
    }
}

impl Budget {
    fn admits(&mut self, uid: &str, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let gained = now.saturating_duration_since(since).as_secs() / ONE_MORE.as_secs();
        let gained = u32::try_from(gained).unwrap_or(MOST).min(MOST);
        if gained > 0 {
            self.left = (self.left + gained).min(MOST);
            self.since = Some(now);
        }
        self.said.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        if self.left == 0 || self.said.contains_key(uid) {
            return false;
        }
        self.left -= 1;
        self.said.insert(uid.to_owned(), now);
        true
    }
}

#[derive(Debug, Default)]
struct Inner {
    held: Budget,
    refused: Budget,
    outdated: Budget,
    queue: VecDeque<Notice>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Notices {
    inner: Mutex<Inner>,
    /// Something is to be published.
    wanted: Notify,
}

impl Notices {
    /// Removals from a node wait: how many of which kinds, and why as its condition says it.
    pub fn removals_held(&self, node: &str, uid: &str, why: &str, held: &[(EntryKind, usize)], now: Instant) {
        let counts: Vec<_> = held.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
        let release: Vec<_> =
            held.iter().map(|(kind, _)| format!("{}=<any new text>", kind.name())).collect();
        let cause = match why {
            "CrdDeleted" => {
                "their CustomResourceDefinition was deleted, or created anew. Apply it and its objects again"
            }
            _ => {
                "more are to go that nobody deleted than pass unasked. Look for a selector, labels or a namespace \
                 that was changed by mistake"
            }
        };
        let note = format!(
            "{} of this node wait to be removed ({why}): {cause}. If they are to go: set data.release of ConfigMap \
             selvedge-cluster to {}",
            counts.join(" and "),
            release.join(","),
        );
        let about = reference(&Target::Node(node.into()), uid);
        self.say(Notice { about, reason: Reason::RemovalsHeld, note }, now);
    }

    /// The API server refused what an agent reported of an object.
    pub fn refused(&self, target: &Target, uid: &str, why: &str, now: Instant) {
        let advice = match why {
            "Invalid" => "it breaks the schema: see whether the CRDs are of this hub's version",
            "TooLarge" => "its status is larger than the API server takes",
            _ => "see the hub's log",
        };
        let note = format!("what the agent reported cannot be written and is dropped ({why}): {advice}");
        self.say(Notice { about: reference(target, uid), reason: Reason::ReportRefused, note }, now);
    }

    /// A machine shows a certificate of a node that was renewed since.
    pub fn outdated(&self, node: &str, uid: &str, serial: &str, now: Instant) {
        let note = format!(
            "a machine shows certificate {serial} of this node, which was renewed since, and is refused: somebody may \
             have copied the node's disk, or it was restored from an image. If the node itself is out for it, set \
             spec.join.request to a new value and join it again"
        );
        self.say(
            Notice {
                about: reference(&Target::Node(node.into()), uid),
                reason: Reason::OldCertificate,
                note,
            },
            now,
        );
    }

    fn say(&self, notice: Notice, now: Instant) {
        let mut inner = self.lock();
        let uid = notice.about.uid.clone().unwrap_or_default();
        let budget = match notice.reason {
            Reason::RemovalsHeld => &mut inner.held,
            Reason::ReportRefused => &mut inner.refused,
            Reason::OldCertificate => &mut inner.outdated,
        };
        if !budget.admits(&uid, now) {
            return;
        }
        // What the budget admits while the API server is away has room; the oldest goes first.
        if inner.queue.len() >= 2 * MOST as usize {
            inner.queue.pop_front();
        }
        inner.queue.push_back(notice);
        self.wanted.notify_one();
    }

    fn next(&self) -> Option<Notice> {
        self.lock().queue.pop_front()
    }

    /// Publishes what is said.
    ///
    /// # Errors
    /// Never; an Event that cannot be written is logged.
    pub async fn publish(
        hub: Arc<crate::hub::Hub>,
        events: Events,
        token: CancellationToken,
    ) -> Result<(), BoxError> {
        loop {
            while let Some(Notice { about, reason, note }) = hub.notices.next() {
                events.warning(&about, reason.name(), reason.action(), note).await;
            }
            tokio::select! {
                () = hub.notices.wanted.notified() => {}
                () = token.cancelled() => return Ok(()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference(target: &Target, uid: &str) -> ObjectReference {
    let (api_version, kind, namespace) = match target {
        Target::Node(_) => (EdgeNode::api_version(&()), EdgeNode::kind(&()), None),
        Target::Device(key) => (Device::api_version(&()), Device::kind(&()), Some(key.namespace.to_string())),
    };
    ObjectReference {
        api_version: Some(api_version.into_owned()),
        kind: Some(kind.into_owned()),
        name: Some(target.name().to_owned()),
        namespace,
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use selvedge_model::EntryKind;

    use super::{MOST, Notices, ONE_MORE, QUIET};
    use crate::clock;
    use crate::index::ObjectKey;
    use crate::status::Target;

    fn said(notices: &Notices) -> Vec<String> {
        let text = |notice: super::Notice| {
            let about = notice.about;
            let place = about.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
            format!(
                "{} {place}{} {}: {}",
                about.kind.unwrap(),
                about.name.unwrap(),
                notice.reason.name(),
                notice.note
            )
        };
        std::iter::from_fn(|| notices.next()).map(text).collect()
    }

    #[test]
    fn an_event_says_what_waits_why_and_what_to_do() {
        let (notices, now) = (Notices::default(), clock::now());
        let held = [(EntryKind::Workload, 3), (EntryKind::Device, 2)];
        notices.removals_held("shop-1", "u1", "RemovalsHeld", &held, now);
        notices.removals_held("shop-2", "u2", "CrdDeleted", &held[1..], now);
        notices.refused(&Target::Device(ObjectKey::new("shop", "boiler")), "u3", "Invalid", now);
        let said = said(&notices);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].starts_with("EdgeNode shop-1 RemovalsHeld: 3 Workload and 2 Device of this node wait")
        );
        assert!(said[0].ends_with("to Workload=<any new text>,Device=<any new text>"), "{}", said[0]);
        assert!(
            said[1].contains("2 Device of this node wait to be removed (CrdDeleted): their Custom"),
            "{}",
            said[1]
        );
        assert!(
            said[2].starts_with("Device shop/boiler ReportRefused: what the agent reported cannot"),
            "{}",
            said[2]
        );
    }

    #[test]
    fn a_fleet_that_is_held_writes_few_events_and_hides_no_other_reason() {
        let (notices, now) = (Notices::default(), clock::now());
        for node in 0..8000 {
            let (name, uid) = (format!("node-{node}"), format!("uid-{node}"));
            notices.removals_held(&name, &uid, "RemovalsHeld", &[(EntryKind::Workload, 1)], now);
        }
        assert_eq!(said(&notices).len(), MOST as usize);
        notices.refused(&Target::Node("node-1".into()), "uid-1", "TooLarge", now);
        assert_eq!(said(&notices).len(), 1);
        let minutes = |minutes: u32| now + ONE_MORE * minutes;
        for minute in 1..=3 {
            for node in 100..8000 {
                let uid = format!("uid-{node}");
                notices.removals_held(
                    "n",
                    &uid,
                    "RemovalsHeld",
                    &[(EntryKind::Workload, 1)],
                    minutes(minute),
                );
            }
        }
        assert_eq!(said(&notices).len(), 3, "one a minute");
    }

    #[test]
    fn the_same_of_one_object_is_said_once_in_a_while() {
        let (notices, now) = (Notices::default(), clock::now());
        let node = Target::Node("shop-1".into());
        let almost = QUIET.saturating_sub(Duration::from_secs(1));
        for at in [now, now + ONE_MORE, now + almost, now + QUIET] {
            notices.refused(&node, "u", "Invalid", at);
        }
        assert_eq!(said(&notices).len(), 2);
        notices.refused(&node, "created anew", "Invalid", now + QUIET);
        assert_eq!(said(&notices).len(), 1);
    }
}
