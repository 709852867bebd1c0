//! The cluster restored from a snapshot, and the person who accepts it (sync rule 8).
//!
//! Until then nothing that the restore took away may go from a node, and nothing may go back there.

use selvedge_history::Event;
use selvedge_hub::cluster::Cluster;
use selvedge_model::EntryKind;

use crate::agent::CLUSTER;
use crate::world::{Do, World};

/// So often a replica reads the cluster's identity: that of the shipped hub.
const EVERY: u64 = 10_000;

impl World {
    /// The cluster is what it was some time ago. Its API server starts anew, so all watches break.
    pub fn restore(&mut self) {
        if self.calm {
            return;
        }
        let ago = self.rng.range(2_000, 30_000);
        let to = self.api.revision_at(self.now.saturating_sub(ago));
        self.note(format!("the cluster is restored to revision {to}"));
        self.record(Event::Restored);
        let gone = self.api.restore(self.now, to);
        self.taken.get_or_insert_default().extend(gone);
        self.rollouts_restored();
        self.break_watches();
        let patience = self.rng.range(5_000, 60_000);
        self.after(patience, Do::Accept);
    }

    /// A person accepts: a new epoch, in which what was taken away may go.
    pub fn accept(&mut self) {
        let Some(taken) = self.taken.take() else { return };
        self.epoch += 1;
        self.note(format!("the restore is accepted: epoch {}", self.epoch));
        let mut events = Vec::new();
        for (resource, object) in taken {
            self.oracle.gone(&resource, &object, &mut events);
        }
        self.record_all(events);
    }

    /// A replica reads the cluster's identity, and lets go on what waited for a change of it.
    pub fn read_cluster(&mut self, replica: usize, life: u32) {
        let place = &self.replicas[replica];
        let Some(hub) = place.hub.clone().filter(|_| place.life == life) else { return };
        if !place.cut_off {
            let before = hub.index().reached().epoch;
            let cluster = Cluster {
                id: CLUSTER.into(),
                epoch: self.epoch,
                ca_pem: String::new(),
                release: String::new(),
            };
            hub.set_cluster(&cluster);
            hub.epoch_read(self.instant());
            if self.epoch > before {
                EntryKind::ALL.into_iter().for_each(|kind| hub.removals.release(kind));
            }
            hub.sessions.wake_waiting();
            self.looked_at(replica);
        }
        self.after(EVERY, Do::Cluster(replica, life));
    }
}
