//! What is desired under one key of one node: there, absent, or not known well enough (sync rule 2).

use std::sync::Arc;

use selvedge_model::{EntryKey, RowHash};

use super::body::Body;

/// An entry as it should be at the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// What it says.
    pub body: Arc<Body>,
    /// Uid of its source object.
    pub uid: Arc<str>,
    /// resourceVersion of its source object.
    pub source_revision: u64,
    /// Workload: the ControllerRevision; else empty.
    pub revision: Arc<str>,
}

impl Present {
    /// Its term of the digest.
    #[must_use]
    pub fn row_hash(&self, key: &EntryKey) -> RowHash {
        RowHash::of(key, &self.uid, &self.body.hash)
    }
}

/// Why a key is held: the agent keeps what it has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// For conditions, in CamelCase.
    pub reason: Reason,
    /// For people: what is missing and what to do.
    pub message: String,
}

/// Reasons for holding a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Something that will be known soon (a cache that is still filling) is not known yet.
    Unknown,
    /// Revision or rollout state cannot be resolved.
    Unresolved,
    /// The namespace does not take part.
    NotEnabled,
    /// A model or ConfigMap is not there.
    MissingReference,
    /// The object breaks a rule.
    Invalid,
    /// An entry would not fit into a frame.
    TooLarge,
    /// The node's agent can hold no more entries.
    TooMany,
}

impl Reason {
    /// As written into conditions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown | Self::Unresolved => "Unresolved",
            Self::NotEnabled => "NamespaceNotEnabled",
            Self::MissingReference => "MissingReference",
            Self::Invalid => "Invalid",
            Self::TooLarge => "TooLarge",
            Self::TooMany => "TooMany",
        }
    }
}

/// What is desired under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// To be delivered.
    Present(Present),
    /// Known not to exist, or not to be for this node.
    Absent,
    /// Not known well enough to touch what the agent has.
    Held(Held),
}

impl Slot {
    /// A held slot.
    pub fn held(reason: Reason, message: impl Into<String>) -> Self {
        Self::Held(Held { reason, message: message.into() })
    }
}
