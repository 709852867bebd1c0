//! DeviceModel: what devices of one make have in common.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use selvedge_model::device::{Access, PropertyType, Source};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::schema;

/// What devices of one make have in common: typed properties and their default wiring.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "selvedge.dev",
    version = "v1alpha1",
    kind = "DeviceModel",
    namespaced,
    shortname = "dm",
    category = "selvedge",
    status = "DeviceModelStatus",
    derive = "PartialEq",
    doc = "DeviceModel is what devices of one make have in common: typed properties and their default wiring.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Devices", type_ = "integer", json_path = ".status.devices"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceModelSpec {
    /// Properties, at least one and at most 128; names are unique.
    #[schemars(schema_with = "schema::model_properties")]
    pub properties: Vec<ModelProperty>,
}

/// One property of a model.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelProperty {
    /// Name: a letter, then up to 62 letters, digits, `_` and `-`.
    #[schemars(schema_with = "schema::property_name")]
    pub name: String,
    /// Type of the values: int (64 bits), float (64 bits, finite), bool, string or bytes (base64). It cannot
    /// be changed.
    #[serde(rename = "type")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the type of a property cannot be changed: add a property with another name"))]
    pub value_type: PropertyType,
    /// Whether values can be written: ReadOnly or ReadWrite. Default: ReadOnly.
    #[serde(default)]
    pub access: Access,
    /// Lowest value that can be desired; for int and float.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::scalar")]
    pub minimum: Option<Value>,
    /// Highest value that can be desired; for int and float.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::scalar")]
    pub maximum: Option<Value>,
    /// Unit of the values, for people, such as °C or kWh. At most 32 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub unit: Option<String>,
    /// Where the property lives in a device: exactly one member, that of the device's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::source")]
    pub source: Option<Source>,
    /// How often the property is read, as a duration of at least 10ms. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub read_interval: Option<String>,
    /// How often a changed value is reported at most, as a duration of at least 10ms. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub report_interval: Option<String>,
    /// A change of a number smaller than this is not reported. Default: every change is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::scalar")]
    pub deadband: Option<Value>,
}

/// Who uses the model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceModelStatus {
    /// The generation of spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Devices that use the model.
    pub devices: i64,
    /// Ready: the model keeps every rule.
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
