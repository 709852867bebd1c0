//! A process of simulated agents: one of several that together are more than one process may connect.
//!
//! In: uids of nodes, the CA by value, a hub. Out: how they stand, a line of JSON on stdout whenever that has
//! changed. Ends with stdin.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_load::agent::Agent;
use selvedge_load::authority::{Authority, new_key};
use selvedge_load::clock::{Clock, unix_ms};
use selvedge_load::faults::Fate;
use selvedge_load::fleet::Fleet;
use selvedge_load::limits;
use selvedge_stories::{Outcome, StoryError};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::fanout::Standing;
use crate::load::chained;
use crate::rig::io;

/// How often it says how they stand: also the resolution of nothing, because arrivals are timed by themselves.
const SAY: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    hub: String,
    #[arg(long)]
    prefix: String,
    #[arg(long)]
    first: u32,
    #[arg(long)]
    agents: u32,
    /// Uids of all nodes of the fleet, a line each, in the order of their numbers.
    #[arg(long)]
    uids: PathBuf,
    #[arg(long)]
    ca_cert: PathBuf,
    #[arg(long)]
    ca_key: PathBuf,
}

/// Runs until stdin ends.
pub fn run(args: &Args) -> Outcome {
    limits::raise(args.agents).map_err(chained("this machine grants the sockets"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(io("start a runtime"))?.block_on(live(args))
}

async fn live(args: &Args) -> Outcome {
    let uids = std::fs::read_to_string(&args.uids).map_err(io("read the uids of nodes"))?;
    let uids: Vec<&str> = uids.lines().collect();
    let authority = Authority::read(&args.ca_cert, &args.ca_key).map_err(chained("the CA can be used"))?;
    // One key for all: what is measured comes after the handshake, and keys are not what it costs.
    let key = new_key().map_err(chained("a key can be made"))?;
    let pem = key.serialize_pem();
    let fleet = Arc::new(Fleet::new(Clock::start(), false));
    let mut agents = JoinSet::new();
    for number in args.first..args.first + args.agents {
        let node = format!("{}-{number:05}", args.prefix);
        let uid = uids.get(number as usize - 1).ok_or_else(|| StoryError::Unexpected {
            what: format!("EdgeNode {node} has a uid"),
            found: format!("{} uids", uids.len()),
        })?;
        let identity =
            authority.issue("bench", &node, uid, &key).map_err(chained("a certificate can be made"))?;
        let fate = Fate::new(1, number, &[], 0.0, args.agents);
        let hubs = std::slice::from_ref(&args.hub);
        let agent = Agent::new(fleet.clone(), number, identity, &pem, hubs, fate);
        agents.spawn(agent.map_err(chained("an agent can be made"))?.run());
    }
    let over = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let mut arrived: BTreeMap<u64, (usize, i64)> = BTreeMap::new();
    while !over.is_finished() {
        let offset = unix_ms() - i64::try_from(fleet.clock.micros() / 1000).unwrap_or(0);
        for (revision, micros) in fleet.take_arrivals() {
            let at = offset + i64::try_from(micros / 1000).unwrap_or(0);
            let entry = arrived.entry(revision).or_default();
            *entry = (entry.0 + 1, entry.1.max(at));
        }
        let (sessions, synced) = fleet.standing();
        let endings = fleet.counters.endings();
        let standing = Standing { sessions, synced, arrived: arrived.clone(), endings };
        let line = serde_json::to_string(&standing).unwrap_or_default();
        println!("{line}");
        sleep(SAY).await;
    }
    Ok(())
}
