//! The support check: the raw JSON of a pod template beside the table of supported fields.
//!
//! Raw, because decoding drops what it does not know, and a field that is dropped is a promise broken. A
//! field that holds Kubernetes' own default passes, so that the template of
//! `kubectl get deployment -o yaml` does.

use serde_json::{Map, Value};

use super::fields::{Constant, Field, Kind, TEMPLATE};
use crate::fault::Fault;

/// Longest list of names that helps in a message.
const NAMES_SHOWN: usize = 8;

/// Every field of `template` (at `path`, such as `spec.template`) that agents do not support or that
/// holds what it cannot, in the order of the template.
#[must_use]
pub fn check(path: &str, template: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    value(path, template, Kind::Object(TEMPLATE), &mut faults);
    faults
}

fn value(path: &str, value: &Value, kind: Kind, faults: &mut Vec<Fault>) {
    let wrong = match (kind, value) {
        (Kind::Object(fields), Value::Object(members)) => return object(path, members, fields, faults),
        (Kind::List { of, min, max, .. }, Value::Array(items)) => {
            bounded(path, items.len(), "items", min, max, faults);
            for (index, item) in items.iter().enumerate() {
                self::value(&format!("{path}[{index}]"), item, Kind::Object(of), faults);
            }
            return;
        }
        (Kind::TextList { items: most, max }, Value::Array(items)) => {
            bounded(path, items.len(), "items", 0, most, faults);
            for (index, item) in items.iter().enumerate() {
                self::value(&format!("{path}[{index}]"), item, Kind::Text { max }, faults);
            }
            return;
        }
        (Kind::TextMap { entries, max }, Value::Object(members)) => {
            bounded(path, members.len(), "members", 0, entries, faults);
            for (name, member) in members {
                self::value(&format!("{path}[{name}]"), member, Kind::Text { max }, faults);
            }
            return;
        }
        (Kind::Text { max }, Value::String(text)) => {
            return bounded(path, text.chars().count(), "characters", 0, max, faults);
        }
        (Kind::Choice { of, .. }, Value::String(text)) if of.contains(&text.as_str()) => return,
        (Kind::Bool, Value::Bool(_)) => return,
        (Kind::Integer { min, max }, number) if number.as_i64().is_some_and(|n| (min..=max).contains(&n)) => {
            return;
        }
        (Kind::Only(constant), value) if constant.is(value) => return,
        (Kind::Only(constant), value) => {
            format!("{value} is not supported at the edge: {}", instead(constant))
        }
        (kind, value) => format!("{} must be {}", shown(value), expected(kind)),
    };
    faults.push(Fault::new(path, wrong));
}

fn object(path: &str, members: &Map<String, Value>, fields: &[Field], faults: &mut Vec<Fault>) {
    for (name, member) in members {
        let path = format!("{path}.{name}");
        match fields.iter().find(|field| field.name == name) {
            // Null is how JSON says that a field is not there.
            _ if member.is_null() => {}
            Some(field) => value(&path, member, field.kind, faults),
            None => faults.push(Fault::new(path, unsupported(fields))),
        }
    }
    let absent = |name: &str| members.get(name).is_none_or(Value::is_null);
    for field in fields.iter().filter(|field| field.required && absent(field.name)) {
        faults.push(Fault::new(format!("{path}.{}", field.name), "is required"));
    }
}

fn unsupported(fields: &[Field]) -> String {
    let supported: Vec<_> =
        fields.iter().filter(|field| !matches!(field.kind, Kind::Only(_))).map(|field| field.name).collect();
    if supported.len() > NAMES_SHOWN {
        return "is not supported at the edge: remove it (kubectl explain edgeapplication.spec.template --recursive \
                lists what is)"
            .to_owned();
    }
    format!("is not supported at the edge: remove it (supported here: {})", supported.join(", "))
}

fn instead(constant: Constant) -> String {
    let default = match constant {
        Constant::Null | Constant::EmptyObject => return "remove it".to_owned(),
        Constant::Bool(default) => default.to_string(),
        Constant::Text(default) => default.to_owned(),
    };
    format!("write {default} or remove it")
}

fn bounded(path: &str, size: usize, what: &str, min: u32, max: u32, faults: &mut Vec<Fault>) {
    let (min, max) = (min as usize, max as usize);
    if size < min {
        faults.push(Fault::new(path, format!("has {size} {what}: needs at least {min}")));
    } else if size > max {
        faults.push(Fault::new(path, format!("has {size} {what}: the most is {max}")));
    }
}

fn expected(kind: Kind) -> String {
    match kind {
        Kind::Text { .. } => "text (put it in quotes if YAML reads it as something else)".to_owned(),
        Kind::Choice { of, .. } => format!("one of {}", of.join(", ")),
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
        Kind::TextMap { .. } | Kind::Object(_) => "an object".to_owned(),
        Kind::List { .. } | Kind::TextList { .. } => "a list".to_owned(),
        Kind::Only(constant) => instead(constant),
    }
}

/// The value in a message: a scalar as it stands, anything else by what it is.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        scalar => scalar.to_string(),
    }
}
