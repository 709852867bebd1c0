//! What to do about one EdgeApplication: pure.
//!
//! In: [`Observed`], and how the nodes stand ([`Tally`]). Out: revisions to create, number anew or delete;
//! `status.rollout`; and the counts. In two steps, because whom the nodes are held against is decided first.

use std::collections::BTreeSet;

use selvedge_model::rollout::{MAX_ADMITTED, Rollout};
use selvedge_model::selector::Selector;
use selvedge_model::{ContentHash, canonical_json};
use serde::Deserialize as _;
use serde_json::Value;

use super::observe::Observed;
use super::tally::{Counts, Tally};
use super::validate::{Hold, validate};

/// Revisions that are kept, the one in force included, so that a user can go back.
const HISTORY: usize = 10;
/// Hex digits of the content hash in a revision's name: 40 bits tell ten revisions of one application
/// apart, and a name of 52 characters with them fits a label.
const HASH_DIGITS: usize = 10;
/// Most nodes, or faults, that a message names.
pub const NAMED: usize = 10;

/// What is to be in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    hold: Option<Hold>,
    current: String,
    steps: Vec<Step>,
    /// Which nodes are to have it; none: no node.
    pub selector: Option<Selector>,
}

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
    pub counts: Counts,
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

/// Decides what is to be in force.
#[must_use]
pub fn decide(observed: &Observed) -> Decided {
    let hold = validate(observed).err();
    let (current, selector, steps) = match hold {
        None => accepted(observed),
        Some(_) => in_force(observed),
    };
    let selector = Selector::deserialize(&selector).ok().filter(|selector| !selector.is_empty());
    Decided { hold, current, steps, selector }
}

/// Decides the rest. `tally` is of the selector that was decided.
#[must_use]
pub fn plan(observed: &Observed, decided: Decided, tally: &Tally) -> Plan {
    let Decided { hold, current, mut steps, .. } = decided;
    let rollout = (!current.is_empty()).then(|| rollout(observed, &current, tally));
    steps.extend(surplus(observed, &current, rollout.as_ref(), tally));
    let counts = tally.counts(&current, NAMED);
    Plan { hold, steps, current, rollout, counts }
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
fn rollout(observed: &Observed, current: &str, tally: &Tally) -> Rollout {
    let mut rollout = Rollout::all(current);
    if let Some(before) = observed.status.rollout.as_ref().filter(|r| r.intervals == rollout.intervals) {
        rollout.admitted = tally.late(current, &before.admitted, MAX_ADMITTED);
    }
    rollout
}

/// Revisions beyond the history. One that a rollout names or a node runs stays.
fn surplus(observed: &Observed, current: &str, rollout: Option<&Rollout>, tally: &Tally) -> Vec<Step> {
    let mut used: BTreeSet<&str> = tally.revisions().collect();
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
