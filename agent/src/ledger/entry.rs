//! Bodies of entries: whether this build can use one, and what it means.
//!
//! In: the kind and bytes of a body. Out: [`Entry`], or a [`Refusal`] by name.

use std::sync::Arc;

use selvedge_model::{
    ConfigMapEntry, ContentHash, DeviceEntry, EntryKind, NodeSettingsEntry, SecretEntry, WorkloadEntry,
};
use selvedge_protocol::agent as wire;
use serde::de::DeserializeOwned;

use super::row::{Refusal, RowKey};

/// A body, decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// What is particular to the node.
    NodeSettings(Arc<NodeSettingsEntry>),
    /// A ConfigMap's data.
    ConfigMap(Arc<ConfigMapEntry>),
    /// A Secret's data.
    Secret(Arc<SecretEntry>),
    /// An EdgeApplication, resolved for this node.
    Workload(Arc<WorkloadEntry>),
    /// A Device with its model folded in.
    Device(Arc<DeviceEntry>),
}

impl Entry {
    /// Decodes a body of a kind.
    ///
    /// # Errors
    /// [`Refusal`] when this build does not know the kind or cannot read the body.
    pub fn decode(key: &RowKey, body: &[u8]) -> Result<Self, Refusal> {
        match key.known_kind() {
            Some(EntryKind::NodeSettings) => json(body).map(Self::NodeSettings),
            Some(EntryKind::ConfigMap) => json(body).map(Self::ConfigMap),
            Some(EntryKind::Workload) => json(body).map(Self::Workload),
            Some(EntryKind::Device) => json(body).map(Self::Device),
            // What serde says may quote a value.
            Some(EntryKind::Secret) => json(body).map(Self::Secret).map_err(|Refusal { reason, .. }| {
                Refusal { reason, message: "this version of the agent cannot read the Secret".into() }
            }),
            None => Err(Refusal {
                reason: "UnknownKind".into(),
                message: format!("this version of the agent does not know entries of the kind of {key}"),
            }),
        }
    }

    /// What must be held before this entry can be in force.
    #[must_use]
    pub fn references(&self, namespace: &str) -> Vec<RowKey> {
        match self {
            Self::Workload(workload) => {
                workload.reference_keys(namespace).map(|key| RowKey::from(&key)).collect()
            }
            Self::NodeSettings(_) | Self::ConfigMap(_) | Self::Secret(_) | Self::Device(_) => Vec::new(),
        }
    }
}

/// Characters of an error that quotes what it is about: what a status has room for.
const MOST_QUOTED: usize = 256;

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<Arc<T>, Refusal> {
    serde_json::from_slice(body).map(Arc::new).map_err(|error| {
        // It may quote what it stumbled over, of any length.
        let error: String = error.to_string().chars().take(MOST_QUOTED).collect();
        let message = format!("this version of the agent cannot read the entry: {error}");
        Refusal { reason: "Undecodable".into(), message }
    })
}

/// Judges what the hub offers: the decoded entry, or why it cannot be used.
///
/// # Errors
/// [`Refusal`], by which the entry is answered; its last good version stays in force.
pub fn judge(key: &RowKey, hash: &ContentHash, upsert: &wire::Upsert) -> Result<Entry, Refusal> {
    if upsert.encoding != i32::from(wire::Encoding::Json) {
        return Err(Refusal {
            reason: "UnknownEncoding".into(),
            message: format!("this version of the agent cannot read encoding {}", upsert.encoding),
        });
    }
    let actual = ContentHash::of_canonical(&upsert.body);
    if actual != *hash {
        return Err(Refusal {
            reason: "HashMismatch".into(),
            message: format!("the body of {key} hashes to {actual}, its content hash is {hash}"),
        });
    }
    Entry::decode(key, &upsert.body)
}
