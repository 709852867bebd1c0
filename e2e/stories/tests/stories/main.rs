//! The stories, in order, on one cluster: each leaves the world as the next expects it (joined, online,
//! in sync). A story that fails prints the logs that explain it; the ones after it still run.
//!
//! With `SELVEDGE_SKEW=agent` or `hub` that part is of the previous release; with `upgrade` one story is told, of
//! an upgrade from it.
//!
//! The cluster lies under `target/` and is gone afterwards, also when a story failed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use selvedge_cluster::Release;
use selvedge_cluster::clock::Deadline;
use selvedge_stories::{Outcome, StoryError, World, chain};

mod adoption;
mod application;
mod crd_deleted;
mod device;
mod hub_away;
mod install;
mod join;
mod ledger_lost;
mod metrics;
mod refusals;
mod reinstall;
mod renewal;
mod secret;
mod skew;
mod upgrade;

use skew::Skew;

/// The edge node of the stories, as `examples/` names it.
pub const NODE: &str = "shop-0042";

type Story = (&'static str, fn(&World) -> Outcome);

/// In the order of a life: installed, joined, in use, in trouble, upgraded.
const STORIES: [Story; 19] = [
    ("install::comes_up_with_its_own_service_accounts", install::comes_up_with_its_own_service_accounts),
    ("join::a_node_joins_by_its_command", join::a_node_joins_by_its_command),
    ("application::runs_and_follows_its_config_map", application::runs_and_follows_its_config_map),
    ("application::says_why_it_does_not_run", application::says_why_it_does_not_run),
    (
        "secret::arrives_follows_and_is_written_down_nowhere",
        secret::arrives_follows_and_is_written_down_nowhere,
    ),
    ("device::values_come_and_go", device::values_come_and_go),
    ("device::a_server_that_is_off_is_said_and_heals", device::a_server_that_is_off_is_said_and_heals),
    ("refusals::what_cannot_work_is_refused", refusals::what_cannot_work_is_refused),
    ("refusals::a_model_in_use_stays", refusals::a_model_in_use_stays),
    ("refusals::unknown_agent_settings_are_named", refusals::unknown_agent_settings_are_named),
    ("metrics::prometheus_sees_every_component", metrics::prometheus_sees_every_component),
    ("hub_away::the_edge_goes_on_alone", hub_away::the_edge_goes_on_alone),
    ("hub_away::a_cut_cable_is_noticed_and_mended", hub_away::a_cut_cable_is_noticed_and_mended),
    ("ledger_lost::a_deleted_ledger_is_synced_anew", ledger_lost::a_deleted_ledger_is_synced_anew),
    ("ledger_lost::a_truncated_ledger_is_put_aside", ledger_lost::a_truncated_ledger_is_put_aside),
    ("crd_deleted::nothing_stops", crd_deleted::nothing_stops),
    (
        "renewal::a_certificate_is_renewed_also_late_and_an_old_one_is_refused",
        renewal::a_certificate_is_renewed_also_late_and_an_old_one_is_refused,
    ),
    (
        "adoption::an_edge_node_that_is_applied_again_takes_its_machine_back",
        adoption::an_edge_node_that_is_applied_again_takes_its_machine_back,
    ),
    ("reinstall::nothing_stops", reinstall::nothing_stops),
];

/// What the stories are told on.
struct Stage {
    world: World,
    /// The part that is of another release, and that release.
    skew: Option<(Skew, Release)>,
}

impl Stage {
    fn set() -> Outcome<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let skew =
            Skew::asked().map_err(|found| StoryError::Unexpected { what: "a known skew".into(), found })?;
        let release = |_| World::previous_release(&directory(), &repository);
        let release = skew.map(release).transpose()?;
        let mut world = World::up(&directory(), &repository, false)?;
        let skew = skew.zip(release);
        if let Some((skew, release)) = &skew {
            eprintln!("the previous release is {}, its part: {skew:?}", release.name());
            world.import(release)?;
            world = skew.cast(&world, release);
        }
        Ok(Self { world, skew })
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One cluster, one story at a time.
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let stage = match Stage::set() {
        Ok(stage) => Arc::new(stage),
        Err(error) => {
            eprintln!("the stage could not be set: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials(Some(&stage)));
    // For a look at what a story left: the cluster is then ended by hand, `selvedge-cluster --dir … down`.
    let keep = std::env::var_os("SELVEDGE_KEEP").is_some();
    if keep {
        eprintln!("kept: {}", directory().display());
    } else if let Err(error) = stage.world.cluster.down() {
        eprintln!("the stage could not be cleared: {error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// The stories that can be told, in their order; those that cannot are ignored, with the reason said.
fn trials(stage: Option<&Arc<Stage>>) -> Vec<Trial> {
    if let Some(stage) = stage.filter(|stage| matches!(stage.skew, Some((Skew::Upgrade, _)))) {
        let stage = Arc::clone(stage);
        let story = move || match &stage.skew {
            Some((_, release)) => {
                run("upgrade::in_place", || upgrade::in_place(&stage.world, release), &stage.world)
            }
            None => Err("there is no release to upgrade from".into()),
        };
        return vec![Trial::test("upgrade::in_place", story)];
    }
    let skew = stage.and_then(|stage| stage.skew.as_ref());
    let trial = |(name, story): Story| {
        let lacks = skew.and_then(|(skew, release)| skew.lacks(name, release.version()));
        if let Some(reason) = &lacks {
            eprintln!("{name} is not told: {reason}");
        }
        let stage = stage.cloned();
        let told = move || match stage {
            Some(stage) => run(name, || story(&stage.world), &stage.world),
            None => Err("there is no stage".into()),
        };
        Trial::test(name, told).with_ignored_flag(lacks.is_some())
    };
    STORIES.into_iter().map(trial).collect()
}

fn run(name: &str, story: impl FnOnce() -> Outcome, world: &World) -> Result<(), Failed> {
    let started = Deadline::after(std::time::Duration::MAX);
    let outcome = story();
    eprintln!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    outcome.map_err(|error| {
        eprintln!("{}", explain(world));
        chain(&error).into()
    })
}

/// The ends of the logs that tell most stories apart, and what kubectl knows.
fn explain(world: &World) -> String {
    let mut text = String::new();
    for command in [
        &["get", "edgenodes,edgeapplications,devices", "-A", "-o", "wide"][..],
        &["get", "pods", "-A", "-o", "wide"][..],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"][..],
        &[
            "-n",
            "selvedge-system",
            "logs",
            "-l",
            "app.kubernetes.io/component=selvedge-hub",
            "--tail=25",
            "--prefix",
        ][..],
        &[
            "-n",
            "selvedge-system",
            "logs",
            "-l",
            "app.kubernetes.io/component=edgenode-controller",
            "--tail=25",
        ][..],
        &[
            "-n",
            "selvedge-system",
            "logs",
            "-l",
            "app.kubernetes.io/component=edgeapplication-controller",
            "--tail=15",
        ][..],
    ] {
        let answer = world.tools.kubectl(command).unwrap_or_else(|error| error.to_string());
        text.push_str(&format!("── kubectl {}\n{answer}", command.join(" ")));
    }
    let agent = world.layout().log(NODE, "agent");
    let log = std::fs::read_to_string(&agent).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(40).collect();
    text.push_str(&format!("── {}\n", agent.display()));
    lines.into_iter().rev().for_each(|line| text.push_str(&format!("{line}\n")));
    text
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("stories")
}
