//! The index: what every node should have, from what the API server has (sync rule 1).
//!
//! In: [`Event`]s of list-watch loops, as raw JSON. Out: the nodes that an event touched, and on demand the
//! slots of a node, a pure function of these caches and of the revisions on which late nodes stay. No
//! await, no clock: tests build an index, apply objects and look at the result.
//!
//! One module a kind decodes its objects into a compact form and says what a change of them touches.

mod application;
mod body;
mod device;
mod event;
mod namespace;
mod node;
mod raw;
mod recent;
mod reference;
mod slot;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use selvedge_model::{EntryKey, EntryKind, ReferenceKind, VersionKey, Watermark};
use serde_json::Value;

pub use application::Pins;
use application::{Application, Revision};
use body::Bodies;
pub use body::Body;
pub use device::DeviceStands;
use device::{Device, Model};
pub use event::{Event, ObjectKey, Part, Resource, Touched};
pub use node::Node;
pub use recent::ACCEPT_ANNOTATION;
use recent::Recent;
pub use recent::Term;
use reference::References;
pub use slot::{Held, Present, Reason, Slot};

/// Slots of a node by key; absent keys are left out.
pub type Slots = BTreeMap<EntryKey, Slot>;

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    nodes: BTreeMap<Arc<str>, Node>,
    /// Labels of namespaces that take part.
    enabled: BTreeMap<Arc<str>, BTreeMap<String, String>>,
    applications: BTreeMap<ObjectKey, Application>,
    revisions: BTreeMap<ObjectKey, Revision>,
    models: BTreeMap<ObjectKey, Model>,
    devices: BTreeMap<ObjectKey, Device>,
    /// Devices by node.
    placed: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
    /// Devices by model.
    modelled: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    references: BTreeMap<(ReferenceKind, Arc<str>), References>,
    /// What versions of Secrets are hashed with.
    version_key: Option<VersionKey>,
    /// Late nodes by the revision that they were resolved with, as their sessions asked. One that is not late
    /// any more is touched once for nothing.
    pinned: Mutex<BTreeMap<ObjectKey, BTreeSet<Arc<str>>>>,
    /// Objects whose data was dropped, and that a workload was resolved with since.
    unfetched: Mutex<BTreeSet<(ReferenceKind, ObjectKey)>>,
    listed: BTreeSet<Resource>,
    reached: Watermark,
    recent: Recent,
    bodies: Bodies,
}

impl Index {
    /// Takes in one event.
    pub fn apply(&mut self, event: Event) -> Touched {
        match event {
            Event::Applied(resource, object) => {
                let Some(key) = raw::key(&object) else { return Touched::default() };
                self.raise(&resource, raw::revision(&object));
                self.change(&resource, key, Some(object))
            }
            Event::Gone { resource, key, revision, watched } => {
                self.raise(&resource, revision);
                let mut touched = self.change(&resource, key, None);
                if watched {
                    touched.unselected = 0;
                }
                touched
            }
            Event::Reached(resource, revision) => {
                self.raise(&resource, revision);
                Touched::default()
            }
            Event::Listed(resource, revision) => {
                self.raise(&resource, revision);
                self.listed.insert(resource.clone());
                self.followed(&resource, true)
            }
            Event::Recent { resource, revision, asked } => {
                self.recent.said(resource, revision, asked);
                Touched::default()
            }
            Event::WentBack(resource) => {
                self.recent.went_back();
                self.apply(Event::Dropped(resource))
            }
            Event::Dropped(resource) => {
                self.listed.remove(&resource);
                self.reached.revisions.remove(&resource.to_string());
                self.followed(&resource, false)
            }
        }
    }

    fn change(&mut self, resource: &Resource, key: ObjectKey, object: Option<Value>) -> Touched {
        match resource {
            Resource::EdgeNodes => self.change_node(key.name, object),
            Resource::Namespaces => self.change_namespace(key.name, object),
            Resource::EdgeApplications => self.change_application(key, object),
            Resource::ControllerRevisions => self.change_revision(key, object),
            Resource::DeviceModels => self.change_model(key, object),
            Resource::Devices => self.change_device(key, object),
            Resource::ConfigMaps(_) => self.change_reference(ReferenceKind::ConfigMap, key, object),
            Resource::Secrets(_) => self.change_reference(ReferenceKind::Secret, key, object),
        }
    }

    fn followed(&mut self, resource: &Resource, listed: bool) -> Touched {
        match resource.references() {
            Some((kind, namespace)) => self.references_listed(kind, namespace, listed),
            None => Touched::default(),
        }
    }

    fn raise(&mut self, resource: &Resource, revision: u64) {
        self.reached.raise(&resource.to_string(), revision);
    }

    /// Whether every core resource was listed, so that absence means something.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        Resource::CORE.iter().all(|resource| self.listed.contains(resource))
    }

    /// Of the cluster that these caches are of, as read at `now`.
    pub fn set_cluster(&mut self, cluster_id: &str, epoch: u64, now: Instant) {
        cluster_id.clone_into(&mut self.reached.cluster_id);
        if self.reached.epoch < epoch {
            self.recent.epoch_began(now);
        }
        self.reached.epoch = epoch;
    }

    /// What the caches reflect.
    #[must_use]
    pub fn reached(&self) -> &Watermark {
        &self.reached
    }

    /// In which resources these caches are older than `watermark`. A namespace of ConfigMaps or Secrets that
    /// is not followed here holds nobody.
    #[must_use]
    pub fn behind(&self, watermark: &Watermark) -> Vec<Resource> {
        if self.reached.epoch > watermark.epoch {
            return Vec::new();
        }
        let older = |resource: &Resource| {
            self.reached.revision(&resource.to_string()) < watermark.revision(&resource.to_string())
        };
        let core = Resource::CORE.iter().filter(|resource| older(resource)).cloned();
        let followed =
            self.references.keys().map(|(kind, namespace)| Resource::of_references(*kind, namespace));
        core.chain(followed.filter(older)).collect()
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// A node's slots of one part. Absent keys are left out.
    #[must_use]
    pub fn part(&self, node: &str, part: &Part, pins: &Pins) -> Slots {
        match part {
            Part::Settings => BTreeMap::from([(EntryKey::node_settings(), self.settings(node))]),
            Part::Workloads => self.workloads(node, pins),
            Part::Device(key) => {
                let slot = self.device(node, key);
                if slot == Slot::Absent { Slots::new() } else { Slots::from([(device_entry(key), slot)]) }
            }
        }
    }

    /// Every part of a node that is not empty.
    #[must_use]
    pub fn parts(&self, node: &str) -> BTreeSet<Part> {
        let devices = self.placed.get(node).into_iter().flatten().cloned().map(Part::Device);
        [Part::Settings, Part::Workloads].into_iter().chain(devices).collect()
    }

    /// All slots of a node.
    #[must_use]
    pub fn set(&self, node: &str, pins: &Pins) -> Slots {
        let mut slots = Slots::new();
        for part in self.parts(node) {
            slots.extend(self.part(node, &part, pins));
        }
        slots
    }

    /// What is desired under a key that a part did not list: what an agent holds beyond its set. ConfigMaps
    /// and Secrets are wanted as long as a listed workload names them.
    #[must_use]
    pub fn unlisted(&self, node: &str, key: &EntryKey, pins: &Pins) -> Slot {
        let source = ObjectKey::new(&key.namespace, &key.name);
        match key.kind {
            EntryKind::NodeSettings => self.settings(node),
            EntryKind::Workload => self.workload(node, &source, pins),
            EntryKind::Device => self.device(node, &source),
            EntryKind::ConfigMap | EntryKind::Secret => Slot::Absent,
        }
    }

    /// Whether the source of an entry exists under this uid: what goes then goes by selection alone.
    #[must_use]
    pub fn has(&self, key: &EntryKey, uid: &str) -> bool {
        let source = ObjectKey::new(&key.namespace, &key.name);
        match key.kind {
            EntryKind::Workload => self.applications.get(&source).is_some_and(|source| *source.uid == *uid),
            EntryKind::Device => self.devices.get(&source).is_some_and(|source| *source.uid == *uid),
            EntryKind::NodeSettings | EntryKind::ConfigMap | EntryKind::Secret => false,
        }
    }

    /// Uid of an object, where deletions are told apart by it.
    #[must_use]
    pub fn uid(&self, resource: &Resource, key: &ObjectKey) -> Option<Arc<str>> {
        match resource {
            Resource::EdgeNodes => self.nodes.get(&key.name).map(|node| node.uid.clone()),
            Resource::EdgeApplications => {
                self.applications.get(key).map(|application| application.uid.clone())
            }
            Resource::Devices => self.devices.get(key).map(|device| device.uid.clone()),
            _ => None,
        }
    }

    /// resourceVersion of the EdgeNode or Device of an entry, as last seen.
    #[must_use]
    pub fn source_revision(&self, node: &str, key: &EntryKey) -> Option<u64> {
        match key.kind {
            EntryKind::NodeSettings => self.nodes.get(node).map(|node| node.revision),
            EntryKind::Device => {
                let device = self.devices.get(&ObjectKey::new(&key.namespace, &key.name));
                device.map(|device| device.revision)
            }
            EntryKind::Workload | EntryKind::ConfigMap | EntryKind::Secret => None,
        }
    }

    /// Objects of a resource that are held, for mark and sweep after a list.
    #[must_use]
    pub fn keys(&self, resource: &Resource) -> Vec<ObjectKey> {
        let cluster = |name: &Arc<str>| ObjectKey { namespace: "".into(), name: name.clone() };
        match resource {
            Resource::EdgeNodes => self.nodes.keys().map(cluster).collect(),
            Resource::Namespaces => self.enabled.keys().map(cluster).collect(),
            Resource::EdgeApplications => self.applications.keys().cloned().collect(),
            Resource::ControllerRevisions => self.revisions.keys().cloned().collect(),
            Resource::DeviceModels => self.models.keys().cloned().collect(),
            Resource::Devices => self.devices.keys().cloned().collect(),
            Resource::ConfigMaps(namespace) => self.reference_keys(ReferenceKind::ConfigMap, namespace),
            Resource::Secrets(namespace) => self.reference_keys(ReferenceKind::Secret, namespace),
        }
    }

    fn reference_keys(&self, kind: ReferenceKind, namespace: &Arc<str>) -> Vec<ObjectKey> {
        let references = self.references.get(&(kind, namespace.clone()));
        references.map_or_else(Vec::new, |references| references.keys(namespace))
    }

    /// Numbers for metrics: resource and how many objects of it are held.
    #[must_use]
    pub fn sizes(&self) -> [(&'static str, usize); 7] {
        let references = |of| {
            let of_kind = self.references.iter().filter(move |((kind, _), _)| *kind == of);
            of_kind.map(|(_, references)| references.len()).sum()
        };
        [
            ("edgenodes", self.nodes.len()),
            ("edgeapplications", self.applications.len()),
            ("controllerrevisions", self.revisions.len()),
            ("devicemodels", self.models.len()),
            ("devices", self.devices.len()),
            ("configmaps", references(ReferenceKind::ConfigMap)),
            ("secrets", references(ReferenceKind::Secret)),
        ]
    }

    /// Nodes that one of `selectors` selects.
    fn touch_workloads<'a>(
        &'a self,
        mut selects: impl FnMut(&Node) -> bool + 'a,
    ) -> impl Iterator<Item = (Arc<str>, Part)> + 'a {
        self.nodes
            .iter()
            .filter(move |(_, node)| selects(node))
            .map(|(name, _)| (name.clone(), Part::Workloads))
    }
}

/// The entry that a Device makes.
#[must_use]
pub fn device_entry(key: &ObjectKey) -> EntryKey {
    EntryKey::new(EntryKind::Device, &key.namespace, &key.name)
}

/// The entry that an EdgeApplication makes.
#[must_use]
pub fn workload_entry(key: &ObjectKey) -> EntryKey {
    EntryKey::new(EntryKind::Workload, &key.namespace, &key.name)
}

#[cfg(test)]
pub(crate) mod tests;
