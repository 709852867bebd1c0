//! The room's one clock for times of day: when a value was read stands in the status.

/// Unix time in ms.
#[allow(clippy::disallowed_methods)]
pub(super) fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
