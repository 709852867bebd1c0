//! The agent's one clock. Pure code takes time as an argument; effects ask here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A moment that has passed for certain when this build runs: a node without a clock that boots in 1970
/// must still be able to judge the hub's certificate (identity rule 10). Raised with releases.
const BUILT: Duration = Duration::from_secs(1_795_305_600); // 2026-11-22

/// The system's time.
#[must_use]
pub fn now() -> SystemTime {
    #[allow(clippy::disallowed_methods, reason = "the one place")]
    SystemTime::now()
}

/// The system's time as Unix seconds; 0 for a clock before 1970.
#[must_use]
pub fn unix() -> u64 {
    now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The latest time that is known to have passed, and what has passed since: right also on a node without a clock.
#[derive(Clone, Copy, Debug)]
pub struct Latest {
    unix: u64,
    at: Instant,
}

impl Latest {
    /// It is `unix` seconds at least, now.
    #[must_use]
    pub fn at(unix: u64) -> Self {
        Self { unix, at: Instant::now() }
    }

    /// Unix seconds, never before what was known.
    #[must_use]
    pub fn now(&self) -> u64 {
        judging(self.unix.saturating_add(self.at.elapsed().as_secs())).as_secs()
    }
}

/// The time at which certificates are judged: never before what is known to have passed (Unix seconds of
/// the ledger's latest time) or before this build.
#[must_use]
pub fn judging(latest: u64) -> Duration {
    Duration::from_secs(unix().max(latest)).max(BUILT)
}
