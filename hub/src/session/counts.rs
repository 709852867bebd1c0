//! Where a node stands: what of its set was delivered, and why not all of it. For status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use selvedge_model::{ContentHash, EntryKey, EntryKind, Watermark};

use super::delta::InFlight;
use super::{MAX_RESYNCS, Session, State, View};
use crate::index::{Held, Reason, Slot};
use crate::removals::CHECKING_CRD;

/// One entry of the node's set.
#[derive(Clone, Debug, Hash)]
pub struct Entry {
    /// Content that it should have; none: held.
    pub desired: Option<ContentHash>,
    /// The agent has answered it in that content.
    pub delivered: bool,
    /// Workload: the ControllerRevision that it should run.
    pub revision: Arc<str>,
    /// Why it is held.
    pub held: Option<Held>,
    /// Why the agent refused it: reason and message.
    pub refused: Option<(String, String)>,
}

/// Why a node is not in sync, before what its entries say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sync {
    /// Nothing stands in the way.
    Ok,
    /// Digests do not come to match.
    DigestMismatch,
    /// This hub has not read yet what the agent has seen.
    CatchingUp,
    /// The agent has seen more than there is: the cluster was restored.
    AheadOfCluster {
        /// The epoch that accepts it.
        accept: u64,
    },
    /// Removals wait: why, in CamelCase.
    RemovalsHeld(&'static str),
    /// Something is on the way.
    Delivering,
}

/// Where a node stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Every entry of the set, ConfigMaps included.
    pub entries: BTreeMap<EntryKey, Entry>,
    /// What stands in the way.
    pub sync: Sync,
}

impl Session {
    /// Where the node stands now.
    #[must_use]
    pub fn standing(&self, view: View<'_>) -> Standing {
        let mut slots = view.index.set(&self.node, &self.pins);
        for key in self.answered.keys().filter(|key| !slots.contains_key(key)).cloned().collect::<Vec<_>>() {
            let slot = view.index.unlisted(&self.node, &key, &self.pins);
            slots.insert(key, slot);
        }
        let entries = slots.into_iter().filter_map(|(key, slot)| {
            // What comes from a namespace that does not take part is no matter of a node that has nothing of it.
            let foreign = matches!(&slot, Slot::Held(held) if held.reason == Reason::NotEnabled);
            if foreign && !self.answered.contains_key(&key) {
                return None;
            }
            let entry = self.entry_of(&key, slot)?;
            Some((key, entry))
        });
        Standing { entries: entries.collect(), sync: self.sync() }
    }

    /// Whether it was found out what the agent has: [`Self::answered`] is all of it.
    #[must_use]
    pub fn knows_its_agent(&self) -> bool {
        self.pinned
    }

    /// What the agent has, in the set or not: what is held back runs on there.
    pub fn answered(&self) -> impl Iterator<Item = &EntryKey> {
        self.answered.keys()
    }

    /// How one entry stands; none when it is not in the set.
    #[must_use]
    pub fn entry(&self, key: &EntryKey, view: View<'_>) -> Option<Entry> {
        self.entry_of(key, view.index.unlisted(&self.node, key, &self.pins))
    }

    fn entry_of(&self, key: &EntryKey, slot: Slot) -> Option<Entry> {
        let (desired, revision, held) = match slot {
            Slot::Absent => return None,
            Slot::Present(_) if self.room.is_over(key) && !self.answered.contains_key(key) => {
                (None, "".into(), Some(self.room.why()))
            }
            Slot::Present(present) => (Some(present.body.hash), present.revision, None),
            Slot::Held(held) => (None, "".into(), Some(held)),
        };
        let delivered =
            desired.is_some_and(|hash| self.answered.get(key).is_some_and(|row| row.content == hash));
        let refused = self.refused.get(key).map(|refused| (refused.reason.clone(), refused.message.clone()));
        Some(Entry { desired, delivered, revision, held, refused })
    }

    fn sync(&self) -> Sync {
        match &self.state {
            State::Mismatch { .. } => Sync::DigestMismatch,
            State::Behind { .. } => Sync::CatchingUp,
            State::Paused => Sync::AheadOfCluster { accept: self.next_epoch() },
            State::Draining => Sync::Delivering,
            // Nothing was answered since.
            _ if self.resyncs > MAX_RESYNCS => Sync::DigestMismatch,
            State::Live
                if self.dirty.is_empty() && self.in_flight.as_ref().is_none_or(|delta| delta.is_mark()) =>
            {
                self.kept.values().next().map_or(Sync::Ok, |reason| Sync::RemovalsHeld(reason))
            }
            State::Waiting { .. } | State::Queued { .. } | State::Comparing(_) | State::Live => {
                Sync::Delivering
            }
        }
    }

    /// What stands in the way and does not pass by itself in a moment.
    #[must_use]
    pub fn obstacle(&self) -> Option<Sync> {
        Some(self.sync()).filter(|sync| {
            matches!(
                sync,
                Sync::CatchingUp | Sync::DigestMismatch | Sync::AheadOfCluster { .. } | Sync::RemovalsHeld(_)
            )
        })
    }

    /// How many parts of the set are to be looked at or to be sent.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// What the session keeps, in entries or parts of them: each is bounded by [`Self::reach`] (I7).
    #[must_use]
    pub fn keeps(&self) -> [(&'static str, usize); 5] {
        [
            ("dirty parts", self.dirty.len()),
            ("answered rows", self.answered.len()),
            ("refusals", self.refused.len()),
            ("removals held back", self.kept.len()),
            ("reports that wait", self.waiting_reports.len()),
        ]
    }

    /// The whole watermark that the delta in flight brings the agent to, if it brings one.
    #[must_use]
    pub fn offered(&self) -> Option<&Watermark> {
        self.in_flight.as_ref()?.watermark.as_ref()
    }

    /// How many entries the node's set has, and the agent has or is about to have.
    #[must_use]
    pub fn reach(&self, view: View<'_>) -> usize {
        let set = view.index.set(&self.node, &self.pins);
        let mut keys: BTreeSet<&EntryKey> = set.keys().chain(self.answered.keys()).collect();
        keys.extend(self.in_flight.iter().flat_map(InFlight::keys));
        keys.len()
    }

    /// How many removals of a kind wait.
    #[must_use]
    pub fn held_back(&self, kind: EntryKind) -> usize {
        self.kept.keys().filter(|key| key.kind == kind).count()
    }

    /// Why removals wait for people; none: none do, or only for a moment.
    #[must_use]
    pub fn held_for_people(&self) -> Option<&'static str> {
        self.kept.values().copied().find(|reason| *reason != CHECKING_CRD)
    }

    /// How many entries of a kind the agent has.
    #[must_use]
    pub fn holds(&self, kind: EntryKind) -> usize {
        self.answered.keys().filter(|key| key.kind == kind).count()
    }
}
