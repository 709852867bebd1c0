//! What becomes of status writes: read, decided by the shipped writer, patched under its precondition. An
//! answer may be lost, and a patch may land after its session has ended.

use selvedge_history::Event;
use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_hub::status::{Decision, Known, Target, Work, Written, decide, fenced_by};
use selvedge_model::SessionId;
use selvedge_protocol::agent::verdict::Code;
use serde_json::Value;

use crate::api::Refused;
use crate::oracle::{entry, settings};
use crate::stock::APPLICATIONS;
use crate::world::{Do, World};

/// A write that failed is tried again after at most this.
const AGAIN: u64 = 5_000;

fn place(target: &Target) -> (Resource, ObjectKey) {
    match target {
        Target::Node(name) => (Resource::EdgeNodes, ObjectKey::new("", name)),
        Target::Device(key) => (Resource::Devices, key.clone()),
    }
}

impl World {
    fn api_latency(&mut self) -> u64 {
        self.rng.range(1, self.plan.api)
    }

    /// Writes that are due begin.
    pub fn begin_writes(&mut self, number: u64) {
        let instant = self.instant();
        let Some(seat) = self.connections.get_mut(&number).and_then(|c| c.seat.as_mut()) else { return };
        let (begun, ended) = seat.begin_writes(instant);
        let session = seat.session().id();
        for mut work in begun {
            match work.known.take() {
                Some(known) => self.attempt(number, Box::new(work), known),
                None => {
                    let latency = self.api_latency();
                    self.after(latency, Do::Read(number, Box::new(work)));
                }
            }
        }
        for (target, written) in ended {
            if written.code == Some(Code::Written) {
                self.observe(&target, session, false);
            }
            self.after(0, Do::Wrote(number, target, written));
        }
    }

    /// A write reads its object.
    pub fn read(&mut self, number: u64, work: Box<Work>) {
        let Some(connection) = self.connections.get(&number).filter(|one| one.seat.is_some()) else { return };
        if self.replicas[connection.replica].cut_off {
            let after = self.rng.range(100, AGAIN);
            return self.after(after, Do::Read(number, work));
        }
        let (resource, key) = place(&work.target);
        let found = self.api.get(&resource, &key);
        match found.filter(|object| object["metadata"]["uid"] == work.uid.as_str()).map(Known::of) {
            None => self.after(1, Do::Wrote(number, work.target, Written::missing())),
            Some(known) => self.attempt(number, work, known),
        }
    }

    /// The shipped decision, and what follows.
    fn attempt(&mut self, number: u64, work: Box<Work>, known: Known) {
        let latency = self.api_latency();
        let done = |code, known, newer| Written { code: Some(code), reason: "", known: Some(known), newer };
        match decide(&work, &known) {
            Decision::Superseded(newer) => {
                let written = done(Code::Superseded, known, Some(newer));
                self.after(0, Do::Wrote(number, work.target, written));
            }
            Decision::Unchanged => {
                self.observe(&work.target, work.session, false);
                self.after(0, Do::Wrote(number, work.target, done(Code::Written, known, None)));
            }
            Decision::Patch(patch) => self.after(latency, Do::Patch(number, work, patch)),
        }
    }

    /// A patch reaches the API server, whatever has become of its session.
    pub fn patch(&mut self, number: u64, work: Box<Work>, patch: &Value) {
        let cut_off = self.connections.get(&number).is_some_and(|one| self.replicas[one.replica].cut_off);
        let (resource, key) = place(&work.target);
        let latency = self.api_latency();
        if cut_off {
            return self.after(latency + AGAIN, Do::Read(number, work));
        }
        match self.api.patch_status(self.now, &resource, &key, patch) {
            Err(Refused::Conflict) => self.after(latency, Do::Read(number, work)),
            Err(Refused::NotFound) => {
                self.after(latency, Do::Wrote(number, work.target, Written::missing()));
            }
            Ok(object) => {
                self.observe(&work.target, work.session, true);
                self.changed(&resource);
                if !self.calm && self.rng.chance(3) {
                    // The answer is lost: the writer does not know that it was done.
                    return self.after(latency + AGAIN, Do::Read(number, work));
                }
                let known = Some(Known::of(&object));
                let written = Written { code: Some(Code::Written), reason: "", known, newer: None };
                self.after(latency, Do::Wrote(number, work.target, written));
            }
        }
    }

    /// A write ended, if its session is still there.
    pub fn wrote(&mut self, number: u64, target: &Target, written: Written) {
        let now = self.instant();
        let Some(seat) = self.connections.get_mut(&number).and_then(|c| c.seat.as_mut()) else { return };
        let follows = seat.written(target, written, now);
        self.follow(number, follows);
    }

    /// What the API says now of the keys of an object; `wrote`: by this write.
    fn observe(&mut self, target: &Target, session: SessionId, wrote: bool) {
        let (resource, key) = place(target);
        let Some(object) = self.api.get(&resource, &key).cloned() else { return };
        let status = &object["status"];
        let uid: selvedge_history::Name = object["metadata"]["uid"].as_str().unwrap_or_default().into();
        let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        match target {
            Target::Device(key) if wrote => {
                let node = object["spec"]["nodeName"].as_str().unwrap_or_default().into();
                let says = status["properties"][0]["reported"].as_u64().unwrap_or(0);
                let generation = status["observedGeneration"].as_i64().unwrap_or(0);
                let synced = status["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|condition| condition["type"] == "Synced" && condition["status"] == "True");
                let claims = if synced { self.oracle.device_contents(&uid, generation) } else { Vec::new() };
                let key = entry("Device", &key.name);
                self.record(Event::Status { node, key, object: uid, session, says, claims });
            }
            Target::Device(_) => {}
            Target::Node(name) => {
                let mut said = Vec::new();
                if wrote {
                    let says = number(&status["agent"]["kernelVersion"]).unwrap_or(0);
                    said.push((settings(), says, Vec::new()));
                }
                for (application, _) in APPLICATIONS {
                    let app = status["applications"].as_array().into_iter().flatten();
                    let app = app.into_iter().find(|app| app["name"] == application);
                    let key = entry("Workload", application);
                    match app {
                        // What is not in the set any more, or is held, hides what was reported of it.
                        None => said.push((key, self.fresh, Vec::new())),
                        Some(app) if app["state"] == "Held" || app["state"] == "Failed" => {
                            said.push((key, self.fresh, Vec::new()));
                        }
                        Some(app) if wrote => {
                            let revision = app["revision"].as_str().unwrap_or_default();
                            let claims = match app["state"] == "Running" {
                                true => self.oracle.workload_contents(application, revision),
                                false => Vec::new(),
                            };
                            said.push((key, number(&app["message"]).unwrap_or(0), claims));
                        }
                        Some(_) => {}
                    }
                }
                for (key, says, claims) in said {
                    let (node, object) = (name.clone(), uid.clone());
                    // What was not written has the fence of whoever wrote; after a restore that may be nobody's.
                    let session = if wrote { session } else { fenced_by(status).unwrap_or_default() };
                    self.record(Event::Status { node, key, object, session, says, claims });
                }
            }
        }
    }
}
