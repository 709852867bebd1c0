//! How the nodes of one application stand, counted as they change and never recounted.
//!
//! In: what one node contributes, each time that changes. Out: counts, the first names of those that fail or
//! wait, the revisions that are run somewhere, and the late nodes that are next. Pure. The nodes are grouped by
//! the revision that they run, so that a new revision recounts nothing either.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use selvedge_crds::edgenode::ApplicationState;
use selvedge_model::rollout::position;

/// What one node contributes: it is selected, or it reports the application, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// Uid of the EdgeNode.
    pub uid: Arc<str>,
    /// Whether the selector matches it.
    pub selected: bool,
    /// Whether it has a session.
    pub connected: bool,
    /// What it reports of the application.
    pub state: Option<Arc<ApplicationState>>,
}

impl Contribution {
    /// The revision in force on the node; empty: none.
    fn revision(&self) -> &str {
        self.state.as_ref().map_or("", |state| &state.revision)
    }

    fn standing(&self) -> Standing {
        match self.state.as_ref().map_or("", |state| &state.state) {
            "Running" | "Succeeded" => Standing::Runs,
            "Failed" => Standing::Fails,
            _ => Standing::Comes,
        }
    }

    fn why(&self) -> String {
        let Some(state) = &self.state else { return "nothing reported yet".into() };
        let parts = [&state.reason, &state.message].into_iter().filter(|part| !part.is_empty());
        let why = parts.map(String::as_str).collect::<Vec<_>>().join(": ");
        if why.is_empty() { state.state.clone() } else { why }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Runs,
    Fails,
    Comes,
}

/// Nodes that run one revision.
#[derive(Debug, Default, PartialEq, Eq)]
struct Group {
    /// All of them; a group of none is dropped.
    nodes: usize,
    selected: usize,
    /// Selected, and without a session.
    offline: usize,
    /// With a session, selected or not: position and uid.
    online: BTreeSet<(u64, Arc<str>)>,
    /// Names of those that are selected and online, by how they stand.
    runs: BTreeSet<Arc<str>>,
    fails: BTreeSet<Arc<str>>,
    comes: BTreeSet<Arc<str>>,
}

impl Group {
    fn by(&mut self, standing: Standing) -> &mut BTreeSet<Arc<str>> {
        match standing {
            Standing::Runs => &mut self.runs,
            Standing::Fails => &mut self.fails,
            Standing::Comes => &mut self.comes,
        }
    }
}

/// Some nodes: how many, and the first of them, in the order of their names, with why.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Named {
    /// How many.
    pub count: usize,
    /// The first.
    pub first: Vec<(String, String)>,
}

/// Nodes that the selector matches, by how they stand to a revision.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many.
    pub desired: usize,
    /// Of those, with that revision in force.
    pub updated: usize,
    /// Of those, online and with every container running.
    pub ready: usize,
    /// Of those, without a session.
    pub offline: usize,
    /// Of those, online and failing.
    pub failed: Named,
    /// Of those, online and neither failing nor ready with that revision.
    pub waiting: Named,
}

/// See the module.
#[derive(Debug, PartialEq)]
pub struct Tally {
    /// Uid of the application.
    uid: String,
    nodes: HashMap<Arc<str>, Contribution>,
    groups: BTreeMap<String, Group>,
}

impl Tally {
    /// No nodes yet. Positions are in the rollout of the application with this uid.
    #[must_use]
    pub fn new(uid: &str) -> Self {
        Self { uid: uid.to_owned(), nodes: HashMap::new(), groups: BTreeMap::new() }
    }

    /// Uid of the application.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// `node` contributes this from now on, whatever it was before; none: nothing. True when that is a change.
    pub fn apply(&mut self, node: &Arc<str>, contribution: Option<Contribution>) -> bool {
        if self.nodes.get(node) == contribution.as_ref() {
            return false;
        }
        if let Some(before) = self.nodes.remove(node) {
            self.count(node, &before, false);
        }
        if let Some(now) = contribution {
            self.count(node, &now, true);
            self.nodes.insert(node.clone(), now);
        }
        true
    }

    /// Adds a contribution to the group of its revision, or takes it from there.
    fn count(&mut self, node: &Arc<str>, contribution: &Contribution, add: bool) {
        let (revision, uid) = (contribution.revision(), &contribution.uid);
        if add && !self.groups.contains_key(revision) {
            self.groups.insert(revision.to_owned(), Group::default());
        }
        let Some(group) = self.groups.get_mut(revision) else { return };
        let number = |count: &mut usize| *count = if add { *count + 1 } else { count.saturating_sub(1) };
        number(&mut group.nodes);
        if contribution.selected {
            number(&mut group.selected);
            if !contribution.connected {
                number(&mut group.offline);
            }
        }
        if contribution.connected {
            let place = (position(&self.uid, uid), uid.clone());
            if add {
                group.online.insert(place)
            } else {
                group.online.remove(&place)
            };
        }
        if contribution.connected && contribution.selected {
            let names = group.by(contribution.standing());
            if add {
                names.insert(node.clone())
            } else {
                names.remove(node)
            };
        }
        if group.nodes == 0 {
            self.groups.remove(revision);
        }
    }

    /// How the nodes stand to revision `current` (empty: none yet); of those that fail or wait, at most `most`
    /// are named.
    #[must_use]
    pub fn counts(&self, current: &str, most: usize) -> Counts {
        let sum = |count: fn(&Group) -> usize| self.groups.values().map(count).sum();
        let is_current = |revision: &str| !current.is_empty() && revision == current;
        let failed = self.groups.values().map(|group| &group.fails);
        let waiting = self.groups.iter().flat_map(|(revision, group)| {
            [Some(&group.comes), (!is_current(revision)).then_some(&group.runs)].into_iter().flatten()
        });
        Counts {
            desired: sum(|group| group.selected),
            updated: self.groups.get(current).filter(|_| !current.is_empty()).map_or(0, |g| g.selected),
            ready: sum(|group| group.runs.len()),
            offline: sum(|group| group.offline),
            failed: self.named(failed, most, |node| node.why()),
            waiting: self.named(waiting, most, |node| {
                let late = if is_current(node.revision()) || node.revision().is_empty() {
                    ""
                } else {
                    ", not updated yet"
                };
                node.why() + late
            }),
        }
    }

    fn named<'a>(
        &'a self,
        sets: impl Iterator<Item = &'a BTreeSet<Arc<str>>>,
        most: usize,
        why: impl Fn(&Contribution) -> String,
    ) -> Named {
        let mut named = Named::default();
        let mut first = Vec::new();
        for set in sets {
            named.count += set.len();
            first.extend(set.iter().take(most));
        }
        first.sort();
        let first = first.into_iter().take(most);
        named.first = first.filter_map(|name| Some((name.to_string(), why(self.nodes.get(name)?)))).collect();
        named
    }

    /// Revisions that some node runs.
    pub fn revisions(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str).filter(|revision| !revision.is_empty())
    }

    /// Uids of nodes that are online with another revision than `current`: first those of `before` that still
    /// are, then others, each in the order of their positions. At most `most`.
    #[must_use]
    pub fn late(&self, current: &str, before: &[String], most: usize) -> Vec<String> {
        let late = |revision: &&String| !revision.is_empty() && *revision != current;
        let groups: Vec<_> =
            self.groups.iter().filter(|(revision, _)| late(revision)).map(|(_, group)| group).collect();
        let mut places: Vec<_> = before
            .iter()
            .map(|uid| (position(&self.uid, uid), Arc::from(uid.as_str())))
            .filter(|place| groups.iter().any(|group| group.online.contains(place)))
            .collect();
        places.sort();
        // Of each group no more than these can come: those that were there before are in between.
        let enough = most + places.len();
        let mut others: Vec<_> =
            groups.iter().flat_map(|group| group.online.iter().take(enough)).cloned().collect();
        others.sort();
        others.retain(|place| !places.contains(place));
        places.extend(others);
        places.into_iter().take(most).map(|(_, uid)| uid.to_string()).collect()
    }
}
