//! What the API server says is most recent, beside what the caches hold: by this a restore is proved, and by this
//! it is accepted (sync rule 8).
//!
//! An *epoch* is one history of the cluster. The cluster's stands in its ConfigMap, raised by hand after a restore;
//! the annotation [`ACCEPT_ANNOTATION`] raises it for one node.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Index, Resource};

/// On an EdgeNode: the epoch that this node takes, by hand, as a decimal number. It counts when it is above the
/// cluster's. The condition `Synced` with the reason `AheadOfCluster` says which number accepts a restore.
pub const ACCEPT_ANNOTATION: &str = "selvedge.dev/accept-restore";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Most recent revision of a resource, and when it was asked for.
    lists: BTreeMap<Resource, (u64, Instant)>,
    /// Proofs of a restore.
    restores: u64,
    /// When the answer that names the epoch was asked for.
    cluster: Option<Instant>,
}

impl Recent {
    pub(super) fn said(&mut self, resource: Resource, revision: u64, asked: Instant) {
        self.lists.insert(resource, (revision, asked));
    }

    pub(super) fn went_back(&mut self) {
        self.restores += 1;
    }
}

impl Index {
    /// The most recent revision of a resource, if it was asked for at `since` or later.
    #[must_use]
    pub fn recent(&self, resource: &Resource, since: Instant) -> Option<u64> {
        let (revision, asked) = self.recent.lists.get(resource)?;
        (*asked >= since).then_some(*revision)
    }

    /// How often a restore was proved: what was said of the caches before holds no more.
    #[must_use]
    pub fn restores(&self) -> u64 {
        self.recent.restores
    }

    /// The epoch that counts for a node.
    #[must_use]
    pub fn epoch(&self, node: &str) -> u64 {
        self.reached.epoch.max(self.nodes.get(node).map_or(0, |node| node.accepts))
    }

    /// The cluster's epoch was read: the request was sent at `asked`.
    pub fn epoch_read(&mut self, asked: Instant) {
        self.recent.cluster = Some(asked);
    }

    /// Whether the cluster's epoch was read at `since` or later.
    #[must_use]
    pub fn is_epoch_read(&self, since: Instant) -> bool {
        self.recent.cluster.is_some_and(|asked| asked >= since)
    }
}
