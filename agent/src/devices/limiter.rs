//! When a device reports: at once after quiet, and then no more often than asked. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Changes of state (connection, errors, what was applied) go sooner than values may, but a device that
/// flaps must not flood the link either.
const STATE_GAP: Duration = Duration::from_millis(100);

/// Decides when the next report of one device goes.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Limiter {
    /// A value changed whose property reports at most once per `interval`.
    pub(super) fn value(&mut self, interval: Duration, now: Instant) {
        self.want(interval, now);
    }

    /// Something else changed.
    pub(super) fn state(&mut self, now: Instant) {
        self.want(STATE_GAP, now);
    }

    fn want(&mut self, gap: Duration, now: Instant) {
        let at = self.last.map_or(now, |last| now.max(last + gap));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When to report; none: there is nothing to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A report went.
    pub(super) fn sent(&mut self, now: Instant) {
        *self = Self { last: Some(now), due: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_change_goes_at_once_and_the_next_waits_its_interval() {
        let interval = Duration::from_secs(10);
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut limiter = Limiter::default();
        limiter.value(interval, start);
        assert_eq!(limiter.due(), Some(start));
        limiter.sent(start);
        assert_eq!(limiter.due(), None);
        limiter.value(interval, at(3));
        limiter.value(interval, at(4));
        assert_eq!(limiter.due(), Some(at(10)));
        limiter.value(Duration::from_secs(6), at(5));
        assert_eq!(limiter.due(), Some(at(6)), "a property that may report sooner takes the others with it");
        limiter.state(at(5));
        assert_eq!(limiter.due(), Some(at(5)));
        limiter.sent(at(5));
        limiter.value(interval, at(60));
        assert_eq!(limiter.due(), Some(at(60)), "after quiet at once");
    }
}
