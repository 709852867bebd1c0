//! Rollouts without per-node objects: positions, intervals and admitted nodes (architecture: rollouts).
//!
//! Each node has a position in an application's rollout. `status.rollout` maps positions to revisions; a
//! new template is an interval that grows from 0 over the older ones.

use serde::{Deserialize, Serialize};

/// Positions go from 0 to this, exclusive: 2^32 tells 100,000 nodes apart and is exact in JSON.
pub const POSITIONS: u64 = 1 << 32;
/// Most intervals that a rollout may hold.
pub const MAX_INTERVALS: usize = 8;
/// Most nodes that a rollout may name as admitted at once.
pub const MAX_ADMITTED: usize = 64;

/// `status.rollout` of an EdgeApplication; at most 4 KB as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// Which positions run which revision: in order, without gaps, from 0 to 2^32. At most 8.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_INTERVALS)))]
    pub intervals: Vec<Interval>,
    /// Uids of EdgeNodes that were late and may go to the revision of their position now. At most 64.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_ADMITTED), inner(length(max = 36))))]
    pub admitted: Vec<String>,
}

/// Nodes with positions in `[from, to)` run `revision`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interval {
    /// First position, 0 to 2^32.
    pub from: u64,
    /// First position after it.
    pub to: u64,
    /// Name of a ControllerRevision in the namespace.
    #[cfg_attr(feature = "schema", schemars(length(max = 253)))]
    pub revision: String,
}

impl Rollout {
    /// A rollout that gives every node one revision.
    #[must_use]
    pub fn all(revision: impl Into<String>) -> Self {
        Self {
            intervals: vec![Interval { from: 0, to: POSITIONS, revision: revision.into() }],
            admitted: Vec::new(),
        }
    }

    /// The revision of the interval that `position` lies in. `None` when the intervals leave it out,
    /// which only a rollout that is lost or damaged does: such a node is held.
    #[must_use]
    pub fn revision_at(&self, position: u64) -> Option<&str> {
        self.intervals
            .iter()
            .find(|interval| (interval.from..interval.to).contains(&position))
            .map(|interval| interval.revision.as_str())
    }

    /// Whether a late node may go on.
    #[must_use]
    pub fn admits(&self, node_uid: &str) -> bool {
        self.admitted.iter().any(|uid| uid == node_uid)
    }

    /// Every revision that it names.
    pub fn revisions(&self) -> impl Iterator<Item = &str> {
        self.intervals.iter().map(|interval| interval.revision.as_str())
    }
}

/// The position of a node in the rollout of an application: the first 32 bits of BLAKE3 over both uids.
#[must_use]
pub fn position(application_uid: &str, node_uid: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(application_uid.as_bytes());
    hasher.update(b"\0");
    hasher.update(node_uid.as_bytes());
    let hash = hasher.finalize();
    hash.as_bytes()[..4].iter().fold(0, |position, byte| position << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::{POSITIONS, Rollout, position};

    #[test]
    fn positions_are_stable_and_spread() {
        assert_eq!(position("app", "node"), position("app", "node"));
        let low = (0..1000).filter(|n| position("app", &n.to_string()) < POSITIONS / 2).count();
        assert!((400..600).contains(&low), "{low} of 1000 in the lower half");
    }

    #[test]
    fn a_gap_has_no_revision() {
        let mut rollout = Rollout::all("a");
        rollout.intervals[0].from = 10;
        assert_eq!(rollout.revision_at(9), None);
        assert_eq!(rollout.revision_at(POSITIONS - 1), Some("a"));
    }
}
