//! A fleet of simulated agents on the whole real cluster, in one long life: what dies comes back, what people
//! do by accident empties no node, and the checker of the simulation looks on from the first to the last step.
//!
//! ```text
//!  steps ─► world (kubectl, signals, netfilter, etcd's data)
//!    └────► load  (selvedge-load, steered: changes, rest, verdict) ─► hub in two pods
//! ```
//!
//! How many agents: `SELVEDGE_FLEET`, 2,000 by default. A step that fails prints what explains it; the ones
//! after it still run. `SELVEDGE_KEEP` leaves the cluster for a look.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use selvedge_cluster::Release;
use selvedge_cluster::clock::Deadline;
use selvedge_stories::{Installed, Outcome, World, chain};

use crate::load::Load;

mod accidents;
mod faults;
mod load;
mod restores;
mod standing;
mod upgrades;

/// Agents when nobody says how many.
const AGENTS: usize = 2000;
/// The removal guard lets go 50 entries of a kind whatever the fleet; a fleet must be more than that at each of
/// two replicas to be protected by it.
const FEWEST: usize = 150;

/// The stage, and who is on it.
pub struct Stage {
    pub world: World,
    pub load: Load,
    pub agents: usize,
    /// The one before this, whose images are there.
    pub release: Release,
}

impl Stage {
    /// The chart, with a second replica of all that has a leader.
    pub fn install(world: &World) -> Outcome {
        let words = ["--set", "controllers.replicas=2"];
        world.install(Installed { chart: &world.file("charts/selvedge"), words: &words })?;
        Ok(())
    }

    fn set(agents: usize) -> Outcome<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let release = World::previous_release(&directory(), &repository)?;
        let world = World::up(&directory(), &repository, true)?;
        world.import(&release)?;
        Self::install(&world)?;
        let load = Load::start(&world, &directory(), agents)?;
        Ok(Self { world, load, agents, release })
    }
}

type Step = (&'static str, fn(&mut Stage) -> Outcome);

/// In this order: what heals by itself, what waits for a person, and last what says nothing of the steps after.
const STEPS: [Step; 12] = [
    ("faults::a_hub_is_killed", faults::a_hub_is_killed),
    ("faults::the_api_server_is_killed", faults::the_api_server_is_killed),
    ("faults::the_leaders_are_killed", faults::the_leaders_are_killed),
    ("faults::etcd_is_killed", faults::etcd_is_killed),
    ("faults::packets_to_one_hub_are_dropped", faults::packets_to_one_hub_are_dropped),
    ("upgrades::the_hub_is_upgraded", upgrades::the_hub_is_upgraded),
    ("accidents::a_crd_is_deleted", accidents::a_crd_is_deleted),
    ("accidents::a_selector_matches_nothing", accidents::a_selector_matches_nothing),
    ("restores::etcd_is_restored", restores::etcd_is_restored),
    ("restores::etcd_is_restored_with_bumped_revisions", restores::etcd_is_restored_with_bumped_revisions),
    ("accidents::labels_are_pruned", accidents::labels_are_pruned),
    ("verdict::every_rule_held", load::every_rule_held),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One fleet, one step at a time.
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let asked = std::env::var("SELVEDGE_FLEET").ok().and_then(|text| text.parse().ok());
    let stage = match Stage::set(asked.unwrap_or(AGENTS).max(FEWEST)) {
        Ok(stage) => Arc::new(Mutex::new(stage)),
        Err(error) => {
            eprintln!("the stage could not be set: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials(Some(&stage)));
    let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
    stage.load.kill();
    if std::env::var_os("SELVEDGE_KEEP").is_some() {
        eprintln!("kept: {}", directory().display());
    } else if let Err(error) = stage.world.cluster.down() {
        eprintln!("the stage could not be cleared: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trials(stage: Option<&Arc<Mutex<Stage>>>) -> Vec<Trial> {
    let trial = |(name, step): Step| {
        let stage = stage.cloned();
        Trial::test(name, move || match stage {
            Some(stage) => run(name, step, &mut stage.lock().unwrap_or_else(PoisonError::into_inner)),
            None => Err("there is no stage".into()),
        })
    };
    STEPS.into_iter().map(trial).collect()
}

fn run(name: &str, step: fn(&mut Stage) -> Outcome, stage: &mut Stage) -> Result<(), Failed> {
    let started = Deadline::after(Duration::MAX);
    eprintln!("── {name}, {} agents", stage.agents);
    let outcome = step(stage);
    eprintln!("── {name}: {:.1} s", started.elapsed().as_secs_f64());
    outcome.map_err(|error| {
        eprintln!("{}", standing::explain(&stage.world));
        chain(&error).into()
    })
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fleet")
}
