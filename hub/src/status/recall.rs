//! Objects as they were last seen by status writes, so that the next write of one need not read it again.
//!
//! In: what was read and written. Out: it, for a while, and within one history of the cluster: after a restore the
//! objects are others, whatever their revisions. Bounded for the whole replica: what is not here is read, so an object
//! at rest costs nothing, however many there are.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Known, Target};
use crate::index::Term;

/// Bytes of one of two generations: a device's status is about 1 KB, so that what 400 writes a second touch stays
/// for ten seconds.
const GENERATION: usize = 4 << 20;
/// What an object costs beside its bytes and names.
const OVERHEAD: usize = 160;

/// See the module. When the younger generation is full, the older one is forgotten.
#[derive(Debug, Default)]
pub struct Recall(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    /// In which history all of it was seen.
    term: Term,
    young: HashMap<Target, Known>,
    young_bytes: usize,
    old: HashMap<Target, Known>,
    old_bytes: usize,
}

impl Recall {
    /// Keeps an object as it is now, in this history.
    pub fn keep(&self, target: &Target, known: &Known, term: Term) {
        let mut kept = self.lock();
        kept.enter(term);
        let size = |known: &Known| known.bytes() + target.name().len() + OVERHEAD;
        kept.young_bytes += size(known);
        if let Some(older) = kept.young.insert(target.clone(), known.clone()) {
            kept.young_bytes -= size(&older);
        }
        if kept.young_bytes > GENERATION {
            kept.old = std::mem::take(&mut kept.young);
            kept.old_bytes = std::mem::take(&mut kept.young_bytes);
        }
    }

    /// An object as it was last seen, unless that is too long ago or it has been at `revision` since.
    #[must_use]
    pub fn find(&self, target: &Target, revision: Option<u64>, term: Term) -> Option<Known> {
        let mut kept = self.lock();
        kept.enter(term);
        let known = kept.young.get(target).or_else(|| kept.old.get(target))?;
        revision.is_none_or(|revision| revision <= known.revision()).then(|| known.clone())
    }

    /// About how many bytes are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let kept = self.lock();
        kept.young_bytes + kept.old_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn enter(&mut self, term: Term) {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{GENERATION, Recall};
    use crate::index::{ObjectKey, Term};
    use crate::status::{Known, Target};

    const NOW: Term = Term { restores: 0, epoch: 0 };

    fn device(number: usize) -> Target {
        Target::Device(ObjectKey::new("shop", &format!("tank-{number}")))
    }

    fn known(revision: u64) -> Known {
        Known::of(
            &json!({"metadata": {"resourceVersion": revision.to_string()}, "status": {"summary": "x".repeat(900)}}),
        )
    }

    #[test]
    fn what_was_seen_last_is_kept_and_the_rest_stays_within_its_bound() {
        let recall = Recall::default();
        for number in 0..20_000 {
            recall.keep(&device(number), &known(5), NOW);
            assert!(recall.bytes() <= 2 * GENERATION + 2_000, "{} bytes", recall.bytes());
        }
        assert!(
            recall.find(&device(19_999), None, NOW).is_some() && recall.find(&device(0), None, NOW).is_none()
        );
    }

    #[test]
    fn what_somebody_else_has_written_since_is_not_known() {
        let recall = Recall::default();
        recall.keep(&device(1), &known(5), NOW);
        assert!(
            recall.find(&device(1), Some(5), NOW).is_some()
                && recall.find(&device(1), Some(6), NOW).is_none()
        );
        let bytes = recall.bytes();
        recall.keep(&device(1), &known(7), NOW);
        assert!(recall.find(&device(1), Some(6), NOW).is_some());
        assert_eq!(recall.bytes(), bytes, "an object was counted twice");
    }

    #[test]
    fn what_was_seen_before_a_restore_is_not_known_after_it() {
        let recall = Recall::default();
        for after in [Term { restores: 1, ..NOW }, Term { restores: 1, epoch: 1 }] {
            recall.keep(&device(1), &known(75), Term { restores: after.restores, epoch: 0 });
            recall.keep(&device(1), &known(75), NOW);
            assert!(recall.find(&device(1), Some(70), after).is_none(), "{after:?}");
            assert_eq!(recall.bytes(), 0);
        }
    }
}
