//! Under which CustomResourceDefinitions nodes have learned what they hold (sync rule 2).
//!
//! The EdgeNode controller's leader keeps this record in `data.crds` of the ConfigMap `selvedge-cluster`, and each
//! hub begins with it: one that starts after a CRD was created anew would else take the objects that went with the
//! old one for deleted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::EntryKind;

/// Kinds of entries whose source lives under a CRD of ours, with the name of that.
pub const CRDS: [(EntryKind, &str); 3] = [
    (EntryKind::NodeSettings, "edgenodes.selvedge.dev"),
    (EntryKind::Workload, "edgeapplications.selvedge.dev"),
    (EntryKind::Device, "devices.selvedge.dev"),
];

/// `data.crds`, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrdRecord {
    /// By name of the CRD: its uid, under which the nodes have learned.
    pub uids: BTreeMap<String, String>,
    /// `data.epoch` when the record was made; a higher one accepts the CRDs as they are.
    pub epoch: u64,
    /// `data.release` when the record was made; another one accepts the CRDs of the kinds that it names.
    pub release: String,
}

impl CrdRecord {
    /// The record from now on: `present` are the CRDs that stand, by name, with their uids. One that was created
    /// anew is taken over only when a person has released its kind since.
    #[must_use]
    pub fn settled(&self, epoch: u64, release: &str, present: &BTreeMap<String, String>) -> Self {
        let released: Vec<EntryKind> =
            if release == self.release { Vec::new() } else { released(release).collect() };
        let accepted = |name: &str| {
            let named = |(kind, crd): &(EntryKind, &str)| *crd == name && released.contains(kind);
            epoch > self.epoch || CRDS.iter().any(named)
        };
        let mut uids = self.uids.clone();
        for (name, uid) in present {
            if !uids.contains_key(name) || accepted(name) {
                uids.insert(name.clone(), uid.clone());
            }
        }
        Self { uids, epoch: epoch.max(self.epoch), release: release.to_owned() }
    }
}

/// The kinds that `data.release` names: `<kind>=<any text>`, separated by commas.
pub fn released(release: &str) -> impl Iterator<Item = EntryKind> {
    release.split(',').filter_map(|part| {
        let kind = part.split('=').next().unwrap_or_default().trim();
        EntryKind::ALL.into_iter().find(|known| known.name() == kind)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::CrdRecord;

    fn present(applications: &str, devices: &str) -> BTreeMap<String, String> {
        let named = [("edgeapplications.selvedge.dev", applications), ("devices.selvedge.dev", devices)];
        let there = named.into_iter().filter(|(_, uid)| !uid.is_empty());
        there.map(|(name, uid)| (name.to_owned(), uid.to_owned())).collect()
    }

    #[test]
    fn what_was_learned_first_stays_until_a_person_says_otherwise() {
        let first = CrdRecord::default().settled(0, "", &present("a", "d"));
        assert_eq!(first.uids, present("a", "d"));
        let gone = first.settled(0, "", &present("", "d"));
        assert_eq!(gone, first, "a CRD that is away is not forgotten");
        let anew = gone.settled(0, "", &present("b", "e"));
        assert_eq!(anew, first, "nor is one that was created anew taken over");
        let released = anew.settled(0, "Workload=1", &present("b", "e"));
        assert_eq!(released.uids, present("b", "d"), "one kind is released, the other is not");
        assert_eq!(released.settled(0, "Workload=1", &present("c", "e")).uids, present("b", "d"), "once");
        assert_eq!(
            released.settled(1, "Workload=1", &present("c", "e")).uids,
            present("c", "e"),
            "an epoch is all"
        );
    }

    #[test]
    fn a_release_of_before_releases_nothing_after() {
        let record = CrdRecord::default().settled(0, "", &present("a", "d"));
        let guard = record.settled(0, "Workload=1, Device=x", &present("a", "d"));
        assert_eq!(guard.settled(0, "Workload=1, Device=x", &present("b", "e")).uids, present("a", "d"));
        // It was said while there was nothing to release, too.
        let gone = record.settled(0, "Workload=2", &present("", "d"));
        assert_eq!(gone.settled(0, "Workload=2", &present("b", "d")).uids, present("a", "d"));
    }
}
