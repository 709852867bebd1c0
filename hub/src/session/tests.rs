//! Sessions against the agent's own ledger: whatever is cut, lost, repeated or restarted in between, the
//! agent comes to what is desired, never takes anything older, and the digests agree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_model::{Digest, EntryKey, SessionId};
use selvedge_protocol::agent::{to_agent::Message as ToAgent, to_hub::Message as ToHub};

use super::greeting::{Admission, greet};
use super::{Closed, Output, Session, View};
use crate::index::tests::{Change, Objects, changes, event, fetch, listed, note};
use crate::index::{Event, Index, Part, Pins, Resource, Slot};
use crate::removals::{Gate, Removal};

const NODE: &str = "n1";
const CLUSTER: &str = "c";

struct Open;

impl Gate for Open {
    fn ask(&self, _: &EntryKey, _: &str, _: bool, _: Instant) -> Removal {
        Removal::Allowed
    }
}

/// What happens next in the world.
#[derive(Clone, Debug)]
enum Action {
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
}

fn actions() -> impl Strategy<Value = Action> {
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
    ]
}

/// One replica: its caches, and how far it has heard.
struct Replica {
    index: Index,
    heard: usize,
}

struct Connection {
    replica: usize,
    session: Session,
    id: SessionId,
    down: VecDeque<ToAgent>,
    up: VecDeque<ToHub>,
    last: Option<ToAgent>,
}

struct World {
    log: Vec<Change>,
    objects: Objects,
    replicas: [Replica; 2],
    agent: Machine<MemoryStore>,
    connection: Option<Connection>,
    newest: Option<SessionId>,
    nonce: u64,
    redirects: u32,
    now: Instant,
    /// Highest source revision in force per key and uid (I1).
    seen: BTreeMap<(String, String), u64>,
}

fn index() -> Index {
    let mut index = listed();
    index.set_cluster(CLUSTER, 0);
    index
}

impl World {
    fn new() -> Self {
        let replica = || Replica { index: index(), heard: 0 };
        Self {
            log: Vec::new(),
            objects: Objects::new(),
            replicas: [replica(), replica()],
            agent: Machine::open(MemoryStore::default(), "1", CLUSTER).unwrap(),
            connection: None,
            newest: None,
            nonce: 0,
            redirects: 0,
            now: crate::clock::now(),
            seen: BTreeMap::new(),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Change(change) => {
                self.log.push(change.clone());
                note(&mut self.objects, &change, self.log.len() as u64 + 1);
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
        }
        self.check();
    }

    fn hear(&mut self, which: usize) {
        let replica = &mut self.replicas[which];
        let Some(change) = self.log.get(replica.heard) else { return };
        replica.heard += 1;
        let revision = replica.heard as u64 + 1;
        let mut touched = replica.index.apply(event(change, revision)).parts;
        // What is dropped is fetched from the API server, which has the state that the replica will hear of;
        // here it is told as of its own time.
        let mut objects = Objects::new();
        for (revision, change) in (2..).zip(&self.log[..replica.heard]) {
            note(&mut objects, change, revision);
        }
        touched.extend(fetch(&mut replica.index, &objects));
        let parts: BTreeSet<Part> =
            touched.into_iter().filter(|(node, _)| **node == *NODE).map(|(_, part)| part).collect();
        let raises = BTreeMap::from([(change.resource.clone(), revision)]);
        if self.connection.as_ref().is_some_and(|connection| connection.replica == which) {
            if parts.is_empty() {
                self.with_session(|session, view| session.proceed(view));
            } else {
                self.with_session(|session, view| session.touch(parts, raises, view));
            }
        }
    }

    /// All is listed anew: what is there, at the present revision.
    fn restart(&mut self, which: usize) {
        if self.connection.as_ref().is_some_and(|connection| connection.replica == which) {
            self.connection = None;
        }
        let mut index = index();
        for ((resource, _), object) in &self.objects {
            index.apply(Event::Applied(resource.clone(), object.clone()));
        }
        let revision = self.log.len() as u64 + 1;
        for resource in Resource::CORE.into_iter().chain([Resource::ConfigMaps("shop".into())]) {
            index.apply(Event::Listed(resource, revision));
        }
        fetch(&mut index, &self.objects);
        self.replicas[which] = Replica { index, heard: self.log.len() };
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
            denied: false,
            cluster_id: CLUSTER,
            epoch: 0,
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

    fn with_session(&mut self, act: impl FnOnce(&mut Session, View<'_>) -> Vec<Output>) {
        let Some(connection) = &mut self.connection else { return };
        let replica = &mut self.replicas[connection.replica];
        let view = View { index: &replica.index, gate: &Open, now: self.now };
        let mut poked = Vec::new();
        for output in act(&mut connection.session, view) {
            match output {
                Output::Send(message) => connection.down.push_back(message),
                Output::Close(closed) => {
                    self.redirects = if closed == Closed::Redirected { self.redirects + 1 } else { 0 };
                    self.connection = None;
                    return;
                }
                Output::Poke(resources) => poked.extend(resources),
                Output::Report(_) | Output::Resynced => {}
            }
        }
        // A poke brings a bookmark at the present revision, after all events before it.
        if replica.heard == self.log.len() {
            for resource in poked {
                replica.index.apply(Event::Reached(resource, self.log.len() as u64 + 1));
            }
        }
    }

    /// I1, and that the ledger adds up.
    fn check(&mut self) {
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

    /// Nothing is lost from now on: everything is heard and delivered.
    fn settle(&mut self) {
        self.agent.store().full = false;
        for replica in 0..2 {
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
            if self.connection.as_ref().is_some_and(|connection| connection.session.is_quiet()) {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_agent_comes_to_what_is_desired(actions in proptest::collection::vec(actions(), 1..120)) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        // The node is there in the end, or nothing is ever said to it.
        let node = serde_json::json!({"metadata": {"name": NODE, "uid": "n1-0", "labels": {"tier": "a"}}, "spec": {}});
        let key = crate::index::ObjectKey::new("", NODE);
        world.act(Action::Change(Change { resource: Resource::EdgeNodes, key, object: Some(node) }));
        world.settle();
        let connection = world.connection.as_ref().unwrap();
        let index = &world.replicas[0].index;
        let answered: BTreeMap<EntryKey, _> = world.agent.rows().iter()
            .filter_map(|(key, row)| Some((key.entry_key()?, row.answered.as_ref()?.clone())))
            .collect();
        prop_assert_eq!(world.agent.meta().digest, connection.session.digest);
        let pins = &connection.session.pins;
        let slots = index.set(NODE, pins);
        for (key, slot) in &slots {
            if let Slot::Present(present) = slot {
                let row = answered.get(key);
                prop_assert!(row.is_some_and(|row| row.version.hash == present.body.hash && *row.version.uid == *present.uid),
                    "{key} is desired as {present:?} and answered as {row:?}");
            }
        }
        let kept = |key: &EntryKey| slots.iter().any(|(other, slot)| {
            matches!(slot, Slot::Held(_)) && other.namespace == key.namespace
        });
        for key in answered.keys().filter(|key| !slots.contains_key(key)) {
            let slot = index.unlisted(NODE, key, pins);
            let named = matches!(slot, Slot::Held(_)) || kept(key) || held_workload(&answered, index, pins, key);
            prop_assert!(named, "{key} is at the agent, is {slot:?}, and nothing holds it");
        }
        // Late nodes stay where they are: nobody is on a revision that it neither has nor should have.
        for (application, revision) in pins {
            let key = crate::index::workload_entry(application);
            prop_assert_eq!(answered.get(&key).map(|row| row.version.revision.as_str()), Some(&**revision));
        }
        // Another Hello says in one frame that all is well, or finds nothing to do.
        let before = world.agent.meta().digest;
        world.act(Action::Dial(0));
        world.settle();
        prop_assert_eq!(world.agent.meta().digest, before);
    }
}

/// A held workload that only the agent lists keeps what it may name.
fn held_workload<T>(answered: &BTreeMap<EntryKey, T>, index: &Index, pins: &Pins, key: &EntryKey) -> bool {
    answered.keys().filter(|other| other.namespace == key.namespace).any(|other| {
        other.kind == selvedge_model::EntryKind::Workload
            && matches!(index.unlisted(NODE, other, pins), Slot::Held(_))
    })
}

fn put(resource: Resource, namespace: &str, name: &str, mut object: serde_json::Value) -> Action {
    object["metadata"]["name"] = name.into();
    object["metadata"]["namespace"] = namespace.into();
    Action::Change(Change {
        resource,
        key: crate::index::ObjectKey::new(namespace, name),
        object: Some(object),
    })
}

fn rollout(revision: &str, admitted: &[&str]) -> Action {
    let interval = serde_json::json!({"from": 0, "to": 1_u64 << 32, "revision": revision});
    let status = serde_json::json!({"rollout": {"intervals": [interval], "admitted": admitted}});
    put(
        Resource::EdgeApplications,
        "shop",
        "web",
        serde_json::json!({"metadata": {"uid": "web"}, "status": status}),
    )
}

fn running(world: &World) -> Option<&str> {
    let row = world.agent.rows().iter().find(|(key, _)| key.to_string() == "Workload/shop/web")?.1;
    Some(row.in_force.as_ref()?.revision.as_str())
}

/// A node of the tier "a", an enabled namespace, and three revisions.
fn stage() -> World {
    let mut world = World::new();
    let labels = serde_json::json!({"selvedge.dev/edge": "enabled"});
    let node = serde_json::json!({"metadata": {"uid": "n1-0", "labels": {"tier": "a"}}});
    world.act(put(Resource::Namespaces, "", "shop", serde_json::json!({"metadata": {"labels": labels}})));
    world.act(put(Resource::EdgeNodes, "", NODE, node));
    for revision in ["r1", "r2", "r3"] {
        let data = serde_json::json!({"selector": {"matchLabels": {"tier": "a"}},
            "template": {"spec": {"containers": [{"name": "c", "image": revision}]}}});
        let labels = serde_json::json!({"selvedge.dev/application": "web"});
        world.act(put(
            Resource::ControllerRevisions,
            "shop",
            revision,
            serde_json::json!({"metadata": {"labels": labels}, "data": data}),
        ));
    }
    world
}

#[test]
fn an_application_that_returns_is_not_held_at_its_old_revision() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r1"));
    let key = crate::index::ObjectKey::new("shop", "web");
    world.act(Action::Change(Change { resource: Resource::EdgeApplications, key, object: None }));
    world.settle();
    assert_eq!(running(&world), None);
    world.act(rollout("r2", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r2"));
}

#[test]
fn a_late_node_stays_until_it_is_admitted_and_a_live_one_goes_at_once() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r1"));

    world.act(rollout("r2", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r2"), "a live node was not updated");

    world.act(Action::Cut);
    world.act(rollout("r3", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r2"), "a late node was updated without being admitted");
    world.act(rollout("r3", &["n1-0"]));
    world.settle();
    assert_eq!(running(&world), Some("r3"), "an admitted node was not updated");

    // Lost and rebuilt rollout state passes nobody.
    world.act(put(
        Resource::EdgeApplications,
        "shop",
        "web",
        serde_json::json!({"metadata": {"uid": "web"}}),
    ));
    world.settle();
    assert_eq!(running(&world), Some("r3"), "without rollout state it was removed");
    world.act(rollout("r1", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r3"), "rebuilt rollout state passed a live node");
}
