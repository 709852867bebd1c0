//! Device: an instance of a model on a node.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use selvedge_model::device::{Protocol, Source};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Fence, schema};

/// An instance of a model on a node.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "selvedge.dev",
    version = "v1alpha1",
    kind = "Device",
    namespaced,
    shortname = "dev",
    category = "selvedge",
    status = "DeviceStatus",
    derive = "PartialEq",
    doc = "Device is one device at one edge node: how it is reached, and what its properties should be.",
    selectable = ".spec.nodeName",
    selectable = ".spec.modelRef.name",
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.modelRef.name"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Synced",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Synced")].status"#
    ),
    printcolumn(name = "Values", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSpec {
    /// The model, in the same namespace. It cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cannot be changed: delete the device and create it with the other model"))]
    pub model_ref: ModelRef,
    /// Name of the EdgeNode that drives the device. It cannot be changed: a moved device could have two
    /// masters.
    #[x_kube(validation = Rule::new("self == oldSelf").message("cannot be changed: a moved device could have two masters; delete it and create it on the other node"))]
    #[schemars(length(min = 1, max = 63))]
    pub node_name: String,
    /// How the device is reached: exactly one member.
    #[schemars(schema_with = "schema::protocol")]
    pub protocol: Protocol,
    /// Wiring of single properties that differs from the model's. At most 128; names are unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::device_properties")]
    pub properties: Vec<DeviceProperty>,
    /// What properties should be: property to plain value. A value fits its property's type, minimum and
    /// maximum. Integers beyond 2^53 and bytes (base64) are strings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::scalars")]
    pub desired: BTreeMap<String, Value>,
}

/// Names a model in the device's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ModelRef {
    /// Name of a DeviceModel.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Wiring of one property that differs from the model's. A field that is absent is the model's.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DeviceProperty {
    /// Name of a property of the model.
    #[schemars(schema_with = "schema::property_name")]
    pub name: String,
    /// Where the property lives in this device: exactly one member, that of the device's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::source")]
    pub source: Option<Source>,
    /// How often the property is read, as a duration of at least 10ms. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub read_interval: Option<String>,
    /// How often a changed value is reported at most, as a duration of at least 10ms. Default: the
    /// model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub report_interval: Option<String>,
    /// A change of a number smaller than this is not reported. Default: the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::scalar")]
    pub deadband: Option<Value>,
}

/// What is true of the device.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceStatus {
    /// The generation of spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The values in one line, in the model's order, for `kubectl get`. At most 256 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub summary: String,
    /// Each property; at most 128.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::device_status_properties")]
    pub properties: Vec<PropertyStatus>,
    /// Ready: the device answers. Synced: every desired value is in the device. Accepted: the spec keeps
    /// every rule.
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Which report this status comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

/// One property of a device as it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct PropertyStatus {
    /// Name of the property.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The value last read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::scalar")]
    pub reported: Option<Value>,
    /// When it was read, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::instant")]
    pub time: Option<String>,
    /// The desired value that was written to the device and read back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::scalar")]
    pub desired: Option<Value>,
    /// The generation of spec that `desired` answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// What is wrong with the property; empty: nothing. At most 256 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub error: String,
}
