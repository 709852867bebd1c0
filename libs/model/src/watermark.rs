//! How new a set is: the highest revision per API resource that it is known to reflect (sync rule 7).

use std::collections::BTreeMap;

/// `(cluster id, epoch, revision per API resource)`. Revisions are compared as numbers and within one
/// resource only (KEP-5504). Resources of ConfigMaps and Secrets are per namespace:
/// `configmaps/<namespace>`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Watermark {
    /// Of the cluster that the set came from; empty: none yet.
    pub cluster_id: String,
    /// Raised by hand after a restore of the cluster.
    pub epoch: u64,
    /// API resource to revision.
    pub revisions: BTreeMap<String, u64>,
}

/// How one watermark stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatermarkOrder {
    /// At least as new in every resource.
    NotBehind,
    /// Older in some resource, or of an older epoch.
    Behind,
    /// Of another cluster: nothing can be said.
    OtherCluster,
}

/// Under this name a watermark bears a mark of the cluster's history: see [`crate::History`].
pub const HISTORY: &str = "history";

impl Watermark {
    /// How `self` stands to `other`. A resource that `self` does not name counts as revision 0. A newer
    /// epoch is never behind.
    #[must_use]
    pub fn compare(&self, other: &Self) -> WatermarkOrder {
        if !other.cluster_id.is_empty() && self.cluster_id != other.cluster_id {
            return WatermarkOrder::OtherCluster;
        }
        if self.epoch != other.epoch {
            return if self.epoch > other.epoch { WatermarkOrder::NotBehind } else { WatermarkOrder::Behind };
        }
        let behind = other.revisions.iter().any(|(resource, revision)| self.revision(resource) < *revision);
        if behind { WatermarkOrder::Behind } else { WatermarkOrder::NotBehind }
    }

    /// `self` without what `known` says already.
    #[must_use]
    pub fn above(&self, known: &Self) -> Self {
        let news = self.revisions.iter().filter(|(resource, revision)| known.revision(resource) < **revision);
        let revisions = news.map(|(resource, revision)| (resource.clone(), *revision)).collect();
        Self { cluster_id: self.cluster_id.clone(), epoch: self.epoch, revisions }
    }

    /// The revision of one resource; 0 when nothing is known of it.
    #[must_use]
    pub fn revision(&self, resource: &str) -> u64 {
        self.revisions.get(resource).copied().unwrap_or(0)
    }

    /// Raises one resource. Never lowers it.
    pub fn raise(&mut self, resource: &str, revision: u64) {
        match self.revisions.get_mut(resource) {
            Some(known) => *known = revision.max(*known),
            None => {
                self.revisions.insert(resource.to_owned(), revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Watermark, WatermarkOrder};

    fn mark(epoch: u64, revisions: &[(&str, u64)]) -> Watermark {
        let revisions = revisions.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        Watermark { cluster_id: "c".into(), epoch, revisions }
    }

    #[test]
    fn one_older_resource_is_enough_to_be_behind() {
        let ours = mark(0, &[("devices", 9), ("edgenodes", 3)]);
        assert_eq!(ours.compare(&mark(0, &[("devices", 9)])), WatermarkOrder::NotBehind);
        assert_eq!(ours.compare(&mark(0, &[("devices", 1), ("edgenodes", 4)])), WatermarkOrder::Behind);
        assert_eq!(ours.compare(&mark(0, &[("configmaps/x", 1)])), WatermarkOrder::Behind);
    }

    #[test]
    fn a_newer_epoch_is_never_behind() {
        assert_eq!(mark(1, &[]).compare(&mark(0, &[("devices", 9)])), WatermarkOrder::NotBehind);
        assert_eq!(mark(0, &[("devices", 9)]).compare(&mark(1, &[])), WatermarkOrder::Behind);
    }

    #[test]
    fn what_is_known_is_left_out() {
        let ours = mark(2, &[("devices", 9), ("edgenodes", 3), ("history", 7)]);
        assert_eq!(
            ours.above(&mark(2, &[("devices", 8), ("edgenodes", 3)])),
            mark(2, &[("devices", 9), ("history", 7)])
        );
    }

    #[test]
    fn raising_never_lowers() {
        let mut ours = mark(0, &[("devices", 9)]);
        ours.raise("devices", 4);
        assert_eq!(ours.revision("devices"), 9);
    }
}
