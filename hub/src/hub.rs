//! What all rooms of the hub share, and the one way by which events go in.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use kube::Client;
use selvedge_model::{EntryKind, VersionKey};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::cluster::{Cluster, Marks};
use crate::faults::Faults;
use crate::feed::Pokes;
use crate::hearing::Hearing;
use crate::index::{Event, Index, ObjectKey, Resource};
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::removals::{Crd, Removals};
use crate::resyncs::Resyncs;
use crate::session::View;
use crate::sessions::Sessions;
use crate::status::{Bucket, Recall};

/// See the module.
pub struct Hub {
    index: RwLock<Index>,
    /// What stands before removals.
    pub removals: Removals,
    /// Whether it still hears of EdgeNodes.
    pub hearing: Hearing,
    /// Sessions of this replica.
    pub sessions: Sessions,
    /// Turns of full comparisons.
    pub resyncs: Resyncs,
    /// Counters.
    pub metrics: Metrics,
    /// What agents do wrong.
    pub faults: Faults,
    /// What people are told by Events.
    pub notices: Notices,
    /// The cluster's identity; none until it was read.
    pub cluster: watch::Receiver<Option<Arc<Cluster>>>,
    /// Handles of the list-watch loops.
    pub pokes: Pokes,
    /// What is to be followed changed, or ConfigMaps or Secrets are to be fetched.
    pub references: Notify,
    /// Somebody waits for the cluster's epoch and history as they are now.
    pub cluster_wanted: Notify,
    /// The epoch in which what this replica itself read went back: the controller is told.
    pub proof: watch::Sender<Option<u64>>,
    /// Paces status writes.
    pub writes: Bucket,
    /// What status writes saw last.
    pub recall: Recall,
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
            hearing: Hearing::new(clock::now()),
            sessions: Sessions::default(),
            resyncs: Resyncs::new(&metrics),
            faults: Faults::new(metrics.bad_input.clone()),
            notices: Notices::default(),
            metrics,
            cluster,
            pokes: Pokes::default(),
            references: Notify::new(),
            cluster_wanted: Notify::new(),
            proof: watch::Sender::new(None),
            writes: Bucket::default(),
            recall: Recall::default(),
            client,
        }
    }

    /// The index, to look at. Never held across an await.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session looks at the caches. What it misses of ConfigMaps and Secrets is fetched.
    pub fn look<T>(&self, now: Instant, act: impl FnOnce(View<'_>) -> T) -> T {
        let index = self.index();
        let seen = act(View { index: &index, gate: &self.removals, now });
        if index.has_unfetched() {
            self.references.notify_one();
        }
        seen
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

    /// Applies a ConfigMap or Secret that was read by itself, because its data had been dropped: in the version
    /// `known` when the request was sent. False: it must be read again later. When it is newer than what its watch
    /// has brought, the namespace would pass for known up to its revision, and others in it are not (sync rule 7).
    /// When it is older than what was known, the cluster was restored (sync rule 8).
    pub fn apply_fetched(
        &self,
        resource: &Resource,
        key: &ObjectKey,
        object: Value,
        known: u64,
        now: Instant,
    ) -> bool {
        let event = Event::Applied(resource.clone(), object);
        let (_, revision) = about(&event);
        let (there, reached, accepted) = {
            let index = self.index();
            let reached = index.reached().revision(&resource.to_string());
            (index.dropped(resource, key), reached, index.is_listed_before(resource))
        };
        let Some(there) = there else { return true };
        // What is there may be of a list that came after the request: then `known` says nothing of it.
        if revision < known && known <= there {
            tracing::error!(%resource, %key, known, revision, "an object is older than it was: the API server was \
                restored; nodes that have seen more of it are paused");
            if !accepted {
                self.metrics.restores.inc();
                self.prove(None, now);
            }
            return false;
        }
        if reached < revision {
            self.pokes.poke(std::slice::from_ref(resource));
            return false;
        }
        // Between the two locks the object may change once more; its event then comes after this one, with
        // a higher revision, and wins.
        self.apply(event, now);
        true
    }

    /// Names the cluster in the caches. A new epoch lists all anew: what is found to have gone back from then on went
    /// back in it.
    pub fn set_cluster(&self, cluster: &Cluster, now: Instant) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let before = index.reached().epoch;
        index.set_cluster(&cluster.id, cluster.epoch, now);
        drop(index);
        if before < cluster.epoch {
            self.outdate(None, now);
        }
    }

    /// A list is in the caches. Until the marks were read after it, it may be of another history, so sessions wait.
    pub fn list_complete(&self, resource: &Resource, asked: Instant, now: Instant) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).list_complete(resource, asked, now);
        self.cluster_wanted.notify_one();
    }

    /// The cluster's epoch is the one that was named last: the request was sent at `asked`.
    pub fn epoch_read(&self, asked: Instant) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).epoch_read(asked);
    }

    /// Takes in which history of the cluster this is, before [`Self::set_cluster`] with the same answer: what it
    /// proves is of the epoch before.
    pub fn read_marks(&self, marks: Marks, now: Instant) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let same = index.read_history(marks.history);
        let news = marks.restored.is_some_and(|epoch| index.restored_in(epoch));
        drop(index);
        if !same {
            tracing::error!(
                "the cluster's history lacks a mark that was read before: it was restored; nodes whose \
                set differs are paused"
            );
            self.metrics.restores.inc();
            self.prove(None, now);
        } else if news {
            tracing::warn!(
                epoch = marks.restored,
                "a restore was proved elsewhere: nodes whose set differs are paused"
            );
            self.outdate(None, now);
            self.hold_removals(now);
        }
        self.sessions.wake_unmarked();
    }

    /// Names the key for versions of Secrets: they can be followed now.
    pub fn set_version_key(&self, key: VersionKey) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).set_version_key(key);
        self.references.notify_one();
    }

    /// Proof of a restore by a resource's loop: what is known of it is dropped until it is listed anew. What was
    /// asked for in an epoch that is over went back in it, which a person has accepted.
    pub fn went_back(&self, resource: &Resource, now: Instant) {
        self.metrics.restores.inc();
        let accepted = self.index().is_listed_before(resource);
        self.apply(Event::WentBack(resource.clone()), now);
        if !accepted {
            self.prove(Some(resource), now);
        }
    }

    /// What this replica itself read went back. Any other resource may have done so unnoticed, its revisions having
    /// risen past what was seen of it: the first proof in an epoch, and each by a mark, lists all anew.
    fn prove(&self, by: Option<&Resource>, now: Instant) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = index.reached().epoch;
        let news = index.restored_in(epoch);
        drop(index);
        self.proof.send_if_modified(|proof| proof.replace(epoch) != Some(epoch));
        if news || by.is_none() {
            self.outdate(by, now);
        }
        self.hold_removals(now);
    }

    /// What the caches hold is of a history that is over, but for one resource that is listed already.
    fn outdate(&self, but: Option<&Resource>, now: Instant) {
        for resource in self.pokes.outdated(but) {
            self.apply(Event::WentBack(resource), now);
        }
        self.sessions.wake_all();
    }

    /// What a restored cluster does not have was not deleted by anybody, so removals wait for a release.
    fn hold_removals(&self, now: Instant) {
        for kind in [EntryKind::NodeSettings, EntryKind::Workload, EntryKind::Device] {
            self.removals.announce(kind, usize::MAX / 2, now);
        }
    }

    /// Drops the data of ConfigMaps and Secrets that no workload of a node with a session here names. The caches are
    /// locked anew for each revision, so that nobody waits for a look at all nodes.
    pub fn forget_references(&self) {
        let nodes = self.sessions.nodes();
        let naming = self.index().naming_revisions();
        let run = naming.into_iter().filter(|revision| self.index().is_run_by(revision, &nodes)).collect();
        self.index.write().unwrap_or_else(PoisonError::into_inner).keep_references_of(&run);
    }

    /// ConfigMaps and Secrets whose data must be fetched.
    pub fn take_unfetched(&self) -> Vec<(Resource, ObjectKey)> {
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
