//! What to do next: a pure state machine. No request is made here; times go in as arguments.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// A resourceVersion as a number: comparable within one resource (KEP-5504).
pub type Revision = u64;

/// A watch ends after this many seconds and starts anew from where it was, so that a dead connection is
/// found soon (sync rule 7).
const WATCH_SECONDS: u32 = 25;

/// A watch after a poke. The API server sends a bookmark about 2 s before a watch ends by its timeout, so
/// this one brings it at once. It sends none when the last change of the kind, in a namespace that is not
/// watched, is the present revision itself (run on 1.36): then a list follows.
const POKED_SECONDS: u32 = 3;

/// How often the most recent revision is looked at for proof of a restore (sync rule 8).
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// A watch that ends sooner than this did not end by its timeout: starting it anew at once would spin.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// The next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait this long, then ask again.
    Wait(Duration),
    /// List everything.
    List,
    /// List one object, for the most recent revision.
    Probe,
    /// Watch from a revision.
    Watch {
        /// Changes after this one.
        from: Revision,
        /// When the API server ends the watch.
        seconds: u32,
        /// Whether a poke ends the watch: not while it is already a poked one.
        pokable: bool,
    },
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A list is complete.
    Listed(Revision),
    /// A probe was answered.
    Probed(Revision),
    /// The watch has said everything up to here: an event or a bookmark.
    Reached(Revision),
    /// The watch ended in order.
    Ended,
    /// The watch's revision is too old (410).
    Expired,
    /// A request failed otherwise.
    Failed,
    /// Somebody waits for the present revision.
    Poked,
    /// Somebody knows that what was read is of a history that is over: list anew.
    Outdated,
}

/// The most recent state is older than one that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WentBack {
    /// The highest revision seen.
    pub seen: Revision,
    /// The most recent one.
    pub now: Revision,
}

/// Where the loop stands.
#[derive(Debug)]
pub struct Machine {
    /// What has been reached; none: list first.
    at: Option<Revision>,
    /// The highest revision that any answer has named.
    seen: Revision,
    /// When the most recent revision was last looked at.
    probed: Instant,
    /// Look at it next: a watch could not be started, or somebody waits.
    probe: bool,
    /// Somebody waits for what the next probe finds.
    poked: bool,
    /// Somebody waits for this revision: a short watch is to bring it.
    awaited: Option<Revision>,
    /// When the last watch was started.
    watched: Instant,
    wait: Option<Duration>,
    backoff: Backoff,
}

impl Machine {
    /// A loop that has read nothing.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            at: None,
            seen: 0,
            probed: now,
            probe: false,
            poked: false,
            awaited: None,
            watched: now,
            wait: None,
            backoff: Backoff::of_loops(),
        }
    }

    /// The next request.
    pub fn next(&mut self, now: Instant) -> Step {
        if let Some(wait) = self.wait.take() {
            return Step::Wait(wait);
        }
        let Some(from) = self.at else { return Step::List };
        if self.probe || now.duration_since(self.probed) >= PROBE_EVERY {
            return Step::Probe;
        }
        self.watched = now;
        if self.awaited.is_some() {
            return Step::Watch { from, seconds: POKED_SECONDS, pokable: false };
        }
        Step::Watch { from, seconds: WATCH_SECONDS, pokable: true }
    }

    /// What follows from an outcome.
    pub fn on(&mut self, outcome: Outcome, now: Instant) -> Option<WentBack> {
        match outcome {
            Outcome::Listed(revision) => {
                // The list is the most recent state: nobody needs to wait for more.
                (self.poked, self.awaited) = (false, None);
                self.at = Some(revision);
                self.recent(revision, now)
            }
            Outcome::Probed(revision) => {
                let back = self.recent(revision, now);
                if back.is_some() {
                    self.at = None;
                }
                if std::mem::take(&mut self.poked) {
                    self.awaited = Some(revision).filter(|_| self.at < Some(revision));
                }
                back
            }
            Outcome::Reached(revision) => {
                self.at = self.at.max(Some(revision));
                self.seen = self.seen.max(revision);
                self.backoff.succeeded();
                None
            }
            Outcome::Ended => {
                if now.duration_since(self.watched) < SHORTEST_WATCH {
                    self.wait = Some(self.backoff.failed());
                } else {
                    self.backoff.succeeded();
                    if self.awaited.take().is_some_and(|awaited| self.at < Some(awaited)) {
                        self.at = None;
                    }
                }
                None
            }
            Outcome::Expired => {
                self.at = None;
                self.wait = Some(self.backoff.failed());
                None
            }
            Outcome::Failed => {
                self.probe = true;
                self.wait = Some(self.backoff.failed());
                None
            }
            Outcome::Poked => {
                self.probe = true;
                self.poked = true;
                None
            }
            Outcome::Outdated => {
                self.at = None;
                None
            }
        }
    }

    fn recent(&mut self, now_at: Revision, now: Instant) -> Option<WentBack> {
        self.probed = now;
        self.probe = false;
        self.backoff.succeeded();
        let seen = std::mem::replace(&mut self.seen, now_at);
        (now_at < seen).then_some(WentBack { seen, now: now_at })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Machine, Outcome, PROBE_EVERY, Step, WentBack};

    const USUAL: u32 = 25;

    fn watch(from: u64) -> Step {
        Step::Watch { from, seconds: USUAL, pokable: true }
    }

    /// A machine that has listed at revision 10.
    fn listed() -> (Machine, Instant) {
        let now = Instant::now();
        let mut machine = Machine::new(now);
        assert_eq!(machine.next(now), Step::List);
        assert_eq!(machine.on(Outcome::Listed(10), now), None);
        (machine, now)
    }

    #[test]
    fn lists_then_watches_from_where_it_is() {
        let (mut machine, now) = listed();
        assert_eq!(machine.next(now), watch(10));
        machine.on(Outcome::Reached(12), now);
        let later = now + Duration::from_secs(25);
        machine.on(Outcome::Ended, later);
        assert_eq!(machine.next(later), watch(12));
    }

    #[test]
    fn an_expired_revision_lists_anew_after_a_jittered_wait() {
        let (mut machine, now) = listed();
        machine.next(now);
        machine.on(Outcome::Expired, now);
        assert!(matches!(machine.next(now), Step::Wait(wait) if wait <= Duration::from_millis(500)));
        assert_eq!(machine.next(now), Step::List);
    }

    #[test]
    fn a_failure_waits_probes_and_goes_on_from_where_it_was() {
        let (mut machine, now) = listed();
        machine.next(now);
        machine.on(Outcome::Failed, now);
        assert!(matches!(machine.next(now), Step::Wait(_)));
        assert_eq!(machine.next(now), Step::Probe);
        machine.on(Outcome::Failed, now);
        assert!(matches!(machine.next(now), Step::Wait(_)));
        assert_eq!(machine.next(now), Step::Probe, "a failed probe is not forgotten");
        assert_eq!(machine.on(Outcome::Probed(15), now), None);
        assert_eq!(machine.next(now), watch(10), "a probe says nothing of changes: the watch brings them");
    }

    #[test]
    fn a_watch_that_ends_at_once_does_not_spin() {
        let (mut machine, now) = listed();
        machine.next(now);
        machine.on(Outcome::Ended, now);
        assert!(matches!(machine.next(now), Step::Wait(_)));
        assert_eq!(machine.next(now), watch(10));
    }

    #[test]
    fn a_poke_probes_and_then_watches_shortly_once() {
        let (mut machine, now) = listed();
        machine.next(now);
        machine.on(Outcome::Poked, now);
        assert_eq!(machine.next(now), Step::Probe);
        machine.on(Outcome::Probed(20), now);
        assert_eq!(machine.next(now), Step::Watch { from: 10, seconds: 3, pokable: false });
        machine.on(Outcome::Reached(20), now);
        let later = now + Duration::from_secs(3);
        machine.on(Outcome::Ended, later);
        assert_eq!(machine.next(later), watch(20));
        machine.on(Outcome::Poked, later);
        machine.next(later);
        machine.on(Outcome::Probed(20), later);
        assert_eq!(machine.next(later), watch(20), "nothing to wait for");
    }

    #[test]
    fn a_poke_lists_when_no_bookmark_comes() {
        let (mut machine, now) = listed();
        machine.next(now);
        machine.on(Outcome::Poked, now);
        machine.next(now);
        machine.on(Outcome::Probed(20), now);
        machine.next(now);
        machine.on(Outcome::Reached(15), now);
        let later = now + Duration::from_secs(3);
        machine.on(Outcome::Ended, later);
        assert_eq!(machine.next(later), Step::List);
    }

    #[test]
    fn a_lower_recent_revision_proves_a_restore() {
        let (mut machine, now) = listed();
        machine.next(now);
        machine.on(Outcome::Reached(30), now);
        let later = now + PROBE_EVERY;
        machine.on(Outcome::Ended, later);
        assert_eq!(machine.next(later), Step::Probe, "looked for once a minute");
        assert_eq!(machine.on(Outcome::Probed(20), later), Some(WentBack { seen: 30, now: 20 }));
        assert_eq!(machine.next(later), Step::List);
        assert_eq!(machine.on(Outcome::Listed(21), later), None, "said once");
        assert_eq!(machine.next(later), watch(21));
    }

    #[test]
    fn what_is_outdated_is_listed_anew_at_once() {
        let (mut machine, now) = listed();
        machine.next(now);
        assert_eq!(machine.on(Outcome::Outdated, now), None);
        assert_eq!(machine.next(now), Step::List);
        machine.on(Outcome::Listed(12), now);
        assert_eq!(machine.next(now), watch(12));
    }

    #[test]
    fn a_relist_proves_a_restore_too() {
        let (mut machine, now) = listed();
        machine.next(now);
        machine.on(Outcome::Expired, now);
        machine.next(now);
        assert_eq!(machine.on(Outcome::Listed(5), now), Some(WentBack { seen: 10, now: 5 }));
        machine.next(now);
        machine.on(Outcome::Reached(6), now);
        machine.on(Outcome::Ended, now + Duration::from_secs(25));
        assert_eq!(machine.next(now + Duration::from_secs(25)), watch(6));
    }
}
