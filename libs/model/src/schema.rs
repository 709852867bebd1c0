//! JSON schemas that derived ones cannot say: bounded maps, list-maps and durations. Only CRDs need them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A duration: a whole number and ms, s, m or h.
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "maxLength": 20, "pattern": "^[0-9]+(ms|s|m|h)$"})
}

/// Labels: at most 64, values of at most 63 characters as everywhere in Kubernetes.
pub fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

/// A list of at most `max` items that `name` tells apart: server-side apply merges it item by item.
pub fn by_name<T: JsonSchema>(generator: &mut SchemaGenerator, max: u32) -> Schema {
    list_map::<T>(generator, "name", 0, max)
}

/// A list of `min` to `max` items that `key`, which each must have, tells apart.
pub fn list_map<T: JsonSchema>(generator: &mut SchemaGenerator, key: &str, min: u32, max: u32) -> Schema {
    let mut items = generator.subschema_for::<T>();
    if let Some(key) = items.pointer_mut(&format!("/properties/{key}")).and_then(Value::as_object_mut) {
        key.remove("default");
    }
    let required = items.ensure_object().entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut().filter(|names| !names.contains(&json!(key))) {
        required.push(json!(key));
    }
    json_schema!({
        "type": "array", "minItems": min, "maxItems": max, "items": items,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key],
    })
}
