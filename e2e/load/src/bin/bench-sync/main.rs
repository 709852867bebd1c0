//! Measures state sync: what a session costs a hub, how quickly a change reaches a fleet, how a fleet comes
//! back.
//!
//! In: binaries of hub, controllers and agent. Out: `.dev/bench/sync.jsonl`, or `sync.fanout.jsonl` for the
//! largest fleet alone. Each fleet has a cluster of its own, so that none pays for what another has left; what
//! one of them has measured is kept when another fails.

mod agents;
mod fanout;
mod few;
mod full;
mod load;
mod reference;
mod rig;
mod squeeze;
mod wide;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use selvedge_cluster::clock::{Deadline, wait_for};
use selvedge_stories::measure::{self, Measure};
use selvedge_stories::{Outcome, StoryError, chain};

use crate::load::chained;
use crate::rig::Rig;

/// Longer than any run takes: the clock counts up to it.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Two hubs' worth of sockets beside the agents' own.
const SOCKETS_OF_ONE: u32 = 19_000;

/// Measures state sync on this machine: a real API server, hubs and simulated agents.
#[derive(Parser)]
struct Args {
    /// Where the cluster under measurement keeps its files.
    #[arg(long, default_value = ".dev/bench/sync")]
    dir: PathBuf,
    /// Where the results go.
    #[arg(long, default_value = ".dev/bench")]
    out: PathBuf,
    /// Where selvedge-hub, selvedge-agent and the controllers are, built for release.
    #[arg(long, default_value = "target/release")]
    binaries: PathBuf,
    /// Agents of the large fleet, which has applications and no devices; at most 19,000.
    #[arg(long, default_value_t = 10_000)]
    agents: u32,
    /// Agents of the small fleet, which has ten applications and ten devices a node.
    #[arg(long, default_value_t = 1_000)]
    full: u32,
    /// Measure these fleets alone; others keep no result.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Stage>,
    /// Measure one change to so many agents over several hubs, and nothing else: 100,000 need 20 GiB, and half
    /// an hour.
    #[arg(long, value_name = "AGENTS")]
    fanout: Option<u32>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// A fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Twenty agents of the product itself.
    Few,
    /// Simulated nodes with devices.
    Full,
    /// Many simulated nodes without.
    Wide,
    /// Very many, over several hubs.
    #[value(skip)]
    Fanout,
}

#[derive(Subcommand)]
enum Verb {
    /// Only bring the cluster and one hub up, and say how to reach them; ended by ^C.
    Up {
        /// Where the hub listens.
        #[arg(long, default_value_t = 18443)]
        port: u16,
    },
    /// The reference loop, as a process of its own.
    #[command(hide = true)]
    Reference(reference::Args),
    /// Simulated agents, as a process of their own.
    #[command(hide = true)]
    Agents(agents::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.verb {
        Some(Verb::Reference(reference)) => reference::serve(reference),
        Some(Verb::Agents(agents)) => agents::run(agents),
        Some(Verb::Up { port }) => up(&args, *port),
        None => bench(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-sync: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn bring_up(args: &Args, port: u16) -> Outcome<Rig> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let binaries = std::path::absolute(&args.binaries).map_err(rig::io("find the binaries"))?;
    Rig::up(&args.dir, &repository, &binaries, port)
}

fn up(args: &Args, port: u16) -> Outcome {
    let rig = bring_up(args, port)?;
    let hub = rig.hub("hub-0", port)?;
    let (certificate, key) = rig.ca();
    println!("selvedge-load --kubeconfig {}", rig.kubeconfig().display());
    println!(
        "selvedge-load --kubeconfig {} --hub {} --ca-cert {} --ca-key {}",
        rig.kubeconfig().display(),
        hub.endpoint,
        certificate.display(),
        key.display()
    );
    // Until somebody takes the hub away.
    let gone = || hub.process.metrics("/healthz").is_none().then_some(());
    while wait_for(Deadline::after(Duration::from_secs(3600)), gone).is_none() {}
    rig.down()
}

fn bench(args: &Args) -> Outcome {
    // Hubs inherit it.
    let sockets = args.agents.max(if args.fanout.is_some() { SOCKETS_OF_ONE } else { 0 });
    selvedge_load::limits::raise(sockets).map_err(chained("this machine grants the sockets"))?;
    let (stages, out) = match (args.fanout, &args.only[..]) {
        (Some(_), _) => (vec![Stage::Fanout], "sync.fanout.jsonl"),
        (None, []) => (vec![Stage::Few, Stage::Full, Stage::Wide], "sync.jsonl"),
        (None, only) => (only.to_vec(), "sync.jsonl"),
    };
    let clock = Deadline::after(LONGEST);
    let (mut measures, mut failed) = (Vec::new(), Vec::new());
    for stage in stages {
        println!("{stage:?}: begins after {} s", clock.elapsed().as_secs());
        if let Err(error) = run(args, stage, &mut measures) {
            eprintln!("{stage:?}: failed after {} s: {}", clock.elapsed().as_secs(), chain(&error));
            failed.push(format!("{stage:?}: {}", chain(&error)));
        }
        println!("{stage:?}: ended after {} s", clock.elapsed().as_secs());
        measure::write(&args.out.join(out), &measures)?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(StoryError::Unexpected { what: "every fleet can be measured".into(), found: failed.join("\n") })
}

/// One fleet in a cluster of its own, which goes whatever comes of it.
fn run(args: &Args, stage: Stage, measures: &mut Vec<Measure>) -> Outcome {
    let port = rig::free_port()?;
    let mut rig = bring_up(args, port)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(rig::io("start a runtime"))?;
    let measured = runtime.block_on(async {
        let hub = |rig: &Rig| rig.hub("hub-0", port);
        match stage {
            Stage::Few => few::measure(&rig, &hub(&rig)?, measures).await,
            Stage::Full => full::measure(&rig, &hub(&rig)?, args.full, measures).await,
            Stage::Wide => wide::measure(&rig, hub(&rig)?, args.agents, measures).await,
            Stage::Fanout => fanout::measure(&mut rig, port, args.fanout.unwrap_or(1), measures).await,
        }
    });
    if measured.is_err() {
        eprintln!("what the processes said last:\n{}", rig.explain());
    }
    measured.and(rig.down())
}
