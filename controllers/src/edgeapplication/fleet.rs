//! All nodes, and for each application how they stand: a change of a node costs what it changes.
//!
//! In: changes of EdgeNodes; applications with the selector that is in force. Out: the applications whose
//! [`Tally`] changed. Pure. A node is held against selectors only when its labels change, against one
//! application only when that is new or selects otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use selvedge_crds::edgenode::ApplicationState;
use selvedge_model::node::Allowed;
use selvedge_model::selector::Selector;

use super::tally::{Contribution, Tally};

/// Namespace and name of an EdgeApplication.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// An EdgeNode, as far as it matters to applications.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its uid.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Which namespaces it lets in.
    pub allowed: Allowed,
    /// Whether it has a session.
    pub connected: bool,
    /// What it reports of applications, by which.
    pub applications: BTreeMap<Key, Arc<ApplicationState>>,
}

impl Node {
    /// What it contributes to an application.
    fn contribution(&self, key: &Key, asks: &Asks) -> Option<Contribution> {
        let selected = asks.selector.as_ref().is_some_and(|selector| selector.matches(&self.labels))
            && self.allowed.lets_in(&asks.namespace);
        let state = self.applications.get(key).cloned();
        (selected || state.is_some()).then(|| Contribution {
            uid: self.uid.clone(),
            selected,
            connected: self.connected,
            state,
        })
    }
}

#[derive(Debug)]
struct Member {
    node: Node,
    /// Applications that it contributes to.
    of: BTreeSet<Arc<Key>>,
}

/// Which nodes an application is for.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Asks {
    /// None: it selects nobody.
    pub selector: Option<Selector>,
    /// Labels of its namespace: nodes choose by them.
    pub namespace: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Counted {
    asks: Asks,
    tally: Tally,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Fleet {
    nodes: HashMap<Arc<str>, Member>,
    applications: HashMap<Arc<Key>, Counted>,
}

impl Fleet {
    /// A node is like this now. Returns the applications to which it contributes otherwise than before.
    pub fn is(&mut self, node: Node) -> Vec<Arc<Key>> {
        let before = self.nodes.remove(&node.name);
        let relabelled = before
            .as_ref()
            .is_none_or(|before| before.node.labels != node.labels || before.node.allowed != node.allowed);
        let mut of = before.map(|before| before.of).unwrap_or_default();
        let candidates: BTreeSet<Arc<Key>> = if relabelled {
            self.applications.keys().cloned().collect()
        } else {
            let reported = node.applications.keys();
            let reported = reported.filter_map(|key| Some(self.applications.get_key_value(key)?.0.clone()));
            of.iter().cloned().chain(reported).collect()
        };
        let mut changed = Vec::new();
        for key in candidates {
            let Some(counted) = self.applications.get_mut(&key) else { continue };
            let contribution = node.contribution(&key, &counted.asks);
            if contribution.is_some() {
                of.insert(key.clone());
            } else {
                of.remove(&key);
            }
            if counted.tally.apply(&node.name, contribution) {
                changed.push(key);
            }
        }
        self.nodes.insert(node.name.clone(), Member { node, of });
        changed
    }

    /// A node is no longer there. Returns the applications to which it contributed.
    pub fn gone(&mut self, name: &str) -> Vec<Arc<Key>> {
        let Some((name, member)) = self.nodes.remove_entry(name) else { return Vec::new() };
        let mut left = |key: &Arc<Key>| {
            self.applications.get_mut(key).is_some_and(|counted| counted.tally.apply(&name, None))
        };
        member.of.into_iter().filter(|key| left(key)).collect()
    }

    /// How the nodes stand to an application with this uid that asks for these. All nodes are counted when it was not
    /// known like this.
    pub fn tally(&mut self, key: &Key, uid: &str, asks: &Asks) -> &Tally {
        let known = self
            .applications
            .get(key)
            .is_some_and(|counted| counted.tally.uid() == uid && counted.asks == *asks);
        let shared = self.applications.get_key_value(key).map(|(shared, _)| shared.clone());
        let shared = shared.unwrap_or_else(|| Arc::new(key.clone()));
        let none = || Counted { asks: Asks::default(), tally: Tally::new(uid) };
        let counted = self.applications.entry(shared.clone()).or_insert_with(none);
        if !known {
            *counted = Counted { asks: asks.clone(), tally: Tally::new(uid) };
            for (name, member) in &mut self.nodes {
                let contribution = member.node.contribution(key, asks);
                if contribution.is_some() {
                    member.of.insert(shared.clone());
                } else {
                    member.of.remove(key);
                }
                counted.tally.apply(name, contribution);
            }
        }
        &counted.tally
    }

    /// An application is no longer there.
    pub fn forget(&mut self, key: &Key) {
        if self.applications.remove(key).is_some() {
            self.nodes.values_mut().for_each(|member| {
                member.of.remove(key);
            });
        }
    }
}
