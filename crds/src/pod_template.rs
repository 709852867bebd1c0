//! The schema of `spec.template`, made from the table of supported pod fields.
//!
//! What the table names is typed, bounded and described. What it does not name is kept
//! (`x-kubernetes-preserve-unknown-fields` at every object), so that the webhook sees what the user wrote
//! and can refuse it by its path: the API server prunes before it asks webhooks.

use schemars::{Schema, SchemaGenerator, json_schema};
use selvedge_model::pod::fields::{Field, Kind, TEMPLATE};
use serde_json::{Map, Value, json};

/// The pod template.
pub fn schema(_: &mut SchemaGenerator) -> Schema {
    let template = object(TEMPLATE);
    let mut schema = json_schema!({});
    if let Value::Object(members) = template {
        schema.ensure_object().extend(members);
    }
    schema
}

fn object(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        if let Some(mut schema) = kind(field.kind) {
            schema["description"] = json!(field.about);
            properties.insert(field.name.into(), schema);
        }
    }
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema =
        json!({"type": "object", "properties": properties, "x-kubernetes-preserve-unknown-fields": true});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// None for what is not supported: it needs no type to be kept.
fn kind(kind: Kind) -> Option<Value> {
    Some(match kind {
        Kind::Text { max } => json!({"type": "string", "maxLength": max}),
        Kind::Choice { of, default: None } => json!({"type": "string", "enum": of}),
        Kind::Choice { of, default: Some(default) } => {
            json!({"type": "string", "enum": of, "default": default})
        }
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Integer { min, max } => {
            json!({"type": "integer", "format": "int64", "minimum": min, "maximum": max})
        }
        Kind::TextMap { entries, max } => json!({
            "type": "object", "maxProperties": entries,
            "additionalProperties": {"type": "string", "maxLength": max},
        }),
        Kind::Object(fields) => object(fields),
        Kind::List { of, keys, min, max } => {
            let mut list = json!({"type": "array", "minItems": min, "maxItems": max, "items": object(of)});
            if !keys.is_empty() {
                list["x-kubernetes-list-type"] = json!("map");
                list["x-kubernetes-list-map-keys"] = json!(keys);
            }
            list
        }
        Kind::TextList { items, max } => json!({
            "type": "array", "maxItems": items, "items": {"type": "string", "maxLength": max},
        }),
        Kind::Only(_) => return None,
    })
}
