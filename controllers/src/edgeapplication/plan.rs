//! What to do about one EdgeApplication: pure.
//!
//! In: [`Observed`]. Out: revisions to create, number anew or delete; `status.rollout`; and the counts.

use std::collections::BTreeSet;

use selvedge_model::rollout::{MAX_ADMITTED, Rollout, position};
use selvedge_model::selector::Selector;
use selvedge_model::{ContentHash, canonical_json};
use serde::Deserialize as _;
use serde_json::Value;

use super::observe::{Node, Observed};
use super::validate::{Hold, validate};

/// Revisions that are kept, the one in force included, so that a user can go back.
const HISTORY: usize = 10;
/// Hex digits of the content hash in a revision's name: 40 bits tell ten revisions of one application
/// apart, and a name of 52 characters with them fits a label.
const HASH_DIGITS: usize = 10;

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What holds the spec back, if anything.
    pub hold: Option<Hold>,
    /// Steps, in order; done before the status is written.
    pub steps: Vec<Step>,
    /// Name of the newest revision that was accepted; empty: none yet.
    pub current: String,
    /// `status.rollout`; none while nothing was ever accepted.
    pub rollout: Option<Rollout>,
    /// How the nodes stand.
    pub tally: Tally,
}

/// A change of revisions.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make a revision.
    Create {
        /// Its name.
        name: String,
        /// Its number.
        number: i64,
        /// Template, overrides and selector, as the user wrote them.
        data: Value,
    },
    /// A revision is the newest again.
    Renumber {
        /// Its name.
        name: String,
        /// Its new number.
        number: i64,
    },
    /// Beyond the history.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Nodes that the selector matches, by how they stand. Names are in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many.
    pub desired: usize,
    /// Of those, with the newest revision in force.
    pub updated: usize,
    /// Of those, online and with every container running.
    pub ready: usize,
    /// Of those, without a session.
    pub offline: usize,
    /// Of those, failing: name and why.
    pub failed: Vec<(String, String)>,
    /// Of those, online and neither failing nor ready with the newest revision: name and why.
    pub waiting: Vec<(String, String)>,
}

/// Decides.
#[must_use]
pub fn plan(observed: &Observed) -> Plan {
    let hold = validate(observed).err();
    let (current, selector, mut steps) = match hold {
        None => accepted(observed),
        Some(_) => in_force(observed),
    };
    let rollout = (!current.is_empty()).then(|| rollout(observed, &current));
    steps.extend(surplus(observed, &current, rollout.as_ref()));
    let selector = Selector::deserialize(&selector).ok().filter(|selector| !selector.is_empty());
    let tally = tally(observed, selector.as_ref(), &current);
    Plan { hold, steps, current, rollout, tally }
}

/// The revision that the spec makes: (name, selector, what it takes).
fn accepted(observed: &Observed) -> (String, Value, Vec<Step>) {
    let part = |name: &str| Some((name.to_owned(), observed.spec.get(name)?.clone()));
    let data = Value::Object(["template", "overrides", "selector"].into_iter().filter_map(part).collect());
    let hash = ContentHash::of_canonical(&canonical_json(&data)).to_string();
    let name = format!("{}-{}", observed.name, &hash[..HASH_DIGITS]);
    let newest = observed.revisions.iter().map(|revision| revision.number).max().unwrap_or(0);
    let step = match observed.revisions.iter().find(|revision| revision.name == name) {
        None => Some(Step::Create { name: name.clone(), number: newest + 1, data: data.clone() }),
        Some(existing) if existing.number < newest => {
            Some(Step::Renumber { name: name.clone(), number: newest + 1 })
        }
        Some(_) => None,
    };
    (name, data["selector"].clone(), step.into_iter().collect())
}

/// The revision that stays while the spec is held back.
fn in_force(observed: &Observed) -> (String, Value, Vec<Step>) {
    let current = observed.status.current_revision.clone();
    let revision = observed.revisions.iter().find(|revision| revision.name == current);
    let selector = revision.map_or_else(
        || observed.spec.get("selector").cloned().unwrap_or_default(),
        |revision| revision.selector.clone(),
    );
    (current, selector, Vec::new())
}

/// One interval for all. A change of the interval admits nobody in the same write: who was passed by it
/// and who is late shows in what nodes report after it. Then late nodes are admitted, those admitted
/// before first, and leave the list when they arrive or go offline.
fn rollout(observed: &Observed, current: &str) -> Rollout {
    let mut rollout = Rollout::all(current);
    let Some(before) = observed.status.rollout.as_ref().filter(|r| r.intervals == rollout.intervals) else {
        return rollout;
    };
    let late = |node: &&Node| node.connected && !node.revision().is_empty() && node.revision() != current;
    let mut late: Vec<&Node> = observed.nodes.iter().filter(late).collect();
    late.sort_by_key(|node| (!before.admits(&node.uid), position(&observed.uid, &node.uid)));
    rollout.admitted = late.into_iter().take(MAX_ADMITTED).map(|node| node.uid.clone()).collect();
    rollout
}

/// Revisions beyond the history. One that a rollout names or a node runs stays.
fn surplus(observed: &Observed, current: &str, rollout: Option<&Rollout>) -> Vec<Step> {
    let mut used: BTreeSet<&str> = observed.nodes.iter().map(Node::revision).collect();
    used.extend(rollout.into_iter().chain(&observed.status.rollout).flat_map(Rollout::revisions));
    used.insert(current);
    let mut oldest_last: Vec<_> = observed.revisions.iter().collect();
    oldest_last.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    let beyond = oldest_last.into_iter().skip(HISTORY);
    beyond
        .filter(|revision| !used.contains(revision.name.as_str()))
        .map(|revision| Step::Delete { name: revision.name.clone() })
        .collect()
}

fn tally(observed: &Observed, selector: Option<&Selector>, current: &str) -> Tally {
    let mut tally = Tally::default();
    let Some(selector) = selector else { return tally };
    for node in observed.nodes.iter().filter(|node| selector.matches(&node.labels)) {
        tally.desired += 1;
        let updated = !current.is_empty() && node.revision() == current;
        tally.updated += usize::from(updated);
        if !node.connected {
            tally.offline += 1;
            continue;
        }
        let state = node.state.as_ref().map_or("", |state| &state.state);
        let runs = matches!(state, "Running" | "Succeeded");
        tally.ready += usize::from(runs);
        if state == "Failed" {
            tally.failed.push((node.name.clone(), why(node)));
        } else if !(updated && runs) {
            let late = if updated || node.revision().is_empty() { "" } else { ", not updated yet" };
            tally.waiting.push((node.name.clone(), why(node) + late));
        }
    }
    tally
}

fn why(node: &Node) -> String {
    let Some(state) = &node.state else { return "nothing reported yet".into() };
    let parts = [&state.reason, &state.message].into_iter().filter(|part| !part.is_empty());
    let why = parts.map(String::as_str).collect::<Vec<_>>().join(": ");
    if why.is_empty() { state.state.clone() } else { why }
}
