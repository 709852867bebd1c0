//! Who this node is: its key, its certificate, the CA that it trusts, and where its hubs are.
//!
//! In: what a join or a renewal answered. Out: the same, read anew at every dial, so that a renewed certificate is
//! used without a restart. Two files in the state directory, both 0600: `key.pem`, which is never sent anywhere,
//! and `identity.json`, replaced as one. A renewal makes `key.next.pem`, and when it has its certificate
//! `identity.next.json`: from then on the two take the others' places, whatever crashes in between.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use selvedge_protocol::join::JoinResponse;
use serde::{Deserialize, Serialize};

const KEY_FILE: &str = "key.pem";
const IDENTITY_FILE: &str = "identity.json";
/// The key that a renewal asks with: kept before it asks, so that after a crash the same key asks again.
const NEXT_KEY_FILE: &str = "key.next.pem";
/// Once it is there, it and the next key are the node's.
const NEXT_IDENTITY_FILE: &str = "identity.next.json";

/// Why an identity cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// This machine never joined.
    #[error(
        "{0} holds no identity: apply an EdgeNode, then run the join command that \
         `kubectl -n selvedge-join get secret <node>-join` shows"
    )]
    NotJoined(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The identity is not one.
    #[error("{path} is not an identity; join again with a new join command")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The key is not one, or none can be made.
    #[error("{path} is not a key that can be used; remove it and join again")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rcgen::Error,
    },
}

/// What a node knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Cluster id.
    pub cluster: String,
    /// Name of the EdgeNode.
    pub node: String,
    /// Uid of the EdgeNode.
    pub node_uid: String,
    /// Where hubs are dialled: `https://host:port`.
    pub hub: Vec<String>,
    /// Certificate of this node, then those between it and the CA, as PEM.
    pub certificate_chain: String,
    /// The CA certificates that a hub must chain to, as PEM.
    pub ca_bundle: String,
    /// Public half of the join key that it was made with, in hex: the same command again does nothing.
    pub joined_with: String,
    /// Begin of the certificate's validity, Unix seconds; 0: not known.
    #[serde(default)]
    pub not_before: u64,
    /// End of the certificate's validity, Unix seconds; 0: not known.
    #[serde(default)]
    pub not_after: u64,
}

impl Identity {
    /// Reads the identity of `state_dir`.
    ///
    /// # Errors
    /// [`IdentityError`]; `NotJoined` when there is none.
    pub fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        roll_forward(state_dir)?;
        let path = state_dir.join(IDENTITY_FILE);
        match fs::read(&path) {
            Ok(json) => {
                serde_json::from_slice(&json).map_err(|source| IdentityError::Malformed { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(IdentityError::NotJoined(state_dir.to_owned()))
            }
            Err(source) => Err(IdentityError::Read { path, source }),
        }
    }

    /// Keeps the identity, all of it or nothing.
    ///
    /// # Errors
    /// [`IdentityError::Write`].
    pub fn store(&self, state_dir: &Path) -> Result<(), IdentityError> {
        self.write(state_dir.join(IDENTITY_FILE))
    }

    /// Takes this identity and the [`next_key`] in the place of those before, both or neither.
    ///
    /// # Errors
    /// [`IdentityError::Write`].
    pub fn replace(&self, state_dir: &Path) -> Result<(), IdentityError> {
        self.write(state_dir.join(NEXT_IDENTITY_FILE))?;
        roll_forward(state_dir)
    }

    /// The same node with what a hub answered: to a join, or to a renewal.
    pub(crate) fn certified(self, response: JoinResponse) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            node_uid: response.node_uid,
            certificate_chain: text(response.certificate_chain_pem),
            ca_bundle: text(response.ca_bundle_pem),
            not_before: u64::try_from(response.not_before).unwrap_or(0),
            not_after: u64::try_from(response.not_after).unwrap_or(0),
            ..self
        }
    }

    fn write(&self, path: PathBuf) -> Result<(), IdentityError> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|source| IdentityError::Malformed { path: path.clone(), source })?;
        write_secret(&path, &json).map_err(|source| IdentityError::Write { path, source })
    }

    /// Forgets key and identity, in this order: as long as there is something to forget it is known whose.
    ///
    /// # Errors
    /// [`IdentityError::Write`].
    pub fn forget(state_dir: &Path) -> Result<(), IdentityError> {
        for file in [NEXT_IDENTITY_FILE, NEXT_KEY_FILE, KEY_FILE, IDENTITY_FILE] {
            let path = state_dir.join(file);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(IdentityError::Write { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The node's TLS key (P-256): made at the first call, the same until a renewal replaces it.
///
/// # Errors
/// [`IdentityError`] when it cannot be read or kept.
pub fn key(state_dir: &Path) -> Result<KeyPair, IdentityError> {
    key_of(state_dir, KEY_FILE)
}

/// The key for the next certificate: made at the first call, the same until it is the node's.
///
/// # Errors
/// [`IdentityError`] when it cannot be read or kept.
pub fn next_key(state_dir: &Path) -> Result<KeyPair, IdentityError> {
    key_of(state_dir, NEXT_KEY_FILE)
}

/// Finishes what [`Identity::replace`] began. The key goes first: as long as the next identity has its name, there
/// is something to finish.
fn roll_forward(state_dir: &Path) -> Result<(), IdentityError> {
    let next = state_dir.join(NEXT_IDENTITY_FILE);
    if !next.exists() {
        return Ok(());
    }
    for (from, to) in [(NEXT_KEY_FILE, KEY_FILE), (NEXT_IDENTITY_FILE, IDENTITY_FILE)] {
        let (from, path) = (state_dir.join(from), state_dir.join(to));
        match fs::rename(&from, &path).and_then(|()| sync_directory(&path)) {
            // Gone already, before a crash.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(IdentityError::Write { path, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn key_of(state_dir: &Path, file: &str) -> Result<KeyPair, IdentityError> {
    let path = state_dir.join(file);
    match fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|source| IdentityError::Key { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                .map_err(|source| IdentityError::Key { path: path.clone(), source })?;
            let write = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(state_dir)
                .and_then(|()| write_secret(&path, key.serialize_pem().as_bytes()));
            write.map_err(|source| IdentityError::Write { path, source })?;
            Ok(key)
        }
        Err(source) => Err(IdentityError::Read { path, source }),
    }
}

/// Replaces a file as one, readable by its owner alone, on disk when this returns.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("new");
    // A left-over of a crash could have other rights.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{Identity, IdentityError, key, next_key};

    #[test]
    fn the_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = key(dir.path()).unwrap();
        assert_eq!(key(dir.path()).unwrap().serialize_pem(), first.serialize_pem());
        let mode = std::fs::metadata(dir.path().join("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    fn identity() -> Identity {
        Identity {
            cluster: "c".into(),
            node: "shop-1".into(),
            node_uid: "u".into(),
            hub: vec!["https://hub:8443".into()],
            certificate_chain: "chain".into(),
            ca_bundle: "ca".into(),
            joined_with: "ab".into(),
            not_before: 1,
            not_after: 2,
        }
    }

    #[test]
    fn a_renewal_takes_key_and_identity_together_also_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let (old, next) = (identity(), Identity { not_after: 9, ..identity() });
        let before = key(dir.path()).unwrap().serialize_pem();
        old.store(dir.path()).unwrap();
        let pem = next_key(dir.path()).unwrap().serialize_pem();
        assert_eq!(next_key(dir.path()).unwrap().serialize_pem(), pem, "the same key asks again");
        assert_eq!(Identity::load(dir.path()).unwrap(), old);
        assert_eq!(key(dir.path()).unwrap().serialize_pem(), before);
        // The crash comes after the next identity was kept, or after the key was.
        for key_went in [false, true] {
            old.store(dir.path()).unwrap();
            std::fs::write(dir.path().join("key.next.pem"), &pem).unwrap();
            next.write(dir.path().join("identity.next.json")).unwrap();
            if key_went {
                std::fs::rename(dir.path().join("key.next.pem"), dir.path().join("key.pem")).unwrap();
            }
            assert_eq!(Identity::load(dir.path()).unwrap(), next);
            assert_eq!(key(dir.path()).unwrap().serialize_pem(), pem);
        }
        assert_ne!(next_key(dir.path()).unwrap().serialize_pem(), pem, "the one after it is another");
    }

    #[test]
    fn an_identity_is_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::NotJoined(_))));
        let identity = identity();
        identity.store(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), identity);
        Identity::forget(dir.path()).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::NotJoined(_))));
    }
}
