//! Inventories: what the agent has answered, by rows or by bucket digests first (sync rule 5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use selvedge_model::{Digest, EntryKey, EntryKind, RowHash};
use selvedge_protocol::agent::{self as wire, to_agent::Message as ToAgent};
use selvedge_protocol::{ANSWER_TIMEOUT, convert};

use super::{Answered, Closed, Output, Session, State, View, delta, part_of};
use crate::index::ObjectKey;

/// A comparison on the way.
#[derive(Debug)]
pub(super) struct Comparing {
    pub until: Instant,
    /// Rows so far; those of buckets that are alike are the desired ones.
    rows: BTreeMap<EntryKey, Answered>,
}

impl Comparing {
    pub(super) fn new(until: Instant) -> Self {
        Self { until, rows: BTreeMap::new() }
    }
}

impl Session {
    pub(super) fn inventory(&mut self, inventory: wire::Inventory, view: View<'_>, out: &mut Vec<Output>) {
        // An inventory that nobody asked for was on its way when the session went on.
        let State::Comparing(comparing) = &mut self.state else { return };
        comparing.until = view.now + ANSWER_TIMEOUT;
        for row in &inventory.rows {
            // A row of a kind that this hub does not know stays out of the sum: the digests then differ
            // and say so.
            let Some(key) = row.key.clone().and_then(|key| EntryKey::try_from(key).ok()) else { continue };
            let Ok(content) = convert::content_hash("content hash", &row.content_hash) else {
                return out.push(Output::Close(Closed::BadFrame));
            };
            comparing.rows.insert(key.clone(), Answered::of_row(&key, row, content));
        }
        if !inventory.buckets.is_empty() {
            return self.buckets(&inventory.buckets, view, out);
        }
        if inventory.last {
            self.compared(view);
        }
    }

    fn buckets(&mut self, theirs: &[Vec<u8>], view: View<'_>, out: &mut Vec<Output>) {
        let theirs: Result<Vec<Digest>, _> =
            theirs.iter().map(|bytes| convert::digest("bucket", bytes)).collect();
        let (Ok(theirs), State::Comparing(comparing)) = (theirs, &mut self.state) else {
            return out.push(Output::Close(Closed::BadFrame));
        };
        let slots = view.index.set(&self.node, &self.pins);
        let ours: BTreeMap<_, _> =
            slots.iter().filter_map(|(key, slot)| Some((key.clone(), delta::row(key, slot)?))).collect();
        let digests = delta::buckets(&ours);
        let differ: BTreeSet<u8> = (0..=255_u8)
            .filter(|bucket| theirs.get(usize::from(*bucket)) != digests.get(usize::from(*bucket)))
            .collect();
        comparing.rows =
            ours.into_iter().filter(|(key, _)| !differ.contains(&RowHash::bucket(key))).collect();
        if differ.is_empty() {
            return self.compared(view);
        }
        let buckets = differ.into_iter().map(u32::from).collect();
        out.push(Output::Send(ToAgent::Compare(wire::Compare { buckets })));
    }

    /// All rows are here: what differs is dirty, late nodes stay where they are.
    fn compared(&mut self, view: View<'_>) {
        let State::Comparing(comparing) = std::mem::replace(&mut self.state, State::Live) else { return };
        self.answered = comparing.rows;
        self.digest = self.answered.values().map(|row| row.row).collect();
        let answered = &self.answered;
        self.refused
            .retain(|key, refused| answered.get(key).is_some_and(|row| row.content == refused.content));
        // Later comparisons find no late nodes: what was passed while this session lived is not late.
        if !std::mem::replace(&mut self.pinned, true) {
            self.pin_late(view);
        }
        self.raises.clear();
        self.dirty = view.index.parts(&self.node);
        self.dirty.extend(self.answered.keys().map(part_of));
        self.compared = true;
        self.announce = true;
    }

    fn pin_late(&mut self, view: View<'_>) {
        for (key, row) in self.answered.iter().filter(|(key, _)| key.kind == EntryKind::Workload) {
            let application = ObjectKey::new(&key.namespace, &key.name);
            let target = view.index.target(&self.node, &application);
            if !row.revision.is_empty() && target != Some(&*row.revision) {
                self.pins.insert(application, row.revision.clone());
            }
        }
    }
}
