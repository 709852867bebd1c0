//! One transaction in the making: rows over the rows that are committed.
//!
//! In: removals and upserts of a delta, one by one. Out: the changed rows and the digest of the answered
//! set after them. Nothing here writes; a draft that is dropped never was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use selvedge_model::{Digest, EntryKind};

use super::row::{Answered, BodyChange, Row, RowChange, RowKey};

/// Changes over `rows`, not yet committed.
pub struct Draft<'a> {
    rows: &'a BTreeMap<RowKey, Row>,
    changes: BTreeMap<RowKey, Option<RowChange>>,
    digest: Digest,
}

impl<'a> Draft<'a> {
    /// A draft without changes over `rows`, whose digest is `digest`.
    pub fn new(rows: &'a BTreeMap<RowKey, Row>, digest: Digest) -> Self {
        Self { rows, changes: BTreeMap::new(), digest }
    }

    /// The row as it would be.
    pub fn row(&self, key: &RowKey) -> Option<&Row> {
        match self.changes.get(key) {
            Some(change) => change.as_ref().map(|change| &change.row),
            None => self.rows.get(key),
        }
    }

    /// Digest of the answered set as it would be.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Removes what the hub knows under `key` and `uid`; void for any other uid (sync rule 6).
    pub fn remove(&mut self, key: &RowKey, uid: &str) {
        let Some(row) = self.row(key) else { return };
        let Some(answered) = row.answered.as_ref().filter(|answered| answered.version.uid == uid) else {
            return;
        };
        let digest = self.digest.minus(answered.row_hash(key));
        // A removal may come in an earlier delta than the workload that makes it right: until the one
        // that names this version is replaced, it must be able to start again with it.
        let kept = is_reference(key) && row.in_force.is_some();
        self.digest = digest;
        if kept {
            self.edit(key).row.answered = None;
        } else {
            self.changes.insert(key.clone(), None);
        }
    }

    /// Takes what was offered under `key`: `body` is there when it was accepted.
    pub fn upsert(&mut self, key: &RowKey, answered: Answered, body: Option<Bytes>) {
        if let Some(old) = self.row(key).and_then(|row| row.answered.as_ref()) {
            let term = old.row_hash(key);
            self.digest = self.digest.minus(term);
        }
        self.digest = self.digest.plus(answered.row_hash(key));
        let workload = key.known_kind() == Some(EntryKind::Workload);
        let change = self.edit(key);
        (change.row.pending, change.pending) = match body {
            Some(body) if workload => (true, BodyChange::Set(body)),
            Some(body) => {
                change.row.in_force = Some(answered.version.clone());
                change.in_force = BodyChange::Set(body);
                (false, BodyChange::Clear)
            }
            None => (false, BodyChange::Clear),
        };
        change.row.answered = Some(answered);
    }

    /// Forgets a refusal, so that the entry is offered again: what is in force is what was answered.
    pub fn forget_refusal(&mut self, key: &RowKey) {
        let Some(row) = self.row(key) else { return };
        let Some(answered) = row.answered.as_ref().filter(|answered| answered.refused.is_some()) else {
            return;
        };
        let mut digest = self.digest.minus(answered.row_hash(key));
        match row.in_force.clone() {
            Some(version) => {
                let answered = Answered { version, refused: None };
                digest = digest.plus(answered.row_hash(key));
                self.edit(key).row.answered = Some(answered);
            }
            None => {
                self.changes.insert(key.clone(), None);
            }
        }
        self.digest = digest;
    }

    /// Lets go of a row whose body is lost, so that the hub offers it again.
    pub fn forget(&mut self, key: &RowKey) {
        if let Some(answered) = self.row(key).and_then(|row| row.answered.as_ref()) {
            self.digest = self.digest.minus(answered.row_hash(key));
        }
        self.changes.insert(key.clone(), None);
    }

    /// Puts workloads into force whose references are all held, and lets go of references that the hub
    /// removed and no workload names any more (sync rule 3).
    pub fn settle(&mut self) {
        let waiting: Vec<RowKey> = self
            .keys()
            .into_iter()
            .filter(|key| self.row(key).is_some_and(|row| row.pending && self.holds_references(row)))
            .collect();
        for key in waiting {
            let change = self.edit(&key);
            change.row.pending = false;
            change.row.in_force = change.row.answered.as_ref().map(|answered| answered.version.clone());
            change.in_force = match std::mem::replace(&mut change.pending, BodyChange::Clear) {
                BodyChange::Set(body) => BodyChange::Set(body),
                _ => BodyChange::TakePending,
            };
        }
        let mut unneeded: BTreeSet<RowKey> = self
            .keys()
            .into_iter()
            .filter(|key| is_reference(key) && self.row(key).is_some_and(|row| row.answered.is_none()))
            .collect();
        if unneeded.is_empty() {
            return;
        }
        for key in self.keys() {
            let Some(row) = self.row(&key) else { continue };
            let pending = row.answered.as_ref().filter(|_| row.pending).map(|answered| &answered.version);
            for reference in row.in_force.iter().chain(pending).flat_map(|version| &version.references) {
                unneeded.remove(reference);
            }
        }
        for key in unneeded {
            self.changes.insert(key, None);
        }
    }

    /// The changes, to be committed.
    pub fn into_changes(self) -> BTreeMap<RowKey, Option<RowChange>> {
        self.changes
    }

    /// Keys of workloads and of what they can refer to: the few rows among maybe thousands of devices
    /// that depend on each other.
    fn keys(&self) -> Vec<RowKey> {
        let first = |kind: u8| RowKey { kind, namespace: "".into(), name: "".into(), version: "".into() };
        let range = first(EntryKind::ConfigMap.number())..first(EntryKind::Workload.number() + 1);
        let mut keys: Vec<_> = self.rows.range(range.clone()).map(|(key, _)| key.clone()).collect();
        keys.extend(
            self.changes.range(range).map(|(key, _)| key).filter(|key| !self.rows.contains_key(key)).cloned(),
        );
        keys
    }

    fn holds_references(&self, row: &Row) -> bool {
        row.answered.as_ref().is_some_and(|answered| {
            let held = |key| self.row(key).is_some_and(|row| row.in_force.is_some());
            answered.version.references.iter().all(held)
        })
    }

    fn edit(&mut self, key: &RowKey) -> &mut RowChange {
        let committed = self.rows.get(key);
        self.changes
            .entry(key.clone())
            .or_insert_with(|| {
                Some(RowChange { row: committed.cloned().unwrap_or_default(), ..RowChange::default() })
            })
            .get_or_insert_default()
    }
}

fn is_reference(key: &RowKey) -> bool {
    matches!(key.known_kind(), Some(EntryKind::ConfigMap | EntryKind::Secret))
}
