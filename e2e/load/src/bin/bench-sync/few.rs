//! Twenty agents of the product itself, each a process with its ledger on disk.
//!
//! In: the rig. Out: how long a change takes until it is durable everywhere, and how long a link that died
//! silently is believed.

use std::process::Command;
use std::time::Duration;

use selvedge_stories::measure::Measure;
use selvedge_stories::{Outcome, StoryError};
use tokio::time::{Instant, sleep};

use crate::load::{Load, Shape};
use crate::rig::{Hub, Process, Rig, io};

const AGENTS: u32 = 20;
/// Changes to all, one after the other.
const ROUNDS: usize = 20;
/// How often the hub is asked how many have committed: also the resolution of the samples.
const LOOK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);
/// Two heartbeats of both sides, and the second that the hub adds for a slow link.
const TWO_HEARTBEATS: f64 = 31.0;

pub async fn measure(rig: &Rig, hub: &Hub, measures: &mut Vec<Measure>) -> Outcome {
    let shape = Shape { prefix: "few", agents: AGENTS, applications: 10, devices: 0 };
    let mut load = Load::prepare(rig, shape, &[&hub.endpoint]).await?;
    let mut agents = Vec::new();
    for (_, kept) in &load.kept {
        let Some(identity) = &kept.identity else { continue };
        agents.push(rig.agent(identity, &kept.key, &hub.endpoint)?);
    }
    let synced = |agent: &&Process| agent.metric("selvedge_agent_synced") >= 1.0;
    until("all agents are in sync", || {
        let synced = agents.iter().filter(synced).count();
        if synced == agents.len() { Ok(()) } else { Err(format!("{synced} are")) }
    })
    .await?;
    durable(hub, &mut load, measures).await?;
    silent_cut(hub, &agents, measures).await
}

/// `change_to_durable_ms_20`: the hub counts an Ack, which an agent says after its fsync.
async fn durable(hub: &Hub, load: &mut Load, measures: &mut Vec<Measure>) -> Outcome {
    let acks = || hub.process.metric("selvedge_hub_acks_total");
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        let before = acks();
        let asked = Instant::now();
        let changes = &mut load.changes;
        let (revision, counted) = tokio::join!(changes.to_all(), async {
            let mut counted = Vec::new();
            while counted.len() < AGENTS as usize && asked.elapsed() < PATIENCE {
                let (now, at) = (acks() - before, asked.elapsed().as_secs_f64() * 1000.0);
                counted.resize((now as usize).min(AGENTS as usize).max(counted.len()), at);
                sleep(LOOK).await;
            }
            counted
        });
        if revision.is_none() || counted.len() < AGENTS as usize {
            return Err(StoryError::NotInTime {
                what: "a change is durable at 20 agents".into(),
                within: PATIENCE,
                last: format!("{} have committed; {:?}", counted.len(), load.fleet.failures()),
            });
        }
        samples.extend(counted);
        // Statuses that follow from it belong to no later change.
        sleep(Duration::from_millis(200)).await;
    }
    let measure = Measure::samples("change_to_durable_ms_20", "ms", &samples);
    let p99 = measure.number("p99");
    measures.push(measure.target("p99 <= 100", p99 <= 100.0).note(&format!(
        "{AGENTS} processes of selvedge-agent with their ledgers on disk (synchronous=FULL); from the request to \
         the API server to the hub's count of Acks, which agents send after the fsync, read every {} ms; a \
         ConfigMap of 2 KB, {ROUNDS} changes",
        LOOK.as_millis()
    )));
    Ok(())
}

/// `silent_cut_noticed_s`: netfilter drops every packet of the hub's port, both ways.
async fn silent_cut(hub: &Hub, agents: &[Process], measures: &mut Vec<Measure>) -> Outcome {
    let cut = Cut::begin(hub.port)?;
    let began = Instant::now();
    let mut noticed: Vec<Option<f64>> = vec![None; agents.len()];
    let mut by_hub = None;
    until("both sides notice a link that is cut", || {
        let seconds = began.elapsed().as_secs_f64();
        for (noticed, agent) in noticed.iter_mut().zip(agents) {
            if noticed.is_none() && agent.metric("selvedge_agent_connected") < 1.0 {
                *noticed = Some(seconds);
            }
        }
        if by_hub.is_none() && hub.process.metric("selvedge_hub_sessions") < 1.0 {
            by_hub = Some(seconds);
        }
        match (noticed.iter().all(Option::is_some), by_hub) {
            (true, Some(_)) => Ok(()),
            _ => Err(format!("hub {by_hub:?}, agents {noticed:?}")),
        }
    })
    .await?;
    drop(cut);
    let agents: Vec<f64> = noticed.into_iter().flatten().collect();
    let slowest = agents.iter().copied().fold(0.0, f64::max);
    let hub = by_hub.unwrap_or(f64::NAN);
    let measure = Measure::samples("silent_cut_noticed_s", "s", &[&agents[..], &[hub]].concat());
    let worst = measure.number("max");
    measures.push(measure.target("<= 31 (two heartbeats of 15 s, and 1 s)", worst <= TWO_HEARTBEATS + 0.5).note(
        &format!(
            "iptables -j DROP on the hub's port, both ways, no RST; {AGENTS} agents, the last after {slowest:.1} s; \
             the hub knew of all after {hub:.1} s; looked at every 0.1 s and more"
        ),
    ));
    Ok(())
}

/// Packets to and from one port of this machine vanish while it lives.
struct Cut {
    port: String,
}

impl Cut {
    fn begin(port: u16) -> Outcome<Self> {
        let cut = Self { port: port.to_string() };
        for side in ["--dport", "--sport"] {
            let said = cut.rule("-I", side)?;
            if !said.status.success() {
                return Err(StoryError::Unexpected {
                    what: "iptables takes a rule".into(),
                    found: String::from_utf8_lossy(&said.stderr).into_owned(),
                });
            }
        }
        Ok(cut)
    }

    fn rule(&self, verb: &str, side: &str) -> Outcome<std::process::Output> {
        let words = ["-w", verb, "INPUT", "-i", "lo", "-p", "tcp", side, &self.port, "-j", "DROP"];
        Command::new("iptables").args(words).output().map_err(io("run iptables"))
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for side in ["--dport", "--sport"] {
            // A rule that was never made cannot be taken away; nothing else can be done about it here.
            let _gone = self.rule("-D", side);
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> Result<(), String>) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio::task::block_in_place(&mut holds) {
            Ok(()) => return Ok(()),
            Err(last) if Instant::now() > deadline => {
                return Err(StoryError::NotInTime { what: what.into(), within: PATIENCE, last });
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
