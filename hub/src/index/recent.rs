//! What the API server says is most recent, beside what the caches hold: by this a restore is proved, and by this
//! it is accepted (sync rule 8).
//!
//! An *epoch* is one history of the cluster. The cluster's stands in its ConfigMap, raised by hand after a restore;
//! the annotation [`ACCEPT_ANNOTATION`] raises it for one node. Beside it stand the marks of the cluster's
//! [`History`], and in which epoch a restore was proved.

use std::collections::BTreeMap;
use std::time::Instant;

use selvedge_model::History;

use super::{Index, Resource};

/// On an EdgeNode: the epoch that this node takes, by hand, as a decimal number. It counts when it is above the
/// cluster's. The condition `Synced` with the reason `AheadOfCluster` says which number accepts a restore.
pub const ACCEPT_ANNOTATION: &str = "selvedge.dev/accept-restore";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// When the last list of a resource was asked for.
    listed: BTreeMap<Resource, Instant>,
    /// When the epoch that counts was read first.
    epoch_began: Option<Instant>,
    /// Most recent revision of a resource, and when it was asked for.
    lists: BTreeMap<Resource, (u64, Instant)>,
    /// Proofs of a restore.
    restores: u64,
    /// When the answer that names the epoch was asked for.
    cluster: Option<Instant>,
    /// When the last list of a resource was complete.
    complete: Option<Instant>,
    /// As last read.
    history: History,
    /// How many marks were read one after the other.
    marks: u64,
    /// The epoch in which a restore was proved last, here or elsewhere.
    restored: Option<u64>,
}

impl Recent {
    pub(super) fn said(&mut self, resource: Resource, revision: u64, asked: Instant) {
        self.lists.insert(resource, (revision, asked));
    }

    pub(super) fn epoch_began(&mut self, now: Instant) {
        self.epoch_began = Some(now);
    }

    pub(super) fn went_back(&mut self) {
        self.restores += 1;
    }
}

/// One history of the cluster: what was seen in another one says nothing of this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// Proofs of a restore until now.
    pub restores: u64,
    /// Accepted by a person.
    pub epoch: u64,
}

impl Index {
    /// The most recent revision of a resource, if it was asked for at `since` or later.
    #[must_use]
    pub fn recent(&self, resource: &Resource, since: Instant) -> Option<u64> {
        let (revision, asked) = self.recent.lists.get(resource)?;
        (*asked >= since).then_some(*revision)
    }

    /// Whether the last list of a resource may be of an epoch that is over: it was asked for before the new one was
    /// read.
    #[must_use]
    pub fn is_listed_before(&self, resource: &Resource) -> bool {
        self.recent.listed.get(resource).is_some_and(|asked| Some(*asked) < self.recent.epoch_began)
    }

    /// In which history of the cluster these caches are, as far as is known.
    #[must_use]
    pub fn term(&self) -> Term {
        Term { restores: self.recent.restores, epoch: self.reached.epoch }
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

    /// The marks of the cluster's history, as last read.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.recent.history
    }

    /// The marks were read. False: what was read before is not among them, so the cluster was restored.
    pub fn read_history(&mut self, history: History) -> bool {
        let recent = &mut self.recent;
        let before = std::mem::replace(&mut recent.history, history);
        recent.marks += u64::from(recent.history.latest() != before.latest());
        recent.history.includes(before.latest())
    }

    /// How many marks were read one after the other: the second one after a moment was written after it.
    #[must_use]
    pub fn marks(&self) -> u64 {
        self.recent.marks
    }

    /// In this epoch a restore was proved. True: that is news, and all that was answered is to be compared again.
    pub fn restored_in(&mut self, epoch: u64) -> bool {
        let news = self.recent.restored < Some(epoch);
        if news {
            self.recent.restored = Some(epoch);
            self.recent.restores += 1;
        }
        news
    }

    /// Whether a restore was proved that nobody has accepted for this node.
    #[must_use]
    pub fn is_restored(&self, node: &str) -> bool {
        self.recent.restored >= Some(self.epoch(node))
    }

    /// A list is complete. What it brought may be another history, with revisions that say nothing of it.
    pub fn list_complete(&mut self, resource: &Resource, asked: Instant, now: Instant) {
        self.recent.listed.insert(resource.clone(), asked);
        self.recent.complete = Some(now);
    }

    /// Whether what was listed last waits for a look at the marks.
    #[must_use]
    pub fn is_history_unread(&self) -> bool {
        self.recent.complete.is_some_and(|complete| self.may_be_another_since(complete))
    }

    /// Whether this may be another history than at `since`: the marks were not read after it. Without marks nobody
    /// knows.
    #[must_use]
    pub fn may_be_another_since(&self, since: Instant) -> bool {
        self.recent.history.latest() > 0 && !self.is_epoch_read(since)
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
