//! What devices stand on: their models, their nodes and their namespaces, and which devices stand on each.
//!
//! In: changes of models, nodes and namespaces, devices as they are looked at. Out: the devices that a change touches,
//! without looking through all of them; and whether so many nodes are away that the fault may be ours. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::observe::{Node, OnNode};

/// Namespace and name of a Device or DeviceModel.
pub type Key = (String, String);

/// A device, as it was looked at last.
#[derive(Debug, PartialEq, Eq)]
struct Wired {
    model: Key,
    node: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Neighbours {
    devices: HashMap<Key, Wired>,
    of_model: HashMap<Key, BTreeSet<Key>>,
    of_node: HashMap<String, BTreeSet<Key>>,
    models: HashMap<Key, Arc<Value>>,
    nodes: HashMap<String, Node>,
    /// Labels of namespaces.
    namespaces: HashMap<String, BTreeMap<String, String>>,
    away: usize,
}

impl Neighbours {
    /// The spec of the model of a device, and how it stands to its node, if that is there. From now on changes of
    /// both touch it.
    pub fn of(&mut self, device: Key, model: Key, node: &str) -> (Option<Arc<Value>>, Option<OnNode>) {
        let labels = self.namespaces.get(&device.0);
        let on = |node: &Node| OnNode {
            connected: node.connected,
            // A namespace that is not known yet says nothing against it.
            let_in: labels.is_none_or(|labels| node.allowed.lets_in(labels)),
        };
        let stands = (self.models.get(&model).cloned(), self.nodes.get(node).map(on));
        let wired = Wired { model, node: node.to_owned() };
        if self.devices.get(&device) != Some(&wired) {
            self.forget(&device);
            self.of_model.entry(wired.model.clone()).or_default().insert(device.clone());
            self.of_node.entry(wired.node.clone()).or_default().insert(device.clone());
            self.devices.insert(device, wired);
        }
        stands
    }

    /// A device is no longer there.
    pub fn forget(&mut self, device: &Key) {
        let Some(wired) = self.devices.remove(device) else { return };
        if let Some(devices) = self.of_model.get_mut(&wired.model) {
            devices.remove(device);
            if devices.is_empty() {
                self.of_model.remove(&wired.model);
            }
        }
        if let Some(devices) = self.of_node.get_mut(&wired.node) {
            devices.remove(device);
            if devices.is_empty() {
                self.of_node.remove(&wired.node);
            }
        }
    }

    /// A model has this spec now, or is gone. Returns the devices that this touches: none when only its status
    /// changed.
    pub fn model(&mut self, model: &Key, spec: Option<Value>) -> Vec<Key> {
        if self.models.get(model).map(|spec| &**spec) == spec.as_ref() {
            return Vec::new();
        }
        match spec {
            Some(spec) => self.models.insert(model.clone(), Arc::new(spec)),
            None => self.models.remove(model),
        };
        self.of_model.get(model).into_iter().flatten().cloned().collect()
    }

    /// A node is there and like this, or gone. Returns the devices that this touches: none for the many other changes
    /// of a node.
    pub fn node(&mut self, node: &str, is: Option<Node>) -> Vec<Key> {
        let away = |node: Option<&Node>| usize::from(node.is_some_and(|node| node.connected == Some(false)));
        if self.nodes.get(node) == is.as_ref() {
            return Vec::new();
        }
        self.away += away(is.as_ref());
        let before = match is {
            Some(is) => self.nodes.insert(node.to_owned(), is),
            None => self.nodes.remove(node),
        };
        self.away -= away(before.as_ref());
        self.of_node.get(node).into_iter().flatten().cloned().collect()
    }

    /// A namespace has these labels, or is gone. Returns the devices that this touches: those of it on nodes that
    /// choose by labels.
    pub fn namespace(&mut self, namespace: &str, labels: Option<BTreeMap<String, String>>) -> Vec<Key> {
        if self.namespaces.get(namespace) == labels.as_ref() {
            return Vec::new();
        }
        match labels {
            Some(labels) => self.namespaces.insert(namespace.to_owned(), labels),
            None => self.namespaces.remove(namespace),
        };
        let choosy = self.nodes.iter().filter(|(_, node)| node.allowed.is_choosy());
        let devices = choosy.filter_map(|(node, _)| self.of_node.get(node)).flatten();
        devices.filter(|(of, _)| of == namespace).cloned().collect()
    }

    /// Whether more than half of all nodes are away.
    #[must_use]
    pub fn most_are_away(&self) -> bool {
        self.away * 2 > self.nodes.len()
    }
}
