//! What is to be said of one Device: pure.
//!
//! In: [`Observed`]. Out: [`Plan`]: whether the spec can work, and what `Ready` becomes when it is not the
//! hub's to say.

use selvedge_operator::status::find;

use super::observe::{Observed, OnNode, model_name, node_name};
use crate::rules;

/// Reasons of `Ready` that this controller writes, and may replace. All others are the hub's.
const OURS: [&str; 5] = ["NotReported", "NotAccepted", "MissingNode", "NotAllowed", "NodeOffline"];

/// What a condition says: status, reason, message.
pub type Said = (Option<bool>, &'static str, String);

/// What to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `Accepted`: what the webhook would say.
    pub accepted: Said,
    /// `Ready`, if it is to change.
    pub ready: Option<Said>,
    /// Whether `ready` sweeps what the hub said before: such changes are paced.
    pub swept: bool,
}

/// Decides.
#[must_use]
pub fn plan(observed: &Observed) -> Plan {
    let accepted = accepted(observed);
    let (ready, swept) = ready(observed, &accepted);
    Plan { accepted, ready, swept }
}

fn accepted(observed: &Observed) -> Said {
    let (model, node) = (model_name(&observed.spec), node_name(&observed.spec));
    let faults = rules::device(&observed.spec, observed.model.as_deref());
    if !faults.is_empty() {
        let text: Vec<_> = faults.iter().map(ToString::to_string).collect();
        return (Some(false), "InvalidSpec", text.join("; "));
    }
    if observed.model.is_none() {
        let namespace = &observed.namespace;
        let message = format!(
            "DeviceModel {model:?} does not exist in namespace {namespace}: apply it, or see kubectl -n \
             {namespace} get devicemodels"
        );
        return (None, "MissingModel", message);
    }
    if observed.node.is_none() {
        let message = format!("EdgeNode {node:?} does not exist: apply it, or see kubectl get edgenodes");
        return (None, "MissingNode", message);
    }
    if observed.node.is_some_and(|node| !node.let_in) {
        return (Some(false), "NotAllowed", not_allowed(node, &observed.namespace));
    }
    (Some(true), "Valid", String::new())
}

fn ready(observed: &Observed, accepted: &Said) -> (Option<Said>, bool) {
    let was = find(&observed.status.conditions, "Ready");
    let ours = was.is_none_or(|was| OURS.contains(&was.reason.as_str()));
    let offline = was.is_some_and(|was| was.reason == "NodeOffline");
    let node = node_name(&observed.spec);
    match observed.node {
        None => {
            let said = (None, "MissingNode", format!("EdgeNode {node:?} does not exist"));
            (Some(said), !ours)
        }
        // It is not the hub's any more, and its agent lets go of it.
        Some(OnNode { let_in: false, .. }) => {
            (Some((None, "NotAllowed", not_allowed(node, &observed.namespace))), !ours)
        }
        // Saying that it is back is the hub's.
        Some(OnNode { connected: Some(false), .. }) if offline => (None, false),
        Some(OnNode { connected: Some(false), .. }) => {
            let message = format!("EdgeNode {node} has no session: values are as old as their times say");
            (Some((None, "NodeOffline", message)), was.is_some())
        }
        Some(_) if !ours || offline => (None, false),
        Some(_) if accepted.0 != Some(true) => {
            (Some((None, "NotAccepted", format!("see condition Accepted: {}", accepted.1))), false)
        }
        Some(_) => (Some((None, "NotReported", format!("EdgeNode {node} has not reported it yet"))), false),
    }
}

fn not_allowed(node: &str, namespace: &str) -> String {
    format!(
        "EdgeNode {node} does not let the namespace {namespace} in: see its spec.allowedNamespaces and the \
         namespace's labels"
    )
}
