//! The two records on an EdgeNode that only its controller writes: the join key's public half, and the
//! certificates of the node (identity rules 1 and 3).
//!
//! In and out: annotations, as JSON. What does not decode counts as absent: it is made anew.

use std::collections::BTreeMap;

use jiff::Timestamp;
use selvedge_crds::{IDENTITY_ANNOTATION, JOIN_ANNOTATION};
use serde::{Deserialize, Serialize};

/// `selvedge.dev/join`: the live (or last) join key of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRecord {
    /// Public half of the join key: base64 of 32 bytes.
    pub public_key: String,
    /// From then on the key opens nothing.
    pub expires: Timestamp,
    /// Uid of the EdgeNode that it was made for.
    pub uid: String,
    /// `spec.join.request` that it answers.
    #[serde(default)]
    pub request: String,
}

impl JoinRecord {
    /// Whether the key can still be used.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires
    }
}

/// `selvedge.dev/identity`: which certificates are the node's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct IdentityRecord {
    /// Uid of the EdgeNode that the record is about: a record copied to a new EdgeNode is void.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The newest certificate that a session was seen with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<CertificateRecord>,
    /// A certificate that was issued and not seen yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<CertificateRecord>,
    /// `spec.join.request` that `current` answered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request: String,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRecord {
    /// SHA-256 of the SubjectPublicKeyInfo in DER, lower-case hex.
    pub public_key: String,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// End of validity.
    pub not_after: Timestamp,
}

/// Both records of one EdgeNode.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Records {
    /// The join key.
    pub join: Option<JoinRecord>,
    /// The certificates.
    pub identity: IdentityRecord,
}

impl Records {
    /// Reads the annotations of the EdgeNode with `uid`. Records of another uid (an EdgeNode that was
    /// deleted and applied again with its annotations) count as absent.
    #[must_use]
    pub fn read(annotations: &BTreeMap<String, String>, uid: &str) -> Self {
        let join = parse::<JoinRecord>(annotations, JOIN_ANNOTATION).filter(|record| record.uid == uid);
        let identity = parse::<IdentityRecord>(annotations, IDENTITY_ANNOTATION)
            .filter(|record| record.uid.is_empty() || record.uid == uid)
            .unwrap_or_default();
        Self { join, identity: IdentityRecord { uid: uid.to_owned(), ..identity } }
    }

    /// The annotations as a merge patch sets them; null removes one.
    #[must_use]
    pub fn annotations(&self) -> serde_json::Value {
        let join = self.join.as_ref().and_then(|record| serde_json::to_string(record).ok());
        let empty = self.identity.current.is_none() && self.identity.pending.is_none();
        let identity = if empty { None } else { serde_json::to_string(&self.identity).ok() };
        serde_json::json!({JOIN_ANNOTATION: join, IDENTITY_ANNOTATION: identity})
    }
}

fn parse<T: serde::de::DeserializeOwned>(annotations: &BTreeMap<String, String>, key: &str) -> Option<T> {
    serde_json::from_str(annotations.get(key)?).ok()
}
