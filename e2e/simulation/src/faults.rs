//! What breaks while a history is busy, and the end of it.

use selvedge_history::{Agent as Id, Event, Name, Wanted};
use selvedge_model::EntryKind;

use crate::oracle;
use crate::world::{Do, World};

/// Whatever starts anew is at work again within this.
const UPGRADE: u64 = 60_000;
/// Copies of one disk that run at once, at most.
const MOST_AGENTS: usize = 5;

impl World {
    /// Something breaks, and again after a while.
    pub fn fault(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.rng.range(100, self.plan.fault_every);
        self.after(pause, Do::Fault);
        let replica = self.rng.index(self.replicas.len());
        let place = self.rng.index(self.agents.len());
        match self.rng.below(100) {
            0..22 => {
                if let Some(number) = self.agents[place].connection {
                    self.note(format!("the connection of {} is cut", self.agents[place].id));
                    self.cut(number);
                }
            }
            22..34 => self.crash(place, false),
            34..37 => self.crash(place, true),
            37..47 => self.crash_replica(replica),
            47..57 => {
                if !self.replicas[replica].cut_off && !self.is_witness(replica) {
                    self.note(format!("replica {replica} cannot reach the API server"));
                    self.replicas[replica].cut_off = true;
                    let lasts = self.rng.range(1_000, 60_000);
                    self.after(lasts, Do::Heal(replica));
                }
            }
            57..67 => {
                self.note("lags are others".into());
                self.draw_lags();
            }
            67..75 => {
                self.note("old revisions expire".into());
                self.api.compact();
            }
            75..83 => {
                let full = self.rng.chance(50);
                self.note(format!(
                    "disk of {} is {}",
                    self.agents[place].id,
                    if full { "full" } else { "free" }
                ));
                self.agents[place].fill(full);
            }
            83..92 => {
                let until = self.now + self.rng.range(1_000, 50_000);
                self.note(format!("{} takes nothing until {until}", self.agents[place].id));
                self.agents[place].stuck_until = until;
            }
            92..95 => self.clone_disk(place),
            _ => {
                // A drain: what is in flight is finished, then it goes.
                self.crash_replica(replica);
            }
        }
    }

    pub fn crash_replica(&mut self, replica: usize) {
        if self.replicas[replica].hub.is_none() || self.is_witness(replica) {
            return;
        }
        let numbers = self.connections.iter().filter(|(_, one)| one.replica == replica);
        let numbers: Vec<u64> = numbers.map(|(number, _)| *number).collect();
        self.record(Event::Crashed { who: format!("replica {replica}").into() });
        for number in numbers {
            self.cut(number);
            self.hub_learns(number);
        }
        let place = &mut self.replicas[replica];
        place.hub = None;
        place.loops.clear();
        place.early.clear();
        place.life += 1;
        let life = place.life;
        let down = self.rng.range(100, 15_000);
        self.after(down, Do::Start(replica, life));
    }

    /// A machine runs from a copy of another one's disk.
    fn clone_disk(&mut self, place: usize) {
        if self.agents.len() >= MOST_AGENTS || self.parked.contains_key(&place) {
            return;
        }
        let copy = u32::try_from(self.agents.len()).unwrap_or(u32::MAX);
        let id = Id { node: self.agents[place].id.node.clone(), copy };
        self.note(format!("{id} begins"));
        let disk = self.agents[place].disk();
        self.add_agent(id, disk);
    }

    /// Faults stop: what is cut heals, what is down comes back, copies go for good.
    pub fn calm(&mut self) {
        self.calm = true;
        self.note("faults stop".into());
        (self.plan.latency, self.plan.api) = (20, 20);
        for replica in 0..self.replicas.len() {
            self.heal(replica);
        }
        self.draw_lags();
        for place in 0..self.agents.len() {
            if self.agents[place].id.copy > 0 {
                self.crash(place, false);
            } else {
                self.agents[place].fill(false);
                self.agents[place].stuck_until = 0;
            }
        }
        self.accept();
        self.finish_rollouts();
        self.release_removals();
    }

    /// All is at rest. Every replica and every agent starts anew, one after the other and in any version; nothing else
    /// changes, so nothing may change at the nodes.
    pub fn upgrade(&mut self) {
        self.settled = true;
        let but = self.on_older_revisions();
        self.record(Event::Settled { but });
        for replica in 0..self.replicas.len() {
            self.crash_replica(replica);
            self.run(self.now + UPGRADE);
        }
        for place in 0..self.agents.len() {
            if self.agents[place].id.copy == 0 {
                self.crash(place, false);
            }
        }
        self.run(self.now + UPGRADE);
    }

    /// Workloads that are held while their nodes run an older revision, with what they may name: a replica that
    /// begins anew takes such a node for late, and a late node's revision is resolved with what there is now.
    fn on_older_revisions(&self) -> Vec<(Name, Name)> {
        let mut but = Vec::new();
        for agent in self.agents.iter().filter(|agent| agent.id.copy == 0) {
            let node = &agent.id.node;
            let wanted = self.oracle.wanted(&self.api, node, true);
            let held =
                || wanted.iter().filter(|(_, wanted)| matches!(wanted, Wanted::Held)).map(|(key, _)| key);
            let older: Vec<&Name> = held()
                .filter(|key| {
                    agent.in_force(key).is_some_and(|version| {
                        oracle::target(&self.api, node, key).is_some_and(|target| target != *version.revision)
                    })
                })
                .filter(|key| key.starts_with("Workload/"))
                .collect();
            if !older.is_empty() {
                let named = held().filter(|key| key.starts_with("ConfigMap/") || key.starts_with("Secret/"));
                but.extend(older.into_iter().chain(named).map(|key| (node.clone(), key.clone())));
            }
        }
        but
    }

    /// A person lets held removals go.
    pub fn release_removals(&mut self) {
        let mut events = Vec::new();
        self.oracle.released(&mut events);
        self.record_all(events);
        let kinds = EntryKind::ALL.map(|kind| format!("{}={}", kind.name(), self.now));
        self.cluster.release = kinds.join(",");
        let hubs: Vec<_> = self.replicas.iter().filter_map(|replica| replica.hub.clone()).collect();
        for hub in hubs {
            for kind in EntryKind::ALL {
                hub.removals.release(kind);
            }
            hub.sessions.wake_waiting();
        }
        for replica in 0..self.replicas.len() {
            self.looked_at(replica);
        }
    }
}
