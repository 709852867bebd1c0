//! A seeded simulation of state sync over the code that is shipped.
//!
//! One seed is one history: users change things, controllers roll out, hub replicas watch with lags of their
//! own, agents come and go, and connections, disks, replicas and the way to the API server break. Then
//! faults stop, everything drains, and the checker of [`selvedge_history`] has judged every step.
//!
//! Shipped, and not modelled: the hub's index, feed, sessions, greeting, removal guard, book and decision of
//! status writes, the list-watch machine, the agent's ledger and reported set. Simulated: sockets, disks,
//! the clock, the API server and its watches, the controllers, runtimes and drivers. `seat` stands for the
//! hub's transport, `agent` for the agent's link.
//!
//! Beside cuts, crashes, lags and full disks: ConfigMaps and Secrets that go and come back, a CRD that is deleted and
//! created anew, a cluster that is restored, hubs and agents of the version before beside those of this one. When all
//! is at rest, everything may start anew once more, and nothing may come of that (I8). What each session of a hub
//! keeps is weighed all along (I7).
//!
//! ```text
//!  users, controllers ─► api ─► loops ─► [feed, index, sessions] ─► seat ─► connection ─► agent [ledger]
//!          │                                                          │                      │
//!          └─► oracle: what should be                  writes ◄───────┴────── reports ◄──────┘
//! ```
//!
//! No thread, no real time and no chance but the seed's: the same seed gives the same history.

mod agent;
mod api;
mod connection;
mod controllers;
mod crds;
mod faults;
mod loops;
mod machines;
mod oracle;
mod plan;
mod restore;
mod rng;
mod seat;
mod stock;
mod users;
mod world;
mod writes;

use std::fmt::Write as _;
use std::time::Instant;

use selvedge_history::{Agent as Id, Event, InForce, Name, Violation, Wanted};
use selvedge_hub::index::{ObjectKey, Resource};
use serde_json::Value;

use agent::Disk;
use loops::Replica;
use world::{Do, World};

/// After faults have stopped everything is at rest within this: the longest wait of the shipped code is
/// 300 s (a digest that does not match), and watches end every 25 s.
const SETTLES_WITHIN: u64 = 900_000;
/// So often it is asked whether all is at rest.
const ASKED_EVERY: u64 = 30_000;

/// What came of one history.
pub struct Run {
    /// What does not hold.
    pub violations: Vec<Violation>,
    /// Everything that was recorded, with its time.
    pub events: Vec<(u64, Event)>,
}

/// Runs the history of a seed. `base` is where virtual time begins: any instant. With `restores` the cluster is
/// restored from a snapshot in half of the histories.
#[must_use]
pub fn run(seed: u64, base: Instant, restores: bool) -> Run {
    let mut world = World::new(seed, base, restores);
    world.furnish();
    world.record_crds();
    for replica in 0..2 {
        world.replicas.push(Replica::down());
        world.after(0, Do::Start(replica, 0));
    }
    for node in 0..world.plan.nodes {
        world.add_agent(Id::of(&format!("n{node}")), Disk::default());
    }
    let (user, fault) = (world.rng.below(5_000), world.rng.below(10_000));
    world.after(user, Do::User);
    world.after(fault, Do::Fault);
    world.after(0, Do::Mark);
    let busy = world.plan.busy;
    if world.plan.restore {
        let at = world.rng.range(busy / 3, busy);
        world.after(at, Do::Restore);
    }
    world.run(busy);
    world.calm();
    // Long enough for what was begun: late revisions, nodes that are said to be offline.
    world.run(busy + 3 * ASKED_EVERY);
    world.settle();
    if world.plan.upgrade && world.found() == 0 {
        world.upgrade();
        world.settle();
    }
    let (events, checker) = world.finish();
    Run { violations: checker.violations().to_vec(), events }
}

impl World {
    /// Waits until all is at rest, or should long be.
    fn settle(&mut self) {
        let end = self.now + SETTLES_WITHIN;
        while !self.is_at_rest() && self.now < end {
            self.release_removals();
            self.run(self.now + ASKED_EVERY);
        }
        for rest in self.rests() {
            self.record(rest);
        }
    }

    /// Where every agent stands against what it should have, and what its status says.
    fn rests(&self) -> Vec<Event> {
        let mut rests = Vec::new();
        for agent in self.agents.iter().filter(|agent| agent.id.copy == 0) {
            let node = &agent.id.node;
            let wanted = self.oracle.wanted(&self.api, node, self.plan.admit_all);
            let is_wanted = |key: &Name, version: &InForce| {
                wanted.iter().any(|(other, wanted)| {
                    matches!(wanted, Wanted::OneOf(all) if other == key
                        && all.contains(&(version.uid.clone(), version.hash)))
                })
            };
            // What is said of anything else may be answered as gone, and is not written.
            let said: Vec<(Name, u64)> = agent
                .said()
                .filter(|(key, version, _)| is_wanted(key, version))
                .map(|(key, _, says)| (key, says))
                .collect();
            let is_said = |key: &Name| said.iter().any(|(other, _)| other == key);
            let all_said = wanted.iter().all(|(key, wanted)| is_said(key) || !awaits(key, wanted));
            let lingers = self.lingers(node).filter(|_| all_said);
            let (id, session, rows) = (agent.id.clone(), agent.session, agent.rows());
            rests.push(Event::Rest { agent: id, session, wanted, rows, said });
            rests.extend(lingers);
        }
        rests
    }

    /// A node's status that tells of something on its way.
    fn lingers(&self, node: &Name) -> Option<Event> {
        let object = self.api.get(&Resource::EdgeNodes, &ObjectKey::new("", node))?;
        let conditions = object["status"]["conditions"].as_array()?;
        let passing =
            |condition: &&Value| matches!(condition["reason"].as_str(), Some("Applying" | "Delivering"));
        let found = conditions.iter().find(passing)?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Some(Event::Lingers { node: node.clone(), what: format!("{}: {}", text("reason"), text("message")) })
    }

    /// Whether the checker would find all agents where they should be.
    fn is_at_rest(&self) -> bool {
        let mut checker = self.checker();
        self.rests().into_iter().for_each(|rest| checker.observe(self.now, rest));
        checker.violations().len() == self.found()
    }
}

/// Whether somebody is to report what became of an entry.
fn awaits(key: &Name, wanted: &Wanted) -> bool {
    matches!(wanted, Wanted::OneOf(_)) && (key.starts_with("Workload/") || key.starts_with("Device/"))
}

impl Run {
    /// Everything about a history that failed: what was found, and what led there.
    #[must_use]
    pub fn report(&self, seed: u64) -> String {
        let mut text =
            format!("seed {seed}: {} events, {} violations\n", self.events.len(), self.violations.len());
        for violation in self.violations.iter().take(5) {
            let _ = writeln!(text, "{violation}");
            for nth in &violation.events {
                let event = usize::try_from(*nth - 1).ok().and_then(|nth| self.events.get(nth));
                if let Some((at, event)) = event {
                    let _ = writeln!(text, "  {nth} at {at} ms: {event:?}");
                }
            }
        }
        let _ = writeln!(
            text,
            "replay: SELVEDGE_SEED={seed} cargo test -p selvedge-simulation --test histories -- --nocapture"
        );
        text
    }
}
