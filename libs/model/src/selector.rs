//! Label selectors, with the meaning of `metav1.LabelSelector`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::Fault;
use crate::names::{is_label_key, is_label_value};

/// Selects objects by their labels; all parts must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that must have exactly these values. At most 64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::schema::labels"))]
    pub match_labels: BTreeMap<String, String>,
    /// Expressions that must hold. At most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub match_expressions: Vec<Expression>,
}

/// One expression of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Expression {
    /// Label key, such as selvedge.dev/region.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 317)))]
    pub key: String,
    /// How its value is compared: In and NotIn look it up in values; Exists and DoesNotExist look at the
    /// key alone.
    pub operator: Operator,
    /// Values for In and NotIn. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 64), inner(length(max = 63))))]
    pub values: Vec<String>,
}

/// Operators of expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    #[serde(other, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
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

/// What is wrong with the raw selector at `path`.
#[must_use]
pub fn check(path: &str, selector: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut need = |holds: bool, path: String, message: &str| {
        if !holds {
            faults.push(Fault::new(path, message));
        }
    };
    let key = "is no label key: write name or prefix.example/name";
    let value = "is no label value: at most 63 letters, digits, -, _ and .";
    for (name, wanted) in selector["matchLabels"].as_object().into_iter().flatten() {
        let path = format!("{path}.matchLabels[{name}]");
        need(is_label_key(name), path.clone(), key);
        need(wanted.as_str().is_some_and(is_label_value), path, value);
    }
    for (index, expression) in selector["matchExpressions"].as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        need(expression["key"].as_str().is_some_and(is_label_key), format!("{path}.key"), key);
        let values = expression["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        let values_at = format!("{path}.values");
        match expression["operator"].as_str() {
            Some("In" | "NotIn") => {
                need(!values.is_empty(), values_at.clone(), "must name at least one value for In and NotIn");
            }
            Some("Exists" | "DoesNotExist") => {
                need(values.is_empty(), values_at.clone(), "must be left out for Exists and DoesNotExist");
            }
            _ => need(false, format!("{path}.operator"), "must be In, NotIn, Exists or DoesNotExist"),
        }
        need(values.iter().all(|v| v.as_str().is_some_and(is_label_value)), values_at, value);
    }
    faults
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
