//! A fleet of nodes with ten applications and no devices, as large as is asked for: how cost and time grow with
//! agents, and how the fleet comes back.
//!
//! In: the rig. Out: a point of each series at each size, and what holds at the largest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use selvedge_load::fleet::Fleet;
use selvedge_stories::measure::Measure;
use selvedge_stories::{Outcome, StoryError};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{Instant, sleep};

use crate::full::slope;
use crate::load::{Load, Shape, size};
use crate::rig::{Hub, Rig, free_port};
use crate::{reference, squeeze};

/// Changes to all at each size, one after the other.
const ROUNDS: u64 = 5;
/// Idle traffic is counted over two heartbeats.
const IDLE: Duration = Duration::from_secs(30);
/// Connections of the reference: its cost of one does not depend on how many there are.
const REFERENCE: u32 = 4_000;
/// Agents that lose their hub, each timed by itself.
const SINGLE: u32 = 10;
/// A session that lived longer was a good one: the agent's backoff begins anew.
const GOOD_SESSION: Duration = Duration::from_secs(31);
/// An agent that is not back in this time does not come back.
const BACK: Duration = Duration::from_secs(60);
/// Sizes that are measured on the way to the largest.
const SIZES: [usize; 6] = [100, 300, 1_000, 3_000, 10_000, 19_000];

const fn shape(agents: u32) -> Shape {
    Shape { prefix: "wide", agents, applications: 10, devices: 0 }
}

pub async fn measure(rig: &Rig, hub: Hub, agents: u32, measures: &mut Vec<Measure>) -> Outcome {
    let second = free_port()?;
    let other = format!("https://127.0.0.1:{second}");
    let mut wide = Load::prepare(rig, shape(agents), &[&hub.endpoint, &other]).await?;
    fan_out(rig, &hub, &mut wide, measures).await?;
    wire_ratio(rig, &mut wide, measures).await?;
    idle(rig, &wide, measures).await?;
    let hub = reconnect_all(rig, hub, second, &mut wide, measures).await?;
    wide.end().await;
    reconnect_one(rig, hub, agents as usize, measures).await
}

/// `change_to_acked_ms_*`, `fanout_cpu_ratio`, and memory without devices.
async fn fan_out(rig: &Rig, hub: &Hub, wide: &mut Load, measures: &mut Vec<Measure>) -> Outcome {
    let all = wide.kept.len();
    let mut sizes = Vec::new();
    for count in SIZES.into_iter().filter(|size| *size < all).chain([all]) {
        let began = Instant::now();
        wide.grow(count).await?;
        println!("  in sync after {:.1} s", began.elapsed().as_secs_f64());
        wide.quiet(rig, wide.running()).await?;
        println!(
            "  at rest after {:.1} s; CPU of controllers so far: {:?}",
            began.elapsed().as_secs_f64(),
            rig.controllers_cpu()
        );
        let memory = hub.process.memory_kb();
        sizes.push((count, memory));
        let name = format!("hub_memory_mb_{}", size(count));
        measures.push(Measure::single(&name, "MiB", memory / 1024.0).at("hub_memory_mb", count));

        let (cpu, down) = (hub.process.cpu_s(), wide.bytes().0);
        let samples = wide.change_all(ROUNDS).await?;
        // What follows from a change (reports, statuses to be compared) belongs to its cost.
        wide.quiet(rig, wide.running()).await?;
        let changes = (count as u64 * ROUNDS) as f64;
        let cpu = (hub.process.cpu_s() - cpu) / changes * 1e6;
        let bytes = (wide.bytes().0 - down) / changes;
        let limit = if count > 1_000 { 3_000.0 } else { 1_000.0 };
        let measure = Measure::samples(&format!("change_to_acked_ms_{}", size(count)), "ms", &samples);
        let p99 = measure.number("p99");
        measures.push(measure.at("change_to_acked_ms", count).target(&format!("p99 <= {limit:.0}"), p99 <= limit).note(
            &format!(
                "from the request to the API server to each agent's Ack; a ConfigMap of 2 KB, {ROUNDS} changes, \
                 {bytes:.0} B down an agent"
            ),
        ));
        measures.push(
            Measure::single(&format!("fanout_cpu_us_{}", size(count)), "µs", cpu).at("fanout_cpu_us", count),
        );
        if count == all {
            let (certificate, key) = rig.ca();
            let directory = rig.kubeconfig().with_file_name("");
            let frame = (bytes as usize).max(1);
            let floor =
                reference::measure((&certificate, &key), &directory, REFERENCE, frame, ROUNDS).await?;
            let floor = floor * 1e6;
            let ratio = cpu / floor;
            measures.push(Measure::single("fanout_cpu_ratio", "", ratio).target("<= 1.4", ratio <= 1.4).note(&format!(
                "hub: {cpu:.1} µs of CPU a change and agent at {count} agents, with Ack, report and comparison of \
                 statuses; reference loop in the same run: {floor:.1} µs ({REFERENCE} connections, prebuilt frames \
                 of {frame} B, one small answer)"
            )));
        }
    }
    let kilobytes = slope(&sizes);
    measures.push(Measure::single("hub_idle_session_no_devices_kb", "KiB", kilobytes).note(&format!(
        "Pss_Anon a session, slope between {} and {all}; ten applications, no devices",
        sizes.first().map_or(0, |(count, _)| *count)
    )));
    Ok(())
}

/// `change_wire_ratio`: one field of a ConfigMap of 4 KB.
async fn wire_ratio(rig: &Rig, wide: &mut Load, measures: &mut Vec<Measure>) -> Outcome {
    let agents = wide.running();
    // First the object itself, then the change that is measured.
    let first = wide.changes.to_all_with(&squeeze::settings(0)).await;
    wide.arrived(first).await?;
    wide.quiet(rig, wide.running()).await?;
    drop(wide.fleet.take_arrivals());
    let before = wide.bytes().0;
    let text = squeeze::settings(1);
    let revision = wide.changes.to_all_with(&text).await;
    wide.arrived(revision).await?;
    let bytes = (wide.bytes().0 - before) / agents as f64;
    let squeezed = squeeze::gzip(&text)? as f64;
    let ratio = bytes / squeezed;
    measures.push(Measure::single("change_wire_ratio", "", ratio).target("<= 1.3", ratio <= 1.3).note(&format!(
        "one value in a ConfigMap of {} B: {bytes:.0} B down an agent, TLS included; gzip -9 of it: {squeezed:.0} B. \
         Bodies go whole, deflated; the workload that names the ConfigMap goes with it",
        text.len()
    )));
    Ok(())
}

/// `idle_bytes_per_s`.
async fn idle(rig: &Rig, wide: &Load, measures: &mut Vec<Measure>) -> Outcome {
    wide.quiet(rig, wide.running()).await?;
    let (before, began) = (wide.bytes().1, Instant::now());
    sleep(IDLE).await;
    let bytes = (wide.bytes().1 - before) / began.elapsed().as_secs_f64() / wide.running() as f64;
    measures.push(
        Measure::single("idle_bytes_per_s", "B/s", bytes)
            .target("<= 100", bytes <= 100.0)
            .note("an agent, both ways, TLS included, at its socket; headers of TCP and IP are not in it"),
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
    let agents = wide.running();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &wide.fleet.counters;
    let (deltas, compared, bytes) = (count(&counters.deltas), count(&counters.compared), wide.bytes().1);
    let began = Instant::now();
    hub.process.kill();
    lost(wide, agents).await;
    wide.synced().await?;
    let seconds = began.elapsed().as_secs_f64();
    let bytes = (wide.bytes().1 - bytes) / agents as f64;
    let counters = &wide.fleet.counters;
    let (deltas, compared) = (count(&counters.deltas) - deltas, count(&counters.compared) - compared);
    let name = format!("reconnect_{}_s", size(agents));
    measures.push(Measure::single(&name, "s", seconds).target("<= 20", seconds <= 20.0).note(&format!(
        "{agents} agents after kill -9 of their replica, until the other has said InSync to all, agents and hub on \
         the same cores; {deltas} deltas and {compared} inventories"
    )));
    measures.push(
        Measure::single("reconnect_bytes_per_node", "B", bytes)
            .target("<= 4096", bytes <= 4096.0)
            .note("both ways, with TLS, reports said again included"),
    );
    Ok(other)
}

/// `reconnect_one_s`: the other replica up, and a single replica that is restarted.
async fn reconnect_one(rig: &Rig, hub: Hub, nodes: usize, measures: &mut Vec<Measure>) -> Outcome {
    let other = free_port()?;
    let endpoints = [hub.port, other].map(|port| format!("https://127.0.0.1:{port}"));
    let mut few = Load::prepare(rig, shape(SINGLE), &[&endpoints[0], &endpoints[1]]).await?;
    few.grow(SINGLE as usize).await?;
    let other = rig.hub("hub-2", other)?;
    sleep(GOOD_SESSION).await;
    let (other, samples) = each_back(&few, || {
        hub.process.kill();
        Ok(other)
    })
    .await?;
    few.end().await;
    let measure = Measure::samples("reconnect_one_s", "s", &samples);
    let worst = measure.number("max");
    measures.push(measure.target("max <= 1", worst <= 1.0).note(&format!(
        "each of {SINGLE} agents after kill -9 of their replica, the other up, until InSync; jitter included"
    )));
    let mut few = Load::prepare(rig, shape(SINGLE), &[&other.endpoint]).await?;
    few.grow(SINGLE as usize).await?;
    sleep(GOOD_SESSION).await;
    let port = other.port;
    let (_hub, samples) = each_back(&few, || {
        other.process.kill();
        rig.hub("hub-2", port)
    })
    .await?;
    few.end().await;
    let measure = Measure::samples("reconnect_one_restarted_s", "s", &samples);
    let worst = measure.number("max");
    measures.push(measure.target("max <= 3", worst <= 3.0).note(&format!(
        "each of {SINGLE} agents after kill -9 of the only replica and the start of a new process, which reads the \
         cluster's {nodes} nodes first"
    )));
    Ok(())
}

/// Seconds until each agent is in sync again after `lose`, which may take its time; what it gives.
async fn each_back(load: &Load, lose: impl FnOnce() -> Outcome<Hub>) -> Outcome<(Hub, Vec<f64>)> {
    let nodes: Vec<String> = load.kept.iter().map(|(_, kept)| kept.node.clone()).collect();
    // A task of its own: it watches while the next replica starts.
    let mut watch = JoinSet::new();
    watch.spawn(back(load.fleet.clone(), nodes.clone(), Instant::now()));
    let hub = block_in_place(lose)?;
    let samples = watch.join_next().await.and_then(Result::ok).unwrap_or_default();
    if samples.len() < nodes.len() {
        let missing = load.fleet.not_synced(nodes.iter().map(String::as_str));
        return Err(StoryError::NotInTime {
            what: "every agent is back".into(),
            within: BACK,
            last: format!("not in sync: {missing:?}; {:?}", load.fleet.counters.endings()),
        });
    }
    Ok((hub, samples))
}

/// Seconds from `began` until each node that was lost is in sync again.
async fn back(fleet: Arc<Fleet>, nodes: Vec<String>, began: Instant) -> Vec<f64> {
    let (mut lost, mut back) = (HashSet::new(), HashMap::new());
    while back.len() < nodes.len() && began.elapsed() < BACK {
        let missing: HashSet<&str> = fleet.not_synced(nodes.iter().map(String::as_str)).into_iter().collect();
        for node in &nodes {
            if missing.contains(node.as_str()) {
                lost.insert(node);
                back.remove(node);
            } else if lost.contains(node) {
                back.entry(node).or_insert_with(|| began.elapsed().as_secs_f64());
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
    back.into_values().collect()
}

/// Until somebody has noticed; a fleet that is back before that was quicker than this looks.
async fn lost(load: &Load, agents: usize) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while load.fleet.standing().1 >= agents && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
}
