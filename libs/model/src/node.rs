//! The rules of an EdgeNode, over the raw JSON of its spec.

use std::time::Duration;

use serde_json::Value;

use crate::device::parse_duration;
use crate::fault::Fault;

/// Longest life of a join key: 90 days, that of a certificate (identity rule 11).
pub const MAX_JOIN_TTL: Duration = Duration::from_secs(90 * 24 * 3600);

/// Everything that is wrong with `spec`.
#[must_use]
pub fn check(spec: &Value) -> Vec<Fault> {
    const PATH: &str = "spec.join.ttl";
    let ttl = &spec["join"]["ttl"];
    match ttl.as_str().map(parse_duration) {
        None if ttl.is_null() => Vec::new(),
        None => vec![Fault::new(PATH, format!("{ttl} must be a duration such as 30m or 24h"))],
        Some(Err(error)) => vec![Fault::new(PATH, error.to_string())],
        Some(Ok(ttl)) if ttl.is_zero() || ttl > MAX_JOIN_TTL => {
            vec![Fault::new(PATH, "must be more than 0s and at most 2160h (90 days)")]
        }
        Some(Ok(_)) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_join_key_lives_at_most_90_days() {
        for (ttl, fits) in [
            (json!(null), true),
            (json!("2160h"), true),
            (json!("2161h"), false),
            (json!("0s"), false),
            (json!(1), false),
        ] {
            assert_eq!(super::check(&json!({"join": {"ttl": ttl}})).is_empty(), fits, "{ttl}");
        }
        assert!(super::check(&json!({})).is_empty());
    }
}
