//! Which history of the cluster a session goes by: proof that the agent has seen more of it than there is, and the
//! pause that follows until a person accepts (sync rules 7 and 8).

use std::collections::BTreeMap;
use std::time::Instant;

use selvedge_model::{EntryKey, EntryKind, HISTORY};

use super::{CAUGHT_UP_WITHIN, Output, Session, State, View};
use crate::index::{Index, Resource, Slot};

/// What an inventory says of the history that its rows come from.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// A row is newer than its source is here, though these caches reflect all up to it.
    proof: bool,
    /// The highest source revision of rows by resource.
    revisions: BTreeMap<Resource, u64>,
}

impl Session {
    /// A session of a node that was paused in this epoch, here, and not released since: what differs waits for
    /// the release, even if the cluster's revisions have risen past the proof meanwhile.
    #[must_use]
    pub fn paused_before(mut self) -> Self {
        self.paused_before = true;
        self
    }

    /// Whether it waits for a person to accept a restore.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused)
    }

    /// Epoch in which the agent was welcomed.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch that would accept a restore.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epoch.max(self.watermark.epoch) + 1
    }

    /// Whether these caches are, or may be, older than what the agent has seen.
    pub(super) fn is_behind(&self, index: &Index) -> bool {
        !index.is_synced()
            || index.is_history_unread()
            || !self.is_of_our_epoch(index)
            || !self.is_of_our_history(index)
            || !index.behind(&self.watermark).is_empty()
    }

    /// Whether the agent's mark is one that was read here.
    fn is_of_our_history(&self, index: &Index) -> bool {
        index.history().includes(self.watermark.revision(HISTORY))
    }

    /// Before sets that differ are compared: whether this may be another history by now.
    pub(super) fn may_be_outdated(&self, index: &Index) -> bool {
        index.may_be_another_since(self.began)
    }

    /// A higher epoch at the agent: this replica may not have heard of it yet. Once it has asked and still knows
    /// none, the annotation that made it was removed, and the agent is right.
    fn is_of_our_epoch(&self, index: &Index) -> bool {
        self.watermark.epoch <= index.epoch(&self.node) || index.is_epoch_read(self.began)
    }

    /// Whether a new epoch has begun, which the agent hears only in a Welcome, and there is something to say.
    pub(super) fn is_of_an_older_epoch(&self, index: &Index) -> bool {
        let waits = match &self.state {
            State::Live => !self.dirty.is_empty() || self.announce,
            State::Draining => false,
            _ => true,
        };
        waits && self.in_flight.is_none() && self.epoch < index.epoch(&self.node)
    }

    /// Whether a look after the watermark was made found another history than that of its mark, or less of a
    /// resource than it names.
    pub(super) fn is_ahead(&self, index: &Index) -> bool {
        let by_mark = || index.is_epoch_read(self.marked) && !self.is_of_our_history(index);
        let by_revision = || {
            index.behind(&self.watermark).iter().any(|resource| {
                let seen = self.watermark.revision(&resource.to_string());
                index.recent(resource, self.marked).is_some_and(|recent| recent < seen)
            })
        };
        self.is_of_our_epoch(index) && (by_mark() || by_revision())
    }

    /// These caches are behind: nothing is compared before they have caught up.
    pub(super) fn fall_behind(&mut self, view: View<'_>, out: &mut Vec<Output>) {
        self.state = State::Behind { until: view.now + CAUGHT_UP_WITHIN };
        self.allowance = 0;
        self.poked = None;
        self.catch_up(view, out);
    }

    /// Proof of a restore pauses; else the caches that are behind are asked to catch up, every now and then.
    pub(super) fn catch_up(&mut self, view: View<'_>, out: &mut Vec<Output>) {
        if self.is_ahead(view.index) {
            return self.pause();
        }
        if self.poked.is_none_or(|at| at + CAUGHT_UP_WITHIN <= view.now) {
            self.poked = Some(view.now);
            out.push(Output::Poke(view.index.behind(&self.watermark)));
        }
    }

    /// A mark is owed as soon as a second one was read since something was sent: that one was written later than all
    /// that was sent, so a restore to before it is proved by it.
    pub(super) fn owes_a_mark(&self, index: &Index) -> bool {
        self.unmarked.is_some_and(|since| index.marks() >= since + 2)
    }

    pub(super) fn pause(&mut self) {
        self.state = State::Paused;
        self.dirty.clear();
        self.raises.clear();
        self.kept.clear();
        (self.compared, self.announce, self.allowance) = (false, false, 0);
    }

    /// Takes note of where a row of the agent comes from.
    pub(super) fn trace(&self, key: &EntryKey, uid: &str, revision: u64, view: View<'_>) -> Origins {
        let mut origins = Origins::default();
        let resource = resource_of(key);
        // ConfigMaps and Secrets are named by what they say; their revisions prove nothing that their workloads do not.
        let proves = !matches!(key.kind, EntryKind::ConfigMap | EntryKind::Secret);
        if proves
            && view.index.is_synced()
            && revision <= view.index.reached().revision(&resource.to_string())
            && let Slot::Present(present) = view.index.unlisted(&self.node, key, &self.pins)
        {
            origins.proof = *present.uid == *uid && present.source_revision < revision;
        }
        origins.revisions.insert(resource, revision);
        origins
    }

    /// The rows of an inventory are all here: true when they prove a restore. A set that was cut off in the
    /// middle of a sync is newer than its watermark: what its rows have seen counts, too.
    pub(super) fn judge(&mut self, origins: Origins, now: Instant) -> bool {
        for (resource, revision) in origins.revisions {
            let resource = resource.to_string();
            if revision > self.watermark.revision(&resource) {
                self.watermark.raise(&resource, revision);
                self.agent_has_watermark = false;
                self.marked = now;
            }
        }
        origins.proof
    }
}

impl Origins {
    pub(super) fn add(&mut self, other: Self) {
        self.proof |= other.proof;
        for (resource, revision) in other.revisions {
            let known = self.revisions.entry(resource).or_default();
            *known = revision.max(*known);
        }
    }
}

/// The resource of an entry's own source.
fn resource_of(key: &EntryKey) -> Resource {
    match key.kind {
        EntryKind::NodeSettings => Resource::EdgeNodes,
        EntryKind::Workload => Resource::EdgeApplications,
        EntryKind::Device => Resource::Devices,
        EntryKind::ConfigMap => Resource::ConfigMaps(key.namespace.as_str().into()),
        EntryKind::Secret => Resource::Secrets(key.namespace.as_str().into()),
    }
}
