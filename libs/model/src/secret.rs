//! Secrets as references: what an agent gets, and how a version is named without giving its value away.
//!
//! In: the base64 `data` of a Secret, and a key that only hubs have. Out: [`Named`]. What is visible of a Secret
//! (its version in statuses and inventories, the content hash of its entry in ledgers) is the output of a keyed
//! hash, or a hash over one: a short password cannot be found by trying them all.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::canonical_json;

/// Something that must not be seen: its `Debug` says only that it is there.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Redacted<T>(pub T);

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// A Secret's data. Its key carries the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct SecretEntry {
    /// Values in standard base64.
    pub data: BTreeMap<String, Redacted<String>>,
}

/// What versions of Secrets are hashed with: the same in all hubs of a cluster, over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionKey(Redacted<[u8; 32]>);

/// A Secret as agents get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its version, 32 characters.
    pub version: String,
    /// The body of its entry: a [`SecretEntry`], and a salt that agents have no use for.
    pub body: Redacted<Value>,
}

impl VersionKey {
    /// Length in bytes.
    pub const LENGTH: usize = 32;

    /// A key of 32 random bytes; none when there are more or fewer.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|key| Self(Redacted(key)))
    }

    /// Names the `data` (a JSON object of base64 texts, or null) of a Secret.
    ///
    /// One half of the keyed hash is the version. The other goes into the body as a salt, so that the content hash
    /// over the body can be guessed no better than the version.
    #[must_use]
    pub fn name(&self, namespace: &str, name: &str, data: Value) -> Named {
        let data = if data.is_null() { json!({}) } else { data };
        let source = json!({"namespace": namespace, "name": name, "data": &data});
        let hash = blake3::keyed_hash(&self.0.0, &canonical_json(&source)).to_hex();
        let (version, salt) = hash.split_at(32);
        Named { version: version.into(), body: Redacted(json!({"data": data, "salt": salt})) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{SecretEntry, VersionKey};
    use crate::ContentHash;

    #[test]
    fn a_version_names_the_data_of_one_secret_under_one_key() {
        let key = |byte| VersionKey::new(&[byte; 32]).unwrap();
        let data = |pin: &str| json!({"pin": pin});
        let named = key(1).name("shop", "till", data("MTIzNA=="));
        assert_eq!(named, key(1).name("shop", "till", data("MTIzNA==")), "all replicas, over restarts");
        assert_eq!(named.version.len(), 32);
        for other in [
            key(1).name("shop", "till", data("MTIzNQ==")),
            key(1).name("shop", "oven", data("MTIzNA==")),
            key(1).name("office", "till", data("MTIzNA==")),
            key(2).name("shop", "till", data("MTIzNA==")),
        ] {
            assert_ne!(named.version, other.version);
            // Who guesses the data cannot check the guess against the content hash either.
            assert_ne!(ContentHash::of(&named.body.0), ContentHash::of(&other.body.0));
        }
        let salt = named.body.0["salt"].as_str().unwrap();
        assert!(salt.len() == 32 && salt != named.version);
        assert!(VersionKey::new(&[1; 31]).is_none());
    }

    #[test]
    fn what_is_read_of_it_is_never_shown() {
        let named = VersionKey::new(&[1; 32]).unwrap().name("shop", "till", json!({"pin": "aHVudGVyMg=="}));
        let entry: SecretEntry = serde_json::from_value(named.body.0.clone()).unwrap();
        assert_eq!(entry.data["pin"].0, "aHVudGVyMg==");
        let shown = format!("{entry:?} {named:?} {:?}", VersionKey::new(&[7; 32]));
        assert!(!shown.contains("aHVudGVyMg") && !shown.contains("7, 7"), "{shown}");
        let empty = VersionKey::new(&[1; 32]).unwrap().name("shop", "till", json!(null));
        assert_eq!(serde_json::from_value::<SecretEntry>(empty.body.0).unwrap(), SecretEntry::default());
    }
}
