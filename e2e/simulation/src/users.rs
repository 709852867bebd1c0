//! What users change while a history is busy.

use std::collections::BTreeMap;

use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_model::ReferenceKind;

use crate::stock::{
    self, APPLICATIONS, DEVICES, MODEL, Release, SHOP, TIERS, application, device, model, namespace,
    references,
};
use crate::world::{Do, World};

impl World {
    /// The world as it is when a history begins.
    pub fn furnish(&mut self) {
        self.put(&Resource::Namespaces, namespace(true));
        for node in 0..self.plan.nodes {
            let tier = TIERS[self.rng.index(2)];
            self.put(&Resource::EdgeNodes, stock::node(&format!("n{node}"), tier));
        }
        self.change_model();
        for (name, map) in APPLICATIONS {
            for kind in ReferenceKind::ALL {
                self.set_reference(kind, map);
            }
            self.create_application(name);
        }
        for name in DEVICES {
            if self.rng.chance(60) {
                self.set_device(name);
            }
        }
    }

    /// A user changes something, and again after a while.
    pub fn user(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.rng.range(10, self.plan.change_every);
        self.after(pause, Do::User);
        if self.rng.chance(self.plan.crds) {
            return self.delete_crd();
        }
        let (name, map) = APPLICATIONS[self.rng.index(APPLICATIONS.len())];
        let device_name = DEVICES[self.rng.index(DEVICES.len())];
        match self.rng.below(100) {
            0..30 => self.set_device(device_name),
            30..37 => self.delete(&Resource::Devices, &ObjectKey::new(SHOP, device_name)),
            37..40 => {
                // Created anew under its name, at once.
                self.delete(&Resource::Devices, &ObjectKey::new(SHOP, device_name));
                self.set_device(device_name);
            }
            40..60 => {
                let kind = ReferenceKind::ALL[self.rng.index(2)];
                // One file in a user's hands: what one replica has of it before the other is what counts.
                if self.rng.chance(30) {
                    APPLICATIONS.iter().for_each(|(_, map)| self.set_reference(kind, map));
                }
                self.change_reference(kind, map);
            }
            60..70 => {
                let release = self.any_release(name, map);
                self.deploy(name, release);
            }
            70..73 => {
                self.delete(&Resource::EdgeApplications, &ObjectKey::new(SHOP, name));
                if self.rng.chance(70) {
                    self.create_application(name);
                }
            }
            73..75 => self.create_application(name),
            75..78 => self.lose_rollout(name),
            78..86 => {
                let node = self.rng.index(self.plan.nodes);
                let tier = TIERS[self.rng.index(2)];
                self.put(&Resource::EdgeNodes, stock::node(&format!("n{node}"), tier));
                self.note(format!("n{node} is of tier {tier}"));
            }
            86..92 => self.change_model(),
            92..94 => self.delete(&Resource::DeviceModels, &ObjectKey::new(SHOP, MODEL)),
            94..96 => self.forget_a_revision(),
            _ => {
                let enabled = self.rng.chance(70);
                self.put(&Resource::Namespaces, namespace(enabled));
            }
        }
    }

    fn set_device(&mut self, name: &str) {
        let key = ObjectKey::new(SHOP, name);
        let old = self.api.get(&Resource::Devices, &key).map(|old| {
            let text = |pointer| old.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            (text("/metadata/uid"), text("/spec/nodeName"))
        });
        // nodeName is immutable: a device moves by being created anew.
        let (uid, node) = match old {
            Some(old) => old,
            None => (format!("{name}-{}", self.number()), format!("n{}", self.rng.index(self.plan.nodes))),
        };
        let level = (!self.rng.chance(5)).then(|| self.rng.below(120));
        self.put(&Resource::Devices, device(name, &uid, &node, level));
    }

    /// A ConfigMap or a Secret is set, deleted, or deleted and created anew with the same or other data.
    fn change_reference(&mut self, kind: ReferenceKind, name: &str) {
        let (resource, key) = (references(kind), ObjectKey::new(SHOP, name));
        match self.rng.below(10) {
            0..6 => self.set_reference(kind, name),
            6..8 => self.delete(&resource, &key),
            8 => {
                if let Some(mut object) = self.api.get(&resource, &key).cloned() {
                    self.delete(&resource, &key);
                    object["metadata"]["uid"] = self.reference_uid(kind, name).into();
                    self.put(&resource, object);
                }
            }
            _ => {
                self.delete(&resource, &key);
                self.set_reference(kind, name);
            }
        }
    }

    fn set_reference(&mut self, kind: ReferenceKind, name: &str) {
        let (resource, key) = (references(kind), ObjectKey::new(SHOP, name));
        let old = self.api.get(&resource, &key);
        let old = old.and_then(|old| old["metadata"]["uid"].as_str().map(str::to_owned));
        let uid = old.unwrap_or_else(|| self.reference_uid(kind, name));
        let (value, readable) = (self.rng.below(6), !self.rng.chance(8));
        let object = match kind {
            ReferenceKind::ConfigMap => stock::config_map(name, &uid, value, readable, self.plan.weight),
            ReferenceKind::Secret => stock::secret(name, &uid, value, readable),
        };
        self.put(&resource, object);
    }

    fn reference_uid(&mut self, kind: ReferenceKind, name: &str) -> String {
        format!("{}-{name}-{}", kind.name(), self.number())
    }

    pub fn create_application(&mut self, name: &str) {
        let key = ObjectKey::new(SHOP, name);
        if self.api.get(&Resource::EdgeApplications, &key).is_some() {
            return;
        }
        let uid = format!("{name}-{}", self.number());
        self.put(&Resource::EdgeApplications, application(name, &uid));
        let map = APPLICATIONS.iter().find(|(other, _)| *other == name).map_or("", |(_, map)| *map);
        let release = self.any_release(name, map);
        self.deploy(name, release);
    }

    fn any_release(&mut self, name: &str, map: &str) -> Release {
        let tiers = match self.rng.below(4) {
            0 => vec!["a".to_owned()],
            1 => vec!["b".to_owned()],
            _ => TIERS.map(str::to_owned).to_vec(),
        };
        let mut references = BTreeMap::new();
        for (kind, named) in [(ReferenceKind::ConfigMap, 75), (ReferenceKind::Secret, 40)] {
            let optional = self.rng.chance(40);
            if self.rng.chance(named) {
                references.insert((kind, map.to_owned()), optional);
            }
        }
        Release { application: name.into(), tiers, references, image: format!("image:{}", self.rng.below(4)) }
    }

    fn change_model(&mut self) {
        let maximum = self.rng.range(80, 150);
        self.put(&Resource::DeviceModels, model(maximum));
    }

    /// A ControllerRevision that no rollout names any more goes, as old ones do.
    fn forget_a_revision(&mut self) {
        let mut named = Vec::new();
        for application in self.api.objects(&Resource::EdgeApplications) {
            let intervals = application["status"]["rollout"]["intervals"].as_array();
            named.extend(intervals.into_iter().flatten().map(|interval| interval["revision"].clone()));
        }
        let all = self.api.objects(&Resource::ControllerRevisions);
        let old = all.filter(|revision| !named.contains(&revision["metadata"]["name"])).map(crate::api::key);
        let old: Vec<ObjectKey> = old.filter(|key| !self.rollouts.is_target(&key.name)).collect();
        if let Some(key) = old.first() {
            self.delete(&Resource::ControllerRevisions, key);
        }
    }
}
