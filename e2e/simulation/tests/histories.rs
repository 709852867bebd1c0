//! Many histories, each from its seed. `SELVEDGE_SEED` replays one and prints it whole,
//! `SELVEDGE_HISTORIES` says how many. Seeds that once failed are kept in `seeds.txt`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::thread::available_parallelism;
use std::time::Instant;

use selvedge_simulation::run;

/// So many are tried when nobody says otherwise.
const HISTORIES: u64 = 500;
/// After so many that fail the others would only say the same.
const MOST_FAILED: usize = 5;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[allow(clippy::disallowed_methods, reason = "where virtual time begins; nothing is measured by it")]
fn base() -> Instant {
    Instant::now()
}

/// Histories share nothing: as many at once as there are processors.
fn judge(seeds: impl IntoIterator<Item = u64>, restores: bool) {
    let seeds = Mutex::new(seeds.into_iter().collect::<Vec<_>>().into_iter());
    let failed = Mutex::new(Vec::new());
    let work = || loop {
        let next = seeds.lock().unwrap().next();
        let Some(seed) = next.filter(|_| failed.lock().unwrap().len() < MOST_FAILED) else { return };
        let run = run(seed, base(), restores);
        if !run.violations.is_empty() {
            println!("{}", run.report(seed));
            failed.lock().unwrap().push(seed);
        }
    };
    let threads = available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds that failed, maybe among others: {failed:?}");
}

fn every_history(restores: bool) {
    let Some(seed) = number("SELVEDGE_SEED") else {
        return judge(0..number("SELVEDGE_HISTORIES").unwrap_or(HISTORIES), restores);
    };
    let run = run(seed, base(), restores);
    for (nth, (at, event)) in (1..).zip(&run.events) {
        println!("{nth} {at} {event:?}");
    }
    assert!(run.violations.is_empty(), "{}", run.report(seed));
}

#[test]
fn every_history_keeps_the_invariants() {
    every_history(false);
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    let seeds = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    judge(seeds.filter_map(|line| line.split_whitespace().next()?.parse().ok()), false);
}

/// What a restore takes away stays, and what it brings back goes nowhere, until somebody accepts it.
#[test]
fn every_history_with_restores_keeps_the_invariants() {
    every_history(true);
}

#[test]
fn a_seed_is_one_history() {
    for seed in [3, 14] {
        let (first, second) = (run(seed, base(), false), run(seed, base(), false));
        let differ = first.events.iter().zip(&second.events).position(|(a, b)| a != b);
        assert_eq!(differ, None, "seed {seed} differs from itself at this event");
        assert_eq!(first.events.len(), second.events.len());
    }
}
