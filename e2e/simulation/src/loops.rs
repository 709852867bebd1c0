//! What hub replicas read: the shipped list-watch machine of each resource, its requests answered by the
//! model of the API server, and the shipped feed and index behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use selvedge_history::Event;
use selvedge_hub::feed::{Absence, take_event};
use selvedge_hub::hub::Hub;
use selvedge_hub::index::{Event as IndexEvent, ObjectKey, Resource, workload_entry};
use selvedge_hub::metrics::Metrics;
use selvedge_hub::removals::Crd;
use selvedge_operator::listwatch::held::Held;
use selvedge_operator::listwatch::{
    self, ListWatchError, Poke, machine::Machine, machine::Outcome, machine::Step,
};
use serde_json::Value;

use crate::stock::{APPLICATIONS, SHOP};
use crate::world::{Do, LoopId, World};

/// A request that nobody answers is given up after this: that of the shipped loop.
const GIVEN_UP: u64 = 30_000;
/// A watch that is silent for this long past its end is dead: that of the shipped loop.
const GRACE: u64 = 5_000;

/// What is not named any more of ConfigMaps and Secrets is forgotten so often: histories are short.
const FORGET: u64 = 7_000;

/// One replica of the hub.
pub struct Replica {
    /// Rises with each start.
    pub life: u32,
    /// The shipped whole; none while it is down.
    pub hub: Option<Arc<Hub>>,
    /// Its loops.
    pub loops: BTreeMap<Resource, Loop>,
    /// It is of the version before.
    pub older: bool,
    /// It cannot reach the API server.
    pub cut_off: bool,
    /// ConfigMaps and Secrets that are to be fetched: not yet, or read before their watch had brought them.
    pub early: Vec<(Resource, ObjectKey)>,
    /// CRDs that are to be read beside those that removals wait for.
    pub crds: BTreeSet<Crd>,
    turns: u64,
}

/// One loop.
pub struct Loop {
    machine: Machine,
    /// What proves a restore, as the shipped loop keeps it.
    held: Held,
    /// By this the shipped loop notices that its kind went with its CRD.
    absence: Absence,
    turn: u64,
    watch: Option<Watch>,
    /// Its events come so much later.
    lag: u64,
    /// Somebody pokes it, and it has not noticed yet.
    poked: bool,
    /// By this the shipped hub says that what it has read is over.
    poke: Poke,
    /// It was said, and it has not noticed yet.
    outdated: bool,
    /// It was told to end, and has not yet.
    stops: bool,
}

/// A watch that is on.
struct Watch {
    /// What it has brought.
    at: u64,
    ends: u64,
    pokable: bool,
}

/// What the API server answers.
pub enum Answer {
    /// All objects at a revision.
    List(u64, Vec<Value>, Instant),
    /// The most recent revision. And when each was asked for.
    Probe(u64, Instant),
    /// The watch is too old.
    Expired,
    /// There is no such kind.
    NotServed,
    /// Nothing.
    None,
}

impl Replica {
    /// A replica that is not started yet.
    pub fn down() -> Self {
        let (loops, crds) = (BTreeMap::new(), BTreeSet::new());
        Self { life: 0, hub: None, loops, older: false, cut_off: false, early: Vec::new(), crds, turns: 0 }
    }
}

impl World {
    /// A replica starts with empty caches.
    pub fn start_replica(&mut self, replica: usize, life: u32) {
        if self.replicas[replica].life != life || self.replicas[replica].hub.is_some() {
            return;
        }
        let registry = prometheus::Registry::new();
        let Ok(metrics) = Metrics::new(&registry) else { return };
        let (_, cluster) = tokio::sync::watch::channel(None);
        let hub = Arc::new(Hub::new(None, cluster, metrics));
        self.replicas[replica].hub = Some(hub);
        self.replicas[replica].crds = Crd::ALL.into();
        let older = self.plan.skew && self.rng.chance(50);
        self.replicas[replica].older = older;
        self.follow_cluster(replica, life);
        let version = if older { ", of the version before" } else { "" };
        self.note(format!("replica {replica} starts cold{version}"));
        for resource in Resource::CORE {
            self.start_loop(replica, resource);
        }
        self.after(1, Do::Crds(replica, life));
        self.after(FORGET, Do::Forget(replica, life));
        let key_read = self.rng.range(1, 5_000);
        self.after(key_read, Do::VersionKey(replica, life));
    }

    fn start_loop(&mut self, replica: usize, resource: Resource) {
        let (now, lag) = (tokio::time::Instant::from_std(self.instant()), self.rng.below(self.plan.lag + 1));
        let place = &mut self.replicas[replica];
        place.turns += 1;
        let turn = place.turns;
        let poke = Poke::default();
        if let Some(hub) = &place.hub {
            hub.pokes.set(&resource, Some(poke.clone()));
        }
        let (machine, held, absence) = (Machine::new(now), Held::default(), Absence::default());
        let (watch, poked, outdated, stops) = (None, false, false, false);
        let new = Loop { machine, held, absence, turn, watch, lag, poked, poke, outdated, stops };
        place.loops.insert(resource.clone(), new);
        let id = LoopId { replica, life: place.life, resource, turn };
        self.after(0, Do::Request(id));
    }

    /// The loop that an action is for, if that is still its turn.
    fn turn(&mut self, id: &LoopId) -> Option<&mut Loop> {
        let replica = self.replicas.get_mut(id.replica).filter(|replica| replica.life == id.life)?;
        replica.loops.get_mut(&id.resource).filter(|one| one.turn == id.turn)
    }

    /// What was due for this turn of a loop is void. Gives the next one.
    fn end_turn(&mut self, id: &LoopId) -> u64 {
        let replica = &mut self.replicas[id.replica];
        replica.turns += 1;
        let turn = replica.turns;
        if let Some(one) = replica.loops.get_mut(&id.resource) {
            one.turn = turn;
            one.watch = None;
        }
        turn
    }

    /// The next turn of a loop.
    fn next_turn(&mut self, id: LoopId, after: u64) {
        let turn = self.end_turn(&id);
        self.after(after, Do::Request(LoopId { turn, ..id }));
    }

    /// A loop makes its next request.
    pub fn request(&mut self, id: LoopId) {
        let now = tokio::time::Instant::from_std(self.instant());
        let (cut_off, most) = (self.replicas[id.replica].cut_off, self.plan.api);
        let Some(one) = self.turn(&id) else { return };
        let step = one.machine.next(now);
        let latency = self.rng.range(1, most);
        let answer = match step {
            // The machine's wait is drawn from a chance of its own; the history draws its own.
            Step::Wait(_) => {
                let wait = self.rng.below(2_000);
                return self.next_turn(id, wait);
            }
            _ if cut_off => return self.after(GIVEN_UP, Do::Answered(id, Answer::None)),
            _ if !self.api.is_served(&id.resource) => Answer::NotServed,
            Step::List => {
                let objects = self.api.objects(&id.resource).cloned().collect();
                Answer::List(self.api.revision(), objects, self.instant())
            }
            Step::Probe => Answer::Probe(self.api.revision(), self.instant()),
            Step::Watch { from, .. } if self.api.is_expired(&id.resource, from) => Answer::Expired,
            Step::Watch { from, seconds, pokable } => {
                let ends = self.now + u64::from(seconds) * 1_000;
                if let Some(one) = self.turn(&id) {
                    one.watch = Some(Watch { at: from, ends, pokable });
                    one.absence = Absence::default();
                    if pokable && std::mem::take(&mut one.outdated) {
                        one.machine.on(Outcome::Outdated, now);
                        return self.next_turn(id, 0);
                    }
                    if pokable && std::mem::take(&mut one.poked) {
                        one.machine.on(Outcome::Poked, now);
                        return self.next_turn(id, 0);
                    }
                }
                self.at(ends, Do::WatchEnds(id.clone()));
                return self.after(latency, Do::Pump(id));
            }
        };
        self.after(latency, Do::Answered(id, answer));
    }

    /// An answer reaches a loop.
    pub fn answer(&mut self, id: LoopId, answer: Answer) {
        let now = tokio::time::Instant::from_std(self.instant());
        let (replica, resource) = (id.replica, id.resource.clone());
        let Some(one) = self.turn(&id) else { return };
        let (outcome, mut went_back) = match &answer {
            Answer::List(revision, objects, _) => {
                let seen = objects.iter().map(|object| (uid(object), revision_of(object)));
                (Outcome::Listed(*revision), one.held.listed(seen))
            }
            Answer::Probe(revision, _) => (Outcome::Probed(*revision), None),
            Answer::Expired => (Outcome::Expired, None),
            Answer::NotServed | Answer::None => (Outcome::Failed, None),
        };
        let back = one.machine.on(outcome, now);
        if back.is_some() && matches!(answer, Answer::Probe(..)) {
            one.held = Held::default();
        }
        went_back = back.or(went_back);
        if let Some(back) = went_back {
            self.take(replica, &resource, listwatch::Event::WentBack { seen: back.seen, now: back.now });
        }
        match answer {
            Answer::List(revision, objects, asked) => {
                let listed = listwatch::Event::Listed { revision, asked, objects, undecodable: Vec::new() };
                self.take(replica, &resource, listed);
                self.take(replica, &resource, listwatch::Event::Recent { revision, asked });
            }
            Answer::Probe(revision, asked) => {
                self.take(replica, &resource, listwatch::Event::Recent { revision, asked });
            }
            Answer::NotServed => self.take(replica, &resource, not_served(&resource)),
            Answer::Expired | Answer::None => {}
        }
        self.next_turn(id, 0);
    }

    /// Changes that have come so far are given to the replica.
    pub fn pump(&mut self, id: LoopId) {
        let now = tokio::time::Instant::from_std(self.instant());
        if self.replicas[id.replica].cut_off {
            return;
        }
        loop {
            let Some(one) = self.turn(&id) else { return };
            let lag = one.lag;
            let Some(at) = one.watch.as_ref().map(|watch| watch.at) else { return };
            let Some(change) = self.api.next(&id.resource, at).cloned() else { return };
            if change.at + lag > self.now {
                return self.at(change.at + lag, Do::Pump(id));
            }
            let Some(one) = self.turn(&id) else { return };
            if let Some(watch) = &mut one.watch {
                watch.at = change.revision;
            }
            one.machine.on(Outcome::Reached(change.revision), now);
            match change.deleted {
                true => one.held.deleted(uid(&change.object)),
                false => one.held.saw(uid(&change.object), change.revision),
            }
            let (revision, object) = (change.revision, change.object);
            let event = match change.deleted {
                true => listwatch::Event::Deleted { revision, object },
                false => listwatch::Event::Applied { revision, object },
            };
            self.take(id.replica, &id.resource, event);
        }
    }

    /// A watch ends: by its timeout, maybe after a bookmark, or because nothing comes any more.
    pub fn watch_ends(&mut self, id: LoopId) {
        let now = tokio::time::Instant::from_std(self.instant());
        let (time, cut_off) = (self.now, self.replicas[id.replica].cut_off);
        let (quiet, api) = (self.rng.chance(self.plan.no_bookmark), &self.api);
        let replica = &mut self.replicas[id.replica];
        if replica.life != id.life {
            return;
        }
        let Some(one) = replica.loops.get_mut(&id.resource).filter(|one| one.turn == id.turn) else { return };
        let Some(watch) = &mut one.watch else { return };
        if cut_off {
            if time < watch.ends + GRACE {
                return self.after(GRACE, Do::WatchEnds(id));
            }
            one.machine.on(Outcome::Failed, now);
            return self.next_turn(id, 0);
        }
        // What a bookmark says has been brought before it.
        let revision = api.revision_at(time.saturating_sub(one.lag));
        let complete = api.next(&id.resource, watch.at).is_none_or(|change| change.revision > revision);
        if !quiet && complete && revision > watch.at {
            watch.at = revision;
            one.machine.on(Outcome::Reached(revision), now);
            self.take(id.replica, &id.resource, listwatch::Event::Bookmark { revision });
        }
        if let Some(one) = self.turn(&id) {
            one.machine.on(Outcome::Ended, now);
        }
        self.next_turn(id, 0);
    }

    /// Something waits for the present state of a resource.
    pub fn poke(&mut self, replica: usize, resource: &Resource) {
        let now = tokio::time::Instant::from_std(self.instant());
        let place = &mut self.replicas[replica];
        let life = place.life;
        let Some(one) = place.loops.get_mut(resource).filter(|one| !one.stops) else { return };
        if one.watch.as_ref().is_some_and(|watch| watch.pokable) {
            one.machine.on(Outcome::Poked, now);
            let id = LoopId { replica, life, resource: resource.clone(), turn: one.turn };
            self.next_turn(id, 0);
        } else {
            one.poked = true;
        }
    }

    /// What some loops have read is over, as the hub found: they list anew.
    pub fn follow_outdated(&mut self, replica: usize) {
        let now = tokio::time::Instant::from_std(self.instant());
        let place = &mut self.replicas[replica];
        let life = place.life;
        let mut cut_short = Vec::new();
        for (resource, one) in place.loops.iter_mut().filter(|(_, one)| !one.stops) {
            one.outdated |= one.poke.take() == Outcome::Outdated;
            if one.outdated && one.watch.as_ref().is_some_and(|watch| watch.pokable) {
                one.outdated = false;
                one.machine.on(Outcome::Outdated, now);
                cut_short.push(LoopId { replica, life, resource: resource.clone(), turn: one.turn });
            }
        }
        for id in cut_short {
            self.next_turn(id, 0);
        }
    }

    /// Changes of a resource are there to be watched.
    pub fn changed(&mut self, resource: &Resource) {
        let watching = self.replicas.iter().enumerate().filter_map(|(replica, place)| {
            let one = place.loops.get(resource).filter(|one| one.watch.is_some())?;
            let id = LoopId { replica, life: place.life, resource: resource.clone(), turn: one.turn };
            Some((one.lag, id))
        });
        for (lag, id) in watching.collect::<Vec<_>>() {
            self.after(lag, Do::Pump(id));
        }
    }

    /// The API server starts anew, or does not know one kind any more: watches that were on break.
    pub fn break_watches(&mut self, only: Option<&Resource>) {
        let now = tokio::time::Instant::from_std(self.instant());
        for replica in 0..self.replicas.len() {
            let place = &mut self.replicas[replica];
            let life = place.life;
            let mut broken = Vec::new();
            let meant = |resource: &Resource| only.is_none_or(|only| only == resource);
            let on = place.loops.iter_mut().filter(|(resource, one)| one.watch.is_some() && meant(resource));
            for (resource, one) in on {
                one.machine.on(Outcome::Failed, now);
                broken.push(LoopId { replica, life, resource: resource.clone(), turn: one.turn });
            }
            for id in broken {
                self.next_turn(id, 0);
            }
        }
    }

    /// A replica reaches the API server again.
    pub fn heal(&mut self, replica: usize) {
        let place = &mut self.replicas[replica];
        place.cut_off = false;
        let life = place.life;
        let ids = place.loops.iter().filter(|(_, one)| one.watch.is_some());
        let ids =
            ids.map(|(resource, one)| LoopId { replica, life, resource: resource.clone(), turn: one.turn });
        for id in ids.collect::<Vec<_>>() {
            self.after(0, Do::Pump(id));
        }
    }

    /// Lags are drawn anew; none when faults have stopped.
    pub fn draw_lags(&mut self) {
        let most = if self.calm { 0 } else { self.plan.lag };
        for replica in 0..self.replicas.len() {
            let resources: Vec<Resource> = self.replicas[replica].loops.keys().cloned().collect();
            for resource in resources {
                let lag = self.rng.below(most + 1);
                if let Some(one) = self.replicas[replica].loops.get_mut(&resource) {
                    one.lag = lag;
                }
                self.changed(&resource);
            }
        }
    }

    /// A loop learned something: the shipped feed takes it, and whom it wakes looks.
    fn take(&mut self, replica: usize, resource: &Resource, event: listwatch::Event<Value>) {
        let Some(hub) = self.replicas[replica].hub.clone() else { return };
        let before = self.targets(replica, &hub);
        let instant = self.instant();
        if let Some(one) = self.replicas[replica].loops.get_mut(resource) {
            one.absence.look(&hub, resource, &event, instant);
        }
        take_event(&hub, resource, event, instant);
        let after = self.targets(replica, &hub);
        // Live when its position was passed: told before anything follows from it.
        for (place, target) in after {
            if before.get(&place).is_some_and(|before| *before != target) {
                let key = workload_entry(&ObjectKey::new(SHOP, &place.1)).to_string().into();
                let (node, revision) = (place.0.as_str().into(), target.as_str().into());
                self.record(Event::Passed { node, key, revision });
            }
        }
        self.ask_references(replica);
        self.ask_cluster(replica);
        self.ask_crds(replica);
        self.proves(replica);
        self.looked_at(replica);
    }

    /// Revisions that rollouts give to nodes with a session here.
    fn targets(&self, replica: usize, hub: &Hub) -> BTreeMap<(String, String), String> {
        let index = hub.index();
        let nodes = self.connections.values().filter(|connection| connection.replica == replica);
        let nodes: BTreeSet<&str> =
            nodes.filter_map(|connection| Some(&**connection.seat.as_ref()?.session().node())).collect();
        let mut targets = BTreeMap::new();
        for node in nodes {
            for (name, _) in APPLICATIONS {
                if let Some(target) = index.target(node, &ObjectKey::new(SHOP, name)) {
                    targets.insert((node.to_owned(), name.to_owned()), target.to_owned());
                }
            }
        }
        targets
    }

    /// The key for versions of Secrets is read: until then no Secret is followed.
    pub fn read_version_key(&mut self, replica: usize, life: u32) {
        let place = &self.replicas[replica];
        let Some(hub) = place.hub.clone().filter(|_| place.life == life) else { return };
        match crate::stock::version_key().filter(|_| !place.cut_off) {
            Some(key) => hub.set_version_key(key),
            None => self.after(2_000, Do::VersionKey(replica, life)),
        }
        self.ask_references(replica);
    }

    /// The shipped task of ConfigMaps and Secrets goes round when it was told to.
    pub fn ask_references(&mut self, replica: usize) {
        use futures::FutureExt as _;
        let place = &self.replicas[replica];
        let life = place.life;
        if place.hub.as_ref().is_some_and(|hub| hub.references.notified().now_or_never().is_some()) {
            self.after(5, Do::References(replica, life));
        }
    }

    /// One round of that task: what is not to be followed any more ends, what is begins, and what is wanted and
    /// was dropped is fetched.
    pub fn follow_references(&mut self, replica: usize, life: u32) {
        let place = &self.replicas[replica];
        let Some(hub) = place.hub.clone().filter(|_| place.life == life) else { return };
        let wanted = hub.index().to_follow();
        let loops = self.replicas[replica].loops.iter_mut();
        let unwanted = |resource: &Resource| resource.references().is_some() && !wanted.contains(resource);
        let mut ends = Vec::new();
        for (resource, one) in loops.filter(|(resource, one)| unwanted(resource) && !one.stops) {
            one.stops = true;
            ends.push(LoopId { replica, life, resource: resource.clone(), turn: one.turn });
        }
        for id in ends {
            // Its requests are given up at once; its last word comes a little later.
            let (resource, latency) = (id.resource.clone(), self.rng.range(1, 50));
            self.note(format!("replica {replica} stops to follow {resource}"));
            self.end_turn(&id);
            self.after(latency, Do::Stopped(replica, life, resource));
        }
        for resource in wanted {
            if !self.replicas[replica].loops.contains_key(&resource) {
                self.note(format!("replica {replica} follows {resource}"));
                self.start_loop(replica, resource);
            }
        }
        self.fetch(replica, life, &hub);
    }

    /// What no served node's workloads name is forgotten, every now and then.
    pub fn forget_references(&mut self, replica: usize, life: u32) {
        let place = &self.replicas[replica];
        let Some(hub) = place.hub.as_ref().filter(|_| place.life == life) else { return };
        hub.forget_references();
        self.after(FORGET, Do::Forget(replica, life));
    }

    /// A loop has ended: nothing is known of its resource, which may be wanted again.
    pub fn stopped(&mut self, replica: usize, life: u32, resource: Resource) {
        let place = &mut self.replicas[replica];
        let Some(hub) = place.hub.clone().filter(|_| place.life == life) else { return };
        place.loops.remove(&resource);
        hub.pokes.set(&resource, None);
        hub.apply(IndexEvent::Dropped(resource), self.instant());
        self.follow_references(replica, life);
        self.looked_at(replica);
    }

    /// ConfigMaps and Secrets whose data was dropped and is wanted now.
    fn fetch(&mut self, replica: usize, life: u32, hub: &Hub) {
        let mut early = hub.take_unfetched();
        early.append(&mut self.replicas[replica].early);
        let cut_off = self.replicas[replica].cut_off;
        early.retain(|(resource, key)| {
            let (object, now) = (self.api.get(resource, key).cloned(), self.instant());
            let Some(known) = hub.index().dropped(resource, key) else { return false };
            cut_off || object.is_some_and(|object| !hub.apply_fetched(resource, key, object, known, now))
        });
        for (resource, _) in &early {
            self.poke(replica, resource);
        }
        if !early.is_empty() {
            self.replicas[replica].early = early;
            self.after(1_000, Do::References(replica, life));
        }
        self.looked_at(replica);
    }

    /// Whoever was woken looks; and what they ask for is done.
    pub fn looked_at(&mut self, replica: usize) {
        let woken: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.replica == replica)
            .filter(|(_, connection)| connection.seat.as_ref().is_some_and(crate::seat::Seat::is_woken))
            .map(|(number, _)| *number)
            .collect();
        for number in woken {
            let instant = self.instant();
            let follows = self
                .connections
                .get_mut(&number)
                .and_then(|connection| connection.seat.as_mut())
                .map(|seat| seat.wake(instant));
            if let Some(follows) = follows {
                self.follow(number, follows);
            }
        }
    }
}

/// What a loop says when its kind is not served.
fn not_served(resource: &Resource) -> listwatch::Event<Value> {
    let status = kube::core::Status::failure("the server could not find the requested resource", "NotFound");
    let source = kube::Error::Api(status.with_code(404).boxed());
    listwatch::Event::Failed { error: ListWatchError::List { kind: resource.to_string(), source } }
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}
