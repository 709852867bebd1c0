//! Schemas that types cannot say: untyped scalars, unions, list-maps with their bounds; and the last
//! touch on a generated CRD.

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use schemars::{Schema, SchemaGenerator, json_schema};
use selvedge_model::{
    device::{Protocol, Source},
    overrides::Override,
    schema::{by_name, list_map},
};
use serde_json::{Map, Value, json};

use crate::{
    device::{DeviceProperty, PropertyStatus},
    devicemodel::ModelProperty,
};

pub use selvedge_model::schema::duration;

/// Most properties of a model or a device.
pub const MAX_PROPERTIES: u32 = 128;

/// The name of a property.
pub fn property_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,62}$"})
}

/// A plain scalar of any type. The bounds refuse objects and arrays that hold something; empty ones are
/// left to the webhook.
pub fn scalar(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true, "maxProperties": 0, "maxItems": 0, "maxLength": 1024})
}

/// A map of property to plain scalar.
pub fn scalars(generator: &mut SchemaGenerator) -> Schema {
    let scalar = scalar(generator);
    json_schema!({"type": "object", "maxProperties": MAX_PROPERTIES, "additionalProperties": scalar})
}

/// Kubernetes quantities by resource.
pub fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 32},
    })
}

/// An instant, RFC 3339.
pub fn instant(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "maxLength": 40})
}

/// How a device is reached.
pub fn protocol(generator: &mut SchemaGenerator) -> Schema {
    let mut protocol = generator.subschema_for::<Protocol>();
    exactly_one(protocol.ensure_object(), &["modbus", "simulated"]);
    if let Some(modbus) = protocol.pointer_mut("/properties/modbus").and_then(Value::as_object_mut) {
        exactly_one(modbus, &["tcp"]);
    }
    protocol
}

/// Where a property lives.
pub fn source(generator: &mut SchemaGenerator) -> Schema {
    let mut source = generator.subschema_for::<Source>();
    exactly_one(source.ensure_object(), &["modbus", "simulated"]);
    source
}

/// Adds the rule of a union: of these members exactly one is set.
fn exactly_one(schema: &mut Map<String, Value>, members: &[&str]) {
    let set: Vec<String> = members.iter().map(|member| format!("has(self.{member})")).collect();
    let rule = format!("[{}].exists_one(set, set)", set.join(", "));
    let message = format!("must have exactly one member: {}", members.join(" or "));
    schema.insert("x-kubernetes-validations".into(), json!([{"rule": rule, "message": message}]));
}

/// Conditions, as a list-map by type. Bounds are tighter than upstream's 32 KiB a message, so that a status
/// stays small in etcd and on a screen.
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut conditions = list_map::<Condition>(generator, "type", 0, 8);
    let bounds = [("message", 4096), ("reason", 64), ("type", 64)];
    for (name, max) in bounds {
        if let Some(schema) = conditions.pointer_mut(&format!("/items/properties/{name}")) {
            schema["maxLength"] = json!(max);
        }
    }
    if let Some(status) = conditions.pointer_mut("/items/properties/status") {
        status["enum"] = json!(["True", "False", "Unknown"]);
    }
    conditions
}

/// Properties of a model.
pub fn model_properties(generator: &mut SchemaGenerator) -> Schema {
    list_map::<ModelProperty>(generator, "name", 1, MAX_PROPERTIES)
}

/// What a device changes in its model's wiring.
pub fn device_properties(generator: &mut SchemaGenerator) -> Schema {
    by_name::<DeviceProperty>(generator, MAX_PROPERTIES)
}

/// Properties of a device's status.
pub fn device_status_properties(generator: &mut SchemaGenerator) -> Schema {
    by_name::<PropertyStatus>(generator, MAX_PROPERTIES)
}

/// Overrides of an application.
pub fn overrides(generator: &mut SchemaGenerator) -> Schema {
    by_name::<Override>(generator, 32)
}

/// The CRD as it is installed: without what a structural schema does not know or mean, and in one order
/// whatever the build.
#[must_use]
pub fn finish(crd: CustomResourceDefinition) -> Value {
    let mut crd = json!(crd);
    for version in crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            tidy(schema, &[]);
        }
    }
    // Belongs to the API server; an empty one in a manifest would fight with it.
    if let Some(crd) = crd.as_object_mut() {
        crd.remove("status");
    }
    crd.sort_all_objects();
    crd
}

/// Formats that the API server checks or shows; it warns of others, such as Rust's uint8.
const FORMATS: [&str; 4] = ["int32", "int64", "double", "date-time"];

/// Tidies one schema and all below it. `keys` are the keys of the list-map that it is an item of.
///
/// Defaults go, except those of keys, which must have one: what the API server fills in today would have
/// to stay for ever, and a new one would change every object of an upgraded cluster. `nullable` goes
/// because absence is the only way to say nothing.
fn tidy(schema: &mut Value, keys: &[String]) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("nullable");
    schema.remove("title");
    for bound in ["minimum", "maximum"] {
        if let Some(number) = schema.get_mut(bound) {
            whole(number);
        }
    }
    if schema.get("format").and_then(Value::as_str).is_some_and(|format| !FORMATS.contains(&format)) {
        schema.remove("format");
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        // Doc comments wrap where the source does; `kubectl explain` wraps by itself.
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if schema.get("minItems") == Some(&json!(0)) {
        schema.remove("minItems");
    }
    let item_keys: Vec<String> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|key| key.as_str().map(str::to_owned))
        .collect();
    for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        if let Some(property) = property.as_object_mut().filter(|_| !keys.contains(name)) {
            property.remove("default");
        }
        tidy(property, &[]);
    }
    if let Some(items) = schema.get_mut("items") {
        tidy(items, &item_keys);
    }
    if let Some(values) = schema.get_mut("additionalProperties") {
        tidy(values, &[]);
    }
}

/// Writes 65535.0 as 65535: the typed CRD keeps bounds as doubles.
fn whole(number: &mut Value) {
    // Below 2^53 a double without a fraction is exactly that integer.
    if let Some(value) = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 9e15) {
        *number = json!(value as i64);
    }
}
