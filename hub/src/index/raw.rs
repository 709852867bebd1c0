//! Reading raw objects: metadata, and parts taken out without copies.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::event::ObjectKey;

/// Key of an object; `None` for what has no name.
pub fn key(object: &Value) -> Option<ObjectKey> {
    let name = text(object, "/metadata/name")?;
    Some(ObjectKey::new(text(object, "/metadata/namespace").unwrap_or(""), name))
}

/// Text at a JSON pointer.
pub fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

/// Uid; empty when absent.
pub fn uid(object: &Value) -> Arc<str> {
    text(object, "/metadata/uid").unwrap_or("").into()
}

/// resourceVersion as a number; 0 when absent (KEP-5504: numbers within one resource).
pub fn revision(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// metadata.generation; 0 when absent.
pub fn generation(object: &Value) -> i64 {
    object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

/// Labels.
pub fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Takes the value at a pointer out of the object.
pub fn take(object: &mut Value, pointer: &str) -> Value {
    object.pointer_mut(pointer).map(Value::take).unwrap_or_default()
}

/// The condition of a type in the object's status.
pub fn condition<'a>(object: &'a Value, condition_type: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().find(|condition| condition["type"] == condition_type)
}

/// Whether a condition of the object's status has this status.
pub fn is(object: &Value, condition_type: &str, status: &str) -> bool {
    condition(object, condition_type).is_some_and(|condition| condition["status"] == status)
}
