//! An upgrade in place, as operators do it: chart, hub and controllers first, the agent's binary some time after.
//! No container is restarted, no device is written to.

use std::time::Duration;

use selvedge_cluster::modbus::ModbusServer;
use selvedge_cluster::{EdgeHost, Release};
use selvedge_stories::{Installed, Outcome, World, eventually, expect};

use crate::application::page;
use crate::device::{desire, register};
use crate::{NODE, join};

/// A rollout of all of the cluster's pods and a new session: seconds, on a machine with nothing else to do.
const PATIENCE: Duration = Duration::from_secs(120);
const HELLO: [&str; 4] = ["edgeapplication", "hello", "-n", "shop"];
const BOILER: [&str; 4] = ["device", "boiler-1", "-n", "shop"];

pub fn in_place(world: &World, release: &Release) -> Outcome {
    let before = world.of(release);
    before.install(Installed { chart: &before.file("charts/selvedge"), words: &[] })?;
    join::a_node_joins_by_its_command(&before)?;
    in_sync(&before)?;
    let host = world.cluster.edge(NODE)?;
    let boiler = ModbusServer::on(&host)?;
    register(&boiler, 55)?;
    let edge = Edge { started: page(&host, "started", |_| true)?, writes: boiler.writes()? };

    world.install(Installed { chart: &world.file("charts/selvedge"), words: &[] })?;
    in_sync(world)?;
    edge.is_untouched("by the upgrade of the cluster", &host, &boiler)?;
    // CRDs may have new fields, and users use them.
    world.apply("examples/")?;

    world.stop_agent(&host)?;
    world.start_agent(&host)?;
    // What the new process says: the API's status may never have changed.
    eventually("the new agent is in sync and has everything", PATIENCE, || {
        let status = world.agent_says(&host, &["status"]).map_err(|error| error.to_string())?;
        let whole = ["in sync", "hello", "boiler-1"].iter().all(|word| status.contains(word));
        if whole { Ok(()) } else { Err(status) }
    })?;
    in_sync(world)?;
    edge.is_untouched("by the upgrade of the agent", &host, &boiler)?;

    // The device follows, and what would have told of a write does.
    desire(world, 60)?;
    register(&boiler, 60)?;
    let writes = boiler.writes()?;
    expect("a write is counted", writes > edge.writes, writes)
}

/// Node, application and device say that all is in force.
fn in_sync(world: &World) -> Outcome {
    for condition in ["Connected", "Ready", "Synced"] {
        world.wait_condition(&["edgenode", NODE], condition, "True", PATIENCE)?;
    }
    world.wait_condition(&HELLO, "Ready", "True", PATIENCE)?;
    world.wait_condition(&BOILER, "Synced", "True", PATIENCE)?;
    Ok(())
}

/// What an upgrade must not change.
struct Edge {
    /// When the application's container started, as it wrote down itself.
    started: String,
    /// Requests to write that the device got.
    writes: u64,
}

impl Edge {
    fn is_untouched(&self, by: &str, host: &EdgeHost, boiler: &ModbusServer) -> Outcome {
        let started = page(host, "started", |_| true)?;
        expect(&format!("no container is restarted {by}"), started == self.started, started)?;
        let writes = boiler.writes()?;
        expect(&format!("the device is not written to {by}"), writes == self.writes, writes)
    }
}
