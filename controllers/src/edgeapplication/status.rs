//! The status of one EdgeApplication: counts, rollout, and what they mean.

use jiff::Timestamp;
use selvedge_operator::status::condition;
use serde_json::{Value, json};

use super::observe::Observed;
use super::plan::{NAMED, Plan};
use super::tally::{Counts, Named};
use super::validate::Hold;

type Said = (Option<bool>, &'static str, String);

/// What the status should say.
#[must_use]
pub fn status(observed: &Observed, plan: &Plan, generation: Option<i64>, now: Timestamp) -> Value {
    let conditions = [
        ("Ready", ready(observed, plan)),
        ("Progressing", progressing(observed, plan)),
        ("Degraded", degraded(&plan.counts)),
    ]
    .map(|(type_, (status, reason, message))| condition(type_, status, reason, message, generation, now));
    let Counts { desired, updated, ready, offline, failed, .. } = &plan.counts;
    json!({
        "observedGeneration": generation,
        "desired": desired, "updated": updated, "ready": ready, "failed": failed.count, "offline": offline,
        "currentRevision": if plan.current.is_empty() { None } else { Some(&plan.current) },
        "rollout": plan.rollout,
        "conditions": conditions,
    })
}

fn ready(observed: &Observed, plan: &Plan) -> Said {
    let counts = &plan.counts;
    if let Some(hold) = &plan.hold {
        return held(observed, plan, hold);
    }
    let online = counts.desired - counts.offline;
    let (failed, waiting) = (&counts.failed, &counts.waiting);
    let missing = Named {
        count: failed.count + waiting.count,
        first: failed.first.iter().chain(&waiting.first).cloned().collect(),
    };
    match (counts.desired, online, missing.count) {
        (0, ..) => (Some(false), "NoNodes", "no EdgeNode has the labels that spec.selector asks for".into()),
        (_, 0, _) => (Some(false), "AllOffline", format!("0 of {} nodes are online", counts.desired)),
        (_, _, 0) => (Some(true), "AllReady", format!("{online} of {online} online nodes are ready")),
        (_, _, n) => {
            (Some(false), "NotReady", format!("{n} of {online} online nodes are not: {}", names(&missing)))
        }
    }
}

fn progressing(observed: &Observed, plan: &Plan) -> Said {
    if let Some(hold) = &plan.hold {
        return held(observed, plan, hold);
    }
    let waiting = &plan.counts.waiting;
    match waiting.count {
        0 => (Some(false), "Complete", String::new()),
        n => (
            Some(true),
            "Waiting",
            format!("{n} of {} nodes are on their way: {}", plan.counts.desired, names(waiting)),
        ),
    }
}

fn degraded(counts: &Counts) -> Said {
    match counts.failed.count {
        0 => (Some(false), "AsExpected", String::new()),
        n => (
            Some(true),
            "NodesFailing",
            format!("{n} of {} nodes: {}", counts.desired, names(&counts.failed)),
        ),
    }
}

fn held(observed: &Observed, plan: &Plan, hold: &Hold) -> Said {
    let stays = match plan.current.as_str() {
        "" => String::new(),
        current => format!("; revision {current} stays in force"),
    };
    match hold {
        Hold::NamespaceNotEnabled => {
            let namespace = &observed.namespace;
            let message = format!(
                "namespace {namespace} does not take part: kubectl label namespace {namespace} \
                 selvedge.dev/edge=enabled{stays}"
            );
            (Some(false), "NamespaceNotEnabled", message)
        }
        Hold::Invalid(faults) => {
            let text: Vec<_> = faults.iter().take(NAMED).map(ToString::to_string).collect();
            (Some(false), "InvalidSpec", format!("{}{}{stays}", text.join("; "), more(faults.len())))
        }
    }
}

fn names(nodes: &Named) -> String {
    let named: Vec<_> = nodes.first.iter().take(NAMED).map(|(name, why)| format!("{name} ({why})")).collect();
    format!("{}{}", named.join(", "), more(nodes.count))
}

fn more(all: usize) -> String {
    match all.checked_sub(NAMED) {
        Some(rest) if rest > 0 => format!(" and {rest} more"),
        _ => String::new(),
    }
}
