//! A Modbus device: its values in kubectl, desired values in its registers, and its absence said.

use std::time::Duration;

use selvedge_cluster::modbus::{self, ModbusServer, Table};
use selvedge_stories::{Outcome, World, eventually, expect};

use crate::NODE;

const VISIBLE: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(30);
const BOILER: [&str; 4] = ["device", "boiler-1", "-n", "shop"];

pub fn values_come_and_go(world: &World) -> Outcome {
    let boiler = ModbusServer::on(&world.cluster.edge(NODE)?)?;
    world.wait_condition(&BOILER, "Synced", "True", PATIENCE)?;
    register(&boiler, 55)?;

    desire(world, 60)?;
    register(&boiler, 60)?;
    let device = world.wait_condition(&BOILER, "Synced", "True", PATIENCE)?;
    expect(
        "Synced answers the newest generation",
        device["status"]["observedGeneration"] == device["metadata"]["generation"],
        &device["status"],
    )?;

    let summary =
        |device: &serde_json::Value| device["status"]["summary"].as_str().unwrap_or_default().to_owned();
    let before = summary(&device);
    world.wait_object(&BOILER, "with other values than before", PATIENCE, |now| summary(now) != before)?;
    // And back, as the stories after this one expect it.
    desire(world, 55)?;
    register(&boiler, 55)
}

pub fn a_server_that_is_off_is_said_and_heals(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    host.kill(modbus::PROCESS)?;
    let off = world.wait_condition(&BOILER, "Ready", "False", VISIBLE)?;
    let conditions = off["status"]["conditions"].to_string();
    expect("the condition says what was tried", conditions.contains("127.0.0.1"), conditions)?;

    // What is desired meanwhile is not called applied, and arrives when the server is back.
    desire(world, 58)?;
    world.wait_condition(&BOILER, "Synced", "False", PATIENCE)?;
    let boiler = ModbusServer::start(&host, world.cluster.cache(), 502)?;
    world.wait_condition(&BOILER, "Ready", "True", PATIENCE)?;
    world.wait_condition(&BOILER, "Synced", "True", PATIENCE)?;
    register(&boiler, 58)?;
    desire(world, 55)?;
    register(&boiler, 55)
}

/// Patches the one value, as people do.
pub fn desire(world: &World, setpoint: u16) -> Outcome {
    let patch = format!(r#"{{"spec":{{"desired":{{"setpoint":{setpoint}}}}}}}"#);
    world.tools.kubectl(&["-n", "shop", "patch", "device", "boiler-1", "--type", "merge", "-p", &patch])?;
    Ok(())
}

/// Waits until the setpoint's register in the server has a value.
pub fn register(boiler: &ModbusServer, value: u16) -> Outcome {
    eventually(&format!("holding register 0 is {value}"), PATIENCE, || {
        let found = boiler.get(Table::Holding, 0).map_err(|error| error.to_string())?;
        if found == value { Ok(()) } else { Err(format!("it is {found}")) }
    })
}
