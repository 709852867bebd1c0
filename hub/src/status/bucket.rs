//! A token bucket before all requests for statuses of this replica: a fleet that reports at once must not stop
//! the API server for others, and what one answer of "too many requests" says holds for all, as does no answer.
//!
//! Its rate is halved by each congestion and comes back bit by bit. So many requests may be without an answer at
//! once that a slow API server slows its writers before any of them runs out of patience.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::clock;

/// Requests a second unless somebody says otherwise, reads included, and as many at once after a rest: a 2-core API
/// server does about five times as many.
const MOST: u16 = 400;
/// However congested it is: as many as tell within a second that it is over.
const LEAST: f64 = 10.0;
/// Without congestion a rate regains all of itself in so many seconds.
const REGAINED_IN_S: f64 = 20.0;
/// Requests without an answer at once: at the full rate each may take a quarter of a second.
const OPEN: usize = 100;

/// See the module.
#[derive(Debug)]
pub struct Bucket {
    state: Mutex<State>,
    open: Semaphore,
}

/// Leave for one request, until its answer has come.
#[derive(Debug)]
pub struct Turn<'a> {
    sent: Instant,
    _open: Option<SemaphorePermit<'a>>,
}

impl Turn<'_> {
    /// When it began.
    #[must_use]
    pub fn sent(&self) -> Instant {
        self.sent
    }
}

#[derive(Debug)]
struct State {
    /// The highest rate.
    most: f64,
    /// Rate and tokens at a moment; owed tokens are negative. None: full.
    level: Option<Level>,
    /// Nothing goes before this.
    held: Option<Instant>,
    /// Counts holds: who waited for a token when one began must ask again.
    holds: u64,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    at: Instant,
    rate: f64,
    tokens: f64,
}

impl Level {
    /// The same at a later moment, with `most` for the highest rate.
    fn later(self, most: f64, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let rate = (self.rate + most / REGAINED_IN_S * passed).min(most);
        let tokens = (self.tokens + (self.rate + rate) / 2.0 * passed).min(rate);
        Self { at: self.at.max(now), rate, tokens }
    }
}

impl State {
    fn level(&self, now: Instant) -> Level {
        let most = self.most;
        self.level.map_or(Level { at: now, rate: most, tokens: most }, |level| level.later(most, now))
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Bucket {
    /// For so many requests a second at most.
    #[must_use]
    pub fn new(most: u16) -> Self {
        let state = State { most: f64::from(most), level: None, held: None, holds: 0 };
        Self { state: Mutex::new(state), open: Semaphore::new(OPEN) }
    }

    /// Waits for leave.
    pub async fn turn(&self) -> Turn<'_> {
        // Never closed, so never an error.
        let open = self.open.acquire().await.ok();
        loop {
            let (wait, holds) = self.take(clock::now());
            if !wait.is_zero() {
                sleep(wait).await;
            }
            if self.lock().holds == holds {
                return Turn { sent: clock::now(), _open: open };
            }
        }
    }

    /// A request that was sent then found the API server with too much to do: nobody goes for so long, and then
    /// at half the rate. What was sent before an earlier hold was over tells of the same congestion and adds
    /// nothing.
    pub fn congested(&self, sent: Instant, wait: Duration, now: Instant) {
        let mut state = self.lock();
        if state.held.is_none_or(|until| until <= sent) {
            let until = now + wait;
            let rate = (state.level(now).rate / 2.0).max(LEAST.min(state.most));
            state.held = Some(until);
            state.level = Some(Level { at: until, rate, tokens: 0.0 });
            state.holds += 1;
        }
    }

    /// Requests a second.
    #[must_use]
    pub fn rate(&self, now: Instant) -> f64 {
        self.lock().level(now).rate
    }

    /// Takes one token: how long to wait before the request, and under which hold that was said. Tokens may be
    /// owed, so that waiting is fair.
    fn take(&self, now: Instant) -> (Duration, u64) {
        let mut state = self.lock();
        let mut level = state.level(now);
        level.tokens -= 1.0;
        state.level = Some(level);
        let owed = Duration::from_secs_f64((-level.tokens / level.rate).max(0.0));
        (level.at.saturating_duration_since(now) + owed, state.holds)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bucket, OPEN};

    #[test]
    fn a_burst_goes_at_once_and_the_rest_is_paced() {
        let (bucket, now) = (Bucket::default(), crate::clock::now());
        let waits: Vec<Duration> = (0..800).map(|_| bucket.take(now).0).collect();
        assert!(waits[..400].iter().all(Duration::is_zero));
        assert_eq!(waits[799], Duration::from_secs(1));
        assert!(bucket.take(now + Duration::from_secs(10)).0.is_zero());
    }

    #[test]
    fn an_operator_may_ask_for_less() {
        let (bucket, now) = (Bucket::new(5), crate::clock::now());
        let waits: Vec<Duration> = (0..10).map(|_| bucket.take(now).0).collect();
        assert!(waits[..5].iter().all(Duration::is_zero));
        assert_eq!(waits[9], Duration::from_secs(1));
        bucket.congested(now, Duration::ZERO, now);
        assert_eq!(bucket.rate(now), 5.0, "it was slow already");
    }

    #[test]
    fn a_hold_stops_all_and_then_they_go_one_by_one() {
        let (bucket, now) = (Bucket::default(), crate::clock::now());
        let second = Duration::from_secs(1);
        bucket.congested(now, 3 * second, now);
        let waits: Vec<Duration> = (0..400).map(|_| bucket.take(now + second).0).collect();
        // Half the rate: 400 take two seconds after the hold.
        assert!(waits[0] >= 2 * second && waits[399] == 4 * second, "{waits:?}");
    }

    /// When it is, when the request was sent that found congestion (if one did), and the rate from then on; seconds.
    const RATES: [(u64, Option<u64>, f64); 12] = [
        (0, None, 400.0),
        (10, Some(0), 200.0),
        // Sent before the hold of one second was over.
        (10, Some(9), 200.0),
        (14, Some(10), 260.0),
        // After it: each halves what was regained meanwhile.
        (21, Some(11), 200.0),
        (32, Some(22), 200.0),
        (34, Some(33), 110.0),
        (36, Some(35), 65.0),
        (38, Some(37), 42.5),
        (39, Some(39), 21.25),
        (40, Some(40), 10.625),
        (70, None, 400.0),
    ];

    #[test]
    fn each_congestion_halves_the_rate_and_time_brings_it_back() {
        let (bucket, start) = (Bucket::default(), crate::clock::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for (now, sent, rate) in RATES {
            if let Some(sent) = sent {
                bucket.congested(at(sent), Duration::from_secs(1), at(now));
            }
            assert_eq!(bucket.rate(at(now)), rate, "at {now} s");
        }
        for second in 100..200 {
            bucket.congested(at(second), Duration::from_secs(1), at(second));
        }
        assert_eq!(bucket.rate(at(200)), 10.0, "it stopped altogether");
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
            bucket.congested(start, Duration::from_secs(5), crate::clock::now());
        };
        tokio::join!(bucket.turn(), late);
        assert!(crate::clock::now() - start >= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_without_an_answer() {
        let bucket = Bucket::default();
        let mut turns = Vec::new();
        for _ in 0..OPEN {
            turns.push(bucket.turn().await);
        }
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, bucket.turn()).await.is_err());
        turns.pop();
        bucket.turn().await;
    }
}
