//! Label selectors, with the meaning of `metav1.LabelSelector`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Selects objects by their labels; all parts must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that must have exactly these values.
    pub match_labels: BTreeMap<String, String>,
    /// Expressions that must hold.
    pub match_expressions: Vec<Expression>,
}

/// One expression of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expression {
    /// Label key.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// Values for `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// Operators of expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// The label exists with one of the values.
    In,
    /// The label does not exist or has none of the values.
    NotIn,
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
    /// A member of a newer version: selects nothing.
    #[serde(other)]
    Unknown,
}

impl Selector {
    /// Whether it holds for `labels`. An empty selector holds for all, as in Kubernetes.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Selector;

    #[test]
    fn all_parts_must_hold() {
        let selector: Selector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"tier": "shop"},
            "matchExpressions": [
                {"key": "region", "operator": "In", "values": ["north", "south"]},
                {"key": "beta", "operator": "DoesNotExist"},
            ],
        }))
        .unwrap();
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert!(selector.matches(&labels(&[("tier", "shop"), ("region", "north")])));
        assert!(!selector.matches(&labels(&[("tier", "shop"), ("region", "west")])));
        assert!(!selector.matches(&labels(&[("tier", "shop"), ("region", "north"), ("beta", "")])));
    }

    #[test]
    fn an_operator_of_a_newer_version_selects_nothing() {
        let text = r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#;
        let selector: Selector = serde_json::from_str(text).unwrap();
        assert!(!selector.matches(&Default::default()));
    }
}
