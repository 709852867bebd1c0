//! Namespaces: which take part, and which of them a node lets in (identity rule 13).

use std::sync::Arc;

use selvedge_crds::EDGE_LABEL;
use serde_json::Value;

use super::{Index, Node, ObjectKey, Part, Reason, Slot, Touched, raw};

/// What is on a node.
pub(super) enum Landed {
    /// A workload of this EdgeApplication.
    Application(ObjectKey),
    /// This Device.
    Device(ObjectKey),
}

impl Index {
    pub(super) fn change_namespace(&mut self, name: Arc<str>, object: Option<Value>) -> Touched {
        let labels = object.map(|object| raw::labels(&object));
        let labels = labels.filter(|labels| labels.get(EDGE_LABEL).is_some_and(|value| value == "enabled"));
        if self.enabled.get(&name) == labels.as_ref() {
            return Touched::default();
        }
        let takes_part = labels.is_some();
        let changed = self.enabled.contains_key(&name) != takes_part;
        // Other labels matter to nodes that choose by them, and to no others.
        let concerned: Vec<Arc<str>> = self
            .nodes
            .iter()
            .filter(|(_, node)| changed || node.allowed.is_choosy())
            .map(|(name, _)| name.clone())
            .collect();
        let in_it = |landed: &Landed| *landed.namespace() == name;
        let before: Vec<(Arc<str>, Landed)> = concerned
            .iter()
            .flat_map(|node| {
                self.landed(node).filter(in_it).map(|landed| (node.clone(), landed)).collect::<Vec<_>>()
            })
            .collect();
        match labels {
            Some(labels) => self.enabled.insert(name.clone(), labels),
            None => self.enabled.remove(&name),
        };
        let mut touched = Touched::default();
        for node in &concerned {
            let devices = self.placed.get(node).into_iter().flatten().filter(|key| key.namespace == name);
            touched.parts.extend(devices.map(|key| (node.clone(), Part::Device(key.clone()))));
        }
        let revisions: Vec<_> =
            self.revisions.iter().filter(|(key, _)| key.namespace == name).map(|(_, r)| r).collect();
        let runs = |node: &Node| {
            (changed || node.allowed.is_choosy()) && revisions.iter().any(|revision| revision.selects(node))
        };
        touched.parts.extend(self.touch_workloads(runs));
        touched.unselected = before.iter().filter(|(node, landed)| self.has_left(node, landed)).count();
        touched
    }

    /// Namespaces that take part.
    pub fn enabled_namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.enabled.keys()
    }

    pub(super) fn is_enabled(&self, namespace: &str) -> bool {
        self.enabled.contains_key(namespace)
    }

    /// Whether a node lets a namespace in. Of one that does not take part, the labels are not known: what nodes have
    /// of it is held.
    pub(super) fn is_let_in(&self, node: &Node, namespace: &str) -> bool {
        self.enabled.get(namespace).is_none_or(|labels| node.allowed.lets_in(labels))
    }

    /// What is on a node now by its selection: what may leave it by another one.
    pub(super) fn landed(&self, node: &str) -> impl Iterator<Item = Landed> {
        let found = self.nodes.get(node);
        let is_let_in =
            move |key: &&ObjectKey| found.is_some_and(|node| self.is_let_in(node, &key.namespace));
        let devices = self.placed.get(node).into_iter().flatten().filter(is_let_in).cloned();
        self.selected(node).into_iter().map(Landed::Application).chain(devices.map(Landed::Device))
    }

    /// Whether what was on a node is known not to be for it any more, by its own word.
    pub(super) fn has_left(&self, node: &str, landed: &Landed) -> bool {
        match landed {
            Landed::Application(key) => self.deselects(node, key),
            Landed::Device(key) => {
                self.nodes.get(node).is_some_and(|node| !self.is_let_in(node, &key.namespace))
            }
        }
    }
}

impl Landed {
    fn namespace(&self) -> &Arc<str> {
        let (Self::Application(key) | Self::Device(key)) = self;
        &key.namespace
    }
}

/// A namespace does not take part (any more): what nodes have of it stays as it is.
pub(super) fn not_enabled(namespace: &str) -> Slot {
    let message = format!(
        "namespace {namespace} does not take part: kubectl label namespace {namespace} {EDGE_LABEL}=enabled"
    );
    Slot::held(Reason::NotEnabled, message)
}
