//! The controllers, as far as hubs and agents see them: rollouts that name revisions in `status`, and who is
//! connected.

use std::collections::BTreeMap;

use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_model::rollout::{POSITIONS, Rollout};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::stock::{Release, SHOP, grown};
use crate::world::{Do, World};

/// Where the rollouts of all applications stand.
#[derive(Debug, Default)]
pub struct Rollouts {
    /// The revision that is rolled out, by application.
    target: BTreeMap<String, String>,
}

impl Rollouts {
    /// Whether a revision is being rolled out.
    pub fn is_target(&self, revision: &str) -> bool {
        self.target.values().any(|target| target == revision)
    }
}

impl World {
    /// A new revision of an application: the ControllerRevision comes into being before the status that names
    /// it, or, at times, after.
    pub fn deploy(&mut self, application: &str, release: Release) {
        let key = ObjectKey::new(SHOP, application);
        let Some(object) = self.api.get(&Resource::EdgeApplications, &key) else { return };
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let name = format!("{application}-r{}", self.number());
        let mut events = Vec::new();
        self.oracle.release(&name, release.clone(), &mut events);
        self.record_all(events);
        self.rollouts.target.insert(application.into(), name.clone());
        let (first, late) = (self.rng.range(0, 1_000), self.rng.chance(25));
        let second = first + self.rng.range(0, if late { 15_000 } else { 500 });
        let (made, named) = if late { (second, first) } else { (first, second) };
        self.note(format!("{name} is to be rolled out: {release:?}"));
        self.after(made, Do::Release(name, release));
        self.after(named, Do::Rollout(application.into(), uid));
    }

    /// A ControllerRevision comes into being.
    pub fn release(&mut self, name: &str, release: &Release) {
        self.put(&Resource::ControllerRevisions, release.object(name));
    }

    /// A rollout goes on: its interval grows, and some of the late nodes are admitted.
    pub fn roll(&mut self, application: &str, uid: &str) {
        let key = ObjectKey::new(SHOP, application);
        let Some(object) = self.api.get(&Resource::EdgeApplications, &key) else { return };
        let Some(target) = self.rollouts.target.get(application).cloned() else { return };
        if object["metadata"]["uid"] != uid {
            return;
        }
        let rollout = Rollout::deserialize(&object["status"]["rollout"]).unwrap_or_default();
        let to = match self.rng.below(3) {
            _ if self.calm || rollout.intervals.is_empty() => POSITIONS,
            0 => POSITIONS / 3,
            1 => POSITIONS / 3 * 2,
            _ => POSITIONS,
        };
        // What has grown does not shrink.
        let grown_to = rollout.intervals.first().filter(|first| first.revision == target);
        let to = grown_to.map_or(to, |first| first.to.max(to));
        let everyone = self.calm && self.plan.admit_all;
        let admitted: Vec<String> = self
            .api
            .objects(&Resource::EdgeNodes)
            .filter_map(|node| node["metadata"]["uid"].as_str().map(str::to_owned))
            .collect();
        let admitted: Vec<String> =
            admitted.into_iter().filter(|_| everyone || self.rng.chance(20)).collect();
        let intervals = grown(&rollout.intervals, &target, to);
        let patch = json!({"status": {"rollout": {"intervals": intervals, "admitted": admitted}}});
        self.patch_by_controller(&Resource::EdgeApplications, &key, &patch);
        if to < POSITIONS {
            let pause = self.rng.range(500, 8_000);
            self.after(pause, Do::Rollout(application.into(), uid.into()));
        }
    }

    /// Rollout state is lost, and rebuilt some time later.
    pub fn lose_rollout(&mut self, application: &str) {
        let key = ObjectKey::new(SHOP, application);
        let Some(object) = self.api.get(&Resource::EdgeApplications, &key) else { return };
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        self.note(format!("{application} loses its rollout state"));
        self.patch_by_controller(&Resource::EdgeApplications, &key, &json!({"status": {"rollout": null}}));
        let pause = self.rng.range(500, 15_000);
        self.after(pause, Do::Rollout(application.into(), uid));
    }

    /// In the end every rollout is through.
    pub fn finish_rollouts(&mut self) {
        let applications: Vec<String> = self.rollouts.target.keys().cloned().collect();
        for application in applications {
            let key = ObjectKey::new(SHOP, &application);
            let uid = self
                .api
                .get(&Resource::EdgeApplications, &key)
                .and_then(|object| object["metadata"]["uid"].as_str().map(str::to_owned));
            if let Some(uid) = uid {
                self.roll(&application, &uid);
            }
        }
    }

    /// After a restore the controller goes on with what the restored status says.
    pub fn rollouts_restored(&mut self) {
        let applications = self.api.objects(&Resource::EdgeApplications);
        let targets = applications.filter_map(|object| {
            let name = object["metadata"]["name"].as_str()?;
            let target = object["status"]["rollout"]["intervals"][0]["revision"].as_str()?;
            Some((name.to_owned(), target.to_owned()))
        });
        self.rollouts.target = targets.collect();
    }

    fn patch_by_controller(&mut self, resource: &Resource, key: &ObjectKey, patch: &Value) {
        if self.api.patch_status(self.now, resource, key, patch).is_ok() {
            self.wrote_object(resource, key);
        }
    }

    /// The controller looks whether a node has a session, and says so; of what is offline nobody knows
    /// anything (the sweep of devices included).
    pub fn connected(&mut self, node: &str) {
        let connected = self
            .connections
            .values()
            .filter_map(|one| one.seat.as_ref())
            .any(|s| **s.session().node() == *node);
        let key = ObjectKey::new("", node);
        let said = if connected { "True" } else { "False" };
        self.set_conditions(&Resource::EdgeNodes, &key, &[("Connected", said)]);
        if connected {
            return;
        }
        self.set_conditions(&Resource::EdgeNodes, &key, &[("Ready", "Unknown")]);
        let devices =
            self.api.objects(&Resource::Devices).filter(|device| device["spec"]["nodeName"] == node);
        for key in devices.map(crate::api::key).collect::<Vec<_>>() {
            self.set_conditions(&Resource::Devices, &key, &[("Ready", "Unknown")]);
        }
    }

    fn set_conditions(&mut self, resource: &Resource, key: &ObjectKey, wanted: &[(&str, &str)]) {
        let Some(object) = self.api.get(resource, key) else { return };
        let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        for (type_, status) in wanted {
            let new = json!({"type": type_, "status": status, "reason": "Controller", "message": ""});
            match conditions.iter_mut().find(|condition| condition["type"] == *type_) {
                Some(old) if old["status"] == *status => {}
                Some(old) => *old = new,
                None => conditions.push(new),
            }
        }
        self.patch_by_controller(resource, key, &json!({"status": {"conditions": conditions}}));
    }
}
