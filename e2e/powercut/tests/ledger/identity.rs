//! Key and identity: a node that has joined has joined, whenever the power goes. Losing either would need
//! a person with a new join command.

use rand::{SeedableRng as _, rngs::StdRng};
use selvedge_agent::identity::{Identity, IdentityError, key, next_key};
use selvedge_powercut::{Loss, Mounted};

/// More changes than keeping one file takes.
const CHANGES: u64 = 12;

fn identity(hub: &str) -> Identity {
    Identity {
        cluster: "c".into(),
        node: "shop-1".into(),
        node_uid: "u".into(),
        hub: vec![hub.into()],
        certificate_chain: "chain".repeat(400),
        ca_bundle: "ca".repeat(400),
        joined_with: "ab".into(),
        not_before: 0,
        not_after: 0,
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn an_identity_is_the_old_one_or_the_new_one_and_a_key_that_was_used_stays() {
    let disk = Mounted::new().expect("a disk can be mounted: this test needs root and /dev/fuse");
    let mut random = StdRng::seed_from_u64(7);
    let (old, new) = (identity("https://old"), identity("https://new"));
    for loss in [Loss::Everything, Loss::Pages, Loss::Sectors, Loss::Nothing] {
        for changes in 1..=CHANGES {
            disk.format();
            old.store(disk.path()).unwrap();
            disk.change(|disk| disk.cut_after(changes));
            let stored = new.store(disk.path());
            disk.change(|disk| disk.restore(loss, &mut random));
            let there = Identity::load(disk.path()).expect("one of them is whole");
            assert!(there == new || (there == old && stored.is_err()), "{loss:?} after {changes}: {there:?}");

            disk.format();
            disk.change(|disk| disk.cut_after(changes));
            let made = key(disk.path());
            disk.change(|disk| disk.restore(loss, &mut random));
            let again = key(disk.path()).expect("no key, or a whole one");
            if let Ok(made) = made {
                assert_eq!(made.serialize_pem(), again.serialize_pem(), "{loss:?} after {changes}");
            }
            assert!(matches!(Identity::load(disk.path()), Err(IdentityError::NotJoined(_))));
        }
    }
}

/// Or the node would show a certificate whose key it does not have.
#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_renewal_takes_key_and_identity_together() {
    let disk = Mounted::new().expect("a disk can be mounted: this test needs root and /dev/fuse");
    let mut random = StdRng::seed_from_u64(7);
    let (old, new) = (identity("https://old"), identity("https://new"));
    let key_there = || key(disk.path()).expect("a whole key").serialize_pem();
    for loss in [Loss::Everything, Loss::Pages, Loss::Sectors, Loss::Nothing] {
        for changes in 1..=2 * CHANGES {
            disk.format();
            old.store(disk.path()).unwrap();
            let (before, next) = (key_there(), next_key(disk.path()).unwrap().serialize_pem());
            disk.change(|disk| disk.cut_after(changes));
            let replaced = new.replace(disk.path());
            disk.change(|disk| disk.restore(loss, &mut random));
            let there = Identity::load(disk.path()).expect("one of them is whole");
            let found = (there, key_there());
            let renewed = found == (new.clone(), next);
            let kept = found == (old.clone(), before) && replaced.is_err();
            assert!(renewed || kept, "{loss:?} after {changes}: {replaced:?}, {}", found.0.hub[0]);
        }
    }
}
