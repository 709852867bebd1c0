use std::time::{Duration, Instant};

use selvedge_model::crds::CRDS;
use selvedge_model::{EntryKey, EntryKind};

use super::{Crd, CrdState, Gate as _, Removal, Removals};

fn app() -> EntryKey {
    EntryKey::new(EntryKind::Workload, "shop", "web")
}

fn stands(uid: &str) -> CrdState {
    CrdState::Stands { uid: uid.into() }
}

/// The one moment of these tests; others are counted from it.
#[allow(clippy::disallowed_methods, reason = "tests need some moment to count from")]
fn start() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[test]
fn a_deletion_waits_for_a_read_of_the_crd_after_it() {
    let (removals, now) = (Removals::default(), start());
    removals.read(Crd::EdgeApplications, stands("a"), now - Duration::from_secs(1));
    removals.deleted(Crd::EdgeApplications, "u1".into(), now);
    assert_eq!(removals.ask(&app(), "u1", false, now), Removal::Held("CheckingCrd"));
    assert_eq!(removals.take_wanted(), [Crd::EdgeApplications]);
    removals.read(Crd::EdgeApplications, stands("a"), now);
    assert_eq!(removals.ask(&app(), "u1", false, now), Removal::Allowed);
}

#[test]
fn a_deleted_crd_removes_nothing_and_a_re_created_one_only_what_was_deleted_under_it() {
    let (removals, now) = (Removals::default(), start());
    removals.read(Crd::EdgeApplications, stands("a"), now);
    removals.deleted(Crd::EdgeApplications, "old".into(), now);
    removals.read(Crd::EdgeApplications, CrdState::Going, now);
    assert_eq!(removals.ask(&app(), "old", false, now), Removal::Held("CrdDeleted"));
    removals.read(Crd::EdgeApplications, stands("b"), now);
    assert_eq!(removals.ask(&app(), "old", false, now), Removal::Held("CrdDeleted"));
    removals.deleted(Crd::EdgeApplications, "new".into(), now);
    assert_eq!(removals.ask(&app(), "new", false, now), Removal::Allowed);
    removals.release(EntryKind::Workload);
    assert_eq!(removals.ask(&app(), "old", false, now), Removal::Allowed);
}

#[test]
fn a_hub_that_starts_after_a_crd_was_created_anew_knows_the_old_one() {
    let now = start();
    let device = EntryKey::new(EntryKind::Device, "shop", "boiler");
    // In which order the two are read is chance.
    for recorded_first in [true, false] {
        let removals = Removals::default();
        if recorded_first {
            removals.learned_under(Crd::EdgeApplications, "a");
            removals.learned_under(Crd::Devices, "d");
        }
        removals.read(Crd::EdgeApplications, stands("b"), now);
        removals.read(Crd::Devices, stands("d"), now);
        removals.learned_under(Crd::EdgeApplications, "a");
        removals.learned_under(Crd::Devices, "d");
        assert_eq!(removals.ask(&app(), "old", false, now), Removal::Held("CrdDeleted"));
        assert_eq!(
            removals.ask(&app(), "old", true, now),
            Removal::Allowed,
            "it is there, and selects no more"
        );
        assert_eq!(removals.ask(&device, "gone", false, now), Removal::Allowed, "its CRD is the same");
        removals.deleted(Crd::EdgeApplications, "new".into(), now);
        assert_eq!(removals.ask(&app(), "new", false, now), Removal::Allowed);
        // It is said again every few seconds.
        removals.learned_under(Crd::EdgeApplications, "a");
        assert_eq!(removals.ask(&app(), "old", false, now), Removal::Held("CrdDeleted"));
        // Released, before this hub could see it.
        removals.learned_under(Crd::EdgeApplications, "b");
        assert_eq!(removals.ask(&app(), "old", false, now), Removal::Allowed);
    }
}

#[test]
fn a_release_is_not_undone_by_the_record_that_follows_it() {
    let (removals, now) = (Removals::default(), start());
    removals.learned_under(Crd::EdgeApplications, "a");
    removals.read(Crd::EdgeApplications, stands("b"), now);
    removals.release(EntryKind::Workload);
    removals.learned_under(Crd::EdgeApplications, "a");
    assert_eq!(removals.ask(&app(), "old", false, now), Removal::Allowed, "the record is a little late");
    removals.learned_under(Crd::EdgeApplications, "b");
    removals.read(Crd::EdgeApplications, stands("c"), now);
    assert_eq!(removals.ask(&app(), "old", false, now), Removal::Held("CrdDeleted"), "and again");
}

#[test]
fn the_record_names_crds_as_the_hub_does() {
    for kind in EntryKind::ALL {
        let recorded = CRDS.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name);
        assert_eq!(Crd::of(kind).map(Crd::name), recorded);
    }
}

#[test]
fn many_removals_without_a_deletion_wait_for_a_release() {
    let (removals, now) = (Removals::default(), start());
    removals.read(Crd::EdgeApplications, stands("a"), now);
    removals.hold(EntryKind::Workload, 0, 1000);
    let allowed = (0..1000).filter(|_| removals.ask(&app(), "u", true, now) == Removal::Allowed).count();
    assert_eq!(allowed, 200);
    assert_eq!(removals.tripped(), [EntryKind::Workload]);
    removals.release(EntryKind::Workload);
    assert_eq!(removals.ask(&app(), "u", true, now), Removal::Allowed);
}

#[test]
fn one_event_that_empties_many_nodes_removes_from_none() {
    let (removals, now) = (Removals::default(), start());
    removals.read(Crd::EdgeApplications, stands("a"), now);
    removals.hold(EntryKind::Workload, 0, 1000);
    removals.announce(EntryKind::Workload, 900, now);
    assert_eq!(removals.ask(&app(), "u", true, now), Removal::Held("RemovalsHeld"));
}
