//! A token bucket before all requests for statuses of this replica: a fleet that reports at once must not stop
//! the API server for others, and what one answer of "too many requests" says holds for all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::clock;

/// Requests at once.
const BURST: f64 = 400.0;
/// Requests a second after that, reads included: a 2-core API server does about five times as many.
const PER_SECOND: f64 = 400.0;

/// See the module.
#[derive(Debug, Default)]
pub struct Bucket(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Tokens at a moment; owed ones are negative. None: full.
    tokens: Option<(f64, Instant)>,
    /// Nothing goes before this.
    held: Option<Instant>,
    /// Counts holds: who waited for a token when one began must ask again.
    holds: u64,
}

impl Bucket {
    /// Waits for one token.
    pub async fn turn(&self) {
        loop {
            let (wait, holds) = self.take(clock::now());
            if !wait.is_zero() {
                sleep(wait).await;
            }
            if self.lock().holds == holds {
                return;
            }
        }
    }

    /// The API server wants to be left alone for so long: nobody goes before, and then one after the other.
    /// What is said while that lasts is of the same congestion and adds nothing.
    pub fn hold(&self, wait: Duration, now: Instant) {
        let mut state = self.lock();
        if state.held.is_none_or(|until| until <= now) {
            let until = now + wait;
            state.held = Some(until);
            state.tokens = Some((0.0, until));
            state.holds += 1;
        }
    }

    /// Takes one token: how long to wait before the request, and under which hold that was said. Tokens may be
    /// owed, so that waiting is fair.
    fn take(&self, now: Instant) -> (Duration, u64) {
        let mut state = self.lock();
        let (left, at) = state.tokens.unwrap_or((BURST, now));
        let gained = now.saturating_duration_since(at).as_secs_f64() * PER_SECOND;
        let left = (left + gained).min(BURST) - 1.0;
        let from = at.max(now);
        state.tokens = Some((left, from));
        let owed = Duration::from_secs_f64((-left / PER_SECOND).max(0.0));
        (from.saturating_duration_since(now) + owed, state.holds)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Bucket;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_is_paced() {
        let (bucket, now) = (Bucket::default(), crate::clock::now());
        let waits: Vec<Duration> = (0..800).map(|_| bucket.take(now).0).collect();
        assert!(waits[..400].iter().all(Duration::is_zero));
        assert_eq!(waits[799], Duration::from_secs(1));
        assert!(bucket.take(now + Duration::from_secs(10)).0.is_zero());
    }

    #[test]
    fn a_hold_stops_all_and_then_they_go_one_by_one() {
        let (bucket, now) = (Bucket::default(), crate::clock::now());
        let second = Duration::from_secs(1);
        bucket.hold(3 * second, now);
        let waits: Vec<Duration> = (0..400).map(|_| bucket.take(now + second).0).collect();
        assert!(waits[0] >= 2 * second && waits[399] == 3 * second, "{waits:?}");
        bucket.hold(30 * second, now + second);
        assert!(bucket.take(now + 10 * second).0.is_zero(), "the same congestion held twice");
        bucket.hold(second, now + 10 * second);
        assert!(bucket.take(now + 10 * second).0 >= second, "a later congestion holds nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_when_a_hold_begins_waits_for_its_end() {
        let (bucket, start) = (Bucket::default(), crate::clock::now());
        // The last of these is due in half a second.
        for _ in 0..599 {
            bucket.take(start);
        }
        let late = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bucket.hold(Duration::from_secs(5), crate::clock::now());
        };
        tokio::join!(bucket.turn(), late);
        assert!(crate::clock::now() - start >= Duration::from_secs(5));
    }
}
