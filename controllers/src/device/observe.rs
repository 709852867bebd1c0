//! What is known about one Device before anything is decided: all from caches.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use selvedge_crds::{DeviceStatus, EdgeNode};
use selvedge_operator::status::find;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use crate::raw::Raw;

/// An EdgeNode as this controller holds it: whether it is connected.
pub type NodeView = Raw<EdgeNode, IgnoredAny, NodeViewStatus>;

/// What this controller reads of an EdgeNode's status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeViewStatus {
    conditions: Vec<Condition>,
}

/// Whether a node is connected; none while nobody has said.
#[must_use]
pub fn connected(node: &NodeView) -> Option<bool> {
    find(&node.status.conditions, "Connected").map(|condition| condition.status == "True")
}

/// One Device with all that its status depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Its namespace.
    pub namespace: String,
    /// Its spec, as the user wrote it.
    pub spec: Value,
    /// Its status as it stands.
    pub status: DeviceStatus,
    /// The spec of the model that it names, if there is one.
    pub model: Option<Arc<Value>>,
    /// The node that it names, if there is one: whether it is connected.
    pub node: Option<Option<bool>>,
}

/// Name of the model of a Device; empty when its spec says none.
#[must_use]
pub fn model_name(spec: &Value) -> &str {
    spec.pointer("/modelRef/name").and_then(Value::as_str).unwrap_or_default()
}

/// Name of the node of a Device; empty when its spec says none.
#[must_use]
pub fn node_name(spec: &Value) -> &str {
    spec.get("nodeName").and_then(Value::as_str).unwrap_or_default()
}
