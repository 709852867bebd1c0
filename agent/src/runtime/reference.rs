//! What a workload names, whatever the kind: bytes for files, texts for variables.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use selvedge_model::{ConfigMapEntry, EntryKey, ReferenceKind, SecretEntry};

use super::{DesiredWorkload, desired::Blocked};

/// The data of an object that a workload names. No message about it quotes a value.
#[derive(Clone, Debug)]
pub enum Referenced {
    /// A ConfigMap's.
    ConfigMap(Arc<ConfigMapEntry>),
    /// A Secret's.
    Secret(Arc<SecretEntry>),
}

impl Referenced {
    /// All keys.
    pub(super) fn keys(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match self {
            Self::ConfigMap(map) => Box::new(map.data.keys().chain(map.binary_data.keys())),
            Self::Secret(secret) => Box::new(secret.data.keys()),
        }
    }

    /// The bytes of a key; none: it is not there.
    ///
    /// # Errors
    /// For people, when they cannot be decoded.
    pub(super) fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let encoded = match self {
            Self::ConfigMap(map) => match map.data.get(key) {
                Some(text) => return Ok(Some(text.clone().into_bytes())),
                None => map.binary_data.get(key),
            },
            Self::Secret(secret) => secret.data.get(key).map(|value| &value.0),
        };
        let decoded = encoded.map(|encoded| STANDARD.decode(encoded)).transpose();
        decoded.map_err(|_| format!("key {key:?} is not base64"))
    }

    /// The value of a key as a variable; none: it is not there. As kubelet has it, `binaryData` of a ConfigMap makes
    /// no variables.
    ///
    /// # Errors
    /// For people, when it is no text.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, String> {
        match self {
            Self::ConfigMap(map) => Ok(map.data.get(key).cloned()),
            Self::Secret(_) => {
                let text = self.bytes(key)?.map(String::from_utf8).transpose();
                text.map_err(|_| format!("key {key:?} is not UTF-8: mount it as a file"))
            }
        }
    }

    /// Every key that can be a variable, with its value: what is no text, or no name, is left out.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&String, String)> {
        let named = self.keys().filter(|key| !key.is_empty() && !key.contains('='));
        named.filter_map(|key| Some((key, self.text(key).ok().flatten()?)))
    }
}

/// What a workload names and has here.
pub(super) struct References<'a>(pub(super) &'a DesiredWorkload);

impl References<'_> {
    /// The object that the workload's references mean by `name`; none: it may be missing, and is.
    ///
    /// # Errors
    /// [`Blocked::Waiting`] when it must be there and is not.
    pub(super) fn find(
        &self,
        kind: ReferenceKind,
        name: &str,
        optional: bool,
    ) -> Result<Option<&Referenced>, Blocked> {
        let (of, namespace) = (kind.name(), &self.0.namespace);
        let reference = self.0.entry.references.iter().find(|r| r.kind == of && r.name == name);
        match reference.filter(|reference| !reference.version.is_empty()) {
            None if optional => Ok(None),
            None => Err(Blocked::Waiting(format!("{of} {namespace}/{name} does not exist"))),
            Some(reference) => {
                let version = reference.version.clone();
                let key = EntryKey { version, ..EntryKey::new(kind.entry(), namespace, name) };
                self.0.references.get(&key).map(Some).ok_or_else(|| {
                    Blocked::Waiting(format!("{of} {namespace}/{name} has not arrived at this node"))
                })
            }
        }
    }

    /// As [`Self::find`], once it is known that nothing is missing that must be there.
    pub(super) fn get(&self, kind: ReferenceKind, name: &str) -> Option<&Referenced> {
        self.find(kind, name, true).ok().flatten()
    }
}
