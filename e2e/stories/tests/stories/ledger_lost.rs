//! A ledger that is gone or broken is filled anew; it never locks a node out and never stops what runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_cluster::EdgeHost;
use serde_json::Value;

use selvedge_stories::{Outcome, StoryError, World, eventually, expect};

use crate::NODE;
use crate::application::page;

const PATIENCE: Duration = Duration::from_secs(60);

/// The node begins anew at its first session, and nobody in the cluster remembers a later one but the fence in
/// its status: hub and controller are new, too.
pub fn a_deleted_ledger_is_synced_anew(world: &World) -> Outcome {
    for deployment in ["edgenode-controller", "selvedge-hub"] {
        world.scale(deployment, 0)?;
    }
    let brought_back = || {
        world.scale("edgenode-controller", 1)?;
        world.scale("selvedge-hub", 2)
    };
    with_ledger(world, "missing", brought_back, |ledger| {
        remove_logs(ledger)?;
        std::fs::remove_file(ledger)
    })
}

pub fn a_truncated_ledger_is_put_aside(world: &World) -> Outcome {
    let unchanged = || Ok(());
    with_ledger(world, "damaged", unchanged, |ledger| {
        // Its log alone would make the file whole again; and what is not in the file yet cannot be cut off.
        remove_logs(ledger)?;
        let mut torn = b"SQLite format 3\0".to_vec();
        torn.resize(1000, 0x5a);
        std::fs::write(ledger, torn)
    })
}

/// Removes what SQLite keeps beside the file.
fn remove_logs(ledger: &Path) -> std::io::Result<()> {
    for suffix in ["-wal", "-shm"] {
        let mut file = ledger.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Kills the agent, does something to its ledger, starts it, and sees everything in sync and unrestarted.
fn with_ledger(
    world: &World,
    said: &str,
    meanwhile: impl Fn() -> Outcome,
    harm: impl Fn(&Path) -> std::io::Result<()>,
) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    let started = page(&host, "started", |_| true)?;
    world.kill_agent(&host)?;
    harm(&ledger(&host)).map_err(|source| StoryError::Io { what: "harm the ledger".into(), source })?;
    meanwhile()?;
    world.start_agent(&host)?;
    // What the new process says, of its new ledger: the API's status may never have changed.
    eventually("the agent is in sync and has everything again", PATIENCE, || {
        let status = world.agent_says(&host, &["status"]).map_err(|error| error.to_string())?;
        let whole = ["in sync", "hello", "boiler-1"].iter().all(|word| status.contains(word));
        if whole { Ok(()) } else { Err(status) }
    })?;
    for condition in ["Connected", "Synced"] {
        world.wait_condition(&["edgenode", NODE], condition, "True", PATIENCE)?;
    }
    let ready = format!("Ready=True, and says that the ledger was {said}");
    let tells = |node: &Value| tells_of_the_ledger(node, said);
    world.wait_object(&["edgenode", NODE], &ready, PATIENCE, tells)?;
    expect("the container was not restarted", page(&host, "started", |_| true)? == started, started)
}

/// What an operator reads at the node, in `kubectl describe edgenode`.
fn tells_of_the_ledger(node: &Value, said: &str) -> bool {
    let said = format!("the ledger was {said}");
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    ready.is_some_and(|ready| {
        ready["status"] == "True" && ready["message"].as_str().is_some_and(|text| text.contains(&said))
    })
}

fn ledger(host: &EdgeHost) -> PathBuf {
    host.disk().join("var-lib/selvedge/ledger.db")
}
