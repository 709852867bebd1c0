//! A whole run: objects, identities, agents, changes and accidents, rest, verdict.
//!
//! In: [`Options`]. Out: a [`Verdict`], and lines on the way.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use selvedge_history::Event;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::agent::{Agent, AgentError, Last};
use crate::authority::{Authority, AuthorityError};
use crate::change::{Changes, Made};
use crate::clock::Clock;
use crate::faults::Fate;
use crate::fleet::Fleet;
use crate::identities::Kept;
use crate::join::{self, IdentityError};
use crate::latency;
use crate::limits;
use crate::mirror::Mirror;
use crate::objects::{Cluster, ObjectsError};
use crate::options::Options;
use crate::statuses;
use crate::verdict::Verdict;

/// How often a line is said.
const PROGRESS: Duration = Duration::from_secs(5);
/// How often it is looked whether everyone is in sync.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Names and reasons in an error: enough to begin to look.
const SHOWN: usize = 5;
/// At rest is who has been in sync, and has said and heard nothing, for this long.
pub(crate) const REST: Duration = Duration::from_secs(4);

/// A run could not be made, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine.
    #[error(transparent)]
    Limits(#[from] limits::TooFew),
    /// The cluster.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Identities.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An agent could not be made, or its ledger lost what it had acknowledged.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A task of this program ended.
    #[error("an agent of this program panicked")]
    Panic(#[from] tokio::task::JoinError),
    /// Applications stay unresolved.
    #[error(
        "applications in namespace {0} are not rolled out: are Selvedge's controllers up? (kubectl -n {0} get \
         edgeapplications)"
    )]
    NotResolved(String),
    /// The fleet did not come together.
    #[error(
        "{synced} of {agents} agents are in sync after {} s, {sessions} have a session; not in sync: {missing}; {why}",
        within.as_secs()
    )]
    NotSynced {
        /// In sync.
        synced: usize,
        /// With a session.
        sessions: usize,
        /// Of how many.
        agents: usize,
        /// What was waited.
        within: Duration,
        /// Some that are not in sync, by name.
        missing: String,
        /// What agents met most.
        why: String,
    },
}

/// Makes a run.
///
/// # Errors
/// [`RunError`] when there is nothing to judge.
pub async fn run(options: &Options) -> Result<Verdict, RunError> {
    limits::raise(options.agents)?;
    let cluster = Cluster::connect(options.kubeconfig.as_deref(), options).await?;
    let fleet = Arc::new(Fleet::new(Clock::start(), true));
    let kept = prepare(options, &cluster).await?;
    let mirror = Arc::new(mirror(options, &cluster, &fleet).await?);
    let mut watches = statuses::follow(&cluster, &mirror);

    let mut agents = JoinSet::new();
    start(&mut agents, &fleet, options, &kept)?;
    let began = fleet.clock.elapsed();
    let count = kept.len();
    until_synced(&fleet, &kept, options.settle, &mut agents).await?;
    println!("all {count} agents are in sync after {:.1} s", (fleet.clock.elapsed() - began).as_secs_f64());

    // What it took to come together is not the way of any change.
    drop(fleet.take_arrivals());
    let mut changes = Changes::new(&cluster, &mirror, &fleet, options);
    fleet.set_calm(false);
    let end = Instant::now() + options.duration;
    tokio::select! {
        () = changes.run(end) => {}
        () = progress(&fleet, count) => {}
        failed = first_failure(&mut agents) => return Err(failed),
    }
    fleet.set_calm(true);
    println!("changes and accidents have ended; waits for rest");
    let settled = rest(&fleet, count, options.settle, &mut agents).await?;
    watches.shutdown().await;
    let verdict = judge(options, &cluster, &fleet, &mirror, agents, &changes.made).await?;
    Ok(Verdict { lasted: options.duration, settled, ..verdict })
}

/// Ends the agents, and judges what was recorded.
///
/// # Errors
/// [`RunError`].
pub(crate) async fn judge(
    options: &Options,
    cluster: &Cluster,
    fleet: &Arc<Fleet>,
    mirror: &Mirror,
    mut agents: Agents,
    made: &HashMap<u64, Made>,
) -> Result<Verdict, RunError> {
    let count = agents.len();
    statuses::read(cluster, mirror).await?;
    let standing = Mirror::read(cluster, &options.namespace, fleet.clone()).await?;
    fleet.stop.cancel();
    while let Some(last) = agents.join_next().await {
        let Last { agent, session, rows, said } = last??;
        let wanted = standing.wanted(&agent.node);
        fleet.record.tell(|| Event::Rest { agent, session, wanted, rows, said });
    }
    let (one, all) = latency::of(made, &fleet.take_arrivals());
    let (violations, events) = fleet.record.judge();
    let counts = counts(fleet, count, made.len());
    Ok(Verdict { violations, events, counts, one, all, ..Verdict::default() })
}

/// Objects and identities.
///
/// # Errors
/// [`RunError`].
pub async fn prepare(options: &Options, cluster: &Cluster) -> Result<Vec<(u32, Kept)>, RunError> {
    let (cluster_id, _) = cluster.identity(&options.system_namespace).await?;
    let uids = cluster.ensure(options).await?;
    let authority = match (&options.ca_cert, &options.ca_key) {
        (Some(certificate), Some(key)) => Some(Authority::read(certificate, key)?),
        _ => None,
    };
    Ok(join::identities(options, cluster, &cluster_id, &uids, authority.as_ref()).await?)
}

/// Reads the cluster until every application has been rolled out, and tells the record what nodes may have.
///
/// # Errors
/// [`RunError`].
pub async fn mirror(options: &Options, cluster: &Cluster, fleet: &Arc<Fleet>) -> Result<Mirror, RunError> {
    let deadline = Instant::now() + options.settle;
    loop {
        let mirror = Mirror::read(cluster, &options.namespace, fleet.clone()).await?;
        if mirror.is_resolved(&options.node(options.first)) {
            let nodes: Vec<String> = options.numbers().map(|number| options.node(number)).collect();
            mirror.tell_all(&nodes);
            return Ok(mirror);
        }
        if Instant::now() > deadline {
            return Err(RunError::NotResolved(options.namespace.clone()));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Agents that run.
pub type Agents = JoinSet<Result<Last, AgentError>>;

/// Starts agents.
///
/// # Errors
/// [`AgentError`] when an identity cannot be used.
pub fn start(
    agents: &mut Agents,
    fleet: &Arc<Fleet>,
    options: &Options,
    kept: &[(u32, Kept)],
) -> Result<(), AgentError> {
    for (number, kept) in kept {
        let Some(identity) = kept.identity.clone() else { continue };
        let faults = &options.faults.0;
        let fate = Fate::new(options.seed, *number, faults, options.fault_rate, options.agents);
        let agent = Agent::new(fleet.clone(), *number, identity, &kept.key, &options.hub, fate)?;
        agents.spawn(agent.run());
    }
    Ok(())
}

/// Waits until all are in sync.
///
/// # Errors
/// [`RunError::NotSynced`] at the deadline; what an agent failed with.
pub async fn until_synced(
    fleet: &Fleet,
    nodes: &[(u32, Kept)],
    within: Duration,
    tasks: &mut Agents,
) -> Result<(), RunError> {
    let (agents, deadline) = (nodes.len(), Instant::now() + within);
    let synced = async {
        while fleet.standing().1 < agents && Instant::now() < deadline {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = synced => {}
        () = progress(fleet, agents) => {}
        failed = first_failure(tasks) => return Err(failed),
    }
    let (sessions, synced) = fleet.standing();
    if synced >= agents {
        return Ok(());
    }
    let mut missing = fleet.not_synced(nodes.iter().map(|(_, kept)| kept.node.as_str()));
    missing.truncate(SHOWN);
    let mut endings: Vec<(String, u64)> = fleet.counters.endings().into_iter().collect();
    endings.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    endings.truncate(SHOWN);
    let why: Vec<String> = endings.iter().map(|(why, times)| format!("{times} times: {why}")).collect();
    let why = if why.is_empty() { "no session failed".to_owned() } else { why.join("; ") };
    Err(RunError::NotSynced { synced, sessions, agents, within, missing: missing.join(", "), why })
}

/// Waits until all are in sync and nothing is said any more; how long that took.
pub(crate) async fn rest(
    fleet: &Fleet,
    agents: usize,
    within: Duration,
    tasks: &mut Agents,
) -> Result<Option<Duration>, RunError> {
    let began = Instant::now();
    let resting = async {
        let said = || {
            let counters = &fleet.counters;
            let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            (count(&counters.deltas), count(&counters.reports), count(&counters.verdicts))
        };
        let (mut last, mut since) = (said(), Instant::now());
        loop {
            sleep(LOOK).await;
            let now = said();
            if fleet.standing().1 < agents || now != last {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() > REST {
                return Some(since - began);
            }
            if began.elapsed() > within {
                return None;
            }
        }
    };
    tokio::select! {
        rested = resting => Ok(rested),
        () = progress(fleet, agents) => Ok(None),
        failed = first_failure(tasks) => Err(failed),
    }
}

/// An agent ends before the run only when something is wrong with it.
pub(crate) async fn first_failure(tasks: &mut Agents) -> RunError {
    loop {
        match tasks.join_next().await {
            Some(Ok(Err(error))) => return error.into(),
            Some(Err(error)) => return error.into(),
            Some(Ok(Ok(_))) => {}
            None => std::future::pending().await,
        }
    }
}

/// Says how things stand, for ever.
async fn progress(fleet: &Fleet, agents: usize) {
    let mut ticks = interval(PROGRESS);
    // The first tick is at once, when there is nothing to say.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let (sessions, synced) = fleet.standing();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "{:>5} s  {sessions}/{agents} sessions, {synced} in sync, {} deltas, {} reports, {} answered, {} accidents",
            fleet.clock.elapsed().as_secs(),
            count(&fleet.counters.deltas),
            count(&fleet.counters.reports),
            count(&fleet.counters.verdicts),
            fleet.accidents().values().sum::<u64>(),
        );
    }
}

fn counts(fleet: &Fleet, agents: usize, made: usize) -> Vec<(String, String)> {
    let counters = &fleet.counters;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed).to_string();
    let mut counts = vec![
        ("agents".to_owned(), agents.to_string()),
        ("changes made".into(), made.to_string()),
        ("deltas received".into(), count(&counters.deltas)),
        ("entries in them".into(), count(&counters.upserts)),
        ("reports sent".into(), count(&counters.reports)),
        ("verdicts received".into(), count(&counters.verdicts)),
        ("sessions that began in sync".into(), count(&counters.in_sync)),
        ("inventories compared".into(), count(&counters.compared)),
        ("deltas that did not fit".into(), count(&counters.resyncs)),
        ("bytes to agents".into(), count(&fleet.bytes.down)),
        ("bytes to hubs".into(), count(&fleet.bytes.up)),
    ];
    counts.extend(
        fleet
            .accidents()
            .into_iter()
            .map(|(fault, times)| (format!("accident: {}", fault.name()), times.to_string())),
    );
    counts.extend(
        fleet.failures().into_iter().map(|(why, times)| (format!("not changed: {why}"), times.to_string())),
    );
    let endings = counters.endings().into_iter();
    counts.extend(endings.map(|(why, times)| (format!("session: {why}"), times.to_string())));
    counts
}
