//! The one clock of cluster-side effects. Pure code takes its result as an argument.

use jiff::Timestamp;

/// The time now.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}
