//! Very many agents: several hubs, several processes of agents, one change of 2 KB to all.
//!
//! In: the rig. Out: seconds from the request to the API server to the last Ack. The controllers end once the
//! application is rolled out: each would write a status of every node once more, which is no part of this. Statuses are
//! not waited for: at the pace of this rig a hundred thousand take a quarter of an hour.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use selvedge_load::clock::unix_ms;
use selvedge_load::objects::Cluster;
use selvedge_stories::measure::Measure;
use selvedge_stories::{Outcome, StoryError};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::load::{Load, Shape, chained, options, patience, size, unexpected};
use crate::rig::{Hub, Rig, free_port, io};

/// Connections of one hub and of one process of agents: below the 20,000 files that a process may open here.
const EACH: u32 = 17_000;
/// Changes to all, one after the other.
const ROUNDS: usize = 3;
/// The first statuses of so many nodes would take both cores from what is measured: each hub writes few a second.
const PACED: [&str; 2] = ["--status-writes-per-second", "20"];
/// Between two lines of progress.
const LOOK: Duration = Duration::from_secs(10);

/// What a process of agents says, a line each time something has changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    pub sessions: usize,
    pub synced: usize,
    /// By source revision: how many agents have acknowledged it, and when the last did (Unix milliseconds).
    pub arrived: BTreeMap<u64, (usize, i64)>,
    /// Why sessions ended or did not begin.
    pub endings: BTreeMap<String, u64>,
}

pub async fn measure(rig: &mut Rig, port: u16, agents: u32, measures: &mut Vec<Measure>) -> Outcome {
    let shape = |agents| Shape { prefix: "mass", agents, applications: 1, devices: 0 };
    let (count, all) = (agents.div_ceil(EACH), agents as usize);
    let mut hubs = vec![rig.hub_with("hub-0", port, &PACED)?];
    let mut load = Load::prepare(rig, shape(1), &[&hubs[0].endpoint]).await?;
    // Hubs get their certificates from a controller, so they begin before it ends.
    for number in 1..count {
        hubs.push(rig.hub_with(&format!("hub-{number}"), free_port()?, &PACED)?);
    }
    rig.stop_controllers();
    let uids = nodes(rig, shape(agents), &hubs[0].endpoint).await?;
    println!("  {} hubs have read {agents} nodes", hubs.len());
    let memory = |hubs: &[Hub]| hubs.iter().map(|hub| hub.process.memory_kb()).sum::<f64>();
    let cpu = |hubs: &[Hub]| hubs.iter().map(|hub| hub.process.cpu_s()).sum::<f64>();
    let (before, began) = (memory(&hubs), Instant::now());
    let each = agents.div_ceil(count);
    let (sender, said) = mpsc::channel();
    let mut fleet = Workers { said, standing: Vec::new() };
    let mut workers = Vec::new();
    // One hub's agents after the other's: what is measured begins when all are there.
    for (number, hub) in (0_u32..).zip(&hubs) {
        let first = number * each + 1;
        let here = each.min(agents + 1 - first);
        let range = (first, here);
        workers.push(Worker::start(rig, &uids, number as usize, range, &hub.endpoint, sender.clone())?);
        fleet.standing.push(Standing::default());
        let there = (first + here - 1) as usize;
        fleet.until("all agents are in sync", patience(there), |sum| sum.synced >= there).await?;
        println!("  {there} in sync after {} s", began.elapsed().as_secs());
    }
    let connected = began.elapsed().as_secs_f64();
    let memory = (memory(&hubs) - before) / f64::from(agents);
    let mut samples = Vec::new();
    let spent = cpu(&hubs);
    for _ in 0..ROUNDS {
        let asked = unix_ms();
        let revision = load.changes.to_all().await.ok_or_else(|| StoryError::Unexpected {
            what: "a change is taken".into(),
            found: format!("{:?}", load.fleet.failures()),
        })?;
        let arrived = |sum: &Standing| sum.arrived.get(&revision).is_some_and(|(count, _)| *count >= all);
        let sum = fleet.until("a change is everywhere", patience(all), arrived).await?;
        let last = sum.arrived.get(&revision).map_or(asked, |(_, last)| *last);
        samples.push((last - asked) as f64 / 1000.0);
        println!("  a change is everywhere after {:.1} s", (last - asked) as f64 / 1000.0);
    }
    let spent = (cpu(&hubs) - spent) / (f64::from(agents) * ROUNDS as f64) * 1e6;
    let measure = Measure::samples(&format!("fanout_{}_s", size(all)), "s", &samples);
    let worst = measure.number("max");
    measures.push(measure.at("fanout_s", all).target("max <= 4", worst <= 4.0).note(&format!(
        "one ConfigMap of 2 KB to {agents} agents over {count} hubs and as many processes of agents on the same cores; \
         from the request to the API server to the last Ack, all delivered, while each hub writes {} statuses a second. \
         {spent:.0} µs of hub CPU a change and agent until the last Ack; {memory:.1} KiB a session; all in sync \
         {connected:.0} s after the first dial, one hub's agents after the other's",
        PACED[1]
    )));
    Ok(())
}

/// Makes the EdgeNodes; a file of their names and uids for the processes of agents.
async fn nodes(rig: &Rig, shape: Shape, hub: &str) -> Outcome<PathBuf> {
    let options = options(rig, shape, &[hub])?;
    let cluster = Cluster::connect(options.kubeconfig.as_deref(), &options)
        .await
        .map_err(unexpected("there is a cluster"))?;
    let uids = cluster.ensure(&options).await.map_err(chained("nodes are made"))?;
    let lines: Vec<String> =
        options.numbers().filter_map(|number| uids.get(&options.node(number))).cloned().collect();
    let path = rig.kubeconfig().with_file_name("uids");
    std::fs::write(&path, lines.join("\n")).map_err(io("write the uids of nodes"))?;
    Ok(path)
}

/// A process of agents; ends with this value.
struct Worker {
    child: Child,
}

impl Worker {
    fn start(
        rig: &Rig,
        uids: &Path,
        number: usize,
        (first, agents): (u32, u32),
        hub: &str,
        sender: mpsc::Sender<(usize, Standing)>,
    ) -> Outcome<Self> {
        let me = std::env::current_exe().map_err(io("find this program"))?;
        let (certificate, key) = rig.ca();
        let mut child = Command::new(me)
            .args(["agents", "--hub", hub, "--prefix", "mass"])
            .args(["--first", &first.to_string(), "--agents", &agents.to_string()])
            .arg("--uids")
            .arg(uids)
            .arg("--ca-cert")
            .arg(certificate)
            .arg("--ca-key")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io("start a process of agents"))?;
        let Some(stdout) = child.stdout.take() else { return Ok(Self { child }) };
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(standing) = serde_json::from_str(&line) else { continue };
                if sender.send((number, standing)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

struct Workers {
    said: mpsc::Receiver<(usize, Standing)>,
    standing: Vec<Standing>,
}

impl Workers {
    async fn until(
        &mut self,
        what: &str,
        within: Duration,
        holds: impl Fn(&Standing) -> bool,
    ) -> Outcome<Standing> {
        let (deadline, mut said) = (Instant::now() + within, Instant::now());
        loop {
            while let Ok((number, standing)) = self.said.try_recv() {
                self.standing[number] = standing;
            }
            let sum = self.sum();
            if holds(&sum) {
                return Ok(sum);
            }
            if said.elapsed() > LOOK {
                println!("  {} sessions, {} in sync", sum.sessions, sum.synced);
                said = Instant::now();
            }
            if Instant::now() > deadline {
                return Err(StoryError::NotInTime { what: what.into(), within, last: format!("{sum:?}") });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn sum(&self) -> Standing {
        let mut sum = Standing::default();
        for one in &self.standing {
            sum.sessions += one.sessions;
            sum.synced += one.synced;
            for (revision, (count, last)) in &one.arrived {
                let arrived = sum.arrived.entry(*revision).or_default();
                *arrived = (arrived.0 + count, arrived.1.max(*last));
            }
            for (why, times) in &one.endings {
                *sum.endings.entry(why.clone()).or_default() += times;
            }
        }
        sum
    }
}
