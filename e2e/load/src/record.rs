//! What happened, told to the checker as it happens.
//!
//! In: events of agents, of changes and of statuses, in the order in which this process saw them. Out: what
//! the checker found. Verdicts wait for the end: a status is seen by a watch, which may be later than the
//! verdict that follows it, and what was said to be written may show until then.
//!
//! While others change the cluster the record is held: what agents show waits until it was read what they may
//! have, because nothing here knows of such a change before it is made.

use std::sync::{Mutex, MutexGuard, PoisonError};

use selvedge_history::{Agent, Checker, Event, Row, Violation};

use crate::clock::Clock;

#[derive(Debug, Default)]
struct Kept {
    checker: Checker,
    verdicts: Vec<(u64, Event)>,
    /// Events that wait; none: the record is not held.
    held: Option<Vec<(u64, Event)>>,
}

/// See the module.
#[derive(Debug)]
pub struct Record {
    clock: Clock,
    kept: Option<Mutex<Kept>>,
}

impl Record {
    /// A record that is checked, or (for what is only measured) one that forgets at once.
    #[must_use]
    pub fn new(clock: Clock, checked: bool) -> Self {
        Self { clock, kept: checked.then(Mutex::default) }
    }

    /// Tells what `event` makes; nothing is made when nobody checks.
    pub fn tell(&self, event: impl FnOnce() -> Event) {
        let Some(mut kept) = self.kept() else { return };
        let at = self.clock.micros() / 1000;
        match event() {
            verdict @ Event::Verdict { .. } => kept.verdicts.push((at, verdict)),
            event => match &mut kept.held {
                Some(held) => held.push((at, event)),
                None => kept.checker.observe(at, event),
            },
        }
    }

    /// Tells what may be from now on: ahead of all that waits while the record is held.
    pub fn allow(&self, event: impl FnOnce() -> Event) {
        let Some(mut kept) = self.kept() else { return };
        let at = self.clock.micros() / 1000;
        kept.checker.observe(at, event());
    }

    /// What agents show waits from now on.
    pub fn hold(&self) {
        if let Some(mut kept) = self.kept() {
            kept.held.get_or_insert_default();
        }
    }

    /// What waits is judged, in its order.
    pub fn go_on(&self) {
        let Some(mut kept) = self.kept() else { return };
        for (at, event) in kept.held.take().unwrap_or_default() {
            kept.checker.observe(at, event);
        }
    }

    /// What an agent has acknowledged, by its own events.
    #[must_use]
    pub fn answered(&self, agent: &Agent) -> Vec<Row> {
        self.kept().map(|kept| kept.checker.answered_by(agent)).unwrap_or_default()
    }

    /// How many violations were found so far.
    #[must_use]
    pub fn found(&self) -> usize {
        self.kept().map_or(0, |kept| kept.checker.violations().len())
    }

    /// Whether anybody checks.
    #[must_use]
    pub const fn is_checked(&self) -> bool {
        self.kept.is_some()
    }

    /// What was found, and of how many events. Only now the verdicts are judged: call it when every status
    /// that they speak of was told.
    #[must_use]
    pub fn judge(&self) -> (Vec<Violation>, u64) {
        let Some(mut kept) = self.kept() else { return (Vec::new(), 0) };
        for (at, verdict) in std::mem::take(&mut kept.verdicts) {
            kept.checker.observe(at, verdict);
        }
        (kept.checker.violations().to_vec(), kept.checker.events())
    }

    fn kept(&self) -> Option<MutexGuard<'_, Kept>> {
        self.kept.as_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
