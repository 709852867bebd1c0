//! `helm uninstall`, `helm install` of the previous commit's chart and `helm upgrade` to this one: the fleet
//! is kept, nothing at the edge stops.

use std::time::Duration;

use selvedge_cluster::clock::Deadline;
use selvedge_stories::{Installed, Outcome, World, expect};

use crate::NODE;
use crate::application::page;

const PATIENCE: Duration = Duration::from_secs(90);
/// What users are promised of `helm uninstall`.
const UNINSTALL: Duration = Duration::from_secs(60);

pub fn nothing_stops(world: &World) -> Outcome {
    let chart = world.file("charts/selvedge");
    let host = world.cluster.edge(NODE)?;
    let started = page(&host, "started", |_| true)?;
    let agent = host.process("agent");

    let uninstall = Deadline::after(UNINSTALL);
    world.tools.helm(&[
        "uninstall",
        "selvedge",
        "--namespace",
        "selvedge-system",
        "--wait",
        "--timeout",
        "60s",
    ])?;
    expect(
        "helm uninstall ends in time",
        !uninstall.passed(),
        format!("{} s", uninstall.elapsed().as_secs()),
    )?;
    let nodes = world.tools.kubectl(&["get", "edgenodes", "-o", "name"])?;
    expect("the fleet is kept", nodes.contains(NODE), nodes)?;
    expect("the container runs on", page(&host, "started", |_| true)? == started, &started)?;
    expect("so does the agent", host.process("agent") == agent, format!("{agent:?}"))?;

    // The previous chart's objects with this commit's images: what must hold is that the upgrade from there
    // succeeds, so nobody waits for it to be ready.
    match world.previous_chart()? {
        Ok(previous) => drop(world.put(Installed { chart: &previous, words: &[] })?),
        Err(none) => eprintln!("no chart of a previous commit, so none is upgraded from: {none}"),
    }
    // Another format of logs replaces every pod, also when the chart is as it was.
    world.install(Installed { chart: &chart, words: &["--set", "log.format=json"] })?;
    for condition in ["Connected", "Ready", "Synced"] {
        world.wait_condition(&["edgenode", NODE], condition, "True", PATIENCE)?;
    }
    expect("it was never restarted", page(&host, "started", |_| true)? == started, started)
}
