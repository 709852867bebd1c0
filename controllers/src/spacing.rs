//! Spacing of status writes: the first goes at once, those that follow keep a distance.
//!
//! In: who wants to write, what for, the time. Out: now, or how long to wait. Pure. A status that sums up what
//! thousands of nodes report would otherwise be written as often as they report.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// Between two writes of one status: people read it, and no agent waits longer for it than this.
const DISTANCE: Duration = Duration::from_secs(1);
/// At most so much is added: statuses that were written together are not for ever.
const SPREAD: Duration = Duration::from_millis(250);

/// When each was written last, and for which generation. An entry lives as long as its object.
#[derive(Debug)]
pub struct Spacing<K>(Mutex<HashMap<K, Written>>);

#[derive(Clone, Copy, Debug)]
struct Written {
    generation: Option<i64>,
    next: Timestamp,
}

impl<K> Default for Spacing<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Spacing<K> {
    /// How long `key` has to wait; none: it may be written now. A spec that is new never waits.
    pub fn wait(&self, key: &K, generation: Option<i64>, now: Timestamp) -> Option<Duration> {
        let all = self.lock();
        let written = all.get(key).filter(|written| written.generation == generation)?;
        let rest = Duration::try_from(written.next.duration_since(now)).ok()?;
        // A clock that was set back must not hold anybody for hours.
        (!rest.is_zero()).then(|| rest.min(DISTANCE + SPREAD))
    }

    /// `key` was written. `random`, from 0 to 1, spreads the next write.
    pub fn wrote(&self, key: K, generation: Option<i64>, now: Timestamp, random: f64) {
        let next = now + DISTANCE + SPREAD.mul_f64(random.clamp(0.0, 1.0));
        self.lock().insert(key, Written { generation, next });
    }

    /// The object is gone.
    pub fn forget(&self, key: &K) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::{DISTANCE, SPREAD, Spacing};

    #[test]
    fn the_first_goes_at_once_and_the_next_a_second_later() {
        let (spacing, start) = (Spacing::default(), Timestamp::UNIX_EPOCH);
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(spacing.wait(&"a", Some(1), at(0)), None);
        spacing.wrote("a", Some(1), at(0), 0.0);
        assert_eq!(spacing.wait(&"a", Some(1), at(400)), Some(Duration::from_millis(600)));
        assert_eq!(spacing.wait(&"b", Some(1), at(400)), None, "another waits for it");
        assert_eq!(spacing.wait(&"a", Some(2), at(400)), None, "a new spec waits");
        assert_eq!(spacing.wait(&"a", Some(1), at(1000)), None);
        spacing.wrote("a", Some(1), at(1000), 1.0);
        assert_eq!(spacing.wait(&"a", Some(1), at(1000)), Some(DISTANCE + SPREAD));
        spacing.forget(&"a");
        assert_eq!(spacing.wait(&"a", Some(1), at(1000)), None);
    }

    #[test]
    fn nobody_waits_longer_because_a_clock_was_set_back() {
        let (spacing, start) = (Spacing::default(), Timestamp::UNIX_EPOCH + Duration::from_secs(7200));
        spacing.wrote("a", None, start, 1.0);
        assert_eq!(spacing.wait(&"a", None, Timestamp::UNIX_EPOCH), Some(DISTANCE + SPREAD));
    }
}
