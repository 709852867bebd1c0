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
        let changed = self.enabled.contains_key(&name) != labels.is_some();
        // Other labels matter to nodes that choose by them, and to no others.
        let concerned = self.nodes.iter().filter(|(_, node)| changed || node.allowed.is_choosy());
        let concerned: Vec<_> =
            concerned.map(|(node, found)| (node.clone(), self.is_let_in(found, &name))).collect();
        let in_it = |landed: &Landed| *landed.namespace() == name;
        let landed = |node: &Arc<str>| self.landed(node).filter(in_it).collect::<Vec<_>>();
        let before: Vec<_> = concerned.iter().map(|(node, _)| landed(node)).collect();
        match labels {
            Some(labels) => self.enabled.insert(name.clone(), labels),
            None => self.enabled.remove(&name),
        };
        let revisions: Vec<_> =
            self.revisions.iter().filter(|(key, _)| key.namespace == name).map(|(_, r)| r).collect();
        let mut touched = Touched::default();
        for ((node, was_let_in), before) in concerned.into_iter().zip(before) {
            let Some(found) = self.nodes.get(&node) else { continue };
            let flips = self.is_let_in(found, &name) != was_let_in;
            if flips || changed && revisions.iter().any(|revision| revision.selects(found)) {
                touched.parts.insert((node.clone(), Part::Workloads));
            }
            if flips || changed {
                let devices =
                    self.placed.get(&node).into_iter().flatten().filter(|key| key.namespace == name);
                touched.parts.extend(devices.map(|key| (node.clone(), Part::Device(key.clone()))));
            }
            touched.unselected += before.iter().filter(|landed| self.has_left(&node, landed)).count();
        }
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
