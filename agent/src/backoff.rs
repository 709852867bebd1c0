//! How long to wait before the next try: exponential with full jitter, so that a fleet that lost its hub
//! at one moment does not come back at one moment (sync rule 13). Pure: randomness comes in.

use std::time::Duration;

/// Grows with every failure in a row.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is up to `base`, none is over `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// The wait after one more failure; `random` is even in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.failures.min(16)).min(self.cap);
        self.failures += 1;
        ceiling.mul_f64(random)
    }

    /// It worked.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A wait that the hub asked for: never shorter, and up to half longer, so that those who were sent away
/// together do not return together.
#[must_use]
pub fn directed(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(1.0 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn grows_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<_> = (0..4).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(500));
        (0..100).for_each(|_| assert!(backoff.next(1.0) <= Duration::from_secs(5)));
    }
}
