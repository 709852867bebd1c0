//! Bodies of Secrets at rest: sealed, with a key that lies outside of the database.
//!
//! In: a body and the key of its row. Out: what the disk gets, and the body back from it. ChaCha20-Poly1305 with a
//! random nonce for each write; the row's identity is authenticated, so that no body can be moved to another row.
//! Without the key the bodies are lost, and nothing else is: the hub sends them again.

use std::{fs, path::Path};

use bytes::Bytes;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use selvedge_model::{ContentHash, EntryKind};

use super::row::RowKey;
use crate::identity::write_secret;

/// Length of the key in bytes.
const KEY_LEN: usize = 32;
/// First byte of a sealed body. Another way to seal gets another one.
const FORMAT: u8 = 1;

/// Seals and opens bodies.
#[derive(Debug)]
pub struct Seal {
    key: LessSafeKey,
    random: SystemRandom,
}

/// A body cannot be sealed: the system has no randomness, or it is too large.
#[derive(Debug, thiserror::Error)]
#[error("a Secret cannot be encrypted")]
pub struct SealError;

impl From<ring::error::Unspecified> for SealError {
    fn from(_: ring::error::Unspecified) -> Self {
        Self
    }
}

impl Seal {
    /// Whether bodies of this row are sealed.
    pub fn covers(key: &RowKey) -> bool {
        key.known_kind() == Some(EntryKind::Secret)
    }

    /// A seal with the key of `path`, which is made when there is none or when it is damaged. A key that cannot be
    /// kept serves until the process ends: a disk that refuses must not keep the node from running.
    ///
    /// # Errors
    /// [`SealError`] when the system has no randomness.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let bytes = key(path, &random)?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes)?), random })
    }

    /// What the disk gets: format, nonce, ciphertext and tag.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, key: &RowKey, body: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce)?;
        let mut text = body.to_vec();
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), identity(key), &mut text)?;
        Ok([&[FORMAT], &nonce[..], &text].concat())
    }

    /// The body that was sealed for this row; none: by another key, for another row, or it is damaged.
    pub fn open(&self, key: &RowKey, sealed: &[u8]) -> Option<Bytes> {
        let (nonce, text) = sealed.strip_prefix(&[FORMAT])?.split_first_chunk()?;
        let mut text = text.to_vec();
        let length = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), identity(key), &mut text)
            .ok()?
            .len();
        text.truncate(length);
        Some(text.into())
    }
}

/// Names the row, as a digest does.
fn identity(key: &RowKey) -> Aad<[u8; 32]> {
    Aad::from(key.row_hash("", &ContentHash([0; 32])).0)
}

/// Where the key comes from, and the one place that changes when a TPM keeps it.
fn key(path: &Path, random: &SystemRandom) -> Result<[u8; KEY_LEN], SealError> {
    let found = fs::read(path);
    if let Some(key) = found.as_ref().ok().and_then(|bytes| bytes.as_slice().try_into().ok()) {
        return Ok(key);
    }
    if found.is_ok() {
        tracing::warn!(path = %path.display(), "the key of the ledger's Secrets is damaged; another one is made");
    }
    let mut key = [0; KEY_LEN];
    random.fill(&mut key)?;
    if let Err(error) = write_secret(path, &key) {
        tracing::warn!(path = %path.display(), %error, "the key of the ledger's Secrets cannot be kept; after the \
            next start they are fetched anew");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::Seal;
    use crate::ledger::RowKey;

    fn row(name: &str, version: &str) -> RowKey {
        RowKey { kind: 3, namespace: "shop".into(), name: name.into(), version: version.into() }
    }

    #[test]
    fn a_body_opens_for_its_own_row_and_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.key");
        let seal = Seal::load(&path).unwrap();
        let sealed = seal.seal(&row("till", "v1"), b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|bytes| bytes == b"hunter2"));
        assert_ne!(sealed, seal.seal(&row("till", "v1"), b"hunter2").unwrap(), "a nonce is used once");
        let again = Seal::load(&path).unwrap();
        assert_eq!(again.open(&row("till", "v1"), &sealed).unwrap(), "hunter2");
        assert_eq!(again.open(&row("till", "v2"), &sealed), None);
        assert_eq!(again.open(&row("oven", "v1"), &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(again.open(&row("till", "v1"), &sealed[..cut]), None);
            let mut flipped = sealed.clone();
            flipped[cut] ^= 1;
            assert_eq!(again.open(&row("till", "v1"), &flipped), None, "byte {cut}");
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_is_damaged_or_cannot_be_kept_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.key");
        let sealed = Seal::load(&path).unwrap().seal(&row("till", "v1"), b"x").unwrap();
        fs::write(&path, "short").unwrap();
        let other = Seal::load(&path).unwrap();
        assert_eq!(other.open(&row("till", "v1"), &sealed), None);
        let sealed = other.seal(&row("till", "v1"), b"y").unwrap();
        assert_eq!(Seal::load(&path).unwrap().open(&row("till", "v1"), &sealed).unwrap(), "y");
        let nowhere = Seal::load(&dir.path().join("none/ledger.key")).unwrap();
        let sealed = nowhere.seal(&row("till", "v1"), b"z").unwrap();
        assert_eq!(nowhere.open(&row("till", "v1"), &sealed).unwrap(), "z");
    }
}
