//! The shapes that a ledger keeps: keys, rows, meta and batches of changes to them. No behaviour beyond
//! conversion.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use selvedge_model::{ContentHash, Digest, EntryKey, EntryKind, RowHash, Watermark};
use selvedge_protocol::{agent as wire, convert::ConvertError};
use serde::{Deserialize, Serialize};

/// Names one row. Unlike [`EntryKey`] it can name an entry of a kind that this build does not know: such
/// an entry is refused by key, and its refusal is part of the answered set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey {
    /// Stable number of the kind, see [`EntryKind::number`].
    pub kind: u8,
    /// Namespace of the source object.
    pub namespace: String,
    /// Name of the source object.
    pub name: String,
    /// Version by content, for ConfigMap and Secret.
    pub version: String,
}

impl RowKey {
    /// The kind, when this build knows it.
    #[must_use]
    pub fn known_kind(&self) -> Option<EntryKind> {
        EntryKind::from_number(self.kind)
    }

    /// The key of an entry that can be in force.
    #[must_use]
    pub fn entry_key(&self) -> Option<EntryKey> {
        Some(EntryKey {
            kind: self.known_kind()?,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            version: self.version.clone(),
        })
    }

    /// The term of this row in a digest.
    #[must_use]
    pub fn row_hash(&self, uid: &str, content: &ContentHash) -> RowHash {
        RowHash::of_parts(self.kind, [&self.namespace, &self.name, &self.version], uid, content)
    }

    /// Which of the 256 buckets of an inventory this row falls into; that of [`RowHash::bucket`].
    #[must_use]
    pub fn bucket(&self) -> u8 {
        self.row_hash("", &ContentHash([0; 32])).0[0]
    }
}

impl From<&EntryKey> for RowKey {
    fn from(key: &EntryKey) -> Self {
        Self {
            kind: key.kind.number(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            version: key.version.clone(),
        }
    }
}

impl From<&RowKey> for wire::Key {
    fn from(key: &RowKey) -> Self {
        Self {
            kind: key.kind.into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            version: key.version.clone(),
        }
    }
}

impl TryFrom<wire::Key> for RowKey {
    type Error = ConvertError;

    fn try_from(key: wire::Key) -> Result<Self, ConvertError> {
        let kind = u8::try_from(key.kind).map_err(|_| ConvertError::UnknownKind(key.kind))?;
        Ok(Self { kind, namespace: key.namespace, name: key.name, version: key.version })
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry_key() {
            Some(key) => key.fmt(f),
            None => write!(f, "kind {}/{}/{}", self.kind, self.namespace, self.name),
        }
    }
}

/// One version of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Uid of the source object.
    pub uid: String,
    /// Content hash of the body.
    pub hash: ContentHash,
    /// resourceVersion of the source object; 0 after the epoch changed: revisions of two epochs do not
    /// compare.
    pub source_revision: u64,
    /// Workload: the ControllerRevision; else empty.
    pub revision: String,
    /// Workload: what must be held before it can be in force (sync rule 3); else empty.
    pub references: Vec<RowKey>,
}

/// Why an entry cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// CamelCase, stable.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What the hub was told about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The version that was offered.
    pub version: Version,
    /// None: accepted.
    pub refused: Option<Refusal>,
}

impl Answered {
    /// Its term in the digest.
    #[must_use]
    pub fn row_hash(&self, key: &RowKey) -> RowHash {
        key.row_hash(&self.version.uid, &self.version.hash)
    }
}

/// One row: the version answered and the version in force, which differ while an answered version is
/// refused, or waits for its references.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Row {
    /// None: the hub removed it, and it stays only as long as a workload in force names it.
    pub answered: Option<Answered>,
    /// The last good version.
    pub in_force: Option<Version>,
    /// The answered version is accepted and waits for its references.
    pub pending: bool,
}

/// Everything that is not a row.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// How new the set is (sync rule 7); names cluster and epoch.
    pub watermark: Watermark,
    /// Of the answered set. Kept, although it follows from the rows, so that damage shows.
    pub digest: Digest,
    /// Counter of the newest session.
    pub session_counter: u64,
    /// Version of the agent that ran last.
    pub agent_version: String,
    /// Latest time that is known to have passed, Unix seconds (identity rule 10).
    pub latest_time: u64,
    /// Whether the set was once known to be whole. Until then absence means nothing, and nothing is
    /// started or stopped by it.
    pub complete: bool,
    /// A `Farewell` was answered with `onDelete: Stop`: nothing runs here until a hub has said again that
    /// the set is whole.
    pub stopped: bool,
    /// How often the ledger was opened: makes numbers of reports rise over restarts.
    pub boots: u64,
}

/// Which body of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Of the version in force.
    InForce,
    /// Of the version that waits.
    Pending,
}

/// What happens to one body of a row.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum BodyChange {
    /// Stays.
    #[default]
    Keep,
    /// Becomes this.
    Set(Bytes),
    /// Becomes what the pending slot holds.
    TakePending,
    /// Goes.
    Clear,
}

/// Without the body: it may be a Secret's.
impl fmt::Debug for BodyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("Keep"),
            Self::Set(body) => write!(f, "Set({} bytes)", body.len()),
            Self::TakePending => f.write_str("TakePending"),
            Self::Clear => f.write_str("Clear"),
        }
    }
}

/// The new state of one row.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RowChange {
    /// The row itself.
    pub row: Row,
    /// Its body in force. Done before `pending`.
    pub in_force: BodyChange,
    /// Its body that waits.
    pub pending: BodyChange,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// New meta, when it changes.
    pub meta: Option<Meta>,
    /// Rows that change; None: deleted.
    pub rows: BTreeMap<RowKey, Option<RowChange>>,
}

/// What a store holds when it is opened. Bodies stay in the store.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Loaded {
    /// Everything that is not a row.
    pub meta: Meta,
    /// All rows.
    pub rows: BTreeMap<RowKey, Row>,
}

/// Why a store did not do what it was asked. Nothing of the batch is committed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space, or the disk does not write now. The same may work later.
    #[error("the ledger cannot be written now: {0}")]
    Unwritable(String),
    /// What the ledger holds cannot be trusted.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
}

/// Where a ledger keeps its rows. A commit is all or nothing, and durable when it returns.
pub trait Store {
    /// Reads everything but bodies.
    ///
    /// # Errors
    /// [`StoreError`] when that fails.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Reads one body; None when the row or the slot is empty, or what it holds was sealed with a key that is lost.
    ///
    /// # Errors
    /// [`StoreError`] when that fails.
    fn body(&mut self, key: &RowKey, slot: Slot) -> Result<Option<Bytes>, StoreError>;

    /// Commits one transaction.
    ///
    /// # Errors
    /// [`StoreError`], and nothing of the batch is committed.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;
}
