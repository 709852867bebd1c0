//! etcd gets back the data of before a hundred changes, both ways that etcd's documentation knows. Agents have
//! seen more than there is; they keep it, say so, and go on when a person accepts (sync rule 8).

use selvedge_stories::{Outcome, expect};

use crate::Stage;
use crate::faults::up;
use crate::standing::{until_all_say, until_well};

/// What is lost by the restore. Some are of all nodes, so that every node has seen more than there is.
const CHANGES: usize = 100;
const RATE: usize = 5;
/// What etcd's documentation proposes: above all that can have been written since the snapshot.
const BUMP: u64 = 1_000_000_000;
const CONFIG_MAP: [&str; 4] = ["-n", "selvedge-system", "configmap", "selvedge-cluster"];

pub fn etcd_is_restored(stage: &mut Stage) -> Outcome {
    restored(stage, None)
}

pub fn etcd_is_restored_with_bumped_revisions(stage: &mut Stage) -> Outcome {
    restored(stage, Some(BUMP))
}

fn restored(stage: &mut Stage, bump: Option<u64>) -> Outcome {
    stage.load.rest()?;
    let snapshot = stage.world.layout().root().join("snapshot.db");
    stage.world.cluster.snapshot(&snapshot)?;
    up(&stage.world)?;
    stage.load.rest()?;
    until_well(stage)?;
    stage.load.change(CHANGES, RATE, "maps")?;
    stage.load.rest()?;
    until_well(stage)?;

    stage.load.ask("mark")?;
    stage.load.ask("hold")?;
    stage.load.ask("restored")?;
    stage.world.cluster.restore(&snapshot, bump)?;
    up(&stage.world)?;
    stage.load.ask("read")?;
    stage.load.ask("go")?;
    until_all_say(stage, "AheadOfCluster")?;
    let since = stage.load.standing()?;
    expect("nothing was taken away from any node", since.removed == 0, since.removed)?;

    accept(stage)?;
    let since = stage.load.rest()?;
    eprintln!("   {} s after the new epoch all have what the restored cluster says", since.rest);
    until_well(stage)
}

/// The one action: a new epoch.
fn accept(stage: &Stage) -> Outcome {
    let [option, namespace, kind, name] = CONFIG_MAP;
    let tools = &stage.world.tools;
    let path = "jsonpath={.data.epoch}";
    let epoch = tools.kubectl(&[option, namespace, "get", kind, name, "-o", path])?;
    let next = epoch.trim().parse::<u64>().unwrap_or(0) + 1;
    let patch = format!(r#"{{"data":{{"epoch":"{next}"}}}}"#);
    tools.kubectl(&[option, namespace, "patch", kind, name, "--type=merge", "-p", &patch])?;
    Ok(())
}
