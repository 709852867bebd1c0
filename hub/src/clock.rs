//! The hub's one clock. Pure code takes its results as arguments.

use std::time::Instant;

/// Now, for deadlines.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one clock of this room")]
pub fn now() -> Instant {
    // Tokio's, so that tests can pause it.
    tokio::time::Instant::now().into_std()
}

/// Now, as Unix milliseconds.
#[must_use]
pub fn unix_ms() -> i64 {
    selvedge_operator::clock::now().as_millisecond()
}
