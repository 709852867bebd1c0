//! Durations as users write them: `500ms`, `10s`, `5m`, `1h`.

use std::time::Duration;

/// The text is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a whole number and a unit, such as 500ms, 10s, 5m or 1h")]
pub struct DurationError(pub String);

/// Reads a whole number with a unit of `ms`, `s`, `m` or `h`.
///
/// # Errors
/// [`DurationError`] for anything else, and for what does not fit into 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refuse = || DurationError(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(refuse()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn reads_whole_numbers_with_a_unit() {
        assert_eq!(parse_duration("500ms").unwrap().as_millis(), 500);
        assert_eq!(parse_duration("2h").unwrap().as_secs(), 7200);
        for bad in ["", "5", "s", "1.5s", "-1s", "5 s", "1d", "18446744073709551615h"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} was taken");
        }
    }
}
