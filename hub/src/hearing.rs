//! Whether this replica still hears of EdgeNodes (identity rule 7): one whose watch is stuck would admit nodes that
//! were shut out long ago.
//!
//! In: that a list-watch loop was answered. Out: whether new sessions may begin, and a gate of readiness. Sessions
//! that live go on: who shuts a node out tells them by the controller's stream, too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use selvedge_operator::BoxError;
use selvedge_operator::admin::Gate;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::hub::Hub;
use crate::index::Resource;

/// Silence about EdgeNodes for so long is deafness, if others are answered: a quiet watch ends every 25 s.
const SILENCE: Duration = Duration::from_secs(60);
/// When the API server is away all fall silent within one round of quiet watches. Who was answered so long after the
/// last word of EdgeNodes was answered while they were not.
const ROUND: Duration = Duration::from_secs(30);
/// How often readiness is looked at: a few probes fail before a Service takes a replica out anyway.
const LOOK: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Hearing(Mutex<Heard>);

#[derive(Debug)]
struct Heard {
    nodes: Instant,
    others: Instant,
}

impl Hearing {
    /// A replica that begins now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Heard { nodes: now, others: now }))
    }

    /// The API server answered the loop of a resource.
    pub fn heard(&self, resource: &Resource, now: Instant) {
        let mut heard = self.lock();
        match resource {
            Resource::EdgeNodes => heard.nodes = now,
            _ => heard.others = now,
        }
    }

    /// Whether nothing was heard of EdgeNodes for a minute while the API server answered others. When it answers
    /// nobody, nobody is shut out either.
    #[must_use]
    pub fn is_deaf(&self, now: Instant) -> bool {
        let heard = self.lock();
        now >= heard.nodes + SILENCE && heard.others >= heard.nodes + ROUND
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the gate of readiness until `token` is cancelled.
///
/// # Errors
/// Never.
pub async fn follow(hub: Arc<Hub>, gate: Gate, token: CancellationToken) -> Result<(), BoxError> {
    let mut deaf = None;
    loop {
        let now = hub.hearing.is_deaf(clock::now());
        if deaf.replace(now) != Some(now) {
            if now {
                tracing::error!(
                    "nothing is heard of EdgeNodes, though the API server answers others: no new sessions"
                );
                gate.close(
                    "nothing is heard of EdgeNodes for a minute, though the API server answers others",
                );
            } else {
                gate.ready();
            }
        }
        if token.run_until_cancelled(sleep(LOOK)).await.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Hearing;
    use crate::clock;
    use crate::index::Resource;

    #[test]
    fn silence_about_nodes_is_deafness_only_while_others_are_answered() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let hearing = Hearing::new(start);
        assert!(!hearing.is_deaf(at(3600)), "the API server has answered nobody");
        hearing.heard(&Resource::Devices, at(25));
        assert!(!hearing.is_deaf(at(3600)), "it went away between two quiet watches");
        hearing.heard(&Resource::Devices, at(50));
        assert!(!hearing.is_deaf(at(59)));
        assert!(hearing.is_deaf(at(60)));
        hearing.heard(&Resource::EdgeNodes, at(70));
        assert!(!hearing.is_deaf(at(129)));
        hearing.heard(&Resource::Namespaces, at(129));
        assert!(hearing.is_deaf(at(130)));
        assert!(hearing.is_deaf(at(3600)), "the API server goes away: it stays so until it hears of them");
    }
}
