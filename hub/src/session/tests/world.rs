//! A cluster, two replicas and one agent with its own ledger, and what may happen between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_model::{Digest, EntryKey, SessionId};
use selvedge_operator::listwatch::held::Held;
use selvedge_protocol::agent::{to_agent::Message as ToAgent, to_hub::Message as ToHub};

use crate::index::tests::{Change, Objects, changes, event, fetch, forget, listed, note};
use crate::index::{Event, Index, Part, Resource};
use crate::removals::{Gate, Removal};
use crate::session::greeting::{Admission, greet};
use crate::session::{Closed, Output, Session, View};

pub const NODE: &str = "n1";
pub const CLUSTER: &str = "c";

pub struct Open;

impl Gate for Open {
    fn ask(&self, _: &EntryKey, _: &str, _: bool, _: Instant) -> Removal {
        Removal::Allowed
    }
}

/// What happens next in the world.
#[derive(Clone, Debug)]
pub enum Action {
    /// An object changes; both replicas will hear of it.
    Change(Change),
    /// A replica hears of the next change.
    Hear(usize),
    /// The oldest message to the agent arrives.
    Down,
    /// The oldest message to the hub arrives.
    Up,
    /// The agent dials a replica.
    Dial(usize),
    /// The connection breaks.
    Cut,
    /// The agent loses power and boots again.
    Crash,
    /// A replica restarts and reads all anew.
    Restart(usize),
    /// The agent's disk is full, or has room again.
    Disk(bool),
    /// The last message to the agent arrives once more.
    Repeat,
    /// Time passes.
    Wait(u64),
    /// The cluster is restored to how it was so many changes ago; its revision goes back, or is raised.
    Restore { changes: usize, raised: bool },
    /// A replica lists anew, as its watch has broken.
    List(usize),
    /// A person accepts what the cluster is now.
    Accept,
    /// A replica forgets ConfigMaps and Secrets that nothing on a node with a session there names.
    Forget(usize),
}

pub fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => changes().prop_map(Action::Change),
        8 => (0..2_usize).prop_map(Action::Hear),
        12 => Just(Action::Down),
        12 => Just(Action::Up),
        3 => (0..2_usize).prop_map(Action::Dial),
        1 => Just(Action::Cut),
        1 => Just(Action::Crash),
        1 => (0..2_usize).prop_map(Action::Restart),
        1 => any::<bool>().prop_map(Action::Disk),
        1 => Just(Action::Repeat),
        2 => (1..40_u64).prop_map(Action::Wait),
        1 => (0..2_usize).prop_map(Action::Forget),
    ]
}

/// Those, and restores.
pub fn any_actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        40 => actions(),
        1 => (1..12_usize, any::<bool>()).prop_map(|(changes, raised)| Action::Restore { changes, raised }),
        2 => (0..2_usize).prop_map(Action::List),
        1 => Just(Action::Accept),
    ]
}

/// One replica: its caches, how far it has heard, and of which history.
pub struct Replica {
    pub index: Index,
    pub heard: usize,
    pub history: u64,
    /// Highest revision heard of.
    pub seen: u64,
    pub held: Held,
}

pub struct Connection {
    pub replica: usize,
    pub session: Session,
    pub id: SessionId,
    pub down: VecDeque<ToAgent>,
    pub up: VecDeque<ToHub>,
    pub last: Option<ToAgent>,
}

pub struct World {
    /// Changes, each with its revision.
    pub log: Vec<(u64, Change)>,
    /// Of the cluster.
    pub revision: u64,
    /// Raised by restores.
    pub history: u64,
    /// Raised by hand.
    pub epoch: u64,
    pub objects: Objects,
    pub replicas: [Replica; 2],
    pub agent: Machine<MemoryStore>,
    pub connection: Option<Connection>,
    pub newest: Option<SessionId>,
    pub nonce: u64,
    pub redirects: u32,
    pub now: Instant,
    /// Highest source revision in force per key and uid in the agent's epoch (I1).
    pub seen: BTreeMap<(String, String), u64>,
    pub seen_epoch: u64,
}

pub fn index(epoch: u64) -> Index {
    let mut index = listed();
    index.set_cluster(CLUSTER, epoch, crate::clock::now());
    index
}

pub fn resources() -> impl Iterator<Item = Resource> {
    crate::index::tests::resources()
}

pub fn text<'a>(object: &'a serde_json::Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

impl World {
    pub fn new() -> Self {
        let replica = || Replica { index: index(0), heard: 0, history: 0, seen: 1, held: Held::default() };
        Self {
            log: Vec::new(),
            revision: 1,
            history: 0,
            epoch: 0,
            objects: Objects::new(),
            replicas: [replica(), replica()],
            agent: Machine::open(MemoryStore::default(), "1", CLUSTER).unwrap(),
            connection: None,
            newest: None,
            nonce: 0,
            redirects: 0,
            now: crate::clock::now(),
            seen: BTreeMap::new(),
            seen_epoch: 0,
        }
    }

    pub fn act(&mut self, action: Action) {
        // No two things happen at once: what was asked for before something is told from what was asked for after.
        self.now += Duration::from_micros(1);
        match action {
            Action::Change(change) => {
                self.revision += 1;
                note(&mut self.objects, &change, self.revision);
                self.log.push((self.revision, change));
            }
            Action::Hear(replica) => self.hear(replica),
            Action::Down => self.down(),
            Action::Up => self.up(),
            Action::Dial(replica) => self.dial(replica),
            Action::Cut => self.connection = None,
            Action::Crash => {
                self.connection = None;
                let store = self.agent.store().clone();
                self.agent = Machine::open(store, "1", CLUSTER).unwrap();
            }
            Action::Restart(replica) => self.restart(replica),
            Action::Disk(full) => self.agent.store().full = full,
            Action::Repeat => {
                if let Some(connection) = &mut self.connection
                    && let Some(last) = connection.last.clone()
                {
                    connection.down.push_front(last);
                    self.down();
                }
            }
            Action::Wait(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.with_session(|session, view| session.proceed(view));
            }
            Action::Restore { changes, raised } => self.restore(changes, raised),
            Action::List(replica) => self.list(replica),
            Action::Forget(which) => {
                let served = self.connection.as_ref().is_some_and(|connection| connection.replica == which);
                let nodes: &[&str] = if served { &[NODE] } else { &[] };
                forget(&mut self.replicas[which].index, nodes);
            }
            Action::Accept => {
                self.epoch += 1;
                for replica in &mut self.replicas {
                    replica.index.set_cluster(CLUSTER, self.epoch, self.now);
                }
                self.with_session(|session, view| session.proceed(view));
            }
        }
        for replica in 0..2 {
            self.fetch(replica);
        }
        self.check();
    }

    /// What was resolved and had been dropped is fetched, as the feed does. The API server has the state that the
    /// replica will hear of; here it is told as of its own time.
    fn fetch(&mut self, which: usize) {
        while self.replicas[which].index.has_unfetched() {
            let replica = &mut self.replicas[which];
            let mut objects = Objects::new();
            for (revision, change) in &self.log[..replica.heard.min(self.log.len())] {
                note(&mut objects, change, *revision);
            }
            let touched = fetch(&mut replica.index, &objects);
            self.tell(which, touched, BTreeMap::new());
        }
    }

    /// Tells the session of a replica what an event touched.
    fn tell(&mut self, which: usize, touched: BTreeSet<(Arc<str>, Part)>, raises: BTreeMap<Resource, u64>) {
        if self.connection.as_ref().is_none_or(|connection| connection.replica != which) {
            return;
        }
        let parts: BTreeSet<Part> =
            touched.into_iter().filter(|(node, _)| **node == *NODE).map(|(_, part)| part).collect();
        if parts.is_empty() {
            self.with_session(|session, view| session.proceed(view));
        } else {
            self.with_session(|session, view| session.touch(parts, raises, view));
        }
    }

    fn hear(&mut self, which: usize) {
        if self.replicas[which].history != self.history {
            return self.list(which);
        }
        let replica = &mut self.replicas[which];
        let Some((revision, change)) = self.log.get(replica.heard) else { return };
        let revision = *revision;
        replica.heard += 1;
        replica.seen = revision;
        if let Some(object) = &change.object {
            replica.held.saw(text(object, "uid"), revision);
        }
        let touched = replica.index.apply(event(change, revision)).parts;
        let raises = BTreeMap::from([(change.resource.clone(), revision)]);
        self.tell(which, touched, raises);
    }

    /// All is listed anew: what is there, at the present revision.
    fn restart(&mut self, which: usize) {
        if self.connection.as_ref().is_some_and(|connection| connection.replica == which) {
            self.connection = None;
        }
        let (heard, history) = (self.log.len(), self.history);
        let replica = Replica { index: index(self.epoch), heard, history, seen: 1, held: Held::default() };
        self.replicas[which] = replica;
        self.fill(which);
    }

    fn restore(&mut self, changes: usize, raised: bool) {
        self.history += 1;
        self.log.truncate(self.log.len().saturating_sub(changes));
        let last = self.log.last().map_or(1, |(revision, _)| *revision);
        self.revision = if raised { self.revision + 1000 } else { last };
        self.objects.clear();
        for (revision, change) in &self.log {
            note(&mut self.objects, change, *revision);
        }
    }

    /// A replica lists all anew, as the list-watch loop and the feed do.
    fn list(&mut self, which: usize) {
        let replica = &mut self.replicas[which];
        let (heard, history) = (self.log.len(), self.history);
        (replica.heard, replica.history) = (heard, history);
        let objects = self.objects.values();
        let revision = |object| text(object, "resourceVersion").parse().unwrap();
        let back = replica.held.listed(objects.map(|object| (text(object, "uid"), revision(object))));
        if back.is_some() || self.revision < replica.seen {
            for resource in resources() {
                replica.index.apply(Event::WentBack(resource));
            }
        }
        replica.seen = self.revision;
        self.fill(which);
        if self.connection.as_ref().is_some_and(|connection| connection.replica == which) {
            self.with_session(|session, view| {
                let parts = view.index.parts(NODE);
                session.touch(parts, BTreeMap::new(), view)
            });
        }
    }

    fn fill(&mut self, which: usize) {
        let replica = &mut self.replicas[which];
        let index = &mut replica.index;
        for resource in resources() {
            index.apply(Event::Dropped(resource.clone()));
            for key in index.keys(&resource) {
                if !self.objects.contains_key(&(resource.clone(), key.clone())) {
                    let revision = self.revision;
                    index.apply(Event::Gone { resource: resource.clone(), key, revision, watched: false });
                }
            }
        }
        for ((resource, _), object) in &self.objects {
            index.apply(Event::Applied(resource.clone(), object.clone()));
        }
        for resource in resources() {
            index.apply(Event::Listed(resource.clone(), self.revision));
            index.apply(Event::Recent { resource, revision: self.revision, asked: self.now });
        }
    }

    fn dial(&mut self, which: usize) {
        self.connection = None;
        self.nonce += 1;
        let (id, hello) = self.agent.hello(self.nonce, self.redirects).unwrap();
        let index = &self.replicas[which].index;
        let Some(node) = index.node(NODE) else { return };
        let admission = Admission {
            node: Some(node),
            uid: "n1-0",
            newest: self.newest,
            synced: index.is_synced(),
            denied: false,
            outdated: false,
            deaf: false,
            cluster_id: CLUSTER,
            epoch: self.epoch,
            unix_ms: 0,
        };
        match greet(hello, &admission) {
            Err(refused) => {
                self.agent.receive(id, ToAgent::Refused(refused)).unwrap();
            }
            Ok((greeted, welcome)) => {
                self.newest = Some(greeted.session);
                let session = Session::new(NODE.into(), "n1-0".into(), greeted, self.now);
                let (down, up) = (VecDeque::from([ToAgent::Welcome(welcome)]), VecDeque::new());
                self.connection = Some(Connection { replica: which, session, id, down, up, last: None });
                self.with_session(|session, view| session.proceed(view));
            }
        }
    }

    fn down(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let Some(message) = connection.down.pop_front() else { return };
        connection.last = Some(message.clone());
        let outcome = self.agent.receive(connection.id, message).unwrap();
        if outcome.close.is_some() {
            self.connection = None;
        } else {
            connection.up.extend(outcome.answers);
        }
    }

    fn up(&mut self) {
        let Some(message) = self.connection.as_mut().and_then(|connection| connection.up.pop_front()) else {
            return;
        };
        self.with_session(|session, view| session.receive(message, view));
    }

    pub fn with_session(&mut self, act: impl FnOnce(&mut Session, View<'_>) -> Vec<Output>) {
        let Some(connection) = &mut self.connection else { return };
        let replica = &mut self.replicas[connection.replica];
        let view = View { index: &replica.index, gate: &Open, now: self.now };
        let mut poked = Vec::new();
        let paused = connection.session.is_paused();
        let mut outputs: VecDeque<Output> = act(&mut connection.session, view).into();
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Send(message) => {
                    assert!(
                        !paused || matches!(message, ToAgent::Verdicts(_)),
                        "said when paused: {message:?}"
                    );
                    connection.down.push_back(message);
                }
                Output::Admit(_) => outputs.extend(connection.session.admitted(view)),
                Output::Close(closed) => {
                    self.redirects = if closed == Closed::Redirected { self.redirects + 1 } else { 0 };
                    self.connection = None;
                    return;
                }
                Output::Poke(resources) => poked.extend(resources),
                Output::Report(_) | Output::Resynced | Output::Fault(_) => {}
            }
        }
        assert!(self.history > 0 || !connection.session.is_paused(), "paused without a restore");
        // A poke looks at the present revision, and brings a bookmark there, after all events before it.
        for resource in poked {
            let (revision, asked) = (self.revision, self.now);
            replica.index.apply(Event::Recent { resource: resource.clone(), revision, asked });
            if replica.heard == self.log.len() && replica.history == self.history {
                replica.index.apply(Event::Reached(resource, revision));
            }
        }
    }

    /// I1, and that the ledger adds up.
    fn check(&mut self) {
        let epoch = self.agent.meta().watermark.epoch;
        if std::mem::replace(&mut self.seen_epoch, epoch) < epoch {
            self.seen.clear();
        }
        let mut digest = Digest::EMPTY;
        for (key, row) in self.agent.rows() {
            if let Some(answered) = &row.answered {
                digest = digest.plus(answered.row_hash(key));
            }
            if let Some(version) = &row.in_force {
                let seen = self.seen.entry((key.to_string(), version.uid.clone())).or_default();
                assert!(
                    *seen <= version.source_revision,
                    "{key} went back from {seen} to {}",
                    version.source_revision
                );
                *seen = version.source_revision;
            }
        }
        assert_eq!(digest, self.agent.meta().digest);
    }

    /// What was said arrives, and little time passes.
    pub fn deliver(&mut self) {
        for _ in 0..3 {
            for _ in 0..50 {
                self.act(Action::Down);
                self.act(Action::Up);
            }
            self.act(Action::Wait(1));
        }
    }

    /// Nothing is lost from now on: everything is heard and delivered.
    pub fn settle(&mut self) {
        self.agent.store().full = false;
        for replica in 0..2 {
            if self.replicas[replica].history != self.history {
                self.act(Action::List(replica));
            }
            while self.replicas[replica].heard < self.log.len() {
                self.act(Action::Hear(replica));
            }
        }
        for _ in 0..200 {
            if self.connection.is_none() {
                self.act(Action::Dial(0));
            }
            let busy = |world: &Self| {
                world.connection.as_ref().is_some_and(|c| !c.down.is_empty() || !c.up.is_empty())
            };
            for _ in 0..200 {
                if !busy(self) {
                    break;
                }
                self.act(Action::Down);
                self.act(Action::Up);
            }
            if let Some(connection) =
                self.connection.as_ref().filter(|connection| connection.session.is_quiet())
            {
                assert!(!connection.session.is_resyncing(), "it keeps its turn");
                return;
            }
            self.act(Action::Wait(6));
        }
        panic!(
            "it does not come to rest: {:?}",
            self.connection.as_ref().map(|connection| &connection.session)
        );
    }
}
