//! The rules of an EdgeNode, over the raw JSON of its spec; and which namespaces it lets in.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::device::parse_duration;
use crate::fault::Fault;
use crate::selector::{self, Expression, Operator, Selector};

/// Longest life of a join key: 90 days, that of a certificate (identity rule 11).
pub const MAX_JOIN_TTL: Duration = Duration::from_secs(90 * 24 * 3600);

/// Which of the namespaces that take part may place something on a node: `spec.allowedNamespaces` (identity
/// rule 13). Default: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Allowed(Option<Box<Selector>>);

impl Allowed {
    /// As the raw selector says; null: all. One that cannot be read lets nothing in: what it is to keep out is not
    /// known.
    #[must_use]
    pub fn of(selector: &Value) -> Self {
        let nothing = || Expression { key: String::new(), operator: Operator::Unknown, values: Vec::new() };
        let read = Option::<Selector>::deserialize(selector);
        let read = read
            .unwrap_or_else(|_| Some(Selector { match_expressions: vec![nothing()], ..Selector::default() }));
        Self(read.map(Box::new))
    }

    /// Whether a namespace with these labels may.
    #[must_use]
    pub fn lets_in(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    /// Whether the labels of a namespace matter.
    #[must_use]
    pub fn is_choosy(&self) -> bool {
        self.0.is_some()
    }
}

impl<'de> Deserialize<'de> for Allowed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(|selector| Self::of(&selector))
    }
}

/// Everything that is wrong with `spec`.
#[must_use]
pub fn check(spec: &Value) -> Vec<Fault> {
    let mut faults = join_ttl(spec);
    faults.extend(selector::check("spec.allowedNamespaces", &spec["allowedNamespaces"]));
    faults
}

fn join_ttl(spec: &Value) -> Vec<Fault> {
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

    #[test]
    fn a_node_lets_in_what_its_selector_selects() {
        let labels = [("team".to_owned(), "a".to_owned())].into();
        for (selector, lets_in) in [
            (json!(null), true),
            (json!({}), true),
            (json!({"matchLabels": {"team": "a"}}), true),
            (json!({"matchLabels": {"team": "b"}}), false),
            (json!({"matchExpressions": [{"key": "team", "operator": "Later"}]}), false),
            (json!("team=a"), false),
        ] {
            assert_eq!(super::Allowed::of(&selector).lets_in(&labels), lets_in, "{selector}");
        }
    }

    #[test]
    fn a_selector_of_namespaces_must_be_one() {
        let faults = super::check(&json!({"allowedNamespaces": {"matchLabels": {"a b": "c"}}}));
        assert_eq!(faults[0].path, "spec.allowedNamespaces.matchLabels[a b]");
    }
}
