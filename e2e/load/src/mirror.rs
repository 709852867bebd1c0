//! What each simulated node should have, by this process's own reading of the objects.
//!
//! In: objects of the cluster, and changes before they are made. Out: what may be in force from now on, told to
//! the record; what must be there when all is quiet; and what a status claims. Entries are resolved by the
//! hub's index, over objects that this process read or wrote itself: what is tried is everything between
//! that index and the agents, not the index (`hub/src/index` has tests of its own).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::DynamicObject;
use selvedge_history::{Event, Name, Wanted};
use selvedge_hub::index::{Event as IndexEvent, Index, ObjectKey, Part, Pins, Resource, Slot};
use selvedge_model::{ContentHash, EntryKey, EntryKind};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::life;
use crate::objects::{Cluster, Kind, ObjectsError};

/// Kinds in the order in which they are read: what is named by others comes after those.
const KINDS: [Kind; 7] = [
    Kind::Namespace,
    Kind::EdgeNode,
    Kind::ControllerRevision,
    Kind::EdgeApplication,
    Kind::DeviceModel,
    Kind::Device,
    Kind::ConfigMap,
];

#[derive(Default)]
struct State {
    index: Index,
    objects: HashMap<(Kind, String), Value>,
    /// Content of a device by name and generation.
    devices: HashMap<(String, i64), ContentHash>,
    /// Contents of a workload by key and revision.
    workloads: HashMap<(Name, String), HashSet<ContentHash>>,
}

/// See the module.
pub struct Mirror {
    fleet: Arc<Fleet>,
    namespace: String,
    state: Mutex<State>,
}

impl Mirror {
    /// Reads everything.
    ///
    /// # Errors
    /// [`ObjectsError`].
    pub async fn read(cluster: &Cluster, namespace: &str, fleet: Arc<Fleet>) -> Result<Self, ObjectsError> {
        let mirror = Self { fleet, namespace: namespace.to_owned(), state: Mutex::default() };
        for kind in KINDS {
            let objects = cluster.list(kind).await?;
            let mut state = mirror.state();
            for object in objects {
                let Ok(object) = serde_json::to_value(object) else { continue };
                mirror.put(&mut state, kind, object);
            }
            // The revision of the list does not matter: nothing here waits for caches.
            state.index.apply(IndexEvent::Listed(mirror.resource(kind), 1));
        }
        Ok(mirror)
    }

    /// Whether every application has been rolled out far enough that nodes can have it.
    #[must_use]
    pub fn is_resolved(&self, node: &str) -> bool {
        let slots = self.state().index.set(node, &Pins::new());
        slots.values().all(|slot| matches!(slot, Slot::Present(_)))
    }

    /// Tells the record what all nodes may have.
    pub fn tell_all(&self, nodes: &[String]) {
        let mut state = self.state();
        for (n, node) in nodes.iter().enumerate() {
            let parts = state.index.parts(node);
            // Workloads are alike on all nodes.
            let parts = parts.into_iter().filter(|part| n == 0 || *part != Part::Workloads);
            for part in parts.collect::<Vec<_>>() {
                self.tell(&mut state, node, &part);
            }
        }
    }

    /// Reads everything anew, because others have changed it, and tells what `nodes` may have from now on. What
    /// was replaced under its name need not be kept any longer; what is gone only if it was `withdrawn` on
    /// purpose.
    ///
    /// # Errors
    /// [`ObjectsError`].
    pub async fn read_anew(
        &self,
        cluster: &Cluster,
        nodes: &[String],
        withdrawn: bool,
    ) -> Result<(), ObjectsError> {
        let fresh = Self::read(cluster, &self.namespace, self.fleet.clone()).await?;
        let fresh = fresh.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        for node in nodes {
            let after = fresh.index.set(node, &Pins::new());
            for (key, slot) in state.index.set(node, &Pins::new()) {
                let Slot::Present(before) = slot else { continue };
                let gone = match after.get(&key) {
                    Some(Slot::Present(now)) => now.uid != before.uid,
                    Some(Slot::Held(_)) => false,
                    // The key of a ConfigMap names its version, too.
                    Some(Slot::Absent) | None => withdrawn || key.kind == EntryKind::ConfigMap,
                };
                if gone {
                    let node = Some(Name::from(node.as_str()));
                    self.fleet.record.allow(|| Event::Withdrawn { node, key: name(&key), uid: before.uid });
                }
            }
        }
        state.index = fresh.index;
        state.objects = fresh.objects;
        drop(state);
        self.tell_all(nodes);
        Ok(())
    }

    /// An object as it is known.
    #[must_use]
    pub fn object(&self, kind: Kind, name: &str) -> Option<Value> {
        self.state().objects.get(&(kind, name.to_owned())).cloned()
    }

    /// All objects of a kind as users made them: names, labels and specs.
    #[must_use]
    pub fn made(&self, kind: Kind) -> Vec<Value> {
        let resource = kind.resource();
        let made = |object: &Value| {
            let metadata = &object["metadata"];
            json!({
                "apiVersion": resource.api_version, "kind": resource.kind, "spec": object["spec"],
                "metadata": {"name": metadata["name"], "labels": metadata["labels"]},
            })
        };
        let state = self.state();
        state.objects.iter().filter(|((of, _), _)| *of == kind).map(|(_, object)| made(object)).collect()
    }

    /// An object is about to become this.
    pub fn expect(&self, kind: Kind, object: Value) {
        let mut state = self.state();
        let before = self.maps(&state);
        let touched = self.put(&mut state, kind, object);
        let mut workloads = false;
        for (node, part) in touched {
            // Workloads are alike on all nodes.
            if part != Part::Workloads || !std::mem::replace(&mut workloads, true) {
                self.tell(&mut state, &node, &part);
            }
        }
        let after = self.maps(&state);
        for (key, uid) in before.into_iter().filter(|(key, _)| !after.contains_key(key)) {
            self.fleet.record.allow(|| Event::Withdrawn { node: None, key: name(&key), uid });
        }
    }

    /// What a node should have when all is quiet.
    #[must_use]
    pub fn wanted(&self, node: &str) -> Vec<(Name, Wanted)> {
        let slots = self.state().index.set(node, &Pins::new());
        let wanted = |(key, slot): (EntryKey, Slot)| match slot {
            Slot::Present(present) => {
                Some((name(&key), Wanted::OneOf(vec![(present.uid, present.body.hash)])))
            }
            Slot::Held(_) => Some((name(&key), Wanted::Held)),
            Slot::Absent => None,
        };
        slots.into_iter().filter_map(wanted).collect()
    }

    /// Tells the record what a status says.
    pub fn status(&self, kind: Kind, object: &DynamicObject) {
        let status = &object.data["status"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let fence = status.pointer("/fence/session").and_then(Value::as_str);
        let Some(session) = fence.and_then(|session| session.parse().ok()) else { return };
        let Some(uid) = object.metadata.uid.as_deref() else { return };
        let own = object.metadata.name.clone().unwrap_or_default();
        let tell = |node: &str, key: Name, says: u64, claims: Vec<ContentHash>| {
            // What an earlier run left was true then.
            let ours = says >= self.fleet.first_state;
            let (says, claims) = if ours { (says, claims) } else { (0, Vec::new()) };
            self.fleet.record.tell(|| Event::Status {
                node: node.into(),
                key,
                object: uid.into(),
                session,
                says,
                claims,
            });
        };
        let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let condition = |wanted: &str| conditions.iter().find(|condition| condition["type"] == wanted);
        if kind == Kind::EdgeNode {
            let notice = condition("Ready").map(|ready| text(&ready["message"])).unwrap_or_default();
            tell(&own, name(&EntryKey::node_settings()), life::said(&notice), Vec::new());
            for app in status["applications"].as_array().into_iter().flatten() {
                let (namespace, app_name) = (text(&app["namespace"]), text(&app["name"]));
                let key = name(&EntryKey::new(EntryKind::Workload, &namespace, &app_name));
                let contents = (key.clone(), text(&app["revision"]));
                let claims = match app["state"].as_str() {
                    Some("Running") => self.state().workloads.get(&contents).cloned().unwrap_or_default(),
                    _ => HashSet::new(),
                };
                tell(&own, key, life::said(&text(&app["message"])), claims.into_iter().collect());
            }
            return;
        }
        let node = text(&object.data["spec"]["nodeName"]);
        let properties = status["properties"].as_array().map(Vec::as_slice).unwrap_or_default();
        let reading = properties.iter().find(|property| property["name"] == "reading");
        let says = reading.and_then(|reading| reading["reported"].as_u64()).unwrap_or(0);
        let applied = condition("Synced").filter(|synced| synced["status"] == "True");
        let generation = applied.and_then(|synced| synced["observedGeneration"].as_i64());
        let content =
            generation.and_then(|generation| self.state().devices.get(&(own.clone(), generation)).copied());
        let key = name(&EntryKey::new(EntryKind::Device, &self.namespace, &own));
        tell(&node, key, says, content.into_iter().collect());
    }

    fn put(&self, state: &mut State, kind: Kind, object: Value) -> Vec<(Arc<str>, Part)> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        state.objects.insert((kind, name), object.clone());
        let touched = state.index.apply(IndexEvent::Applied(self.resource(kind), object));
        touched.parts.into_iter().collect()
    }

    fn tell(&self, state: &mut State, node: &str, part: &Part) {
        for (key, slot) in state.index.part(node, part, &Pins::new()) {
            let Slot::Present(present) = slot else { continue };
            let (named, hash) = (name(&key), present.body.hash);
            match key.kind {
                EntryKind::Device => {
                    let source = ObjectKey::new(&key.namespace, &key.name);
                    if let Some((_, generation, _)) = state.index.device_source(&source) {
                        state.devices.insert((key.name.clone(), generation), hash);
                    }
                }
                EntryKind::Workload => {
                    let revision = (named.clone(), present.revision.to_string());
                    state.workloads.entry(revision).or_default().insert(hash);
                }
                _ => {}
            }
            let own = matches!(key.kind, EntryKind::Device | EntryKind::NodeSettings);
            let node = own.then(|| Name::from(node));
            self.fleet.record.allow(|| Event::Desired { node, key: named, uid: present.uid, hash });
        }
    }

    /// ConfigMaps that nodes hold, by key, with their uids.
    fn maps(&self, state: &State) -> BTreeMap<EntryKey, Name> {
        let node = state.objects.keys().find(|(kind, _)| *kind == Kind::EdgeNode);
        let slots = node.map(|(_, node)| state.index.part(node, &Part::Workloads, &Pins::new()));
        let map = |(key, slot): (EntryKey, Slot)| match slot {
            Slot::Present(present) if key.kind == EntryKind::ConfigMap => Some((key, present.uid)),
            _ => None,
        };
        slots.unwrap_or_default().into_iter().filter_map(map).collect()
    }

    fn resource(&self, kind: Kind) -> Resource {
        match kind {
            Kind::Namespace => Resource::Namespaces,
            Kind::EdgeNode => Resource::EdgeNodes,
            Kind::EdgeApplication => Resource::EdgeApplications,
            Kind::ControllerRevision => Resource::ControllerRevisions,
            Kind::DeviceModel => Resource::DeviceModels,
            Kind::Device => Resource::Devices,
            Kind::ConfigMap => Resource::ConfigMaps(self.namespace.as_str().into()),
            Kind::Secret => Resource::Secrets(self.namespace.as_str().into()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(key: &EntryKey) -> Name {
    key.to_string().into()
}
