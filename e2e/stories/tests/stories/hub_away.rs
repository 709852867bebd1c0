//! Without a hub, and with a cut cable, the edge goes on; and what was changed meanwhile arrives.

use std::time::Duration;

use selvedge_cluster::modbus::{ModbusServer, Table};
use selvedge_stories::{Outcome, World, expect};

use crate::NODE;
use crate::application::page;
use crate::device::{desire, register};

const PATIENCE: Duration = Duration::from_secs(60);
const BOILER: [&str; 4] = ["device", "boiler-1", "-n", "shop"];

pub fn the_edge_goes_on_alone(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    let boiler = ModbusServer::on(&host)?;
    let started = page(&host, "started", |_| true)?;

    world.scale("selvedge-hub", 0)?;
    world.kill_agent(&host)?;
    desire(world, 61)?;
    world.start_agent(&host)?;
    // From its ledger alone: the container runs on, and the device is driven to what was last delivered.
    boiler.set(Table::Holding, 0, 33)?;
    register(&boiler, 55)?;
    expect("the container runs on", page(&host, "started", |_| true)? == started, &started)?;
    let status = world.agent_says(&host, &["status"])?;
    expect(
        "the agent says what it runs without a hub",
        status.contains("hello") && status.contains("boiler-1"),
        status,
    )?;

    world.scale("selvedge-hub", 2)?;
    register(&boiler, 61)?;
    world.wait_condition(&BOILER, "Synced", "True", PATIENCE)?;
    world.wait_condition(&["edgenode", NODE], "Connected", "True", PATIENCE)?;
    expect("the container was never restarted", page(&host, "started", |_| true)? == started, &started)?;
    desire(world, 55)?;
    register(&boiler, 55)
}

pub fn a_cut_cable_is_noticed_and_mended(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    let boiler = ModbusServer::on(&host)?;
    host.cut()?;
    // Two heartbeats until the hub knows, and the grace that a hub restart fits into.
    let noticed = world.wait_condition(&["edgenode", NODE], "Connected", "False", Duration::from_secs(120));
    // Both sides of the change are made while the cable is cut: by a user, and by nature.
    let changed = noticed.and_then(|_| {
        desire(world, 62)?;
        world.wait_condition(&BOILER, "Ready", "Unknown", PATIENCE)
    });
    host.mend()?;
    changed?;
    register(&boiler, 62)?;
    for (object, condition) in
        [(&["edgenode", NODE][..], "Connected"), (&BOILER[..], "Ready"), (&BOILER[..], "Synced")]
    {
        world.wait_condition(object, condition, "True", PATIENCE)?;
    }
    desire(world, 55)?;
    register(&boiler, 55)
}
