//! Deltas: what differs in the dirty parts, one transaction at a time (sync rule 6).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use selvedge_model::{ContentHash, Digest, EntryKey, EntryKind, HISTORY, ReferenceKind, Watermark};
use selvedge_protocol::agent::{self as wire, to_agent::Message as ToAgent};
use selvedge_protocol::{ANSWER_TIMEOUT, ENTRY_OVERHEAD, MAX_DELTA_BYTES};

use super::{Answered, Output, Refusal, Session, View, part_of};
use crate::index::{ObjectKey, Part, Present, Reason, Resource, Slot, Slots};
use crate::removals::{CHECKING_CRD, Removal};

/// A delta that is not answered yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub nonce: u64,
    pub until: Instant,
    /// What its dirty parts were; offered again on Retry.
    pub parts: BTreeSet<Part>,
    pub compared: bool,
    bytes: usize,
    target: Digest,
    rows: Vec<(EntryKey, Option<Answered>)>,
    pub watermark: Option<Watermark>,
}

impl InFlight {
    /// What it brings or takes away.
    pub fn keys(&self) -> impl Iterator<Item = &EntryKey> {
        self.rows.iter().map(|(key, _)| key)
    }

    /// Whether it changes nothing but the watermark.
    pub fn is_mark(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A delta in the making.
struct Draft {
    removes: Vec<wire::Remove>,
    upserts: Vec<wire::Upsert>,
    rows: Vec<(EntryKey, Option<Answered>)>,
    target: Digest,
    bytes: usize,
    /// Of the rows, how many the agent did not have.
    added: usize,
    /// What there is no room for was found out.
    measured: bool,
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether one more entry of this size goes in; a single one always does.
    fn takes(&self, bytes: usize) -> bool {
        self.is_empty() || self.bytes + bytes <= MAX_DELTA_BYTES
    }
}

/// A difference between what is desired and what was answered.
enum Change {
    Remove(EntryKey, Answered),
    Upsert(EntryKey, Present),
}

impl Change {
    fn key(&self) -> &EntryKey {
        match self {
            Self::Remove(key, _) | Self::Upsert(key, _) => key,
        }
    }

    fn bytes(&self) -> usize {
        let key = self.key();
        let names = key.namespace.len() + key.name.len() + key.version.len();
        let body = match self {
            Self::Remove(..) => 0,
            Self::Upsert(_, present) => present.body.bytes.len(),
        };
        ENTRY_OVERHEAD + names + body
    }

    /// Workloads and devices go before what replaces them comes; what workloads name goes last.
    fn order(&self) -> (u8, &EntryKey) {
        let last = matches!(self.key().kind, EntryKind::ConfigMap | EntryKind::Secret);
        match self {
            Self::Remove(key, _) => (if last { 2 } else { 0 }, key),
            Self::Upsert(key, _) => (1, key),
        }
    }
}

impl Session {
    /// Offers what differs, if nothing is in flight and the caches are not behind.
    pub(super) fn offer(&mut self, view: View<'_>, out: &mut Vec<Output>) {
        let waits = self.retry_at.is_some_and(|at| at > view.now);
        let idle = self.dirty.is_empty() && !self.announce && !self.owes_a_mark(view.index);
        if self.in_flight.is_some() || waits || idle {
            return;
        }
        if self.is_behind(view.index) {
            return self.catch_up(view, out);
        }
        self.poked = None;
        self.retry_at = None;
        let mut draft = Draft {
            removes: Vec::new(),
            upserts: Vec::new(),
            rows: Vec::new(),
            target: self.digest,
            bytes: 0,
            added: 0,
            measured: false,
        };
        let mut parts = BTreeSet::new();
        while let Some(part) = self.dirty.pop_first() {
            parts.insert(part.clone());
            if !self.draft_part(&part, view, &mut draft) {
                // Does not fit: the rest of this part, and all others, wait for the answer.
                self.dirty.insert(part);
                break;
            }
        }
        if draft.is_empty() {
            self.settled(out);
            if !self.owes_a_mark(view.index) {
                return;
            }
        } else {
            self.unmarked = Some(view.index.marks());
        }
        let compared = self.compared;
        if compared {
            self.raise_to_reached(&draft, view);
        }
        let watermark = self.dirty.is_empty().then(|| self.raised(view));
        let news = watermark.as_ref().map(|watermark| match self.agent_has_watermark {
            true => (&watermark.above(&self.watermark)).into(),
            false => watermark.into(),
        });
        self.nonce += 1;
        out.push(Output::Send(ToAgent::Delta(wire::Delta {
            nonce: self.nonce,
            base_digest: self.digest.to_bytes().to_vec(),
            removes: draft.removes,
            upserts: draft.upserts,
            target_digest: draft.target.to_bytes().to_vec(),
            watermark: news,
        })));
        self.in_flight = Some(InFlight {
            nonce: self.nonce,
            until: view.now + ANSWER_TIMEOUT,
            parts,
            compared,
            bytes: draft.bytes,
            target: draft.target,
            rows: draft.rows,
            watermark,
        });
    }

    /// Nothing differs (any more).
    fn settled(&mut self, out: &mut Vec<Output>) {
        self.raises.clear();
        self.compared = false;
        self.allowance = 0;
        if std::mem::take(&mut self.announce) {
            out.push(Output::Send(ToAgent::InSync(wire::InSync {})));
        }
    }

    pub(super) fn acked(&mut self, ack: wire::Ack, view: View<'_>) {
        let Some(delta) = self.in_flight.take_if(|delta| delta.nonce == ack.nonce) else { return };
        if delta.is_mark() {
            self.unmarked = None;
        } else {
            // What is answered may have made room.
            self.dirty.extend(self.room.over().map(part_of));
        }
        for (key, row) in delta.rows {
            self.refused.remove(&key);
            match row {
                Some(row) => {
                    self.answered.insert(key, row);
                }
                None => {
                    self.answered.remove(&key);
                    // A node that holds no revision takes its interval's, also of an application that returns.
                    if key.kind == EntryKind::Workload
                        && self.pins.remove(&ObjectKey::new(&key.namespace, &key.name)).is_some()
                    {
                        self.dirty.insert(Part::Workloads);
                    }
                }
            }
        }
        self.refused.extend(ack.refused.into_iter().filter_map(Refusal::of));
        self.forget_other_refusals();
        self.forget_gone(view.index);
        self.digest = delta.target;
        self.resyncs = 0;
        // Whatever else changes meanwhile, a turn ends with what it was given for.
        self.allowance = self.allowance.saturating_sub(delta.bytes as u64);
        if let Some(watermark) = delta.watermark {
            self.watermark = watermark;
            self.agent_has_watermark = true;
            self.marked = view.now;
            self.announce = false;
            if self.dirty.is_empty() {
                self.raises.clear();
                self.compared = false;
                self.allowance = 0;
            }
        }
    }

    /// What is on its way was not taken: a late node stays on what it has, not on what it would have had.
    pub(super) fn come_to_nothing(&mut self) -> Option<InFlight> {
        let delta = self.in_flight.take()?;
        for (key, row) in delta.rows.iter().filter_map(|(key, row)| Some((key, row.as_ref()?))) {
            let application = ObjectKey::new(&key.namespace, &key.name);
            if is_workload(key) && self.pins.get(&application) == Some(&row.revision) {
                match self.answered.get(key).filter(|has| !has.revision.is_empty()) {
                    Some(has) => self.pins.insert(application, has.revision.clone()),
                    None => self.pins.remove(&application),
                };
            }
        }
        Some(delta)
    }

    /// Puts a part's differences into the draft; false when not all of them fit.
    fn draft_part(&mut self, part: &Part, view: View<'_>, draft: &mut Draft) -> bool {
        if *part == Part::Workloads {
            self.refresh_pins(view);
        }
        let mut changes = self.differences(part, view);
        self.limit(&mut changes, draft, view);
        changes.sort_by(|a, b| a.order().cmp(&b.order()));
        for change in changes {
            let bytes = change.bytes();
            if !draft.takes(bytes) {
                return false;
            }
            draft.bytes += bytes;
            let key = change.key().clone();
            match self.answered.get(&key) {
                Some(old) => draft.target = draft.target.minus(old.row),
                None => draft.added += 1,
            }
            match change {
                Change::Remove(_, old) => {
                    draft.removes.push(wire::Remove { key: Some((&key).into()), uid: old.uid.to_string() });
                    draft.rows.push((key, None));
                }
                Change::Upsert(_, present) => {
                    let answered = answered(&key, &present);
                    draft.target = draft.target.plus(answered.row);
                    draft.upserts.push(upsert(&key, &present, self.inflates));
                    draft.rows.push((key, Some(answered)));
                }
            }
        }
        true
    }

    /// Takes out what the agent has no room for.
    fn limit(&mut self, changes: &mut Vec<Change>, draft: &mut Draft, view: View<'_>) {
        let new = |key: &EntryKey| !self.answered.contains_key(key);
        let (mut entries, mut bytes) = (0, 0);
        for change in changes.iter().filter(|change| matches!(change, Change::Upsert(..))) {
            entries += usize::from(new(change.key()));
            bytes += change.bytes() as u64;
        }
        if bytes == 0 {
            return;
        }
        if !draft.measured && !self.room.takes(self.answered.len() + draft.added + entries, bytes) {
            draft.measured = true;
            let slots = view.index.set(&self.node, &self.pins);
            // What it has and is not desired any more takes room until it is gone.
            let gone = |key: &&EntryKey| !matches!(slots.get(*key), Some(Slot::Present(_)));
            let beyond = self.answered.keys().filter(gone).count();
            let drafted: BTreeSet<&EntryKey> = draft.rows.iter().map(|(key, _)| key).collect();
            self.room.measure(&slots, |key| !new(key) || drafted.contains(key), beyond);
        }
        if !draft.measured {
            return self.room.sent(bytes);
        }
        changes.retain(|change| match change {
            Change::Upsert(key, _) => !self.room.is_over(key),
            Change::Remove(..) => true,
        });
    }

    /// What differs in one part between what is desired and what was answered. Held keys never do.
    fn differences(&mut self, part: &Part, view: View<'_>) -> Vec<Change> {
        let mut slots = view.index.part(&self.node, part, &self.pins);
        let unlisted: Vec<EntryKey> =
            self.answered_of(part).into_iter().filter(|key| !slots.contains_key(key)).collect();
        for key in unlisted {
            let slot = view.index.unlisted(&self.node, &key, &self.pins);
            slots.insert(key, slot);
        }
        // Removals of workloads and devices first: whether they may go decides on what they name.
        let mut changes = Vec::new();
        let mut held = BTreeSet::new();
        for (key, slot) in &slots {
            let workload = key.kind == EntryKind::Workload;
            let keeps = match (slot, self.answered.get(key)) {
                (Slot::Present(present), answered) => {
                    if answered.is_none_or(|answered| answered.row != present.row_hash(key)) {
                        changes.push(Change::Upsert(key.clone(), present.clone()));
                    }
                    // The version in force is an older one, of which the references are not known here.
                    self.refused.get(key).is_some_and(|refused| refused.content == present.body.hash)
                }
                (Slot::Absent, Some(answered)) if !is_reference(key) => {
                    match view.gate.ask(key, &answered.uid, view.index.has(key, &answered.uid), view.now) {
                        Removal::Allowed => {
                            self.kept.remove(key);
                            changes.push(Change::Remove(key.clone(), answered.clone()));
                            false
                        }
                        Removal::Held(reason) => {
                            // Why it waited before is why it waits until the CRD was read once more: else a fleet
                            // that is held would write its statuses anew with every read.
                            let kept = self.kept.entry(key.clone()).or_insert(reason);
                            if reason != CHECKING_CRD {
                                *kept = reason;
                            }
                            true
                        }
                    }
                }
                (Slot::Absent, _) => false,
                (Slot::Held(_), _) => true,
            };
            if !matches!(slot, Slot::Absent) {
                self.kept.remove(key);
            }
            if keeps && workload {
                held.insert(key.namespace.clone());
            }
        }
        for (key, _) in slots.iter().filter(|(key, slot)| is_reference(key) && **slot == Slot::Absent) {
            if let Some(answered) = self.answered.get(key).filter(|_| !held.contains(&key.namespace)) {
                changes.push(Change::Remove(key.clone(), answered.clone()));
            }
        }
        changes
    }

    /// Answered keys that belong to a part.
    fn answered_of(&self, part: &Part) -> Vec<EntryKey> {
        match part {
            Part::Device(key) => {
                let key = crate::index::device_entry(key);
                self.answered.contains_key(&key).then_some(key).into_iter().collect()
            }
            part => self.answered.keys().filter(|key| part_of(key) == *part).cloned().collect(),
        }
    }

    /// Late nodes: a node stays on the revision that it holds until it is admitted; without rollout state
    /// it stays, too, and what comes then passes nobody, nor does the first of an application that was created anew
    /// (sync rule 11).
    pub(super) fn refresh_pins(&mut self, view: View<'_>) {
        let (index, node) = (view.index, &*self.node);
        self.pins.retain(|application, revision| {
            !index.admits(node, application) && index.target(node, application) != Some(&**revision)
        });
        // What is on its way was passed, too, and what it takes the place of counts no more.
        let mut workloads: BTreeMap<&EntryKey, Option<&Answered>> = self
            .answered
            .iter()
            .filter(|(key, _)| is_workload(key))
            .map(|(key, row)| (key, Some(row)))
            .collect();
        let sent = self.in_flight.iter().flat_map(|delta| &delta.rows).filter(|(key, _)| is_workload(key));
        workloads.extend(sent.map(|(key, row)| (key, row.as_ref())));
        let workloads = workloads.into_iter().filter_map(|(key, row)| Some((key, row?)));
        for (key, answered) in workloads.filter(|(_, answered)| !answered.revision.is_empty()) {
            let application = ObjectKey::new(&key.namespace, &key.name);
            let late = match index.target(node, &application) {
                None => true,
                Some(target) => {
                    target != &*answered.revision
                        && index.is_created_anew(&application, &answered.uid)
                        && !index.admits(node, &application)
                }
            };
            if late {
                self.pins.insert(application, answered.revision.clone());
            }
        }
    }

    fn raise_to_reached(&mut self, draft: &Draft, view: View<'_>) {
        let kinds: BTreeSet<EntryKind> = draft.rows.iter().map(|(key, _)| key.kind).collect();
        let references = draft.rows.iter().filter_map(|(key, _)| {
            Some(Resource::of_references(ReferenceKind::of(key.kind)?, &key.namespace.as_str().into()))
        });
        let mut resources: BTreeSet<Resource> = references.collect();
        for kind in kinds {
            resources.extend(match kind {
                EntryKind::NodeSettings => vec![Resource::EdgeNodes],
                EntryKind::Workload => {
                    vec![
                        Resource::EdgeNodes,
                        Resource::EdgeApplications,
                        Resource::ControllerRevisions,
                        Resource::Namespaces,
                    ]
                }
                EntryKind::Device => vec![Resource::Devices, Resource::DeviceModels, Resource::Namespaces],
                EntryKind::ConfigMap | EntryKind::Secret => vec![],
            });
        }
        for resource in resources {
            let reached = view.index.reached().revision(&resource.to_string());
            let known = self.raises.entry(resource).or_default();
            *known = reached.max(*known);
        }
    }

    fn raised(&self, view: View<'_>) -> Watermark {
        let mut watermark = self.watermark.clone();
        watermark.cluster_id.clone_from(&view.index.reached().cluster_id);
        watermark.raise(HISTORY, view.index.history().latest());
        for (resource, revision) in &self.raises {
            watermark.raise(&resource.to_string(), *revision);
        }
        watermark
    }
}

/// The row of a slot, as the agent would answer it.
pub(super) fn row(key: &EntryKey, slot: &Slot) -> Option<Answered> {
    match slot {
        Slot::Present(present) => Some(answered(key, present)),
        Slot::Absent | Slot::Held(_) => None,
    }
}

/// What a slot costs when it goes over the wire.
pub(super) fn weight(slot: &Slot) -> u64 {
    let body = match slot {
        Slot::Present(present) => present.body.bytes.len(),
        Slot::Absent | Slot::Held(_) => 0,
    };
    (ENTRY_OVERHEAD + body) as u64
}

/// Whether something will be known soon that is not known yet.
pub(super) fn any_unknown(slots: &Slots) -> bool {
    slots.values().any(|slot| matches!(slot, Slot::Held(held) if held.reason == Reason::Unknown))
}

fn answered(key: &EntryKey, present: &Present) -> Answered {
    Answered {
        uid: present.uid.clone(),
        content: present.body.hash,
        row: present.row_hash(key),
        revision: present.revision.clone(),
    }
}

fn upsert(key: &EntryKey, present: &Present, inflates: bool) -> wire::Upsert {
    // A Secret's frame says no more of it than its length.
    let deflated = (inflates && key.kind != EntryKind::Secret).then(|| present.body.deflated()).flatten();
    let (encoding, body) = match deflated {
        Some(deflated) => (wire::Encoding::JsonDeflate, deflated),
        None => (wire::Encoding::Json, present.body.bytes.clone()),
    };
    wire::Upsert {
        key: Some(key.into()),
        uid: present.uid.to_string(),
        source_revision: present.source_revision,
        revision: present.revision.to_string(),
        content_hash: present.body.hash.0.to_vec(),
        encoding: encoding.into(),
        body,
    }
}

fn is_workload(key: &EntryKey) -> bool {
    key.kind == EntryKind::Workload
}

fn is_reference(key: &EntryKey) -> bool {
    matches!(key.kind, EntryKind::ConfigMap | EntryKind::Secret)
}

impl super::Answered {
    /// A row of an inventory.
    pub(super) fn of_row(key: &EntryKey, row: &wire::Row, content: ContentHash) -> Self {
        Self {
            uid: row.uid.as_str().into(),
            content,
            row: selvedge_model::RowHash::of(key, &row.uid, &content),
            revision: row.revision.as_str().into(),
        }
    }
}

/// Rows by bucket of an inventory.
pub(super) fn buckets(rows: &BTreeMap<EntryKey, Answered>) -> Vec<Digest> {
    let mut digests = vec![Digest::EMPTY; 256];
    for (key, row) in rows {
        let digest = &mut digests[usize::from(selvedge_model::RowHash::bucket(key))];
        *digest = digest.plus(row.row);
    }
    digests
}
