//! How much of its set an agent can hold, and what is held back for that (sync rule 12).
//!
//! In: what the agent said in its Hello, the slots of its node, what it has. Out: the entries that are held,
//! `TooMany`. What the agent has stays and is kept up to date. What is new comes in the order of its keys,
//! applications before devices, each with what it names, as far as there is room. So nothing gives way to what comes
//! later, and nothing moves in and out.

use std::collections::BTreeSet;

use selvedge_model::{EntryKey, EntryKind, Reference, ReferenceKind};
use selvedge_protocol::{SET_BYTES, SET_ENTRIES};
use serde::Deserialize;

use super::delta::weight;
use crate::index::{Held, Present, Reason, Slot, Slots};

/// Most entries of one node, whatever its agent says: rows of that many are 10 MB in an inventory.
pub const MOST_ENTRIES: usize = 64 * 1024;

/// What an agent can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: usize,
    /// Bytes of their bodies as JSON, with an overhead for each.
    pub bytes: u64,
}

impl Limits {
    /// As a Hello says it; 0: it does not.
    #[must_use]
    pub fn of(entries: u64, bytes: u64) -> Self {
        let or = |said: u64, otherwise| if said == 0 { otherwise } else { said };
        let entries = usize::try_from(or(entries, SET_ENTRIES)).unwrap_or(MOST_ENTRIES);
        Self { entries: entries.min(MOST_ENTRIES), bytes: or(bytes, SET_BYTES) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(0, 0)
    }
}

/// The room of one agent.
#[derive(Debug)]
pub(super) struct Room {
    limits: Limits,
    /// What the agent has takes at most this many bytes.
    bytes: u64,
    over: BTreeSet<EntryKey>,
}

impl Room {
    pub(super) fn of(limits: Limits) -> Self {
        Self { limits, bytes: 0, over: BTreeSet::new() }
    }

    /// Whether there is room for so many entries in all, with this many bytes beside those that are there: surely, or
    /// it is to be measured.
    pub(super) fn takes(&self, entries: usize, bytes: u64) -> bool {
        self.over.is_empty() && entries <= self.limits.entries && self.bytes + bytes <= self.limits.bytes
    }

    /// So many bytes go to the agent. Those that they replace are not known: see [`Self::measure`].
    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Finds out what there is no room for. `beyond`: entries that the agent has and should not.
    pub(super) fn measure(&mut self, slots: &Slots, has: impl Fn(&EntryKey) -> bool, beyond: usize) {
        self.over.clear();
        let present = || slots.iter().filter(|(_, slot)| matches!(slot, Slot::Present(_)));
        let all = present().fold(Taken { entries: beyond, bytes: 0 }, |all, (_, slot)| all.and(slot));
        self.bytes = all.bytes;
        if all.fit(self.limits) {
            return;
        }
        let mut taken = Taken { entries: beyond, bytes: 0 };
        let mut inside: BTreeSet<EntryKey> =
            present().map(|(key, _)| key).filter(|key| has(key)).cloned().collect();
        for slot in inside.iter().filter_map(|key| slots.get(key)) {
            taken = taken.and(slot);
        }
        for there in [true, false] {
            for (key, slot) in
                present().filter(|(key, _)| has(key) == there && ReferenceKind::of(key.kind).is_none())
            {
                let named = named(key, slot).into_iter().chain([key.clone()]);
                let new: Vec<_> =
                    named.filter(|key| slots.contains_key(key) && !inside.contains(key)).collect();
                let with = new.iter().filter_map(|key| slots.get(key)).fold(taken, Taken::and);
                if there || with.fit(self.limits) {
                    taken = with;
                    inside.extend(new);
                }
            }
        }
        self.bytes = taken.bytes;
        self.over = present().map(|(key, _)| key).filter(|key| !inside.contains(key)).cloned().collect();
    }

    pub(super) fn is_over(&self, key: &EntryKey) -> bool {
        self.over.contains(key)
    }

    /// What waits for room.
    pub(super) fn over(&self) -> impl Iterator<Item = &EntryKey> {
        self.over.iter()
    }

    pub(super) fn why(&self) -> Held {
        let Limits { entries, bytes } = self.limits;
        Held {
            reason: Reason::TooMany,
            message: format!(
                "the node's agent holds at most {entries} entries and {bytes} bytes: put some of its devices or \
                 applications on other nodes"
            ),
        }
    }
}

/// So much goes to the agent.
#[derive(Clone, Copy)]
struct Taken {
    entries: usize,
    bytes: u64,
}

impl Taken {
    fn and(self, slot: &Slot) -> Self {
        Self { entries: self.entries + 1, bytes: self.bytes + weight(slot) }
    }

    fn fit(self, limits: Limits) -> bool {
        self.entries <= limits.entries && self.bytes <= limits.bytes
    }
}

/// Keys of the ConfigMaps and Secrets that a workload names.
fn named(key: &EntryKey, slot: &Slot) -> Vec<EntryKey> {
    #[derive(Deserialize)]
    struct Names {
        #[serde(default)]
        references: Vec<Reference>,
    }
    let Slot::Present(Present { body, .. }) = slot else { return Vec::new() };
    let names = (key.kind == EntryKind::Workload).then(|| serde_json::from_slice::<Names>(&body.bytes));
    let references = names.and_then(Result::ok).map_or_else(Vec::new, |names| names.references);
    references.iter().filter_map(|reference| reference.key(&key.namespace)).collect()
}
