//! From an applied EdgeNode to a connected one, by the join command and nothing else.

use std::time::Duration;

use selvedge_cluster::modbus::ModbusServer;
use selvedge_stories::{Outcome, World, eventually, expect};

use crate::NODE;

const PATIENCE: Duration = Duration::from_secs(30);
/// Finished requests stay for a minute, for people who look.
const FORGOTTEN: Duration = Duration::from_secs(90);

pub fn a_node_joins_by_its_command(world: &World) -> Outcome {
    world.apply("examples/")?;
    let host = world.cluster.create_edge(NODE)?;
    ModbusServer::start(&host, world.cluster.cache(), 502)?;
    world.join(&host, NODE)?;
    for condition in ["Ready", "Connected", "Synced"] {
        world.wait_condition(&["edgenode", NODE], condition, "True", PATIENCE)?;
    }
    // Used once: nobody can join with it again.
    eventually("the join Secret is gone", PATIENCE, || {
        match world.tools.object(&["secret", &format!("{NODE}-join"), "-n", "selvedge-join"]) {
            None => Ok(()),
            Some(_) => Err("it is still there".to_owned()),
        }
    })?;
    let node = world.wait_object(&["edgenode", NODE], "without a join key", PATIENCE, |node| {
        node["metadata"]["annotations"]["selvedge.dev/join"].is_null()
    })?;
    expect("the agent says its version", node["status"]["agent"]["version"].is_string(), &node["status"])?;
    eventually("finished certificate requests are removed", FORGOTTEN, || {
        let requests =
            world.tools.kubectl(&["get", "csr", "-o", "name"]).map_err(|error| error.to_string())?;
        if requests.trim().is_empty() { Ok(()) } else { Err(requests) }
    })
}
