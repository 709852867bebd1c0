//! What should run here, what does, and why not: for the agent's own socket, with no cloud.
//!
//! In: link, ledger and report task. Out: [`NodeStatus`], as JSON and as text for people.

mod metrics;
mod server;
mod text;

use std::sync::Arc;

use selvedge_model::EntryKind;
use selvedge_protocol::agent::{
    DeviceState, EntryReport, NodeState, Phase, WorkloadState, entry_report::State,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::{
    server::{SOCKET_FILE, Server, ServerError, ask},
    text::text,
};
use crate::{
    clock,
    identity::Identity,
    ledger::{Desired, RowKey},
    link::{Counters, Counts, LinkStatus},
    node::AGENT_VERSION,
};

/// The node as its agent sees it. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name of the EdgeNode.
    pub node: String,
    /// Cluster id.
    pub cluster: String,
    /// Version of the agent.
    pub version: String,
    /// When this was true.
    pub now: u64,
    /// What an operator should know; empty: nothing.
    pub notice: String,
    /// The way to the hub.
    pub link: LinkStatus,
    /// What went over it since the agent started. A new agent's status is read by an old command too.
    #[serde(default)]
    pub counts: Counts,
    /// Whether the hub of the present session said that the ledger is current.
    pub in_sync: bool,
    /// Whether the ledger was ever whole.
    pub complete: bool,
    /// The EdgeNode is gone, and containers and drivers were to stop.
    pub stopped: bool,
    /// Entries in force.
    pub entries: usize,
    /// Reports that the hub has not written yet.
    pub reports_waiting: usize,
    /// Name and version of the container runtime; empty: none.
    pub runtime: String,
    /// Why the runtime cannot be used; empty: it can.
    pub runtime_error: String,
    /// Workloads, by namespace and name.
    pub workloads: Vec<WorkloadStatus>,
    /// Devices, by namespace and name.
    pub devices: Vec<DeviceStatus>,
    /// Entries that were refused or wait.
    pub held_back: Vec<HeldBackStatus>,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// `namespace/name`.
    pub name: String,
    /// Revision that should run.
    pub desired: String,
    /// Revision that does.
    pub applied: String,
    /// Pending, Running, Succeeded, Failed.
    pub phase: String,
    /// CamelCase; empty: fine.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Restarts of its containers.
    pub restarts: u32,
    /// Start of its youngest container, Unix seconds; 0: none.
    pub started: u64,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// `namespace/name`.
    pub name: String,
    /// Whether it answers.
    pub connected: bool,
    /// Whether what is desired now was applied.
    pub applied: bool,
    /// CamelCase; empty: fine.
    pub reason: String,
    /// For people.
    pub message: String,
    /// `property=value`, in the model's order.
    pub values: Vec<String>,
}

/// One entry that is not in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBackStatus {
    /// Its key.
    pub entry: String,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What a status is made from.
pub struct Sources {
    /// Who this node is.
    pub identity: Identity,
    /// The link.
    pub link: watch::Receiver<LinkStatus>,
    /// What went over it.
    pub counters: Arc<Counters>,
    /// The ledger.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// The report task.
    pub questions: mpsc::Sender<oneshot::Sender<(Vec<EntryReport>, usize)>>,
}

impl Sources {
    /// The status of now.
    pub async fn collect(&self) -> NodeStatus {
        let (question, answer) = oneshot::channel();
        // A report task that is on its way down leaves its part empty.
        let _ = self.questions.send(question).await;
        let (reports, waiting) = answer.await.unwrap_or_default();
        let desired = self.desired.borrow().clone();
        let node = reports.iter().find_map(|report| match &report.state {
            Some(State::Node(node)) => Some(node.clone()),
            _ => None,
        });
        let node: NodeState = node.unwrap_or_default();
        NodeStatus {
            node: self.identity.node.clone(),
            cluster: self.identity.cluster.clone(),
            version: AGENT_VERSION.to_owned(),
            now: clock::unix(),
            notice: node.notice,
            link: self.link.borrow().clone(),
            counts: self.counters.counts(),
            in_sync: desired.synced,
            complete: desired.complete,
            stopped: desired.stopped,
            entries: desired.entries.len(),
            reports_waiting: waiting,
            runtime: node.runtime,
            runtime_error: node.runtime_error,
            workloads: workloads(&desired, &reports),
            devices: devices(&desired, &reports),
            held_back: held_back(&desired),
        }
    }
}

fn report_on<'a>(reports: &'a [EntryReport], key: &RowKey) -> Option<&'a EntryReport> {
    reports.iter().find(|report| {
        report.key.clone().and_then(|wire| RowKey::try_from(wire).ok()).is_some_and(|about| about == *key)
    })
}

fn workloads(desired: &Desired, reports: &[EntryReport]) -> Vec<WorkloadStatus> {
    let in_force = desired
        .of_kind(EntryKind::Workload)
        .map(|(key, in_force)| (RowKey::from(key), in_force.revision.clone()));
    let waiting = desired.held_back.iter().filter(|held| !held.has_earlier);
    let waiting = waiting
        .filter(|held| held.key.known_kind() == Some(EntryKind::Workload))
        .map(|held| (held.key.clone(), held.revision.clone()));
    let status = |(key, revision): (RowKey, String)| {
        let state = match report_on(reports, &key).and_then(|report| report.state.clone()) {
            Some(State::Workload(state)) => state,
            _ => WorkloadState::default(),
        };
        let phase = match state.phase() {
            Phase::Unspecified | Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        };
        WorkloadStatus {
            name: format!("{}/{}", key.namespace, key.name),
            desired: revision,
            applied: state.revision,
            phase: phase.to_owned(),
            reason: state.reason,
            message: state.message,
            restarts: state.restarts,
            started: u64::try_from(state.started_unix_ms / 1000).unwrap_or(0),
        }
    };
    in_force.chain(waiting).map(status).collect()
}

fn devices(desired: &Desired, reports: &[EntryReport]) -> Vec<DeviceStatus> {
    let status = |(key, hash): (RowKey, Vec<u8>)| {
        let report = report_on(reports, &key);
        let applied = report.is_some_and(|report| report.content_hash == hash);
        let state = match report.and_then(|report| report.state.clone()) {
            Some(State::Device(state)) => state,
            _ => DeviceState { reason: "Starting".into(), ..DeviceState::default() },
        };
        let values = state.properties.iter().filter(|property| !property.reported.is_empty());
        DeviceStatus {
            name: format!("{}/{}", key.namespace, key.name),
            connected: state.connected,
            applied,
            values: values.map(|property| format!("{}={}", property.name, property.reported)).collect(),
            reason: state.reason,
            message: state.message,
        }
    };
    let in_force = desired.of_kind(EntryKind::Device);
    in_force.map(|(key, in_force)| (RowKey::from(key), in_force.hash.0.to_vec())).map(status).collect()
}

fn held_back(desired: &Desired) -> Vec<HeldBackStatus> {
    let status = |held: &crate::ledger::HeldBack| HeldBackStatus {
        entry: held.key.to_string(),
        reason: held.reason.clone(),
        message: held.message.clone(),
    };
    desired.held_back.iter().map(status).collect()
}
