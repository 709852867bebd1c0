//! The cluster restored from a snapshot, the marks of its history, and the person who accepts it (sync rule 8).
//!
//! Until then nothing that the restore took away may go from a node, and nothing may go back there.

use futures::FutureExt as _;
use selvedge_history::Event;
use selvedge_hub::cluster::{Cluster, Marks};
use selvedge_model::crds::CrdRecord;
use selvedge_model::{EntryKind, History};

use crate::agent::CLUSTER;
use crate::world::{Do, World};

/// So often a replica reads what the cluster says of itself, and the leader raises its mark: as the shipped ones do.
const EVERY: u64 = 5_000;
/// Whoever asks for it waits for at most this.
const ASKED: u64 = 200;

/// The ConfigMap `selvedge-cluster`, and the leader that keeps it.
#[derive(Debug, Default)]
pub struct ClusterMap {
    /// Raised by a person.
    pub epoch: u64,
    /// What a person has let go last.
    pub release: String,
    /// Under which CRDs nodes have learned what they hold.
    pub crds: CrdRecord,
    marks: Marks,
    /// When each history was written.
    log: Vec<(u64, History)>,
    /// The mark that the leader wrote last, and the epoch that it read then.
    own: Option<(u64, u64)>,
    /// The replica that is to prove a restore which no leader remembers. Somebody must: an agent that was cut off
    /// before it got a later mark could not (the decision on marks says so).
    witness: Option<usize>,
}

impl World {
    /// The leader raises its mark.
    pub fn mark(&mut self) {
        if self.plan.no_controller {
            return;
        }
        let leap = u32::try_from(self.rng.below(u64::from(u32::MAX))).unwrap_or(0);
        let own = self.cluster.own;
        let next = self.cluster.marks.history.next(own.map(|own| own.0), leap);
        self.cluster.own = Some((next.history.latest(), self.cluster.epoch));
        self.cluster.log.push((self.now, next.history.clone()));
        self.cluster.marks.history = next.history;
        if let Some((_, epoch)) = own.filter(|_| next.restored) {
            self.proved(epoch);
        }
        self.record_crds();
        self.after(EVERY, Do::Mark);
    }

    /// The leader writes down that the cluster was restored.
    pub fn proved(&mut self, epoch: u64) {
        let marks = &mut self.cluster.marks;
        if epoch >= self.cluster.epoch && marks.restored < Some(epoch) {
            marks.restored = Some(epoch);
            self.cluster.witness = None;
            self.note(format!("the restore is proved in epoch {epoch}"));
        }
    }

    /// The cluster is what it was some time ago. Its API server starts anew, so all watches break.
    pub fn restore(&mut self) {
        if self.calm {
            return;
        }
        let at = self.now.saturating_sub(self.rng.range(2 * EVERY, 30_000));
        let to = self.api.revision_at(at);
        let raised = self.rng.chance(30);
        self.note(format!(
            "the cluster is restored to revision {to}{}",
            if raised { ", raised" } else { "" }
        ));
        self.record(Event::Restored);
        let gone = self.api.restore(self.now, to, raised);
        self.taken.get_or_insert_default().extend(gone);
        let then = self.cluster.log.iter().rev().find(|(written, _)| *written <= at);
        let history = then.map(|(_, history)| history.clone()).unwrap_or_default();
        self.cluster.marks = Marks { history, restored: None };
        let witness = self.rng.chance(50).then(|| self.witness()).flatten();
        if witness.is_some() {
            // Another leader, which knows of nothing.
            (self.cluster.own, self.cluster.witness) = (None, witness);
        }
        self.rollouts_restored();
        self.break_watches(None);
        let patience = self.rng.range(5_000, 60_000);
        self.after(patience, Do::Accept);
    }

    /// A replica that has read a mark which is not there any more, and reads the marks again soon.
    fn witness(&self) -> Option<usize> {
        let lacks = |mark| !self.cluster.marks.history.includes(mark);
        self.replicas.iter().position(|replica| {
            !replica.cut_off && replica.hub.as_ref().is_some_and(|hub| lacks(hub.index().history().latest()))
        })
    }

    /// Whether a replica must live on for now.
    pub fn is_witness(&self, replica: usize) -> bool {
        self.cluster.witness == Some(replica)
    }

    /// A person accepts: a new epoch, in which what was taken away may go.
    pub fn accept(&mut self) {
        let Some(taken) = self.taken.take() else { return };
        self.cluster.witness = None;
        self.cluster.epoch += 1;
        self.note(format!("the restore is accepted: epoch {}", self.cluster.epoch));
        let mut events = Vec::new();
        for (resource, object) in taken {
            self.oracle.gone(&resource, &object, &mut events);
        }
        self.record_all(events);
    }

    /// A replica reads what the cluster says of itself, again and again.
    pub fn follow_cluster(&mut self, replica: usize, life: u32) {
        if self.replicas[replica].life == life && self.replicas[replica].hub.is_some() {
            self.read_cluster(replica, life);
            self.after(EVERY, Do::Cluster(replica, life));
        }
    }

    /// A replica reads it, and lets go on what waited for a change of it.
    pub fn read_cluster(&mut self, replica: usize, life: u32) {
        let place = &self.replicas[replica];
        let Some(hub) = place.hub.clone().filter(|_| place.life == life && !place.cut_off) else { return };
        let before = hub.index().reached().epoch;
        let epoch = self.cluster.epoch;
        let cluster = Cluster { id: CLUSTER.into(), epoch, ca_pem: String::new(), release: String::new() };
        let mut marks = self.cluster.marks.clone();
        marks.restored = marks.restored.filter(|restored| *restored >= epoch);
        hub.removals.recall(&self.cluster.crds);
        if !self.replicas[replica].older {
            hub.read_marks(marks, self.instant());
        }
        hub.set_cluster(&cluster, self.instant());
        hub.epoch_read(self.instant());
        if epoch > before {
            EntryKind::ALL.into_iter().for_each(|kind| hub.removals.release(kind));
        }
        hub.sessions.wake_waiting();
        self.proves(replica);
        self.looked_at(replica);
    }

    /// What a replica has proved reaches the leader, and lists anew what is over.
    pub fn proves(&mut self, replica: usize) {
        let Some(hub) = self.replicas[replica].hub.clone() else { return };
        let proof = *hub.proof.borrow();
        let known = self.cluster.marks.restored;
        if let Some(epoch) = proof.filter(|proof| !self.plan.no_controller && known < Some(*proof)) {
            let latency = self.rng.range(1, 50);
            self.after(latency, Do::Proved(epoch));
        }
        self.follow_outdated(replica);
    }

    /// Somebody waits for what the cluster says of itself now.
    pub fn ask_cluster(&mut self, replica: usize) {
        let place = &self.replicas[replica];
        let life = place.life;
        if place.hub.as_ref().is_some_and(|hub| hub.cluster_wanted.notified().now_or_never().is_some()) {
            self.after(ASKED, Do::ClusterOnce(replica, life));
        }
    }
}
