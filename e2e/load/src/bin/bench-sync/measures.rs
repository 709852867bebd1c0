//! What is measured, in the order in which one cluster allows it.
//!
//! In: the rig. Out: measures. Two fleets: `full` has ten applications and ten devices a node, `wide` has ten
//! applications and no devices, so that ten thousand nodes fit into the minutes that a benchmark may take.
//! Nothing is checked while it is measured (`selvedge-load` does that): states of simulated agents are alike,
//! so a report that says nothing new costs the API server nothing, as with real ones.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
use selvedge_stories::measure::Measure;
use selvedge_stories::{Outcome, StoryError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::reference;
use crate::rig::{Hub, Rig, free_port};

/// A step of the benchmark that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(240);
/// Changes to all at each size, one after the other.
const ROUNDS: u64 = 5;
/// Idle traffic and quiet writes are counted over two heartbeats.
const QUIET: Duration = Duration::from_secs(30);
/// Connections of the reference: its cost of one does not depend on how many there are.
const REFERENCE: u32 = 4_000;
/// How often a single agent loses its hub.
const LOSSES: usize = 3;

/// Agents of one size and prefix, with what they need to change things.
struct Load {
    fleet: Arc<Fleet>,
    options: Options,
    kept: Vec<(u32, Kept)>,
    agents: run::Agents,
    changes: Changes,
}

impl Load {
    /// Makes objects and identities; no agent runs yet.
    async fn prepare(rig: &Rig, prefix: &str, agents: u32, devices: u32, hubs: &[&str]) -> Outcome<Self> {
        let (certificate, key) = rig.ca();
        let identities = rig.kubeconfig().with_file_name(format!("{prefix}.identities"));
        let (agents, devices) = (agents.to_string(), devices.to_string());
        let path = |path: &std::path::Path| path.display().to_string();
        let mut words: Vec<String> = ["selvedge-load", "--applications", "10", "--agents", &agents]
            .into_iter()
            .chain(["--devices", &devices, "--prefix", prefix, "--namespace", prefix, "--settle", "4m"])
            .map(str::to_owned)
            .collect();
        words.extend(["--ca-cert".into(), path(&certificate), "--ca-key".into(), path(&key)]);
        words.extend([
            "--kubeconfig".into(),
            path(&rig.kubeconfig()),
            "--identities".into(),
            path(&identities),
        ]);
        words.extend(hubs.iter().flat_map(|hub| ["--hub".to_owned(), (*hub).to_owned()]));
        let options = Options::try_parse_from(words).map_err(unexpected("the options are options"))?;
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
        Ok(Self { fleet, options, kept, agents: JoinSet::new(), changes })
    }

    /// Starts agents until `count` run, and waits until all are in sync.
    async fn grow(&mut self, count: usize) -> Outcome {
        let more = self.kept.get(self.agents.len()..count).unwrap_or_default();
        run::start(&mut self.agents, &self.fleet, &self.options, more).map_err(chained("agents start"))?;
        self.synced().await
    }

    async fn synced(&mut self) -> Outcome {
        let count = self.agents.len();
        let synced = run::until_synced(&self.fleet, count, PATIENCE, &mut self.agents).await;
        synced.map_err(chained("all agents are in sync"))
    }

    /// Waits until no report is answered any more: statuses are written.
    async fn quiet(&self) {
        let verdicts = || self.fleet.counters.verdicts.load(Ordering::Relaxed);
        let (mut last, mut since) = (verdicts(), Instant::now());
        let deadline = since + PATIENCE;
        while since.elapsed() < Duration::from_secs(4) && Instant::now() < deadline {
            sleep(Duration::from_millis(200)).await;
            if verdicts() != last {
                (last, since) = (verdicts(), Instant::now());
            }
        }
    }

    fn bytes(&self) -> f64 {
        let bytes = &self.fleet.bytes;
        (bytes.down.load(Ordering::Relaxed) + bytes.up.load(Ordering::Relaxed)) as f64
    }

    /// Changes of 2 KB to all, one after the other: milliseconds to each acknowledgement.
    async fn change_all(&mut self, rounds: u64) -> Outcome<Vec<f64>> {
        drop(self.fleet.take_arrivals());
        let mut samples = Vec::new();
        for _ in 0..rounds {
            let revision = self.changes.to_all().await.ok_or_else(|| StoryError::Unexpected {
                what: "a change is taken".into(),
                found: format!("{:?}", self.fleet.failures()),
            })?;
            let deadline = Instant::now() + PATIENCE;
            let (mut arrived, count) = (Vec::new(), self.agents.len());
            while arrived.len() < count {
                if Instant::now() > deadline {
                    let last = format!("{} of {count} agents have it", arrived.len());
                    return Err(StoryError::NotInTime {
                        what: "a change is everywhere".into(),
                        within: PATIENCE,
                        last,
                    });
                }
                sleep(Duration::from_millis(20)).await;
                arrived
                    .extend(self.fleet.take_arrivals().into_iter().filter(|(found, _)| *found == revision));
            }
            samples.extend(latency::of(&self.changes.made, &arrived).1.samples());
        }
        Ok(samples)
    }

    async fn end(mut self) {
        self.fleet.stop.cancel();
        while self.agents.join_next().await.is_some() {}
    }
}

/// Everything.
pub async fn suite(rig: &Rig, port: u16, agents: u32, full: u32) -> Outcome<Vec<Measure>> {
    let hub = rig.hub("hub-0", port)?;
    let second = free_port()?;
    let other = format!("https://127.0.0.1:{second}");
    let mut measures = Vec::new();
    session_memory(rig, &hub, full, &mut measures).await?;
    let mut wide = Load::prepare(rig, "wide", agents, 0, &[&hub.endpoint, &other]).await?;
    fan_out(rig, &hub, &mut wide, &mut measures).await?;
    quiet(rig, &mut wide, &mut measures).await?;
    let hub = reconnect_all(rig, hub, second, &mut wide, &mut measures).await?;
    wide.end().await;
    reconnect_one(rig, hub, &mut measures).await?;
    Ok(measures)
}

/// `hub_idle_session_kb`: ten applications and ten devices a node.
async fn session_memory(rig: &Rig, hub: &Hub, agents: u32, measures: &mut Vec<Measure>) -> Outcome {
    let mut full = Load::prepare(rig, "full", agents, 10, &[&hub.endpoint]).await?;
    let mut sizes = Vec::new();
    for count in [agents as usize / 4, agents as usize / 2, agents as usize] {
        full.grow(count).await?;
        full.quiet().await;
        sizes.push((count as f64, hub.process.memory_kb()));
    }
    let slope = slope(&sizes);
    let steps: Vec<String> = sizes.iter().map(|(n, kb)| format!("{n:.0}: {:.1} MiB", kb / 1024.0)).collect();
    measures.push(Measure::single("hub_idle_session_kb", "KiB", slope).target("<= 18", slope <= 18.0).note(
        &format!(
            "RssAnon a session between {} sessions of one hub ({}), after all statuses were written; ten \
             applications, ten devices, which are in the index before",
            agents / 4,
            steps.join(", ")
        ),
    ));
    full.end().await;
    Ok(())
}

/// `change_to_acked_ms_*`, `fanout_cpu_ratio`, and memory without devices.
async fn fan_out(rig: &Rig, hub: &Hub, wide: &mut Load, measures: &mut Vec<Measure>) -> Outcome {
    let all = wide.kept.len();
    let mut sizes = Vec::new();
    for (count, name, limit) in [
        (all / 100, "change_to_acked_ms_100", 1_000.0),
        (all / 10, "change_to_acked_ms_1k", 1_000.0),
        (all, "change_to_acked_ms_10k", 3_000.0),
    ] {
        wide.grow(count).await?;
        wide.quiet().await;
        sizes.push((count as f64, hub.process.memory_kb()));
        let (cpu, bytes) = (hub.process.cpu_s(), wide.fleet.bytes.down.load(Ordering::Relaxed));
        let samples = wide.change_all(ROUNDS).await?;
        // What follows from a change (reports, statuses to be compared) belongs to its cost.
        wide.quiet().await;
        let changes = (count as u64 * ROUNDS) as f64;
        let cpu = (hub.process.cpu_s() - cpu) / changes;
        let bytes = (wide.fleet.bytes.down.load(Ordering::Relaxed) - bytes) as f64 / changes;
        let measure = Measure::samples(name, "ms", &samples);
        let p99 = measure.number("p99");
        let measure = measure.note(&format!(
            "{count} agents; from the request to the API server to each agent's Ack; a ConfigMap of 2 KB, \
             {bytes:.0} B down an agent"
        ));
        measures.push(measure.target(&format!("p99 <= {limit:.0}"), p99 <= limit));
        if count == all {
            let ca = rig.ca();
            let directory = rig.kubeconfig().with_file_name("");
            let frame = (bytes as usize).max(1);
            let floor = reference::measure((&ca.0, &ca.1), &directory, REFERENCE, frame, ROUNDS).await?;
            let (cpu, floor) = (cpu * 1e6, floor * 1e6);
            measures.push(
                Measure::single("fanout_cpu_us", "µs", cpu)
                    .reference(floor)
                    .target("ratio (fanout_cpu_ratio) <= 1.4", cpu / floor <= 1.4)
                    .note(&format!(
                        "hub CPU a change and agent, with Ack, report and comparison of statuses; reference: \
                         {REFERENCE} connections, prebuilt frames of {frame} B, one answer"
                    )),
            );
        }
    }
    let kilobytes = slope(&sizes);
    measures.push(
        Measure::single("hub_idle_session_no_devices_kb", "KiB", kilobytes).note(&format!(
            "RssAnon a session between {} and {all}; ten applications, no devices",
            all / 100
        )),
    );
    Ok(())
}

/// `idle_bytes_per_s`, `api_writes_per_s_10k_quiet`.
async fn quiet(rig: &Rig, wide: &mut Load, measures: &mut Vec<Measure>) -> Outcome {
    wide.quiet().await;
    let (writes, bytes, began) = (writes(rig)?, wide.bytes(), Instant::now());
    sleep(QUIET).await;
    let seconds = began.elapsed().as_secs_f64();
    let agents = wide.agents.len() as f64;
    let bytes = (wide.bytes() - bytes) / seconds / agents;
    measures.push(
        Measure::single("idle_bytes_per_s", "B/s", bytes)
            .target("<= 100", bytes <= 100.0)
            .note("both ways, TLS included, at the client's socket; TCP and IP headers are not in it"),
    );
    let writes = (self::writes(rig)? - writes) / seconds;
    measures.push(
        Measure::single("api_writes_per_s_10k_quiet", "1/s", writes)
            .target("<= 2", writes <= 2.0)
            .note(&format!("all writes of the API server, leases included; {agents} nodes, no devices")),
    );
    Ok(())
}

/// `reconnect_10k_s`, `reconnect_bytes_per_node`; the replica that is left.
async fn reconnect_all(
    rig: &Rig,
    hub: Hub,
    second: u16,
    wide: &mut Load,
    measures: &mut Vec<Measure>,
) -> Outcome<Hub> {
    let other = rig.hub("hub-1", second)?;
    let agents = wide.agents.len();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &wide.fleet.counters;
    let (deltas, compared, bytes) = (count(&counters.deltas), count(&counters.compared), wide.bytes());
    let began = Instant::now();
    hub.process.kill();
    lost(&wide.fleet, agents).await;
    wide.synced().await?;
    let seconds = began.elapsed().as_secs_f64();
    let bytes = (wide.bytes() - bytes) / agents as f64;
    let counters = &wide.fleet.counters;
    let (deltas, compared) = (count(&counters.deltas) - deltas, count(&counters.compared) - compared);
    measures
        .push(Measure::single("reconnect_10k_s", "s", seconds).target("<= 20", seconds <= 20.0).note(&format!(
        "{agents} agents after kill -9 of their replica, until the other has said InSync to all; {deltas} \
             deltas and {compared} inventories"
    )));
    measures.push(
        Measure::single("reconnect_bytes_per_node", "B", bytes)
            .target("<= 4096", bytes <= 4096.0)
            .note("both ways, with TLS"),
    );
    Ok(other)
}

/// `reconnect_one_s`: the other replica up, and a single replica that is restarted.
async fn reconnect_one(rig: &Rig, hub: Hub, measures: &mut Vec<Measure>) -> Outcome {
    let mut hubs = vec![hub];
    let port = free_port()?;
    let endpoints = [hubs[0].endpoint.clone(), format!("https://127.0.0.1:{port}")];
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut one = Load::prepare(rig, "wide", 1, 0, &endpoints).await?;
    one.grow(1).await?;
    let port_of = |hub: &Hub| hub.endpoint.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let mut free = port;
    let mut samples = Vec::new();
    for round in 0..LOSSES {
        hubs.push(rig.hub(&format!("hub-{}", round + 2), free)?);
        let old = hubs.remove(0);
        free = port_of(&old).unwrap_or(port);
        samples.push(lose(old, &mut one).await?);
    }
    let measure = Measure::samples("reconnect_one_s", "s", &samples);
    let worst = measure.number("max");
    measures.push(
        measure
            .target("<= 1", worst <= 1.0)
            .note("after kill -9 of its replica, the other up; jitter included"),
    );
    let mut samples = Vec::new();
    for round in 0..LOSSES {
        let Some(old) = hubs.pop() else { break };
        let port = port_of(&old).unwrap_or(port);
        let began = Instant::now();
        old.process.kill();
        hubs.push(rig.hub(&format!("hub-{}", round + 8), port)?);
        one.synced().await?;
        samples.push(began.elapsed().as_secs_f64());
    }
    let measure = Measure::samples("reconnect_one_restarted_s", "s", &samples);
    let worst = measure.number("max");
    measures.push(
        measure
            .target("<= 3", worst <= 3.0)
            .note("kill -9 of the only replica, restarted at once, with its caches of all nodes to fill"),
    );
    one.end().await;
    Ok(())
}

async fn lose(hub: Hub, one: &mut Load) -> Outcome<f64> {
    let began = Instant::now();
    hub.process.kill();
    lost(&one.fleet, 1).await;
    one.synced().await?;
    Ok(began.elapsed().as_secs_f64())
}

/// Until somebody has noticed; a fleet that is back before that was quicker than this looks.
async fn lost(fleet: &Fleet, agents: usize) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while fleet.standing().1 >= agents && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Requests that write, all since the API server began.
fn writes(rig: &Rig) -> Outcome<f64> {
    let metrics = rig.tools.kubectl(&["get", "--raw", "/metrics"])?;
    let writes = |line: &&str| {
        line.starts_with("apiserver_request_total")
            && ["POST", "PUT", "PATCH", "APPLY", "DELETE"]
                .iter()
                .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    Ok(metrics.lines().filter(writes).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// KiB a session, between the first size and the last.
fn slope(sizes: &[(f64, f64)]) -> f64 {
    match (sizes.first(), sizes.last()) {
        (Some(first), Some(last)) => (last.1 - first.1) / (last.0 - first.0),
        _ => f64::NAN,
    }
}

fn unexpected<E: Display>(what: &'static str) -> impl FnOnce(E) -> StoryError {
    move |error| StoryError::Unexpected { what: what.into(), found: error.to_string() }
}

fn chained<E: std::error::Error>(what: &'static str) -> impl FnOnce(E) -> StoryError {
    move |error| StoryError::Unexpected { what: what.into(), found: selvedge_stories::chain(&error) }
}
