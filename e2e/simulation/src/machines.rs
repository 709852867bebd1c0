//! What agents do: take messages, apply, report, crash and come back.

use selvedge_history::{Agent as Id, Event};
use selvedge_model::{ContentHash, EntryKey};
use selvedge_protocol::agent::to_agent::Message as ToAgent;

use crate::agent::{Agent, Disk, Ends, Step, Version};
use crate::world::{Do, World};

/// One of so many messages kills its agent after it was committed and before it was answered.
const DEATHS: u64 = 250;
/// How long a changed report may wait for the disk: that of the shipped agent.
const SAVE_EVERY: u64 = 5_000;

impl World {
    /// A machine joins, with its disk.
    pub fn add_agent(&mut self, id: Id, disk: Disk) {
        let place = self.agents.len();
        let version = Version { number: 0, before: self.plan.skew && self.rng.chance(50) };
        let (agent, step) = Agent::boot(id, version, 0, disk, true);
        self.agents.push(agent);
        self.went(place, step);
        self.started(place);
    }

    fn started(&mut self, place: usize) {
        let life = self.agents[place].life;
        let first = self.rng.below(500);
        self.after(first, Do::Dial(place, life));
        self.after(SAVE_EVERY, Do::Save(place, life));
    }

    /// A message arrives at an agent.
    pub fn down(&mut self, number: u64, message: ToAgent) {
        if !self.reaches_agent(number) {
            return self.arrived(number, &message);
        }
        let Some(connection) = self.connections.get(&number) else { return };
        let (place, id) = (connection.agent, connection.id);
        let agent = &mut self.agents[place];
        if agent.stuck_until > self.now {
            let until = agent.stuck_until;
            return self.at(until, Do::Down(number, Box::new(message)));
        }
        self.arrived(number, &message);
        let step = self.agents[place].receive(id, message);
        let dies = !self.calm && self.rng.below(DEATHS) == 0;
        if dies {
            self.record_all(step.events);
            return self.crash(place, false);
        }
        self.went(place, step);
    }

    /// Does what a step of an agent led to.
    fn went(&mut self, place: usize, step: Step) {
        self.record_all(step.events);
        let (connection, life) = (self.agents[place].connection, self.agents[place].life);
        for message in step.up {
            if let Some(number) = connection {
                self.send_up(number, message);
            }
        }
        for (key, hash) in step.apply {
            let takes = self.rng.range(10, 3_000);
            self.after(takes, Do::Apply(place, life, key, hash));
        }
        match step.ends {
            Some(Ends::Redial { after, behind }) => {
                let redirects = self.agents[place].redirects;
                self.agents[place].redirects = if behind { redirects + 1 } else { 0 };
                if let Some(number) = connection {
                    self.agent_closes(number);
                }
                self.redial(place, after);
            }
            None => self.report(place),
        }
    }

    /// Reports that are due leave.
    fn report(&mut self, place: usize) {
        let step = self.agents[place].report();
        self.record_all(step.events);
        if let Some(number) = self.agents[place].connection {
            for message in step.up {
                self.send_up(number, message);
            }
        }
    }

    /// An agent has no connection any more and dials again.
    pub fn redial(&mut self, place: usize, after: Option<u64>) {
        self.agents[place].ended();
        let life = self.agents[place].life;
        let wait = after.unwrap_or(2_000);
        let wait = self.rng.range(wait / 2, wait);
        self.after(wait, Do::Dial(place, life));
    }

    /// The runtime of an agent is done.
    pub fn apply(&mut self, place: usize, life: u32, key: &EntryKey, hash: ContentHash) {
        if self.agents[place].life != life || self.parked.contains_key(&place) {
            return;
        }
        let says = self.number();
        let events = self.agents[place].applied(key, hash, says);
        self.record_all(events);
        self.report(place);
    }

    /// An agent makes its reports durable.
    pub fn save(&mut self, place: usize, life: u32) {
        if self.agents[place].life == life && !self.parked.contains_key(&place) {
            self.agents[place].save();
            self.after(SAVE_EVERY, Do::Save(place, life));
        }
    }

    /// An agent dies; `lost`: its ledger is deleted before it comes back.
    pub fn crash(&mut self, place: usize, lost: bool) {
        if self.parked.contains_key(&place) {
            return;
        }
        let disk = if lost { Disk::default() } else { self.agents[place].disk() };
        let who = self.agents[place].id.to_string();
        self.record(Event::Crashed {
            who: format!("agent {who}{}", if lost { ", ledger lost" } else { "" }).into(),
        });
        if let Some(number) = self.agents[place].connection {
            self.cut(number);
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.agent_open = false;
            }
        }
        let agent = &mut self.agents[place];
        agent.ended();
        agent.life += 1;
        let life = agent.life;
        self.parked.insert(place, (disk, lost));
        let down = self.rng.range(100, 20_000);
        self.after(down, Do::Boot(place, life));
    }

    /// An agent starts again.
    pub fn boot(&mut self, place: usize, life: u32) {
        // A copy that was shut down for good stays down.
        if self.agents[place].life != life || (self.calm && self.agents[place].id.copy > 0) {
            return;
        }
        let Some((disk, lost)) = self.parked.remove(&place) else { return };
        let id = self.agents[place].id.clone();
        let version = self.version_of(place);
        let (agent, step) = Agent::boot(id, version, life, disk, lost);
        self.agents[place] = agent;
        if self.calm {
            self.agents[place].fill(false);
        }
        self.went(place, step);
        self.started(place);
    }

    /// The version that a machine starts in: another one at times, and when all is at rest.
    fn version_of(&mut self, place: usize) -> Version {
        let upgrade = self.settled || (self.plan.skew && self.rng.chance(30));
        if !upgrade {
            return self.agents[place].version;
        }
        let (number, before) = (self.number(), self.plan.skew && self.rng.chance(50));
        let agent = self.agents[place].id.clone();
        self.note(format!("{agent} starts in another version{}", if before { ", that before" } else { "" }));
        self.record(Event::Upgraded { agent });
        Version { number, before }
    }
}
