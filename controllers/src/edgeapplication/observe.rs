//! What is known about one EdgeApplication before anything is decided: all from caches.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use selvedge_crds::edgenode::ApplicationState;
use selvedge_crds::{EDGE_LABEL, EdgeApplicationStatus, EdgeNode};
use selvedge_model::pod::security::ENFORCE_LABEL;
use selvedge_operator::status::find;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;

use crate::raw::Raw;

/// An EdgeNode as this controller holds it: what it runs, and not how it is configured.
pub type NodeView = Raw<EdgeNode, IgnoredAny, NodeViewStatus>;

/// What this controller reads of an EdgeNode's status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeViewStatus {
    conditions: Vec<Condition>,
    applications: Vec<ApplicationState>,
}

/// One node, seen from one application.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it has a session.
    pub connected: bool,
    /// What it reports of the application.
    pub state: Option<ApplicationState>,
}

impl Node {
    /// The part of `node` that matters to application `name` in `namespace`.
    #[must_use]
    pub fn of(node: &NodeView, namespace: &str, name: &str) -> Self {
        let ours = |state: &&ApplicationState| state.namespace == namespace && state.name == name;
        Self {
            name: node.name().to_owned(),
            uid: node.uid().to_owned(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            connected: find(&node.status.conditions, "Connected").is_some_and(|c| c.status == "True"),
            state: node.status.applications.iter().find(ours).cloned(),
        }
    }

    /// The revision in force on the node; empty: none.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.state.as_ref().map_or("", |state| &state.revision)
    }
}

/// Names of the applications that a node reports, as (namespace, name).
pub fn reported(node: &NodeView) -> impl Iterator<Item = (&str, &str)> {
    node.status.applications.iter().map(|state| (state.namespace.as_str(), state.name.as_str()))
}

/// What the namespace of an application says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Whether it takes part.
    pub enabled: bool,
    /// Value of its Pod Security label.
    pub level: Option<String>,
}

impl Namespace {
    /// From its labels.
    #[must_use]
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        Self {
            enabled: labels.get(EDGE_LABEL).is_some_and(|value| value == "enabled"),
            level: labels.get(ENFORCE_LABEL).cloned(),
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

/// One EdgeApplication with all that its plan depends on.
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
    /// All nodes, in the order of their names.
    pub nodes: Vec<Node>,
}
