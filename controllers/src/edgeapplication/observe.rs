//! What is known about one EdgeApplication before anything is decided: all from caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use selvedge_crds::edgenode::ApplicationState;
use selvedge_crds::{EDGE_LABEL, EdgeApplicationStatus, EdgeNode};
use selvedge_model::pod::security::ENFORCE_LABEL;
use selvedge_operator::status::find;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fleet::{Key, Node};
use crate::raw::{NodeViewSpec, Raw};

/// An EdgeNode as this controller reads it: whom it lets in and what it runs, and not how it is configured.
pub type NodeView = Raw<EdgeNode, NodeViewSpec, NodeViewStatus>;

/// What this controller reads of an EdgeNode's status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeViewStatus {
    conditions: Vec<Condition>,
    applications: Vec<ApplicationState>,
}

impl From<NodeView> for Node {
    fn from(node: NodeView) -> Self {
        let applications = node.status.applications.into_iter();
        Self {
            name: node.metadata.name.unwrap_or_default().into(),
            uid: node.metadata.uid.unwrap_or_default().into(),
            labels: node.metadata.labels.unwrap_or_default(),
            allowed: node.spec.allowed_namespaces,
            connected: find(&node.status.conditions, "Connected").is_some_and(|c| c.status == "True"),
            applications: applications
                .map(|state| (Key::new(&state.namespace, &state.name), Arc::new(state)))
                .collect(),
        }
    }
}

/// What the namespace of an application says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Whether it takes part.
    pub enabled: bool,
    /// Value of its Pod Security label.
    pub level: Option<String>,
    /// All of them.
    pub labels: BTreeMap<String, String>,
}

impl Namespace {
    /// From its labels.
    #[must_use]
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        Self {
            enabled: labels.get(EDGE_LABEL).is_some_and(|value| value == "enabled"),
            level: labels.get(ENFORCE_LABEL).cloned(),
            labels: labels.clone(),
        }
    }
}

/// A revision that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: i64,
    /// Its selector, raw.
    pub selector: Value,
}

impl Revision {
    /// From the object.
    #[must_use]
    pub fn of(revision: &ControllerRevision) -> Self {
        let selector = revision.data.as_ref().and_then(|data| data.0.get("selector")).cloned();
        Self { name: revision.name_any(), number: revision.revision, selector: selector.unwrap_or_default() }
    }
}

/// One EdgeApplication with all that its plan depends on, its nodes excluded: those are counted.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its spec, as the user wrote it.
    pub spec: Value,
    /// Its status as it stands.
    pub status: EdgeApplicationStatus,
    /// What its namespace says.
    pub in_namespace: Namespace,
    /// Its revisions.
    pub revisions: Vec<Revision>,
}
