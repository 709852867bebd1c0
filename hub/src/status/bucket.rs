//! A token bucket before all status writes of this replica: a fleet that reports at once must not stop the
//! API server for others.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Writes at once.
const BURST: f64 = 200.0;
/// Writes a second after that: a 2-core API server does about ten times as many.
const PER_SECOND: f64 = 200.0;

/// See the module.
#[derive(Debug, Default)]
pub struct Bucket(Mutex<Option<(f64, Instant)>>);

impl Bucket {
    /// Takes one token: how long to wait before the write. Tokens may be owed, so that waiting is fair.
    pub fn take(&self, now: Instant) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = state.unwrap_or((BURST, now));
        let gained = now.saturating_duration_since(at).as_secs_f64() * PER_SECOND;
        let left = (left + gained).min(BURST) - 1.0;
        *state = Some((left, now));
        Duration::from_secs_f64((-left / PER_SECOND).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Bucket;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_is_paced() {
        let (bucket, now) = (Bucket::default(), crate::clock::now());
        let waits: Vec<Duration> = (0..400).map(|_| bucket.take(now)).collect();
        assert!(waits[..200].iter().all(Duration::is_zero));
        assert_eq!(waits[399], Duration::from_secs(1));
        assert!(bucket.take(now + Duration::from_secs(10)).is_zero());
    }
}
