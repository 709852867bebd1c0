//! What is known about one Device before anything is decided: all from caches.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use selvedge_crds::{DeviceStatus, EdgeNode};
use selvedge_model::node::Allowed;
use selvedge_operator::status::find;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::raw::{NodeViewSpec, Raw};

/// An EdgeNode as this controller holds it: whom it lets in, and whether it is connected.
pub type NodeView = Raw<EdgeNode, NodeViewSpec, NodeViewStatus>;

/// What this controller reads of an EdgeNode's status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeViewStatus {
    conditions: Vec<Condition>,
}

/// An EdgeNode, as far as it matters to devices.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Node {
    /// Whether it is connected; none while nobody has said.
    pub connected: Option<bool>,
    /// Which namespaces it lets in.
    pub allowed: Allowed,
}

impl From<NodeView> for Node {
    fn from(node: NodeView) -> Self {
        let connected =
            find(&node.status.conditions, "Connected").map(|condition| condition.status == "True");
        Self { connected, allowed: node.spec.allowed_namespaces }
    }
}

/// How a device stands to the node that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnNode {
    /// Whether the node is connected; none while nobody has said.
    pub connected: Option<bool>,
    /// Whether the node lets the device's namespace in.
    pub let_in: bool,
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
    /// How it stands to the node that it names, if there is one.
    pub node: Option<OnNode>,
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
