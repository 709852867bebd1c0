//! What the status of an EdgeNode should be.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use jiff::Timestamp;
use selvedge_model::{ContentHash, EntryKey, EntryKind};
use selvedge_operator::status::condition;
use selvedge_protocol::agent::{self as wire, Phase};
use serde_json::{Map, Value, json};

use super::{line, reason};
use crate::index::{ACCEPT_ANNOTATION, DeviceStands};
use crate::session::{Entry, Standing, Sync};

/// Most applications in a status.
const APPLICATIONS: usize = 64;

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its set, and how far it has come.
    pub standing: Standing,
    /// What the agent said of the machine, in this session.
    pub machine: Option<wire::NodeState>,
    /// Workloads that were reported in this session, with the content that was in force then.
    pub workloads: BTreeMap<EntryKey, (wire::WorkloadState, Option<ContentHash>)>,
    /// Devices of the set: whether they answer, and whether what is desired is in force.
    pub devices: BTreeMap<EntryKey, DeviceStands>,
    /// Two machines bear the node's identity.
    pub duplicate: bool,
}

/// What [`compose`] reads of them, and no more: in which content something is desired is not in it, only whether
/// that is in force.
impl Hash for Facts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.duplicate, &self.machine, &self.standing.sync).hash(state);
        self.standing.entries.len().hash(state);
        for (key, entry) in &self.standing.entries {
            (key.kind, entry.delivered, &entry.held, &entry.refused).hash(state);
            if entry.held.is_some() || entry.refused.is_some() {
                key.hash(state);
            }
            match key.kind {
                EntryKind::Workload => {
                    (&key.namespace, &key.name, &entry.revision).hash(state);
                    let said = self.workloads.get(key).map(|(said, content)| {
                        let in_force = *content == entry.desired;
                        (in_force, said.phase, &said.revision, &said.reason, &said.message)
                    });
                    said.hash(state);
                }
                EntryKind::Device => self.devices.get(key).hash(state),
                EntryKind::NodeSettings | EntryKind::ConfigMap | EntryKind::Secret => {}
            }
        }
    }
}

/// How one entry stands.
struct Stands {
    applied: bool,
    failed: bool,
}

/// The fields of status that the hub owns, over the status as it is.
#[must_use]
pub fn compose(facts: &Facts, current: &Value, now: Timestamp) -> Value {
    let applications = applications(facts, current);
    let mut conditions = Vec::new();
    let mut mine = Map::new();
    if facts.duplicate {
        let message = "two machines bear this node's identity and take turns: switch off the copy of its disk, or \
                       give it an EdgeNode and a join command of its own";
        conditions.push(condition("Ready", Some(false), "DuplicateIdentity", message, None, now));
    } else if let Some(machine) = &facts.machine {
        conditions.push(ready(machine, now));
    }
    if let Some(machine) = &facts.machine {
        mine.insert("agent".into(), agent(machine));
        mine.insert("capacity".into(), capacity(machine));
    }
    let entries = &facts.standing.entries;
    let stands: BTreeMap<&EntryKey, Stands> =
        entries.iter().map(|(key, entry)| (key, stands(key, entry, facts, &applications))).collect();
    conditions.push(synced(facts, &stands, now));
    let count = |wanted: &dyn Fn(&EntryKey, &Entry, &Stands) -> bool| {
        entries
            .iter()
            .filter(|(key, entry)| stands.get(key).is_some_and(|stands| wanted(key, entry, stands)))
            .count()
    };
    mine.insert(
        "sync".into(),
        json!({
            "desired": entries.len(),
            "delivered": count(&|_, entry, _| entry.delivered),
            "applied": count(&|_, _, stands| stands.applied),
            "failed": count(&|_, _, stands| stands.failed),
        }),
    );
    let running =
        applications.iter().filter(|app| app["state"] == "Running" || app["state"] == "Succeeded").count();
    let connected = facts.devices.values().filter(|device| device.connected).count();
    mine.insert(
        "summary".into(),
        json!({
            "applications": format!("{running}/{}", entries.keys().filter(|key| key.kind == EntryKind::Workload).count()),
            "devices": format!("{connected}/{}", entries.keys().filter(|key| key.kind == EntryKind::Device).count()),
        }),
    );
    mine.insert("applications".into(), Value::Array(applications.into_iter().take(APPLICATIONS).collect()));
    mine.insert("conditions".into(), json!(conditions));
    Value::Object(mine)
}

fn ready(
    machine: &wire::NodeState,
    now: Timestamp,
) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
    // A rebuilt ledger is news also while the runtime is away.
    let said = [machine.runtime_error.as_str(), machine.notice.as_str()];
    let message = said.into_iter().filter(|said| !said.is_empty()).collect::<Vec<_>>().join("; ");
    if machine.runtime_error.is_empty() {
        condition("Ready", Some(true), "AgentReports", message, None, now)
    } else {
        condition("Ready", Some(false), "RuntimeUnavailable", message, None, now)
    }
}

fn agent(machine: &wire::NodeState) -> Value {
    json!({
        "version": machine.agent_version,
        "architecture": machine.arch,
        "operatingSystem": machine.os,
        "kernelVersion": machine.kernel,
        "containerRuntime": machine.runtime,
    })
}

fn capacity(machine: &wire::NodeState) -> Value {
    let cpu = if machine.cpu_millis.is_multiple_of(1000) {
        (machine.cpu_millis / 1000).to_string()
    } else {
        format!("{}m", machine.cpu_millis)
    };
    let kibibytes = |bytes: u64| format!("{}Ki", bytes / 1024);
    json!({
        "cpu": cpu,
        "memory": kibibytes(machine.memory_bytes),
        "ephemeral-storage": kibibytes(machine.storage_bytes),
    })
}

/// Every application of the set: as reported, or, when this session has heard nothing of it yet, as it
/// stood.
fn applications(facts: &Facts, current: &Value) -> Vec<Value> {
    let workloads = facts.standing.entries.iter().filter(|(key, _)| key.kind == EntryKind::Workload);
    workloads
        .map(|(key, entry)| {
            let mut app = match facts.workloads.get(key) {
                Some((state, _)) => reported(state),
                None => {
                    let before = current["applications"].as_array().into_iter().flatten();
                    let mut before = before.into_iter().filter(|app| {
                        app["namespace"] == key.namespace.as_str() && app["name"] == key.name.as_str()
                    });
                    before
                        .next()
                        .and_then(Value::as_object)
                        .cloned()
                        .unwrap_or_else(|| Map::from_iter([("state".to_owned(), "Pending".into())]))
                }
            };
            app.insert("namespace".into(), key.namespace.as_str().into());
            app.insert("name".into(), key.name.as_str().into());
            let why = entry.held.as_ref().map(|held| ("Held", held.reason.name(), held.message.as_str()));
            let refused = entry
                .refused
                .as_ref()
                .map(|(why, message)| ("Failed", reason(why, "Refused"), message.as_str()));
            match why.or(refused) {
                Some((state, why, message)) => {
                    app.insert("state".into(), state.into());
                    app.insert("reason".into(), why.into());
                    app.insert("message".into(), line(message).into());
                }
                // Not held any more, and nothing reported since.
                None if app.get("state").is_some_and(|state| state == "Held") => {
                    app.insert("state".into(), "Pending".into());
                    app.remove("reason");
                    app.remove("message");
                }
                None => {}
            }
            Value::Object(app)
        })
        .collect()
}

fn reported(state: &wire::WorkloadState) -> Map<String, Value> {
    let phase = match state.phase() {
        Phase::Unspecified | Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    };
    let mut app = Map::from_iter([("state".to_owned(), phase.into())]);
    for (field, text) in
        [("revision", &state.revision), ("reason", &state.reason), ("message", &state.message)]
    {
        if !text.is_empty() {
            app.insert(field.into(), line(text).into());
        }
    }
    app
}

fn stands(key: &EntryKey, entry: &Entry, facts: &Facts, applications: &[Value]) -> Stands {
    let refused = entry.refused.is_some();
    match key.kind {
        EntryKind::Workload => {
            let app = applications
                .iter()
                .find(|app| app["namespace"] == key.namespace.as_str() && app["name"] == key.name.as_str());
            let state = app.and_then(|app| app["state"].as_str()).unwrap_or_default();
            let in_force = match facts.workloads.get(key) {
                Some((_, content)) => *content == entry.desired,
                // Not reported in this session: its verdict was given to an earlier one.
                None => app.is_some_and(|app| app["revision"] == *entry.revision) && state != "Pending",
            };
            Stands { applied: entry.delivered && in_force && !refused, failed: refused || state == "Failed" }
        }
        EntryKind::Device => {
            let device = facts.devices.get(key).copied().unwrap_or_default();
            Stands { applied: entry.delivered && device.applied && !refused, failed: refused }
        }
        EntryKind::NodeSettings | EntryKind::ConfigMap | EntryKind::Secret => {
            Stands { applied: entry.delivered && !refused, failed: refused }
        }
    }
}

fn synced(
    facts: &Facts,
    stands: &BTreeMap<&EntryKey, Stands>,
    now: Timestamp,
) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition {
    let entries = &facts.standing.entries;
    let not = |why: &str, message: String| condition("Synced", Some(false), why, message, None, now);
    let refused = entries.iter().find_map(|(key, entry)| Some((key, entry.refused.as_ref()?)));
    let held = entries.iter().find_map(|(key, entry)| Some((key, entry.held.as_ref()?)));
    let applied = stands.values().filter(|stands| stands.applied).count();
    match facts.standing.sync {
        Sync::DigestMismatch => {
            return not(
                "DigestMismatch",
                "the agent's set does not come to match; another try follows".into(),
            );
        }
        Sync::CatchingUp => {
            return not("CatchingUp", "the node has seen more than this hub has read: it waits".into());
        }
        Sync::AheadOfCluster { accept } => {
            let message = format!(
                "the node has seen more than the cluster has: it was restored to an older state. The node keeps what \
                 it runs. Once the cluster is as it should be, accept it for all nodes: set data.epoch of ConfigMap \
                 selvedge-cluster to {accept}; or for this one: kubectl annotate edgenode <name> \
                 {ACCEPT_ANNOTATION}={accept}"
            );
            return not("AheadOfCluster", message);
        }
        Sync::RemovalsHeld(why) => {
            let message = "entries that are not desired any more wait to be removed: set data.release of ConfigMap \
                           selvedge-cluster to <kind>=<text>, such as Workload=1, to let them go";
            return not(why, message.into());
        }
        Sync::Ok | Sync::Delivering => {}
    }
    if let Some((key, (why, message))) = refused {
        return not("Refused", format!("{key}: {why}: {message}"));
    }
    if let Some((key, held)) = held {
        return not(held.reason.name(), format!("{key}: {}", held.message));
    }
    if facts.standing.sync == Sync::Delivering || entries.values().any(|entry| !entry.delivered) {
        return not("Delivering", String::new());
    }
    if applied < entries.len() {
        return not("Applying", format!("{applied} of {} entries are in force", entries.len()));
    }
    condition("Synced", Some(true), "Applied", String::new(), None, now)
}
