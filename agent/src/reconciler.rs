//! The reconciler: hands what is in force to the container runtime and to the drivers, and notes what
//! became of it.
//!
//! In: [`Desired`] snapshots. Out: passes of [`Runtime`], drivers of [`Devices`], [`Note`]s. Containers
//! and devices go round by themselves, so that a runtime that hangs delays no register.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use selvedge_model::{EntryKey, EntryKind};
use selvedge_protocol::agent::{DeviceState, NodeState, Phase, WorkloadState, entry_report::State};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    devices::{DesiredDevice, DeviceReport, Devices},
    ledger::{Desired, Entry, HeldBack, InForce, RowKey},
    node,
    report::Note,
    runtime::{DesiredWorkload, Referenced, Runtime, WorkloadReport},
};

/// How often the runtime is looked at when nothing else asks for it: a container that ended is seen
/// within this.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What the reconciler works with.
pub struct Reconciler {
    /// The containers.
    pub runtime: Runtime,
    /// The devices.
    pub devices: Devices,
    /// What is in force.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// Where it tells what is true.
    pub notes: mpsc::Sender<Vec<Note>>,
    /// Uid of the EdgeNode, as of the join.
    pub node_uid: String,
    /// What an operator should know; empty: nothing.
    pub notice: String,
    /// On the disk whose size is the node's capacity.
    pub state_dir: PathBuf,
}

impl Reconciler {
    /// Runs until `stop`; containers run on.
    pub async fn run(self, stop: CancellationToken) {
        let workloads = Workloads {
            runtime: self.runtime,
            desired: self.desired.clone(),
            notes: self.notes.clone(),
            node_uid: self.node_uid,
            notice: self.notice,
            state_dir: self.state_dir,
        };
        tokio::join!(workloads.run(&stop), devices(self.devices, self.desired, self.notes, &stop));
    }
}

struct Workloads {
    runtime: Runtime,
    desired: watch::Receiver<Arc<Desired>>,
    notes: mpsc::Sender<Vec<Note>>,
    node_uid: String,
    notice: String,
    state_dir: PathBuf,
}

impl Workloads {
    async fn run(mut self, stop: &CancellationToken) {
        let mut stopped = false;
        loop {
            let desired = self.desired.borrow_and_update().clone();
            match (std::mem::replace(&mut stopped, desired.stopped), desired.stopped) {
                (false, true) => tracing::warn!(
                    "the EdgeNode was deleted, and its onDelete is Stop: containers and drivers are stopped"
                ),
                (true, false) => tracing::info!("a hub knows this node again: what it should run is started"),
                _ => {}
            }
            let wanted = workloads(&desired);
            // A set that was never whole says nothing about what is not in it.
            self.runtime.keep_unknown(!desired.complete);
            let reports = tokio::select! {
                () = stop.cancelled() => return,
                reports = self.runtime.reconcile(&wanted) => reports,
            };
            let mut notes: Vec<Note> = reports.into_iter().map(workload_note).collect();
            notes.extend(desired.held_back.iter().filter_map(held_back_note));
            notes.push(self.node_note(&desired));
            if self.notes.send(notes).await.is_err() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.desired.changed() => if changed.is_err() { return },
                () = self.runtime.job_ended() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn node_note(&self, desired: &Desired) -> Note {
        // A node that joined again while its agent ran is another object: its settings know.
        let settings = desired.entries.get(&EntryKey::node_settings());
        let uid = settings.map_or(&self.node_uid, |settings| &settings.uid);
        let info = self.runtime.info();
        let state = NodeState {
            runtime: info.name_version,
            runtime_error: info.error.unwrap_or_default(),
            notice: self.notice.clone(),
            ..node::state(&self.state_dir)
        };
        Note {
            key: RowKey::from(&EntryKey::node_settings()),
            uid: uid.clone(),
            content_hash: Vec::new(),
            state: State::Node(state),
        }
    }
}

async fn devices(
    mut devices: Devices,
    mut desired: watch::Receiver<Arc<Desired>>,
    notes: mpsc::Sender<Vec<Note>>,
    stop: &CancellationToken,
) {
    let board = devices.reports();
    devices.apply(wanted_devices(&desired.borrow_and_update()));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = desired.changed() => {
                if changed.is_err() {
                    return;
                }
                devices.apply(wanted_devices(&desired.borrow_and_update()));
            }
            () = board.changed() => {
                let reports = board.take_changed().into_iter().map(device_note).collect();
                if notes.send(reports).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn workloads(desired: &Desired) -> Vec<DesiredWorkload> {
    if desired.stopped {
        return Vec::new();
    }
    let workload = |(key, in_force): (&EntryKey, &InForce)| {
        let Entry::Workload(entry) = &in_force.entry else { return None };
        let mut references = BTreeMap::new();
        for reference in entry.reference_keys(&key.namespace) {
            let data = match desired.entries.get(&reference).map(|in_force| &in_force.entry) {
                Some(Entry::ConfigMap(map)) => Referenced::ConfigMap(Arc::clone(map)),
                Some(Entry::Secret(secret)) => Referenced::Secret(Arc::clone(secret)),
                _ => continue,
            };
            references.insert(reference, data);
        }
        Some(DesiredWorkload {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: in_force.uid.clone(),
            content_hash: in_force.hash,
            entry: Arc::clone(entry),
            references,
        })
    };
    desired.of_kind(EntryKind::Workload).filter_map(workload).collect()
}

fn wanted_devices(desired: &Desired) -> Vec<DesiredDevice> {
    if desired.stopped {
        return Vec::new();
    }
    let device = |(key, in_force): (&EntryKey, &InForce)| match &in_force.entry {
        Entry::Device(entry) => Some(DesiredDevice {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: in_force.uid.clone(),
            content_hash: in_force.hash,
            entry: Arc::clone(entry),
        }),
        _ => None,
    };
    desired.of_kind(EntryKind::Device).filter_map(device).collect()
}

fn workload_note(report: WorkloadReport) -> Note {
    Note {
        key: RowKey::from(&EntryKey::new(EntryKind::Workload, &report.namespace, &report.name)),
        uid: report.uid,
        content_hash: report.content_hash.map(|hash| hash.0.to_vec()).unwrap_or_default(),
        state: State::Workload(report.state),
    }
}

fn device_note(report: DeviceReport) -> Note {
    Note {
        key: RowKey::from(&EntryKey::new(EntryKind::Device, &report.namespace, &report.name)),
        uid: report.uid,
        content_hash: report.content_hash.map(|hash| hash.0.to_vec()).unwrap_or_default(),
        state: State::Device(report.state),
    }
}

/// What is not in force and has no earlier version that is: nobody else tells of it.
fn held_back_note(held: &HeldBack) -> Option<Note> {
    if held.has_earlier {
        return None;
    }
    let (reason, message) = (held.reason.clone(), held.message.clone());
    let state = match held.key.known_kind()? {
        EntryKind::Workload => {
            let phase = if held.refused { Phase::Failed } else { Phase::Pending };
            let revision = held.revision.clone();
            State::Workload(WorkloadState {
                phase: phase.into(),
                reason,
                message,
                revision,
                ..WorkloadState::default()
            })
        }
        EntryKind::Device => State::Device(DeviceState { reason, message, ..DeviceState::default() }),
        EntryKind::NodeSettings | EntryKind::ConfigMap | EntryKind::Secret => return None,
    };
    Some(Note { key: held.key.clone(), uid: held.uid.clone(), content_hash: Vec::new(), state })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use selvedge_model::{ContentHash, EntryKey, EntryKind};
    use selvedge_protocol::agent::{Phase, entry_report::State};
    use serde_json::json;

    use super::{held_back_note, wanted_devices, workloads};
    use crate::{
        ledger::{Desired, Entry, HeldBack, InForce, RowKey},
        runtime::Referenced,
    };

    fn in_force(key: &EntryKey, body: &serde_json::Value) -> (EntryKey, InForce) {
        let entry = Entry::decode(&RowKey::from(key), body.to_string().as_bytes()).unwrap();
        let hash = ContentHash::of(body);
        (key.clone(), InForce { uid: "u".into(), hash, revision: "r1".into(), entry })
    }

    fn desired() -> Desired {
        let map = |version: &str| EntryKey {
            version: version.into(),
            ..EntryKey::new(EntryKind::ConfigMap, "shop", "menu")
        };
        let pin = EntryKey { version: "k1".into(), ..EntryKey::new(EntryKind::Secret, "shop", "menu") };
        let references = json!([{"kind": "ConfigMap", "name": "menu", "version": "v2"},
            {"kind": "Secret", "name": "menu", "version": "k1"}]);
        let web = json!({"revision": "r1", "references": references, "template": {}});
        let entries: BTreeMap<_, _> = [
            in_force(&map("v1"), &json!({"data": {"dish": "soup"}})),
            in_force(&map("v2"), &json!({"data": {"dish": "fish"}})),
            in_force(&pin, &json!({"data": {"pin": "MTIzNA=="}, "salt": "s"})),
            in_force(&EntryKey::new(EntryKind::Workload, "shop", "web"), &web),
        ]
        .into();
        Desired { complete: true, entries, ..Desired::default() }
    }

    #[test]
    fn a_workload_comes_with_the_versions_that_it_names() {
        let workloads = workloads(&desired());
        let references: Vec<_> = workloads[0].references.iter().collect();
        let [(map, Referenced::ConfigMap(data)), (secret, Referenced::Secret(pin))] = references[..] else {
            panic!("{references:?}")
        };
        assert_eq!((map.version.as_str(), data.data["dish"].as_str()), ("v2", "fish"));
        assert_eq!((secret.version.as_str(), pin.data["pin"].0.as_str()), ("k1", "MTIzNA=="));
    }

    #[test]
    fn after_a_farewell_with_stop_nothing_is_to_run() {
        let mut desired = desired();
        let boiler = EntryKey::new(EntryKind::Device, "shop", "boiler");
        desired
            .entries
            .extend([in_force(&boiler, &json!({"protocol": {"simulated": {}}, "properties": []}))]);
        assert_eq!((workloads(&desired).len(), wanted_devices(&desired).len()), (1, 1));
        desired.stopped = true;
        assert_eq!((workloads(&desired).len(), wanted_devices(&desired).len()), (0, 0));
    }

    #[test]
    fn what_was_never_in_force_is_told_by_nobody_else() {
        let held = HeldBack {
            key: RowKey::from(&EntryKey::new(EntryKind::Workload, "shop", "api")),
            uid: "u".into(),
            revision: "r2".into(),
            has_earlier: false,
            refused: false,
            reason: "WaitingForReferences".into(),
            message: "waits".into(),
        };
        let note = held_back_note(&held).unwrap();
        let State::Workload(state) = note.state else { panic!("{note:?}") };
        assert_eq!((state.phase(), state.revision.as_str()), (Phase::Pending, "r2"));
        assert!(held_back_note(&HeldBack { has_earlier: true, ..held }).is_none());
    }
}
