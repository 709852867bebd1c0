//! An EdgeNode that is applied again, as from Git into a cluster that was lost, takes its machine back without a visit.

use std::time::Duration;

use serde_json::json;

use selvedge_stories::{Outcome, World, eventually, expect};

use crate::NODE;
use crate::application::page;

const IT: [&str; 2] = ["edgenode", NODE];
/// A machine that is not admitted asks once a minute.
const PATIENCE: Duration = Duration::from_secs(180);

pub fn an_edge_node_that_is_applied_again_takes_its_machine_back(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    let (agent, started) = (host.process("agent"), page(&host, "started", |_| true)?);
    let before = world.wait_condition(&IT, "Connected", "True", PATIENCE)?;
    let metadata = json!({"name": NODE, "labels": before["metadata"]["labels"]});
    let manifest = json!({"apiVersion": "selvedge.dev/v1alpha1", "kind": "EdgeNode", "metadata": metadata,
        "spec": before["spec"]});
    world.tools.kubectl(&["delete", "edgenode", NODE])?;
    world.tools.kubectl_with(&["apply", "-f", "-"], &manifest.to_string())?;
    let waits = |node: &serde_json::Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| condition["reason"] == "UidMismatch")
    };
    world.wait_object(&IT, "saying that its machine waits", PATIENCE, waits)?;
    let adopt = r#"{"spec":{"join":{"adopt":"SameName"}}}"#;
    world.tools.kubectl(&["patch", "edgenode", NODE, "--type", "merge", "-p", adopt])?;
    for condition in ["Connected", "Synced"] {
        world.wait_condition(&IT, condition, "True", PATIENCE)?;
    }
    eventually("an Event says that the machine was taken in", PATIENCE, || {
        let select = format!("involvedObject.name={NODE},reason=Adopted");
        let words = ["get", "events", "--all-namespaces", "--field-selector", &select, "-o", "name"];
        let found = world.tools.kubectl(&words).map_err(|error| error.to_string())?;
        if found.trim().is_empty() { Err("there is none".to_owned()) } else { Ok(()) }
    })?;
    // It is for a recovery, and goes after it: the machine stays.
    let never = r#"{"spec":{"join":{"adopt":null}}}"#;
    world.tools.kubectl(&["patch", "edgenode", NODE, "--type", "merge", "-p", never])?;
    world.wait_condition(&IT, "Connected", "True", PATIENCE)?;
    expect("the agent was not restarted", host.process("agent") == agent, format!("{agent:?}"))?;
    expect("the container was not restarted", page(&host, "started", |_| true)? == started, started)
}
