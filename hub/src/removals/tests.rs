use std::time::{Duration, Instant};

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
