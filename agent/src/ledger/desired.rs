//! What this node should do now: a snapshot of the ledger, decoded, for everyone who acts on it.

use std::{collections::BTreeMap, sync::Arc};

use selvedge_model::{ContentHash, EntryKey, EntryKind};

use super::{
    entry::Entry,
    machine::Machine,
    row::{Row, RowKey, Store, StoreError},
};

/// The entries in force, and those that are not and why.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Whether the set was ever whole. While it was not, nothing may be stopped for not being in it.
    pub complete: bool,
    /// The EdgeNode is gone and its `onDelete` says that containers and drivers stop.
    pub stopped: bool,
    /// Whether the hub of the present session said that this is current.
    pub synced: bool,
    /// In force, by key.
    pub entries: BTreeMap<EntryKey, InForce>,
    /// Answered versions that are not in force.
    pub held_back: Vec<HeldBack>,
}

/// One entry in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Uid of the source object.
    pub uid: String,
    /// Content hash, that reports about it carry.
    pub hash: ContentHash,
    /// Workload: the ControllerRevision; else empty.
    pub revision: String,
    /// The body.
    pub entry: Entry,
}

/// One answered version that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// Its row.
    pub key: RowKey,
    /// Uid of its source object.
    pub uid: String,
    /// Workload: its ControllerRevision; else empty.
    pub revision: String,
    /// Whether an earlier version of the row is in force.
    pub has_earlier: bool,
    /// Whether it was refused; else it waits.
    pub refused: bool,
    /// CamelCase: `WaitingForReferences`, or why it was refused.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Keeps the snapshot up to date with its machine.
#[derive(Debug, Default)]
pub struct Publisher {
    entries: BTreeMap<EntryKey, InForce>,
}

impl Publisher {
    /// Reads everything that is in force: at start.
    ///
    /// # Errors
    /// [`StoreError`] when a body cannot be read.
    pub fn load<S: Store>(machine: &mut Machine<S>) -> Result<Self, StoreError> {
        let mut publisher = Self::default();
        let keys: Vec<RowKey> = machine.rows().keys().cloned().collect();
        publisher.update(machine, &keys)?;
        Ok(publisher)
    }

    /// Reads the entries that changed.
    ///
    /// # Errors
    /// [`StoreError`] when a body cannot be read.
    pub fn update<S: Store>(&mut self, machine: &mut Machine<S>, keys: &[RowKey]) -> Result<(), StoreError> {
        for key in keys {
            let Some(entry_key) = key.entry_key() else { continue };
            let version = machine.rows().get(key).and_then(|row| row.in_force.clone());
            let Some((version, entry)) = version.zip(machine.entry(key)?) else {
                self.entries.remove(&entry_key);
                continue;
            };
            let in_force =
                InForce { uid: version.uid, hash: version.hash, revision: version.revision, entry };
            self.entries.insert(entry_key, in_force);
        }
        Ok(())
    }

    /// The snapshot.
    pub fn desired<S: Store>(&self, machine: &Machine<S>) -> Arc<Desired> {
        Arc::new(Desired {
            complete: machine.meta().complete,
            stopped: machine.meta().stopped,
            synced: machine.synced(),
            entries: self.entries.clone(),
            held_back: machine.rows().iter().filter_map(|(key, row)| held_back(machine, key, row)).collect(),
        })
    }
}

fn held_back<S: Store>(machine: &Machine<S>, key: &RowKey, row: &Row) -> Option<HeldBack> {
    let answered = row.answered.as_ref()?;
    let (reason, message) = match &answered.refused {
        Some(refusal) => (refusal.reason.clone(), refusal.message.clone()),
        None if row.pending => {
            let missing = |key: &&RowKey| machine.rows().get(key).is_none_or(|row| row.in_force.is_none());
            let missing: Vec<String> =
                answered.version.references.iter().filter(missing).map(RowKey::to_string).collect();
            ("WaitingForReferences".to_owned(), format!("waits for {}", missing.join(", ")))
        }
        None => return None,
    };
    Some(HeldBack {
        key: key.clone(),
        uid: answered.version.uid.clone(),
        revision: answered.version.revision.clone(),
        has_earlier: row.in_force.is_some(),
        refused: answered.refused.is_some(),
        reason,
        message,
    })
}

impl Desired {
    /// Entries of one kind, in order of their keys.
    pub fn of_kind(&self, kind: EntryKind) -> impl Iterator<Item = (&EntryKey, &InForce)> {
        self.entries.iter().filter(move |(key, _)| key.kind == kind)
    }
}
