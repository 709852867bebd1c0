//! What people do by accident empties no node: nothing is taken away that was not deleted, a condition says why,
//! and one action goes on.

use selvedge_stories::{Outcome, expect};

use crate::Stage;
use crate::standing::{self, until_all_say, until_well};

/// What the load calls its objects: its prefix.
const LABEL: &str = "selvedge.dev/load";
const CRD: &str = "devices.selvedge.dev";
const SELECTOR: [&str; 7] = ["-n", "load", "patch", "edgeapplication", "load-1", "--type=merge", "-p"];

/// The CRD takes all Devices with it. Its re-creation (`helm upgrade`) and the objects from a backup are what
/// goes on.
pub fn a_crd_is_deleted(stage: &mut Stage) -> Outcome {
    quiet(stage)?;
    stage.load.ask("hold")?;
    stage.world.tools.kubectl(&["delete", "crd", CRD, "--timeout=300s"])?;
    until_all_say(stage, "CrdDeleted")?;
    nothing_removed(stage)?;
    Stage::install(&stage.world)?;
    let established = format!("crd/{CRD}");
    stage.world.tools.kubectl(&["wait", "--for=condition=Established", &established, "--timeout=60s"])?;
    stage.load.ask("remake")?;
    stage.load.ask("read")?;
    stage.load.ask("go")?;
    stage.load.rest()?;
    nothing_removed(stage)?;
    until_well(stage)
}

/// The guard of each replica counts every node that the new revision does not select, and holds all of them.
/// The old selector is what goes on.
pub fn a_selector_matches_nothing(stage: &mut Stage) -> Outcome {
    quiet(stage)?;
    select(stage, "nothing", "null")?;
    until_all_say(stage, "RemovalsHeld")?;
    nothing_removed(stage)?;
    select(stage, "null", "load")?;
    stage.load.rest()?;
    nothing_removed(stage)?;
    until_well(stage)?;
    release(stage)
}

/// A changed label of a node acts at once, under the guard (sync rule 2): each replica lets go what its guard lets
/// go, and holds the rest. The labels are what goes on.
pub fn labels_are_pruned(stage: &mut Stage) -> Outcome {
    quiet(stage)?;
    stage.load.ask("hold")?;
    let (gone, back) = (format!("{LABEL}-"), format!("{LABEL}=load"));
    stage.world.tools.kubectl(&["label", "edgenodes", "--all", &gone])?;
    let tally = standing::until(stage, "edgenodes", "Synced", |tally| {
        tally.get("False/RemovalsHeld").copied().unwrap_or(0) >= stage.agents - allowance(stage.agents)
    })?;
    stage.load.ask("read withdrawn")?;
    let removed = stage.load.standing()?.removed;
    // An application and its ConfigMap.
    let most = 2 * allowance(stage.agents);
    eprintln!("   {removed} entries taken away, the guard allows {most}; {tally:?}");
    expect("no more was taken away than the guard lets go", removed <= most, removed)?;
    stage.world.tools.kubectl(&["label", "edgenodes", "--all", &back])?;
    stage.load.ask("read")?;
    stage.load.ask("go")?;
    stage.load.rest()?;
    until_well(stage)
}

/// At rest, and nothing counted.
fn quiet(stage: &mut Stage) -> Outcome {
    stage.load.rest()?;
    stage.load.ask("mark").map(drop)
}

fn nothing_removed(stage: &mut Stage) -> Outcome {
    let since = stage.load.standing()?;
    expect("nothing was taken away from any node", since.removed == 0, since.removed)?;
    expect("every session went on", since.fewest == stage.agents, since.fewest)
}

/// Lets both guards begin anew, as a person does who has looked.
fn release(stage: &Stage) -> Outcome {
    let patch = r#"{"data":{"release":"Workload=fleet,Device=fleet,ConfigMap=fleet"}}"#;
    let words =
        ["-n", "selvedge-system", "patch", "configmap", "selvedge-cluster", "--type=merge", "-p", patch];
    Ok(stage.world.tools.kubectl(&words).map(drop)?)
}

/// What the guards of two replicas let go at most, however the fleet is divided among them: each 50 entries, or a
/// fifth of what its sessions hold.
fn allowance(agents: usize) -> usize {
    50 + (agents / 5).max(50)
}

fn select(stage: &Stage, other: &str, own: &str) -> Outcome {
    let quoted = |text: &str| if text == "null" { text.to_owned() } else { format!("{text:?}") };
    let labels = format!("{{\"other\":{},\"{LABEL}\":{}}}", quoted(other), quoted(own));
    let patch = format!("{{\"spec\":{{\"selector\":{{\"matchLabels\":{labels}}}}}}}");
    let words = [&SELECTOR[..], &[&patch]].concat();
    Ok(stage.world.tools.kubectl(&words).map(drop)?)
}
