//! The agent's ledger, as shipped, on a disk whose power is cut at a random moment, over and over: nothing
//! that it acknowledged is ever lost, and it never takes an honest disk for a damaged one.
//!
//! Needs root and `/dev/fuse`:
//! `cargo test --package selvedge-powercut -- --ignored`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hub;
mod identity;
mod story;
mod thread;

use selvedge_powercut::Mounted;

use story::{Opener, Tally, run};

/// Histories of one ledger each, of several lives, each ended by a cut.
const SEEDS: u64 = 60;
/// With fewer syncs almost every history fails; this many show it.
const UNSAFE_SEEDS: u64 = 8;

#[test]
#[ignore = "needs root and /dev/fuse"]
fn nothing_acknowledged_is_lost_and_an_honest_disk_is_never_called_damaged() {
    let disk = Mounted::new().expect("a disk can be mounted: this test needs root and /dev/fuse");
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        if let Err(failure) = run(&disk, seed, Opener::Shipped, &mut tally) {
            panic!("seed {seed}: {failure}");
        }
    }
    println!("{tally:?}");
    // Otherwise the test cuts where nothing is at stake.
    assert!(tally.in_log > SEEDS && tally.in_database > 0 && tally.while_opening > 0, "{tally:?}");
    assert!(tally.came_through > 0 && tally.undone > 0, "{tally:?}");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn the_same_story_fails_when_sqlite_syncs_less() {
    let disk = Mounted::new().expect("a disk can be mounted: this test needs root and /dev/fuse");
    // OFF syncs nothing; NORMAL syncs when the log is folded into the database, not at every commit.
    for mode in ["OFF", "NORMAL"] {
        let mut tally = Tally::default();
        let failures: Vec<String> = (0..UNSAFE_SEEDS)
            .filter_map(|seed| run(&disk, seed, Opener::Synchronous(mode), &mut tally).err())
            .collect();
        let first = failures.first().map_or("", |failure| failure.lines().next().unwrap_or_default());
        println!("synchronous={mode}: {} of {UNSAFE_SEEDS} histories failed: {first}", failures.len());
        assert!(
            failures.len() as u64 > UNSAFE_SEEDS / 2,
            "synchronous={mode}: the story would not notice a lost commit: {failures:?}"
        );
    }
}
