//! The revision that each object was last seen at: how a list proves a restore that raised the revision of the
//! API server (sync rule 8).
//!
//! In: what lists and watches said of objects. Out: proof, when a list has an object at a lower revision than
//! it was seen at before. Within one history that cannot be: revisions of an object only rise, and one that is
//! created again has another uid.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::machine::{Revision, WentBack};

/// See the module. Uids are kept as hashes of 64 bits: 16 bytes an object, and two of a million objects share
/// one with a probability of 3 in 100 million.
#[derive(Debug, Default)]
pub struct Held {
    revisions: HashMap<u64, Revision>,
    hasher: RandomState,
}

impl Held {
    /// An object was seen at a revision.
    pub fn saw(&mut self, uid: &str, revision: Revision) {
        self.revisions.insert(self.hasher.hash_one(uid), revision);
    }

    /// An object was deleted.
    pub fn deleted(&mut self, uid: &str) {
        self.revisions.remove(&self.hasher.hash_one(uid));
    }

    /// These are all objects now, by uid. The first that went back proves a restore.
    pub fn listed<'a>(&mut self, objects: impl Iterator<Item = (&'a str, Revision)>) -> Option<WentBack> {
        let before = std::mem::take(&mut self.revisions);
        let mut proof = None;
        for (uid, now) in objects {
            let uid = self.hasher.hash_one(uid);
            if let Some(seen) = before.get(&uid).copied().filter(|seen| now < *seen) {
                proof.get_or_insert(WentBack { seen, now });
            }
            self.revisions.insert(uid, now);
        }
        proof
    }
}

#[cfg(test)]
mod tests {
    use super::{Held, WentBack};

    #[test]
    fn only_an_object_that_went_back_under_its_uid_is_proof() {
        let mut held = Held::default();
        assert_eq!(held.listed([("a", 5), ("b", 7)].into_iter()), None, "nothing was seen before");
        held.saw("a", 9);
        assert_eq!(held.listed([("a", 9), ("b", 7), ("c", 1)].into_iter()), None);
        held.deleted("c");
        assert_eq!(held.listed([("a", 9), ("b", 8), ("c", 1)].into_iter()), None);
        // Created again, it has another uid.
        assert_eq!(held.listed([("a2", 3), ("b", 8)].into_iter()), None);
        assert_eq!(held.listed([("b", 6)].into_iter()), Some(WentBack { seen: 8, now: 6 }));
        assert_eq!(held.listed([("b", 6)].into_iter()), None, "said once");
    }
}
