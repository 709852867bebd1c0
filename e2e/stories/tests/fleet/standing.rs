//! How the fleet stands in the API: conditions of all its objects, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use selvedge_cluster::clock::Deadline;
use selvedge_stories::{Outcome, World, eventually};

use crate::Stage;

/// Reading thousands of objects costs what the fleet needs.
const BETWEEN: Duration = Duration::from_secs(2);
/// Statuses follow what happens, so many a second.
const PATIENCE: Duration = Duration::from_secs(600);

/// How many objects of a kind have which `status/reason` of a condition.
pub fn tally(world: &World, kind: &str, condition: &str) -> Outcome<BTreeMap<String, usize>> {
    let part = |field: &str| format!("{{.status.conditions[?(@.type==\"{condition}\")].{field}}}");
    let path = format!("jsonpath={{range .items[*]}}{}/{}{{\"\\n\"}}{{end}}", part("status"), part("reason"));
    let text = world.tools.kubectl(&["get", kind, "--all-namespaces", "-o", &path])?;
    let mut tally = BTreeMap::new();
    for line in text.lines() {
        *tally.entry(line.to_owned()).or_default() += 1;
    }
    Ok(tally)
}

/// Waits until a condition of all objects of a kind is as it should be: `(status/reason, how many) → as it
/// should be` of each there is.
pub fn until(
    stage: &Stage,
    kind: &str,
    condition: &str,
    holds: impl Fn(&BTreeMap<String, usize>) -> bool,
) -> Outcome<BTreeMap<String, usize>> {
    let mut last: Option<(Deadline, String)> = None;
    eventually(&format!("{condition} of {} {kind} is as it should be", stage.agents), PATIENCE, || {
        if let Some((_, seen)) = last.as_ref().filter(|(next, _)| !next.passed()) {
            return Err(seen.clone());
        }
        let tally = tally(&stage.world, kind, condition).map_err(|error| error.to_string());
        let seen = match tally {
            Ok(tally) if holds(&tally) => return Ok(tally),
            Ok(tally) => format!("{tally:?}"),
            Err(error) => error,
        };
        last = Some((Deadline::after(BETWEEN), seen.clone()));
        Err(seen)
    })
}

/// Waits until every node is connected and in sync, and so is every device.
pub fn until_well(stage: &Stage) -> Outcome {
    for (kind, condition) in [("edgenodes", "Connected"), ("edgenodes", "Synced"), ("devices", "Synced")] {
        until(stage, kind, condition, |tally| {
            tally.values().sum::<usize>() == stage.agents && tally.keys().all(|key| key.starts_with("True/"))
        })?;
    }
    Ok(())
}

/// Waits until every node says that it is not in sync, and why.
pub fn until_all_say(stage: &Stage, reason: &str) -> Outcome {
    let wanted = format!("False/{reason}");
    until(stage, "edgenodes", "Synced", |tally| tally.get(&wanted) == Some(&stage.agents)).map(drop)
}

/// What tells most failures apart.
pub fn explain(world: &World) -> String {
    let mut text = String::new();
    for (kind, condition) in [("edgenodes", "Connected"), ("edgenodes", "Synced"), ("devices", "Synced")] {
        let tally = tally(world, kind, condition);
        text.push_str(&format!("── {condition} of {kind}: {tally:?}\n"));
    }
    let logs = |component: &str| {
        let selector = format!("app.kubernetes.io/component={component}");
        ["-n", "selvedge-system", "logs", "--prefix", "--tail=40", "-l", &selector]
            .map(str::to_owned)
            .to_vec()
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<String>>();
    for command in [
        words("get edgeapplications -A -o yaml"),
        words("get pods -A -o wide"),
        words("-n selvedge-system get configmap selvedge-cluster -o jsonpath={.data.epoch}"),
        logs("selvedge-hub"),
        logs("edgenode-controller"),
        logs("edgeapplication-controller"),
    ] {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let answer = world.tools.kubectl(&command).unwrap_or_else(|error| error.to_string());
        text.push_str(&format!("── kubectl {}\n{answer}\n", command.join(" ")));
    }
    text
}
