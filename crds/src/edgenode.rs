//! EdgeNode: one edge machine.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use selvedge_model::selector::Selector;
use serde::{Deserialize, Serialize};

use crate::{Fence, schema};

/// One edge machine. Its name is the name that its certificate bears.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(
    group = "selvedge.dev",
    version = "v1alpha1",
    kind = "EdgeNode",
    shortname = "en",
    category = "selvedge",
    status = "EdgeNodeStatus",
    derive = "PartialEq",
    doc = "EdgeNode is one edge machine, driven by a Selvedge agent that joins under this name.",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Connected", type_ = "string", json_path = r#".status.conditions[?(@.type=="Connected")].status"#),
    printcolumn(name = "Synced", type_ = "string", json_path = r#".status.conditions[?(@.type=="Synced")].status"#),
    printcolumn(name = "Apps", type_ = "string", json_path = ".status.summary.applications"),
    printcolumn(name = "Devices", type_ = "string", json_path = ".status.summary.devices"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.agent.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EdgeNodeSpec {
    /// Whether the node is shut out: its session is cut, its certificate refused and none is issued. What
    /// runs on it is not touched. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
    /// What the agent does when this EdgeNode is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// Which namespaces may place EdgeApplications and Devices here, by their labels: of those that take part
    /// (`selvedge.dev/edge=enabled`), those that it selects. What is here and is not selected any more is removed, as
    /// by another selector of its own. Default: all that take part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<Selector>,
    /// How the machine joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
}

/// What the agent does when it is told that this EdgeNode was deleted. Keep: containers run on and drivers go on, until
/// `selvedge-agent leave`. Stop: it stops both, and does not start them again at boot. An agent that is not connected
/// at that moment is not told, and keeps. Default: Keep.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    /// It runs on.
    Keep,
    /// It is stopped.
    Stop,
}

/// How a machine joins under this name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Join {
    /// How long a join command can be used, as a duration such as 30m or 24h; at most 2160h. Default: 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
    /// Any text. A new value makes a new join command; the machine that uses it replaces the one that
    /// joined before. At most 63 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub request: Option<String>,
    /// Whether a machine is taken in that joined under this name as an EdgeNode before this one, which was deleted or
    /// lost with its cluster: by proof of its key, without a new join command. Default: Never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
}

impl Join {
    /// Whether a machine of an EdgeNode before this one is taken in.
    #[must_use]
    pub fn adopts(&self) -> bool {
        self.adopt == Some(Adopt::SameName)
    }
}

/// Which machines of an EdgeNode before this one are taken in. Never: none, they join with a new join command.
/// SameName: the first one whose certificate is of this cluster's CA, bears this name, and has not ended more than 90
/// days ago.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// None.
    Never,
    /// The first of this name.
    SameName,
}

/// What is known of the machine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeNodeStatus {
    /// The generation of spec that this status answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the agent reports and its container runtime works. Connected: it has a session. Synced: all
    /// that is desired was delivered and applied.
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The agent and the machine that it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
    /// cpu, memory and storage of the machine, as Kubernetes quantities.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub capacity: BTreeMap<String, String>,
    /// The node's newest certificate: a copy for people, read by nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityInfo>,
    /// How far desired state has come, in entries (applications, devices, ConfigMaps, settings).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncCounts>,
    /// The columns of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<NodeSummary>,
    /// Applications on this node; at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub applications: Vec<ApplicationState>,
    /// Which report this status comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
}

/// The agent and its machine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentInfo {
    /// Version of the agent.
    #[schemars(length(max = 63))]
    pub version: String,
    /// Architecture, as in `kubernetes.io/arch`.
    #[schemars(length(max = 63))]
    pub architecture: String,
    /// Operating system, as in `kubernetes.io/os`.
    #[schemars(length(max = 63))]
    pub operating_system: String,
    /// Release of the kernel.
    #[schemars(length(max = 128))]
    pub kernel_version: String,
    /// Container runtime and its version, such as containerd://2.4.2.
    #[schemars(length(max = 128))]
    pub container_runtime: String,
}

/// A certificate, for people.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct IdentityInfo {
    /// Serial number, lower-case hex.
    #[schemars(length(max = 64))]
    pub serial: String,
    /// End of validity, RFC 3339.
    #[schemars(schema_with = "schema::instant")]
    pub not_after: String,
}

/// Numbers of entries.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct SyncCounts {
    /// Entries that the node should have.
    pub desired: i64,
    /// Of those, durably stored by the agent in the desired version.
    pub delivered: i64,
    /// Of those, in force in the desired version.
    pub applied: i64,
    /// Of those, refused by the agent or failing.
    pub failed: i64,
}

/// Columns of `kubectl get edgenodes`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct NodeSummary {
    /// Applications running of those desired, such as 2/3.
    #[schemars(length(max = 32))]
    pub applications: String,
    /// Devices connected of those desired, such as 9/10.
    #[schemars(length(max = 32))]
    pub devices: String,
}

/// One application on one node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ApplicationState {
    /// Namespace of the EdgeApplication.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the EdgeApplication.
    #[schemars(length(max = 63))]
    pub name: String,
    /// ControllerRevision in force on the node; empty: none yet.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub revision: String,
    /// Pending, Running, Succeeded, Failed or Held.
    #[schemars(length(max = 16))]
    pub state: String,
    /// Why, in one CamelCase word.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Why, for people; at most 256 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub message: String,
}
