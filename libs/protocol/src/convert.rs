//! Wire shapes to and from [`selvedge_model`]. Decoding checks; encoding cannot fail.

use std::fmt;

use selvedge_model::{ContentHash, Digest, EntryKey, EntryKind, SessionId, Watermark};

use crate::agent as wire;

/// A message decoded, but a field of it means nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConvertError {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An entry kind that this build does not know. Refused by key, never fatal.
    #[error("entry kind {0} is unknown to this version")]
    UnknownKind(i32),
    /// A hash or digest of the wrong length.
    #[error("{field} has {len} bytes, not 32")]
    HashLength {
        /// Which field.
        field: &'static str,
        /// Its length in bytes.
        len: usize,
    },
}

impl From<&EntryKey> for wire::Key {
    fn from(key: &EntryKey) -> Self {
        let kind = match key.kind {
            EntryKind::NodeSettings => wire::EntryKind::NodeSettings,
            EntryKind::ConfigMap => wire::EntryKind::ConfigMap,
            EntryKind::Secret => wire::EntryKind::Secret,
            EntryKind::Workload => wire::EntryKind::Workload,
            EntryKind::Device => wire::EntryKind::Device,
        };
        Self {
            kind: kind.into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            version: key.version.clone(),
        }
    }
}

impl TryFrom<wire::Key> for EntryKey {
    type Error = ConvertError;

    fn try_from(key: wire::Key) -> Result<Self, ConvertError> {
        let kind = match wire::EntryKind::try_from(key.kind) {
            Ok(wire::EntryKind::NodeSettings) => EntryKind::NodeSettings,
            Ok(wire::EntryKind::ConfigMap) => EntryKind::ConfigMap,
            Ok(wire::EntryKind::Secret) => EntryKind::Secret,
            Ok(wire::EntryKind::Workload) => EntryKind::Workload,
            Ok(wire::EntryKind::Device) => EntryKind::Device,
            Ok(wire::EntryKind::Unspecified) | Err(_) => return Err(ConvertError::UnknownKind(key.kind)),
        };
        Ok(Self { kind, namespace: key.namespace, name: key.name, version: key.version })
    }
}

/// By name and size: a body may be a Secret's.
impl fmt::Debug for wire::Upsert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upsert")
            .field("key", &self.key)
            .field("uid", &self.uid)
            .field("source_revision", &self.source_revision)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl From<SessionId> for wire::Session {
    fn from(session: SessionId) -> Self {
        Self { counter: session.counter, nonce: session.nonce }
    }
}

impl From<wire::Session> for SessionId {
    fn from(session: wire::Session) -> Self {
        Self { counter: session.counter, nonce: session.nonce }
    }
}

impl From<&Watermark> for wire::Watermark {
    fn from(watermark: &Watermark) -> Self {
        Self {
            cluster_id: watermark.cluster_id.clone(),
            epoch: watermark.epoch,
            revisions: watermark.revisions.iter().map(|(k, v)| (k.clone(), *v)).collect(),
        }
    }
}

impl From<wire::Watermark> for Watermark {
    fn from(watermark: wire::Watermark) -> Self {
        Self {
            cluster_id: watermark.cluster_id,
            epoch: watermark.epoch,
            revisions: watermark.revisions.into_iter().collect(),
        }
    }
}

/// Reads a content hash from the wire.
///
/// # Errors
/// [`ConvertError::HashLength`] when it is not 32 bytes.
pub fn content_hash(field: &'static str, bytes: &[u8]) -> Result<ContentHash, ConvertError> {
    Ok(ContentHash(array(field, bytes)?))
}

/// Reads a digest from the wire.
///
/// # Errors
/// [`ConvertError::HashLength`] when it is not 32 bytes.
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, ConvertError> {
    Ok(Digest::from_bytes(array(field, bytes)?))
}

fn array(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError::HashLength { field, len: bytes.len() })
}
