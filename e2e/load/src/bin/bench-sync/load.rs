//! A fleet of simulated agents under measurement, with what it takes to change something for all of them.
//!
//! In: the rig, and how many of what. Out: waits with deadlines that say who is missing, and samples.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use selvedge_load::change::Changes;
use selvedge_load::clock::Clock;
use selvedge_load::fleet::Fleet;
use selvedge_load::identities::Kept;
use selvedge_load::objects::Cluster;
use selvedge_load::options::Options;
use selvedge_load::{latency, run};
use selvedge_stories::{Outcome, StoryError};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep};

use crate::rig::Rig;

/// A step takes no longer than this and a share for each agent, or it has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// On two shared cores a node takes about 10 ms from its first Hello to its last status: six times that.
const PATIENCE_EACH: Duration = Duration::from_millis(60);
/// No verdict for this long: statuses are written.
const NO_VERDICTS: Duration = Duration::from_secs(4);
/// At rest the API server takes fewer writes a second than this.
const REST_WRITES: f64 = 10.0;

/// How many of what.
#[derive(Clone, Copy)]
pub struct Shape {
    pub prefix: &'static str,
    pub agents: u32,
    pub applications: u32,
    pub devices: u32,
}

/// See the module.
pub struct Load {
    pub fleet: Arc<Fleet>,
    pub options: Options,
    pub kept: Vec<(u32, Kept)>,
    pub changes: Changes,
    agents: run::Agents,
}

/// How long `agents` may take.
pub fn patience(agents: usize) -> Duration {
    PATIENCE + PATIENCE_EACH * u32::try_from(agents).unwrap_or(u32::MAX)
}

/// The words of a person who wants this fleet.
pub fn options(rig: &Rig, shape: Shape, hubs: &[&str]) -> Outcome<Options> {
    let (certificate, key) = rig.ca();
    let identities = rig.kubeconfig().with_file_name(format!("{}.identities", shape.prefix));
    let path = |path: &Path| path.display().to_string();
    let settle = format!("{}s", patience(shape.agents as usize).as_secs());
    let mut words: Vec<String> = vec!["selvedge-load".into()];
    let mut say = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
    say("--agents", &shape.agents.to_string());
    say("--applications", &shape.applications.to_string());
    say("--devices", &shape.devices.to_string());
    say("--prefix", shape.prefix);
    say("--namespace", shape.prefix);
    say("--settle", &settle);
    say("--ca-cert", &path(&certificate));
    say("--ca-key", &path(&key));
    say("--kubeconfig", &path(&rig.kubeconfig()));
    say("--identities", &path(&identities));
    hubs.iter().for_each(|hub| say("--hub", hub));
    Options::try_parse_from(words).map_err(unexpected("the options are options"))
}

impl Load {
    /// Makes objects and identities; no agent runs yet.
    pub async fn prepare(rig: &Rig, shape: Shape, hubs: &[&str]) -> Outcome<Self> {
        let options = options(rig, shape, hubs)?;
        let cluster = Cluster::connect(options.kubeconfig.as_deref(), &options)
            .await
            .map_err(unexpected("there is a cluster"))?;
        let fleet = Arc::new(Fleet::new(Clock::start(), false));
        let kept = run::prepare(&options, &cluster).await.map_err(chained("objects are made"))?;
        let mirror = run::mirror(&options, &cluster, &fleet).await.map_err(chained("they are rolled out"))?;
        let changes = Changes {
            cluster,
            mirror: Arc::new(mirror),
            fleet: fleet.clone(),
            options: options.clone(),
            random: SmallRng::seed_from_u64(1),
            made: HashMap::new(),
        };
        Ok(Self { fleet, options, kept, changes, agents: JoinSet::new() })
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.agents.len()
    }

    /// Starts agents until `count` run, and waits until all are in sync.
    pub async fn grow(&mut self, count: usize) -> Outcome {
        println!("  {count} agents");
        let more = self.kept.get(self.agents.len()..count).unwrap_or_default();
        run::start(&mut self.agents, &self.fleet, &self.options, more).map_err(chained("agents start"))?;
        self.synced().await
    }

    pub async fn synced(&mut self) -> Outcome {
        let running = self.kept.get(..self.agents.len()).unwrap_or_default();
        let within = patience(running.len());
        let synced = run::until_synced(&self.fleet, running, within, &mut self.agents).await;
        synced.map_err(chained("all agents are in sync"))
    }

    /// Waits until no report is answered any more and the API server has little to write.
    pub async fn quiet(&self, rig: &Rig, agents: usize) -> Outcome {
        let verdicts = || self.fleet.counters.verdicts.load(Ordering::Relaxed);
        let within = patience(agents);
        let deadline = Instant::now() + within;
        let (mut last, mut since, mut written) = (verdicts(), Instant::now(), writes(rig)?.all);
        loop {
            sleep(NO_VERDICTS / 2).await;
            if verdicts() != last {
                (last, since) = (verdicts(), Instant::now());
            }
            let now = writes(rig)?.all;
            let rate = (now - written) / (NO_VERDICTS / 2).as_secs_f64();
            written = now;
            if since.elapsed() >= NO_VERDICTS && rate < REST_WRITES {
                return Ok(());
            }
            if Instant::now() > deadline {
                let last = format!("{last} verdicts, the API server takes {rate:.0} writes a second");
                return Err(StoryError::NotInTime { what: "the fleet is at rest".into(), within, last });
            }
        }
    }

    /// Bytes on the wire, down and both ways.
    pub fn bytes(&self) -> (f64, f64) {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed) as f64;
        let (down, up) = (load(&self.fleet.bytes.down), load(&self.fleet.bytes.up));
        (down, down + up)
    }

    /// Changes of 2 KB to all, one after the other: milliseconds to each acknowledgement.
    pub async fn change_all(&mut self, rounds: u64) -> Outcome<Vec<f64>> {
        drop(self.fleet.take_arrivals());
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let revision = self.changes.to_all().await;
            let arrived = self.arrived(revision).await?;
            samples.extend(latency::of(&self.changes.made, &arrived).1.samples());
        }
        Ok(samples)
    }

    /// Waits until every agent has acknowledged a change.
    pub async fn arrived(&self, revision: Option<u64>) -> Outcome<Vec<(u64, u64)>> {
        let revision = revision.ok_or_else(|| StoryError::Unexpected {
            what: "a change is taken".into(),
            found: format!("{:?}", self.fleet.failures()),
        })?;
        let (count, within) = (self.agents.len(), patience(self.agents.len()));
        let deadline = Instant::now() + within;
        let mut arrived = Vec::new();
        while arrived.len() < count {
            if Instant::now() > deadline {
                let (sessions, synced) = self.fleet.standing();
                let last = format!(
                    "{} of {count} agents have it, {sessions} have a session, {synced} are in sync; {:?}",
                    arrived.len(),
                    self.fleet.counters.endings()
                );
                return Err(StoryError::NotInTime { what: "a change is everywhere".into(), within, last });
            }
            sleep(Duration::from_millis(20)).await;
            arrived.extend(self.fleet.take_arrivals().into_iter().filter(|(found, _)| *found == revision));
        }
        Ok(arrived)
    }

    pub async fn end(mut self) {
        self.fleet.stop.cancel();
        while self.agents.join_next().await.is_some() {}
    }
}

/// Requests that write, since the API server began.
pub struct Writes {
    pub all: f64,
    /// Without leases, which it and every controller renew whatever the fleet does.
    pub without_leases: f64,
}

/// What the API server itself has counted.
pub fn writes(rig: &Rig) -> Outcome<Writes> {
    let metrics = block_in_place(|| rig.tools.kubectl(&["get", "--raw", "/metrics"]))?;
    let writes = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && ["POST", "PUT", "PATCH", "APPLY", "DELETE"]
                .iter()
                .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    let mut counted = Writes { all: 0.0, without_leases: 0.0 };
    for line in metrics.lines().filter(writes) {
        let value = line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        counted.all += value;
        if !line.contains("resource=\"leases\"") {
            counted.without_leases += value;
        }
    }
    Ok(counted)
}

pub fn unexpected<E: Display>(what: &'static str) -> impl FnOnce(E) -> StoryError {
    move |error| StoryError::Unexpected { what: what.into(), found: error.to_string() }
}

pub fn chained<E: std::error::Error>(what: &'static str) -> impl FnOnce(E) -> StoryError {
    move |error| StoryError::Unexpected { what: what.into(), found: selvedge_stories::chain(&error) }
}

/// A number of agents as names of measures have it: 250, 1k, 10k.
pub fn size(agents: usize) -> String {
    if agents >= 1000 && agents.is_multiple_of(1000) {
        format!("{}k", agents / 1000)
    } else {
        agents.to_string()
    }
}
