//! EdgeApplication: a pod template for every EdgeNode that a selector matches.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use selvedge_model::{overrides::Override, rollout::Rollout, selector::Selector};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{pod_template, schema};

/// A pod template for every EdgeNode that the selector matches.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "selvedge.dev",
    version = "v1alpha1",
    kind = "EdgeApplication",
    namespaced,
    shortname = "ea",
    category = "selvedge",
    status = "EdgeApplicationStatus",
    derive = "PartialEq",
    doc = "EdgeApplication runs one pod of its template on every EdgeNode that its selector matches.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 52 characters: a-z, 0-9 and -, beginning and ending with a letter or digit"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desired"),
    printcolumn(name = "Updated", type_ = "integer", json_path = ".status.updated"),
    printcolumn(name = "Ready-Nodes", type_ = "integer", json_path = ".status.ready"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed"),
    printcolumn(name = "Offline", type_ = "integer", json_path = ".status.offline"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EdgeApplicationSpec {
    /// Selects EdgeNodes by their labels. Must not be empty: an application for every node says so with a
    /// label that every node has.
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)")
        .message("must not be empty: name at least one label, such as matchLabels: {tier: shop}"))]
    pub selector: Selector,
    /// The pod that runs on each node: a core/v1 PodTemplateSpec. A field that agents do not support is
    /// refused by name.
    #[schemars(schema_with = "pod_template::schema")]
    pub template: Value,
    /// What differs on some nodes; applied in order. At most 32; names are unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::overrides")]
    pub overrides: Vec<Override>,
}

/// How far the application has come.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeApplicationStatus {
    /// The generation of spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// EdgeNodes that the selector matches.
    pub desired: i64,
    /// Of those, with the newest revision in force.
    pub updated: i64,
    /// Of those, with every container running.
    pub ready: i64,
    /// Of those, failing.
    pub failed: i64,
    /// Of those, without a session.
    pub offline: i64,
    /// Name of the ControllerRevision that spec makes.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub current_revision: String,
    /// Which nodes run which revision. The hub takes revisions from here and never from spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Ready: every node that is online runs the newest revision. Progressing: nodes are on their way.
    /// Degraded: some node fails.
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
