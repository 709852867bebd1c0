//! Measures state sync: what a session costs a hub, how quickly a change reaches a fleet, how a fleet comes
//! back.
//!
//! In: binaries of hub and controllers. Out: `.dev/bench/sync.jsonl`.

mod measures;
mod reference;
mod rig;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use selvedge_cluster::clock::{Deadline, wait_for};
use selvedge_stories::measure;
use selvedge_stories::{Outcome, StoryError, chain};

/// Measures state sync on this machine: a real API server, hubs and simulated agents.
#[derive(Parser)]
struct Args {
    /// Where the cluster under measurement keeps its files.
    #[arg(long, default_value = ".dev/bench/sync")]
    dir: PathBuf,
    /// Where the results go.
    #[arg(long, default_value = ".dev/bench/sync.jsonl")]
    out: PathBuf,
    /// Where selvedge-hub and the controllers are, built for release.
    #[arg(long, default_value = "target/release")]
    binaries: PathBuf,
    /// Agents of the large fleet, which has applications and no devices.
    #[arg(long, default_value_t = 10_000)]
    agents: u32,
    /// Agents of the small fleet, which has ten applications and ten devices a node.
    #[arg(long, default_value_t = 400)]
    full: u32,
    #[command(subcommand)]
    verb: Option<Verb>,
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
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.verb {
        Some(Verb::Reference(reference)) => reference::serve(reference),
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

fn bring_up(args: &Args, port: u16) -> Outcome<rig::Rig> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let binaries = std::path::absolute(&args.binaries).map_err(rig::io("find the binaries"))?;
    rig::Rig::up(&args.dir, &repository, &binaries, port)
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
    while wait_for(Deadline::after(std::time::Duration::from_secs(3600)), gone).is_none() {}
    rig.down()
}

fn bench(args: &Args) -> Outcome {
    // Hubs inherit it.
    selvedge_load::limits::raise(args.agents).map_err(|error| StoryError::Unexpected {
        what: "this machine grants the sockets".into(),
        found: error.to_string(),
    })?;
    let port = rig::free_port()?;
    let rig = bring_up(args, port)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| StoryError::Io { what: "start a runtime".into(), source })?;
    let measured = runtime.block_on(measures::suite(&rig, port, args.agents, args.full));
    rig.down()?;
    measure::write(&args.out, &measured?)
}
