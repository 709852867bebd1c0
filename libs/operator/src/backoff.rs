//! Delays after failures: exponential, with full jitter, so that many who failed together do not come
//! back together.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt as _;

/// Delays of one loop or one object.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays of up to `first`, then up to twice that, and so on up to `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// For reconciles: 1 s to 5 min.
    #[must_use]
    pub const fn of_objects() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(300))
    }

    /// For loops that talk to the API server: 500 ms to 30 s.
    #[must_use]
    pub const fn of_loops() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }

    /// The delay after one more failure: uniform between zero and a ceiling that doubles.
    pub fn failed(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        rand::rng().random_range(Duration::ZERO..=ceiling)
    }

    /// The next failure is the first again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    fn ceiling(&self) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.most)
    }
}

/// Delays per key. An entry lives from a failure to the next success or [`forget`](Self::forget), so its
/// size is bounded by the objects that fail.
#[derive(Debug)]
pub struct Backoffs<K>(Mutex<HashMap<K, Backoff>>);

impl<K> Default for Backoffs<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq> Backoffs<K> {
    /// The delay after one more failure of `key`.
    pub fn failed(&self, key: K) -> Duration {
        self.entries().entry(key).or_insert_with(Backoff::of_objects).failed()
    }

    /// Drops what is remembered of `key`: after a success, and when the object is gone.
    pub fn forget(&self, key: &K) {
        self.entries().remove(key);
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<K, Backoff>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, Backoffs};

    #[test]
    fn ceilings_double_up_to_the_most_and_start_anew_after_success() {
        let mut backoff = Backoff::of_objects();
        let mut ceilings = Vec::new();
        for _ in 0..40 {
            ceilings.push(backoff.ceiling().as_secs());
            assert!(backoff.failed().as_secs() <= ceilings[ceilings.len() - 1]);
        }
        assert_eq!(ceilings[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(ceilings[39], 300, "overflowed");
        backoff.succeeded();
        assert_eq!(backoff.ceiling(), Duration::from_secs(1));
    }

    #[test]
    fn keys_do_not_share_delays_and_are_forgotten() {
        let backoffs = Backoffs::default();
        for _ in 0..5 {
            backoffs.failed("a");
        }
        assert!(backoffs.failed("b") <= Duration::from_secs(1));
        backoffs.forget(&"a");
        assert!(backoffs.failed("a") <= Duration::from_secs(1));
        assert_eq!(backoffs.entries().len(), 2);
    }
}
