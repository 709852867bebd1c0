//! Content hash, row hash and set digest (sync rule 4).

use std::fmt;

use serde_json::Value;

use crate::{EntryKey, canonical_json};

/// BLAKE3 over the canonical JSON of a resolved entry: names its meaning, not its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of an entry's meaning.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        Self::of_canonical(&canonical_json(value))
    }

    /// The hash of bytes that are canonical JSON already.
    #[must_use]
    pub fn of_canonical(canonical: &[u8]) -> Self {
        Self(*blake3::hash(canonical).as_bytes())
    }

    /// The first half in hex, as a version of a ConfigMap or a label value: 128 bits never collide by
    /// accident, and 32 characters fit where a label's 63 are the limit.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..16])
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// BLAKE3(key ‖ uid ‖ content hash): what one entry adds to a [`Digest`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RowHash(pub [u8; 32]);

impl RowHash {
    /// The term of one entry. Each string is preceded by its length, so that no two keys read alike.
    #[must_use]
    pub fn of(key: &EntryKey, uid: &str, content: &ContentHash) -> Self {
        Self::of_parts(key.kind.number(), [&key.namespace, &key.name, &key.version], uid, content)
    }

    /// The same term from the number of a kind that this build may not know and `[namespace, name,
    /// version]`: an agent answers for such entries too, by refusing them.
    #[must_use]
    pub fn of_parts(kind: u8, parts: [&str; 3], uid: &str, content: &ContentHash) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind]);
        for part in parts.into_iter().chain([uid]) {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&content.0);
        Self(*hasher.finalize().as_bytes())
    }

    /// Which of the 256 buckets of an inventory this row falls into.
    ///
    /// By key alone (not by row hash), so that a changed row differs in one bucket and not in two.
    #[must_use]
    pub fn bucket(key: &EntryKey) -> u8 {
        Self::of(key, "", &ContentHash([0; 32])).0[0]
    }
}

/// Sum modulo 2^256 of row hashes: free of order, and kept up to date by adding and subtracting.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The digest of an empty set.
    pub const EMPTY: Self = Self([0; 4]);

    /// Reads 32 bytes, little-endian.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, chunk) in limbs.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            *limb = u64::from_le_bytes(word);
        }
        Self(limbs)
    }

    /// 32 bytes, little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }

    /// The digest with one row more.
    #[must_use]
    pub fn plus(self, row: RowHash) -> Self {
        let mut carry = false;
        let other = Self::from_bytes(row.0);
        Self(std::array::from_fn(|i| {
            let (sum, first) = self.0[i].overflowing_add(other.0[i]);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first || second;
            sum
        }))
    }

    /// The digest with one row less.
    #[must_use]
    pub fn minus(self, row: RowHash) -> Self {
        let mut borrow = false;
        let other = Self::from_bytes(row.0);
        Self(std::array::from_fn(|i| {
            let (rest, first) = self.0[i].overflowing_sub(other.0[i]);
            let (rest, second) = rest.overflowing_sub(u64::from(borrow));
            borrow = first || second;
            rest
        }))
    }
}

impl FromIterator<RowHash> for Digest {
    fn from_iter<I: IntoIterator<Item = RowHash>>(rows: I) -> Self {
        rows.into_iter().fold(Self::EMPTY, Self::plus)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.to_bytes()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.to_bytes()[..8]))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ContentHash, Digest, RowHash};
    use crate::{EntryKey, EntryKind};

    #[test]
    fn a_key_cannot_be_read_as_another() {
        let hash = ContentHash([1; 32]);
        let one = RowHash::of(&EntryKey::new(EntryKind::Device, "ab", "c"), "", &hash);
        let other = RowHash::of(&EntryKey::new(EntryKind::Device, "a", "bc"), "", &hash);
        assert_ne!(one, other);
    }

    proptest! {
        #[test]
        fn the_digest_forgets_order_and_what_was_removed(rows in proptest::collection::vec(any::<[u8; 32]>(), 0..20)) {
            let digest: Digest = rows.iter().copied().map(RowHash).collect();
            let backwards: Digest = rows.iter().rev().copied().map(RowHash).collect();
            prop_assert_eq!(digest, backwards);
            prop_assert_eq!(Digest::from_bytes(digest.to_bytes()), digest);
            let empty = rows.iter().copied().map(RowHash).fold(digest, Digest::minus);
            prop_assert_eq!(empty, Digest::EMPTY);
        }
    }
}
