//! What the status of a Device should be.

use jiff::Timestamp;
use selvedge_model::ContentHash;
use selvedge_operator::status::condition;
use selvedge_protocol::agent as wire;
use serde_json::{Map, Value, json};

use super::{line, reason};
use crate::session::Entry;

/// What is known of a device.
#[derive(Clone, Debug, Hash)]
pub struct Facts {
    /// Its entry in the node's set.
    pub entry: Entry,
    /// metadata.generation of what the entry was made from.
    pub generation: i64,
    /// What the agent reported last, and the content that was in force then.
    pub reported: Option<(wire::DeviceState, Option<ContentHash>)>,
}

/// The fields of status that the hub owns, over the status as it is. `body` is that of the entry: names in the
/// model's order, and what is desired; null when the entry is held.
#[must_use]
pub fn compose(facts: &Facts, body: &Value, current: &Value, now: Timestamp) -> Value {
    let mut mine = Map::new();
    let mut conditions = vec![synced(facts, body, now)];
    let in_force = facts.reported.as_ref().and_then(|(_, content)| *content);
    let answers = facts.entry.desired.is_some() && in_force == facts.entry.desired;
    if answers {
        mine.insert("observedGeneration".into(), facts.generation.into());
    }
    if let Some((state, _)) = &facts.reported {
        let (ok, why) =
            if state.connected { (true, "Connected") } else { (false, reason(&state.reason, "Unreachable")) };
        conditions.push(condition("Ready", Some(ok), why, &state.message, observed(facts), now));
        let properties = properties(facts, body, state, current, answers);
        mine.insert("summary".into(), summary(&properties).into());
        mine.insert("properties".into(), Value::Array(properties));
    }
    mine.insert("conditions".into(), json!(conditions));
    Value::Object(mine)
}

fn observed(facts: &Facts) -> Option<i64> {
    Some(facts.generation).filter(|generation| *generation > 0)
}

fn synced(
    facts: &Facts,
    body: &Value,
    now: Timestamp,
) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
    let (status, why, message) = sync(facts, body);
    condition("Synced", Some(status), why, message, observed(facts), now)
}

fn sync<'a>(facts: &'a Facts, body: &Value) -> (bool, &'a str, String) {
    let entry = &facts.entry;
    if let Some(held) = &entry.held {
        return (false, held.reason.name(), held.message.clone());
    }
    if let Some((why, message)) = &entry.refused {
        return (false, reason(why, "Refused"), message.clone());
    }
    if !entry.delivered {
        return (false, "Delivering", "on the way to the node".into());
    }
    let Some((state, in_force)) = &facts.reported else {
        return (false, "Applying", "the node has it and has not said that it is in force".into());
    };
    if *in_force != entry.desired {
        return (false, "Applying", "the node has it and has not put it into force".into());
    }
    let desired = |name: &str| wanted(body, name).is_some();
    match state.properties.iter().find(|property| !property.error.is_empty() && desired(&property.name)) {
        Some(property) => (false, "WriteFailed", format!("{}: {}", property.name, property.error)),
        None => (true, "Applied", String::new()),
    }
}

fn wanted<'a>(body: &'a Value, name: &str) -> Option<&'a Value> {
    let properties = body["properties"].as_array()?;
    properties.iter().find(|property| property["name"] == name)?.get("desired")
}

/// In the model's order; what the model does not have (any more) comes last.
fn properties(
    facts: &Facts,
    body: &Value,
    state: &wire::DeviceState,
    current: &Value,
    answers: bool,
) -> Vec<Value> {
    let order = body["properties"].as_array().map(Vec::as_slice).unwrap_or_default();
    let place = |name: &str| order.iter().position(|property| property["name"] == name).unwrap_or(usize::MAX);
    let mut reported: Vec<_> = state.properties.iter().collect();
    reported.sort_by_key(|property| place(&property.name));
    reported.into_iter().take(128).map(|property| self::property(facts, property, current, answers)).collect()
}

fn property(facts: &Facts, property: &wire::PropertyState, current: &Value, answers: bool) -> Value {
    let mut out = Map::from_iter([("name".to_owned(), property.name.as_str().into())]);
    if let Some(value) = scalar(&property.reported) {
        out.insert("reported".into(), value);
        if let Ok(time) = Timestamp::from_millisecond(property.read_unix_ms) {
            out.insert("time".into(), time.to_string().into());
        }
    }
    if let Some(written) = scalar(&property.written) {
        let before = current["properties"].as_array().into_iter().flatten();
        let before = before.into_iter().find(|before| before["name"] == property.name.as_str());
        let generation = match before.filter(|before| before["desired"] == written) {
            _ if answers => Some(facts.generation.into()),
            before => before.and_then(|before| before.get("generation").cloned()),
        };
        out.insert("desired".into(), written);
        out.extend(generation.map(|generation| ("generation".to_owned(), generation)));
    }
    if !property.error.is_empty() {
        out.insert("error".into(), line(&property.error).into());
    }
    Value::Object(out)
}

/// A JSON scalar as agents send it; none for what is empty or is none.
fn scalar(text: &str) -> Option<Value> {
    serde_json::from_str(text)
        .ok()
        .filter(|value: &Value| !value.is_object() && !value.is_array() && !value.is_null())
}

/// All values in one line.
fn summary(properties: &[Value]) -> String {
    let values: Vec<String> = properties
        .iter()
        .filter_map(|property| {
            let value = match property.get("reported")? {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            Some(format!("{}={value}", property["name"].as_str()?))
        })
        .collect();
    line(&values.join(" "))
}
