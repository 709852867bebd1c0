//! What all rooms of the hub share, and the one way by which events go in.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use kube::Client;
use selvedge_model::EntryKind;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::cluster::Cluster;
use crate::faults::Faults;
use crate::feed::Pokes;
use crate::index::{Event, Index, ObjectKey, Resource};
use crate::metrics::Metrics;
use crate::removals::{Crd, Removals};
use crate::resyncs::Resyncs;
use crate::sessions::Sessions;
use crate::status::Bucket;

/// See the module.
pub struct Hub {
    index: RwLock<Index>,
    /// What stands before removals.
    pub removals: Removals,
    /// Sessions of this replica.
    pub sessions: Sessions,
    /// Turns of full comparisons.
    pub resyncs: Resyncs,
    /// Counters.
    pub metrics: Metrics,
    /// What agents do wrong.
    pub faults: Faults,
    /// The cluster's identity; none until it was read.
    pub cluster: watch::Receiver<Option<Arc<Cluster>>>,
    /// Handles of the list-watch loops.
    pub pokes: Pokes,
    /// Enabled namespaces changed, or ConfigMaps are to be fetched.
    pub references: Notify,
    /// Paces status writes.
    pub writes: Bucket,
    /// The API server; none in tests without one.
    pub client: Option<Client>,
}

impl Hub {
    /// A hub with empty caches.
    #[must_use]
    pub fn new(
        client: Option<Client>,
        cluster: watch::Receiver<Option<Arc<Cluster>>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            index: RwLock::default(),
            removals: Removals::default(),
            sessions: Sessions::default(),
            resyncs: Resyncs::new(&metrics),
            faults: Faults::new(metrics.bad_input.clone()),
            metrics,
            cluster,
            pokes: Pokes::default(),
            references: Notify::new(),
            writes: Bucket::default(),
            client,
        }
    }

    /// The index, to look at. Never held across an await.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an event and wakes the sessions that it touches.
    pub fn apply(&self, event: Event, now: Instant) {
        let (resource, revision) = about(&event);
        let deleted = match &event {
            Event::Gone { resource, key, watched: true, .. } => {
                Crd::of_resource(resource).zip(self.index().uid(resource, key))
            }
            _ => None,
        };
        let gone_node = match &event {
            Event::Gone { resource: resource @ Resource::EdgeNodes, key, .. } => {
                self.index().uid(resource, key)
            }
            _ => None,
        };
        if let Some((crd, uid)) = deleted {
            self.removals.deleted(crd, uid, now);
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let touched = index.apply(event);
        let progress = index.is_synced();
        drop(index);
        if touched.unselected > 0 {
            let kind = if resource == Resource::Devices { EntryKind::Device } else { EntryKind::Workload };
            self.removals.announce(kind, touched.unselected, now);
        }
        if let Some(uid) = gone_node {
            self.sessions.forget(&uid, true);
        }
        if matches!(resource, Resource::Namespaces | Resource::ControllerRevisions) {
            self.references.notify_one();
        }
        if touched.parts.is_empty() {
            return;
        }
        tracing::trace!(%resource, revision, touched = touched.parts.len(), progress, "event");
        self.sessions.touch(touched.parts, &resource, revision, now);
    }

    /// Applies a ConfigMap that was read by itself, because its data had been dropped. False: it is newer than
    /// what its watch has brought, and must be read again later. With it the namespace would pass for known up to
    /// its revision, and others in it are not (sync rule 7).
    pub fn apply_fetched(&self, key: &ObjectKey, object: Value, now: Instant) -> bool {
        let resource = Resource::ConfigMaps(key.namespace.clone());
        let event = Event::Applied(resource.clone(), object);
        let (_, revision) = about(&event);
        let (wanted, reached) = {
            let index = self.index();
            (index.is_dropped(key), index.reached().revision(&resource.to_string()))
        };
        if !wanted {
            return true;
        }
        if reached < revision {
            self.pokes.poke(&[resource]);
            return false;
        }
        // Between the two locks the object may change once more; its event then comes after this one, with
        // a higher revision, and wins.
        self.apply(event, now);
        true
    }

    /// Names the cluster in the caches.
    pub fn set_cluster(&self, cluster: &Cluster) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).set_cluster(&cluster.id, cluster.epoch);
    }

    /// The cluster's epoch is the one that was named last: the request was sent at `asked`.
    pub fn epoch_read(&self, asked: Instant) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).epoch_read(asked);
    }

    /// Proof of a restore: what is known of a resource is dropped until it is listed anew. What a restored
    /// cluster does not have was not deleted by anybody, so removals wait for a release.
    pub fn went_back(&self, resource: &Resource, now: Instant) {
        self.metrics.restores.inc();
        self.apply(Event::WentBack(resource.clone()), now);
        for kind in [EntryKind::NodeSettings, EntryKind::Workload, EntryKind::Device] {
            self.removals.announce(kind, usize::MAX / 2, now);
        }
    }

    /// ConfigMaps whose data must be fetched.
    pub fn take_unfetched(&self) -> Vec<ObjectKey> {
        self.index.write().unwrap_or_else(PoisonError::into_inner).take_unfetched()
    }
}

fn about(event: &Event) -> (Resource, u64) {
    match event {
        Event::Applied(resource, object) => {
            let revision = object.pointer("/metadata/resourceVersion").and_then(|revision| revision.as_str());
            (resource.clone(), revision.and_then(|text| text.parse().ok()).unwrap_or(0))
        }
        Event::Gone { resource, revision, .. }
        | Event::Reached(resource, revision)
        | Event::Listed(resource, revision) => (resource.clone(), *revision),
        Event::Recent { resource, .. } | Event::WentBack(resource) | Event::Dropped(resource) => {
            (resource.clone(), 0)
        }
    }
}
