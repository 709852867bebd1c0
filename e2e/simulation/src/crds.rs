//! `kubectl delete crd`: the objects go with it, one after the other, until the kind is not served any more. Later
//! the CRD is created anew under another uid, and the objects are applied again, but for some.
//!
//! None of that may take anything from a node (sync rule 2).

use std::collections::BTreeMap;

use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_hub::removals::{Crd, CrdState};
use serde_json::Value;

use crate::stock::SHOP;
use crate::world::{Do, World};

/// A CRD that is going is read again after this long: as the shipped hub does.
const AGAIN: u64 = 5_000;

/// CRDs that are deleted, and their resources.
const DELETED: [(Crd, Resource); 2] =
    [(Crd::Devices, Resource::Devices), (Crd::EdgeApplications, Resource::EdgeApplications)];

impl World {
    /// A person deletes a CRD, unless one is away.
    pub fn delete_crd(&mut self) {
        let stands = |world: &Self, resource: &Resource| world.api.takes(resource);
        if self.calm || !DELETED.iter().all(|(_, resource)| stands(self, resource)) {
            return;
        }
        let (crd, resource) = DELETED[self.rng.index(DELETED.len())].clone();
        self.note(format!("CRD {} is deleted", crd.name()));
        self.api.set_crd(crd, CrdState::Going);
        let lasts = self.rng.range(10, 5_000);
        let keys: Vec<ObjectKey> = self.api.objects(&resource).map(crate::api::key).collect();
        for key in keys {
            let after = self.rng.below(lasts);
            self.after(after, Do::Vanish(resource.clone(), key));
        }
        self.after(lasts, Do::CrdGone(crd, resource));
    }

    /// An object goes with its CRD.
    pub fn vanish(&mut self, resource: &Resource, key: &ObjectKey) {
        let Some(object) = self.api.delete(self.now, resource, key) else { return };
        let mut events = Vec::new();
        self.oracle.vanished(resource, &object, &mut events);
        self.record_all(events);
        self.note(format!("{resource} {key} goes with its CRD"));
        self.manifests.push((resource.clone(), object));
        self.changed(resource);
    }

    /// All objects are gone, and the kind with them: watches break, whatever they have not brought yet.
    pub fn crd_gone(&mut self, crd: Crd, resource: Resource) {
        self.note(format!("{resource} are not served any more"));
        self.api.serve(&resource, false);
        self.break_watches(Some(&resource));
        let after = self.rng.range(200, 25_000);
        self.after(after, Do::CrdAnew(crd, resource));
    }

    /// The CRD is created anew. It is served a little later.
    pub fn crd_anew(&mut self, crd: Crd, resource: Resource) {
        let uid = format!("{}-{}", crd.name(), self.number());
        self.note(format!("CRD {} is created anew as {uid}", crd.name()));
        self.api.set_crd(crd, CrdState::Stands { uid });
        let after = self.rng.below(2_000);
        self.after(after, Do::CrdServed(resource));
    }

    /// The kind is served again: most of what was there is applied again, and maybe somebody lets the rest go.
    pub fn crd_served(&mut self, resource: Resource) {
        self.note(format!("{resource} are served again"));
        self.api.serve(&resource, true);
        let all = std::mem::take(&mut self.manifests);
        for (_, object) in all {
            if self.rng.chance(80) {
                let after = self.rng.below(10_000);
                self.after(after, Do::Reapply(resource.clone(), object));
            }
        }
        if self.rng.chance(30) {
            let after = self.rng.below(20_000);
            self.after(after, Do::ReleaseRemovals);
        }
    }

    /// An object is applied again, unless somebody was quicker.
    pub fn reapply(&mut self, resource: &Resource, mut object: Value) {
        let key = crate::api::key(&object);
        if self.api.get(resource, &key).is_some() {
            return;
        }
        if *resource == Resource::EdgeApplications {
            return self.create_application(&key.name);
        }
        object["metadata"]["uid"] = format!("{}-{}", key.name, self.number()).into();
        object["status"] = Value::Null;
        self.put(resource, object);
        self.note(format!("{resource} {SHOP}/{} is applied again", key.name));
    }

    /// The controller keeps the record of the CRDs under which nodes have learned.
    pub fn record_crds(&mut self) {
        let stands = |crd: Crd| match self.api.crd(crd) {
            CrdState::Stands { uid } => Some((crd.name().to_owned(), uid)),
            CrdState::Going => None,
        };
        let present: BTreeMap<String, String> = Crd::ALL.into_iter().filter_map(stands).collect();
        let cluster = &mut self.cluster;
        cluster.crds = cluster.crds.settled(cluster.epoch, &cluster.release, &present);
    }

    /// A replica reads the CRDs that removals wait for.
    pub fn read_crds(&mut self, replica: usize, life: u32) {
        let place = &mut self.replicas[replica];
        let Some(hub) = place.hub.clone().filter(|_| place.life == life) else { return };
        // The record is read with the cluster's identity, without which nobody is let in.
        if place.cut_off || hub.index().reached().cluster_id.is_empty() {
            return self.after(1_000, Do::Crds(replica, life));
        }
        let mut wanted = std::mem::take(&mut place.crds);
        wanted.extend(hub.removals.take_wanted());
        for crd in wanted {
            let state = self.api.crd(crd);
            if state == CrdState::Going {
                self.replicas[replica].crds.insert(crd);
            }
            hub.removals.read(crd, state, self.instant());
        }
        if !self.replicas[replica].crds.is_empty() {
            self.after(AGAIN, Do::Crds(replica, life));
        }
        hub.sessions.wake_waiting();
        self.looked_at(replica);
    }

    /// Reads of CRDs that somebody waits for are made.
    pub fn ask_crds(&mut self, replica: usize) {
        use futures::FutureExt as _;
        let place = &self.replicas[replica];
        let life = place.life;
        if place.hub.as_ref().is_some_and(|hub| hub.removals.wanted.notified().now_or_never().is_some()) {
            let latency = 20 + self.rng.below(self.plan.api);
            self.after(latency, Do::Crds(replica, life));
        }
    }
}
