//! Inventories: what the agent has answered, by rows or by bucket digests first, each session in its turn
//! (sync rule 5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use selvedge_model::{Digest, EntryKey, EntryKind, RowHash};
use selvedge_protocol::agent::{self as wire, to_agent::Message as ToAgent};
use selvedge_protocol::{ANSWER_TIMEOUT, convert};

use super::limit::MOST_ENTRIES;
use super::restore::Origins;
use super::{Answered, Closed, Output, Session, State, View, delta, part_of};
use crate::faults::Fault;
use crate::index::ObjectKey;

/// Rows of one inventory: more than any agent has been given, also by a hub that gave it more than this one would.
const MOST_ROWS: usize = 2 * MOST_ENTRIES;

/// A comparison on the way.
#[derive(Debug)]
pub(super) struct Comparing {
    pub until: Instant,
    /// Rows so far; those of buckets that are alike are the desired ones.
    rows: BTreeMap<EntryKey, Answered>,
    origins: Origins,
}

impl Comparing {
    pub(super) fn new(until: Instant) -> Self {
        Self { until, rows: BTreeMap::new(), origins: Origins::default() }
    }
}

impl Session {
    /// Compares inventories, if these caches are not behind, when its turn has come.
    pub(super) fn compare(&mut self, view: View<'_>, out: &mut Vec<Output>) {
        self.come_to_nothing();
        if view.index.is_restored(&self.node) {
            // Whether what differs was lost nobody knows: it waits for the person who must look anyway.
            return self.pause();
        }
        if self.is_behind(view.index) {
            return self.fall_behind(view, out);
        }
        if self.allowance > 0 {
            return self.ask(view.now, out);
        }
        let slots = view.index.set(&self.node, &self.pins);
        let bytes = slots.values().map(delta::weight).sum::<u64>().max(1);
        self.state = State::Queued { bytes };
        out.push(Output::Admit(bytes));
    }

    fn ask(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.state = State::Comparing(Comparing::new(now + ANSWER_TIMEOUT));
        out.push(Output::Send(ToAgent::Compare(wire::Compare { buckets: Vec::new() })));
    }

    /// Its turn to compare has come (see [`Output::Admit`]); it lasts while [`Self::is_resyncing`].
    pub fn admitted(&mut self, view: View<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        if let State::Queued { bytes } = self.state {
            if self.is_behind(view.index) {
                self.fall_behind(view, &mut out);
            } else {
                self.allowance = bytes;
                self.ask(view.now, &mut out);
            }
        }
        self.step(view, &mut out);
        out
    }

    /// Whether it waits for its turn to compare, or has it and has not sent yet all that may differ.
    #[must_use]
    pub fn is_resyncing(&self) -> bool {
        self.allowance > 0 || matches!(self.state, State::Queued { .. })
    }

    pub(super) fn inventory(&mut self, inventory: wire::Inventory, view: View<'_>, out: &mut Vec<Output>) {
        // An inventory that nobody asked for was on its way when the session went on.
        if !matches!(self.state, State::Comparing(_)) {
            return;
        }
        if let State::Comparing(comparing) = &self.state
            && comparing.rows.len() + inventory.rows.len() > MOST_ROWS
        {
            return out.push(Output::Close(Closed::Broken(Fault::OversizedInventory)));
        }
        let (mut rows, mut origins) = (Vec::with_capacity(inventory.rows.len()), Origins::default());
        for row in &inventory.rows {
            // A row of a kind that this hub does not know stays out of the sum: the digests then differ
            // and say so.
            let Some(key) = row.key.clone().and_then(|key| EntryKey::try_from(key).ok()) else {
                out.push(Output::Fault(Fault::UnknownKind));
                continue;
            };
            let Ok(content) = convert::content_hash("content hash", &row.content_hash) else {
                return out.push(Output::Close(Closed::Broken(Fault::BadDigest)));
            };
            origins.add(self.trace(&key, &row.uid, row.source_revision, view));
            rows.push((key.clone(), Answered::of_row(&key, row, content)));
        }
        let State::Comparing(comparing) = &mut self.state else { return };
        comparing.until = view.now + ANSWER_TIMEOUT;
        comparing.rows.extend(rows);
        comparing.origins.add(origins);
        if !inventory.buckets.is_empty() {
            return self.buckets(&inventory.buckets, view, out);
        }
        if inventory.last {
            self.compared(view, out);
        }
    }

    fn buckets(&mut self, theirs: &[Vec<u8>], view: View<'_>, out: &mut Vec<Output>) {
        let theirs: Result<Vec<Digest>, _> =
            theirs.iter().map(|bytes| convert::digest("bucket", bytes)).collect();
        let (Ok(theirs), State::Comparing(comparing)) = (theirs, &mut self.state) else {
            return out.push(Output::Close(Closed::Broken(Fault::BadDigest)));
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
            return self.compared(view, out);
        }
        let buckets = differ.into_iter().map(u32::from).collect();
        out.push(Output::Send(ToAgent::Compare(wire::Compare { buckets })));
    }

    /// All rows are here: what differs is dirty, late nodes stay where they are.
    fn compared(&mut self, view: View<'_>, out: &mut Vec<Output>) {
        let State::Comparing(comparing) = std::mem::replace(&mut self.state, State::Live) else { return };
        self.answered = comparing.rows;
        self.restores = view.index.restores();
        self.digest = self.answered.values().map(|row| row.row).collect();
        self.forget_other_refusals();
        // Later comparisons find no late nodes: what was passed while this session lived is not late.
        if !std::mem::replace(&mut self.pinned, true) {
            self.pin_late(view);
        }
        if self.judge(comparing.origins, view.now) || view.index.is_restored(&self.node) {
            return self.pause();
        }
        if self.is_behind(view.index) {
            return self.fall_behind(view, out);
        }
        self.raises.clear();
        self.dirty = view.index.parts(&self.node);
        self.dirty.extend(self.answered.keys().map(part_of));
        self.compared = true;
        self.announce = true;
        self.unmarked = Some(view.index.marks());
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
