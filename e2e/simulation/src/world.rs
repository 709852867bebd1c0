//! The world of one history: who is in it, what is due when, and what was recorded.
//!
//! Everything happens in [`World::run`], one [`Do`] after another in the order of virtual time. The other
//! modules say what each of them does: `loops` what hubs read, `connection` what goes between hubs and
//! agents, `machines` what agents do, `writes` what becomes of status writes, `controllers` and `users` what
//! changes in the API, `faults` what breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use selvedge_history::{Checker, Event, Name};
use selvedge_hub::index::{ObjectKey, Resource};
use selvedge_hub::removals::Crd;
use selvedge_hub::status::{Target, Work, Written};
use selvedge_model::{ContentHash, EntryKey, SessionId};
use selvedge_protocol::agent::{to_agent::Message as ToAgent, to_hub::Message as ToHub};
use serde_json::Value;

use crate::agent::{Agent, Disk};
use crate::api::Api;
use crate::connection::Connection;
use crate::controllers::Rollouts;
use crate::loops::{Answer, Replica};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::restore::ClusterMap;
use crate::rng::Rng;

/// Something that is due.
pub enum Do {
    /// A user changes something.
    User,
    /// Something breaks.
    Fault,
    /// A replica starts: number, life.
    Start(usize, u32),
    /// A loop makes its next request.
    Request(LoopId),
    /// An answer reaches a loop.
    Answered(LoopId, Answer),
    /// Changes are looked for, for a watch.
    Pump(LoopId),
    /// The API server ends a watch, or it is given up.
    WatchEnds(LoopId),
    /// What is followed of ConfigMaps and Secrets is looked at again.
    References(usize, u32),
    /// What is not named any more of them is forgotten.
    Forget(usize, u32),
    /// A loop of them has ended.
    Stopped(usize, u32, Resource),
    /// The key for versions of Secrets is read.
    VersionKey(usize, u32),
    /// CRDs are read.
    Crds(usize, u32),
    /// An agent dials: number, life.
    Dial(usize, u32),
    /// A Hello arrives.
    Hello(u64, Box<ToHub>),
    /// A message arrives at the agent.
    Down(u64, Box<ToAgent>),
    /// A message arrives at the hub.
    Up(u64, Box<ToHub>),
    /// A session has something to do.
    Timer(u64),
    /// The hub's, then the agent's side learns that a connection is gone.
    HubLearns(u64),
    /// See `HubLearns`.
    AgentLearns(u64),
    /// A status write reads its object.
    Read(u64, Box<Work>),
    /// A status write reaches the API server.
    Patch(u64, Box<Work>, Value),
    /// Its answer reaches the hub.
    Wrote(u64, Target, Written),
    /// The runtime of an agent is done: number, life.
    Apply(usize, u32, EntryKey, ContentHash),
    /// An agent makes its reports durable.
    Save(usize, u32),
    /// An agent starts again.
    Boot(usize, u32),
    /// An object goes with its CRD.
    Vanish(Resource, ObjectKey),
    /// A CRD is gone, with all objects.
    CrdGone(Crd, Resource),
    /// It is created anew.
    CrdAnew(Crd, Resource),
    /// Its kind is served again.
    CrdServed(Resource),
    /// An object that went with it is applied again.
    Reapply(Resource, Value),
    /// A person lets held removals go.
    ReleaseRemovals,
    /// A rollout goes on: application, its uid.
    Rollout(String, String),
    /// A ControllerRevision comes into being.
    Release(String, crate::stock::Release),
    /// The controller tells a replica of a newer session.
    Supersede(usize, String, SessionId),
    /// The controller looks who is connected.
    Connected(String),
    /// A part of the network heals: replica, API server.
    Heal(usize),
    /// The cluster is restored.
    Restore,
    /// A person accepts the restore.
    Accept,
    /// A replica reads what the cluster says of itself, again and again.
    Cluster(usize, u32),
    /// The same, because somebody waits.
    ClusterOnce(usize, u32),
    /// The leader raises its mark.
    Mark,
    /// The leader hears of a proof of a restore.
    Proved(u64),
}

/// One loop of one life of a replica, at one turn: what is due for an earlier turn is void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopId {
    /// Which replica.
    pub replica: usize,
    /// Its life.
    pub life: u32,
    /// What it reads.
    pub resource: Resource,
    /// Its turn.
    pub turn: u64,
}

/// See the module.
pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub plan: Plan,
    pub api: Api,
    pub oracle: Oracle,
    pub rollouts: Rollouts,
    pub replicas: Vec<Replica>,
    pub agents: Vec<Agent>,
    /// Agents that are down: what is on their disks, and whether that was lost.
    pub parked: BTreeMap<usize, (Disk, bool)>,
    pub connections: BTreeMap<u64, Connection>,
    /// Faults have stopped.
    pub calm: bool,
    /// All was at rest, and nothing changes any more but versions.
    pub settled: bool,
    /// What the cluster says of itself.
    pub cluster: ClusterMap,
    /// What a restore took away, until that is accepted; none: there was none, or it is accepted.
    pub taken: Option<Vec<(Resource, Value)>>,
    /// What went with a CRD, to be applied again.
    pub manifests: Vec<(Resource, Value)>,
    /// Numbers for uids, values, states: each is used once.
    pub fresh: u64,
    base: Instant,
    queue: BTreeMap<(u64, u64), Do>,
    queued: u64,
    checker: Checker,
    events: Vec<(u64, Event)>,
    told: BTreeSet<(Option<Name>, Name, Name, Option<ContentHash>)>,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(seed: u64, base: Instant, restores: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng, restores);
        Self {
            now: 0,
            rng,
            plan,
            api: Api::default(),
            oracle: Oracle::default(),
            rollouts: Rollouts::default(),
            replicas: Vec::new(),
            agents: Vec::new(),
            parked: BTreeMap::new(),
            connections: BTreeMap::new(),
            calm: false,
            settled: false,
            cluster: ClusterMap::default(),
            taken: None,
            manifests: Vec::new(),
            fresh: 0,
            base,
            queue: BTreeMap::new(),
            queued: 0,
            checker: Checker::default(),
            events: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    /// Does what is due until `end`.
    pub fn run(&mut self, end: u64) {
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let due = entry.remove();
            self.now = at;
            self.act(due);
        }
        self.now = end;
    }

    fn act(&mut self, due: Do) {
        match due {
            Do::User => self.user(),
            Do::Fault => self.fault(),
            Do::Start(replica, life) => self.start_replica(replica, life),
            Do::Request(id) => self.request(id),
            Do::Answered(id, answer) => self.answer(id, answer),
            Do::Pump(id) => self.pump(id),
            Do::WatchEnds(id) => self.watch_ends(id),
            Do::References(replica, life) => self.follow_references(replica, life),
            Do::Forget(replica, life) => self.forget_references(replica, life),
            Do::Stopped(replica, life, resource) => self.stopped(replica, life, resource),
            Do::VersionKey(replica, life) => self.read_version_key(replica, life),
            Do::Crds(replica, life) => self.read_crds(replica, life),
            Do::Dial(agent, life) => self.dial(agent, life),
            Do::Hello(connection, hello) => self.hello(connection, *hello),
            Do::Down(connection, message) => self.down(connection, *message),
            Do::Up(connection, message) => self.up(connection, *message),
            Do::Timer(connection) => self.timer(connection),
            Do::HubLearns(connection) => self.hub_learns(connection),
            Do::AgentLearns(connection) => self.agent_learns(connection),
            Do::Read(connection, work) => self.read(connection, work),
            Do::Patch(connection, work, patch) => self.patch(connection, work, &patch),
            Do::Wrote(connection, target, written) => self.wrote(connection, &target, written),
            Do::Apply(agent, life, key, hash) => self.apply(agent, life, &key, hash),
            Do::Save(agent, life) => self.save(agent, life),
            Do::Boot(agent, life) => self.boot(agent, life),
            Do::Vanish(resource, key) => self.vanish(&resource, &key),
            Do::CrdGone(crd, resource) => self.crd_gone(crd, resource),
            Do::CrdAnew(crd, resource) => self.crd_anew(crd, resource),
            Do::CrdServed(resource) => self.crd_served(resource),
            Do::Reapply(resource, object) => self.reapply(&resource, object),
            Do::ReleaseRemovals => self.release_removals(),
            Do::Rollout(application, uid) => self.roll(&application, &uid),
            Do::Release(name, release) => self.release(&name, &release),
            Do::Supersede(replica, uid, session) => self.supersede(replica, &uid, session),
            Do::Connected(node) => self.connected(&node),
            Do::Heal(replica) => self.heal(replica),
            Do::Restore => self.restore(),
            Do::Accept => self.accept(),
            Do::Cluster(replica, life) => self.follow_cluster(replica, life),
            Do::ClusterOnce(replica, life) => self.read_cluster(replica, life),
            Do::Mark => self.mark(),
            Do::Proved(epoch) => self.proved(epoch),
        }
    }

    /// Something is due in `after` milliseconds.
    pub fn after(&mut self, after: u64, due: Do) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), due);
    }

    /// Something is due at a time.
    pub fn at(&mut self, at: u64, due: Do) {
        self.after(at.saturating_sub(self.now), due);
    }

    /// Virtual time as the shipped code reads it.
    pub fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    /// Milliseconds of an instant, rounded up: what is due then is due when asked.
    pub fn millis(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// Records what happened; what was desired or withdrawn already is nothing new.
    pub fn record(&mut self, event: Event) {
        let known = match &event {
            Event::Desired { node, key, uid, hash } => {
                !self.told.insert((node.clone(), key.clone(), uid.clone(), Some(*hash)))
            }
            Event::Withdrawn { node, key, uid } => {
                !self.told.insert((node.clone(), key.clone(), uid.clone(), None))
            }
            _ => false,
        };
        if known {
            return;
        }
        self.checker.observe(self.now, event.clone());
        self.events.push((self.now, event));
    }

    /// Records several.
    pub fn record_all(&mut self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.record(event));
    }

    /// Says something for the record.
    pub fn note(&mut self, what: String) {
        self.record(Event::Noted { what });
    }

    /// A number that was not used before.
    pub fn number(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    /// An object is written: by users, or by controllers. Nothing comes of it while its kind is not served.
    pub fn put(&mut self, resource: &Resource, object: Value) {
        if !self.api.takes(resource) {
            return;
        }
        self.api.put(self.now, resource, object.clone());
        self.wrote_object(resource, &crate::api::key(&object));
    }

    /// The API server has taken a write.
    pub fn wrote_object(&mut self, resource: &Resource, key: &ObjectKey) {
        let mut events = Vec::new();
        if let Some(object) = self.api.get(resource, key) {
            self.oracle.put(resource, object, &mut events);
        }
        self.record_all(events);
        self.changed(resource);
    }

    /// An object is deleted.
    pub fn delete(&mut self, resource: &Resource, key: &ObjectKey) {
        let Some(object) = self.api.delete(self.now, resource, key) else { return };
        let mut events = Vec::new();
        self.oracle.gone(resource, &object, &mut events);
        self.record_all(events);
        self.note(format!("{resource} {key} is deleted"));
        self.changed(resource);
    }

    /// What the checker has seen so far, to ask it more.
    pub fn checker(&self) -> Checker {
        self.checker.clone()
    }

    /// How many violations were found so far.
    pub fn found(&self) -> usize {
        self.checker.violations().len()
    }

    /// What was recorded, and what was found.
    pub fn finish(self) -> (Vec<(u64, Event)>, Checker) {
        (self.events, self.checker)
    }
}
