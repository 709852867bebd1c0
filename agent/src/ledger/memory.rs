//! A store in memory: for simulated agents and tests. It can be told to fail, so that crashes and full
//! disks between any two steps can be tried.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::row::{Batch, BodyChange, Loaded, Meta, Row, RowKey, Slot, Store, StoreError};

/// What one row holds on this "disk".
#[derive(Clone, Debug, Default)]
struct Kept {
    row: Row,
    in_force: Option<Bytes>,
    pending: Option<Bytes>,
}

/// Rows and bodies in memory. A clone is a copy of the disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    meta: Meta,
    rows: BTreeMap<RowKey, Kept>,
    /// While true every commit fails as on a full disk.
    pub full: bool,
    /// While true every commit is said to be durable and is lost: a lying disk, that a checker must
    /// notice.
    pub forgetful: bool,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let rows = self.rows.iter().map(|(key, kept)| (key.clone(), kept.row.clone())).collect();
        Ok(Loaded { meta: self.meta.clone(), rows })
    }

    fn body(&mut self, key: &RowKey, slot: Slot) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.get(key).and_then(|kept| match slot {
            Slot::InForce => kept.in_force.clone(),
            Slot::Pending => kept.pending.clone(),
        }))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.full {
            return Err(StoreError::Unwritable("no space left on the simulated disk".into()));
        }
        if self.forgetful {
            return Ok(());
        }
        if let Some(meta) = &batch.meta {
            self.meta = meta.clone();
        }
        for (key, change) in &batch.rows {
            let Some(change) = change else {
                self.rows.remove(key);
                continue;
            };
            let kept = self.rows.entry(key.clone()).or_default();
            kept.row = change.row.clone();
            match &change.in_force {
                BodyChange::Keep => {}
                BodyChange::Set(body) => kept.in_force = Some(body.clone()),
                BodyChange::TakePending => kept.in_force = kept.pending.clone(),
                BodyChange::Clear => kept.in_force = None,
            }
            match &change.pending {
                BodyChange::Keep | BodyChange::TakePending => {}
                BodyChange::Set(body) => kept.pending = Some(body.clone()),
                BodyChange::Clear => kept.pending = None,
            }
        }
        Ok(())
    }
}
