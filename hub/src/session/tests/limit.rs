//! An agent that can hold less than its node should have.

use std::collections::BTreeMap;
use std::time::Instant;

use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_model::{EntryKey, EntryKind};
use selvedge_protocol::agent::{to_agent::Message as ToAgent, to_hub::Message as ToHub};
use serde_json::{Value, json};

use super::world::{CLUSTER, NODE, Open};
use crate::index::tests::listed;
use crate::index::{Event, Index, ObjectKey, Part, Reason, Resource, device_entry};
use crate::session::greeting::{Admission, greet};
use crate::session::{Output, Session, View};

struct Pair {
    index: Index,
    agent: Machine<MemoryStore>,
    session: Session,
    now: Instant,
    revision: u64,
    compared: usize,
}

fn connect(agent: &mut Machine<MemoryStore>, index: &Index, limits: (u64, u64), now: Instant) -> Session {
    let (_, mut hello) = agent.hello(1, 0).unwrap();
    (hello.max_entries, hello.max_bytes) = limits;
    let who = Admission {
        node: index.node(NODE),
        uid: "n1-0",
        newest: None,
        synced: true,
        denied: false,
        outdated: false,
        deaf: false,
        cluster_id: CLUSTER,
        epoch: 0,
        unix_ms: 0,
    };
    let (greeted, welcome) = greet(hello, &who).unwrap();
    agent.receive(greeted.session, ToAgent::Welcome(welcome)).unwrap();
    Session::new(NODE.into(), "n1-0".into(), greeted, now)
}

impl Pair {
    fn new(devices: &[&str], limits: (u64, u64)) -> Self {
        let mut index = listed();
        index.set_cluster(CLUSTER, 0, crate::clock::now());
        let mut agent = Machine::open(MemoryStore::default(), "1", CLUSTER).unwrap();
        let mut apply = |resource, object| drop(index.apply(Event::Applied(resource, object)));
        apply(
            Resource::EdgeNodes,
            json!({"metadata": {"name": NODE, "uid": "n1-0", "resourceVersion": "2"}}),
        );
        let labels = json!({"selvedge.dev/edge": "enabled"});
        apply(Resource::Namespaces, json!({"metadata": {"name": "shop", "labels": labels}}));
        let properties =
            json!([{"name": "level", "type": "int", "access": "ReadWrite", "source": {"simulated": {}}}]);
        let metadata = json!({"namespace": "shop", "name": "tank", "uid": "m"});
        apply(Resource::DeviceModels, json!({"metadata": metadata, "spec": {"properties": properties}}));
        devices.iter().for_each(|name| apply(Resource::Devices, device(name, 1, 3)));
        let now = crate::clock::now();
        let session = connect(&mut agent, &index, limits, now);
        let mut pair = Self { index, agent, session, now, revision: 10, compared: 0 };
        pair.play(Session::proceed);
        pair
    }

    /// Until nobody says anything more.
    fn play(&mut self, act: impl FnOnce(&mut Session, View<'_>) -> Vec<Output>) {
        let view = View { index: &self.index, gate: &Open, now: self.now };
        let mut outputs = act(&mut self.session, view);
        while let Some(output) = (!outputs.is_empty()).then(|| outputs.remove(0)) {
            match output {
                Output::Send(message) => {
                    self.compared += usize::from(matches!(message, ToAgent::Compare(_)));
                    for answer in self.agent.receive(self.session.id(), message).unwrap().answers {
                        if let ToHub::Resync(resync) = &answer {
                            panic!("{resync:?}");
                        }
                        outputs.extend(self.session.receive(answer, view));
                    }
                }
                Output::Admit(_) => outputs.extend(self.session.admitted(view)),
                Output::Poke(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(self.session.is_quiet());
    }

    /// A device comes, changes or goes.
    fn device(&mut self, name: &str, level: Option<u64>) {
        self.revision += 1;
        let (resource, key, revision) = (Resource::Devices, ObjectKey::new("shop", name), self.revision);
        self.index.apply(match level {
            Some(level) => Event::Applied(resource, device(name, level, revision)),
            None => Event::Gone { resource, key: key.clone(), revision, watched: true },
        });
        let raises = BTreeMap::from([(Resource::Devices, revision)]);
        self.play(|session, view| session.touch([Part::Device(key)].into(), raises, view));
    }

    fn reconnect(&mut self, limits: (u64, u64)) {
        self.compared = 0;
        self.session = connect(&mut self.agent, &self.index, limits, self.now);
        self.play(Session::proceed);
    }

    /// Devices that the agent has, and those that are said to be held.
    fn stands(&self) -> (Vec<String>, Vec<String>) {
        let view = View { index: &self.index, gate: &Open, now: self.now };
        let has = self.agent.rows().keys().filter_map(|key| key.entry_key());
        let has = has.filter(|key| key.kind == EntryKind::Device).map(|key| key.name).collect();
        let entries = self.session.standing(view).entries;
        let held = entries.into_iter().filter(|(_, entry)| entry.held.is_some()).map(|(key, entry)| {
            assert_eq!(entry.held.unwrap().reason, Reason::TooMany);
            assert!(self.session.entry(&key, view).unwrap().held.is_some());
            key.name
        });
        (has, held.collect())
    }

    fn level(&mut self, name: &str) -> Value {
        let key: EntryKey = device_entry(&ObjectKey::new("shop", name));
        match self.agent.entry(&(&key).into()).unwrap() {
            Some(selvedge_agent::ledger::Entry::Device(entry)) => json!(entry.properties[0].desired),
            other => panic!("{other:?}"),
        }
    }
}

fn device(name: &str, level: u64, revision: u64) -> Value {
    let metadata =
        json!({"namespace": "shop", "name": name, "uid": name, "resourceVersion": revision.to_string()});
    json!({"metadata": metadata, "spec": {"nodeName": NODE, "modelRef": {"name": "tank"},
        "protocol": {"simulated": {}}, "desired": {"level": level}}})
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn what_there_is_no_room_for_is_held_and_displaces_nothing() {
    // The settings of the node and two devices.
    let limits = (3, 0);
    let mut pair = Pair::new(&["b", "c", "d", "e"], limits);
    assert_eq!(pair.stands(), (names(&["b", "c"]), names(&["d", "e"])));

    pair.device("a", Some(1));
    assert_eq!(pair.stands(), (names(&["b", "c"]), names(&["a", "d", "e"])), "what is there gives way");
    pair.device("c", Some(7));
    assert_eq!(pair.level("c"), json!(7), "what is there is not kept up to date");
    pair.device("d", Some(7));
    assert_eq!(pair.stands(), (names(&["b", "c"]), names(&["a", "d", "e"])));

    pair.device("b", None);
    assert_eq!(pair.stands(), (names(&["a", "c"]), names(&["d", "e"])), "room stays empty");
    pair.reconnect(limits);
    assert_eq!(pair.stands(), (names(&["a", "c"]), names(&["d", "e"])));
    // An agent that can hold less than it has keeps all of it; one that can hold more gets the rest.
    pair.reconnect((1, 0));
    assert_eq!(pair.stands(), (names(&["a", "c"]), names(&["d", "e"])));
    pair.reconnect((0, 0));
    assert_eq!(pair.stands(), (names(&["a", "c", "d", "e"]), names(&[])));
}

#[test]
fn a_set_that_is_cut_where_it_was_cut_before_is_in_sync_at_once() {
    let mut pair = Pair::new(&["b", "c", "d", "e"], (3, 0));
    assert_eq!(pair.compared, 1);
    pair.reconnect((3, 0));
    assert_eq!((pair.stands(), pair.compared), ((names(&["b", "c"]), names(&["d", "e"])), 0));
}

#[test]
fn bytes_are_limited_as_entries_are() {
    let pair = Pair::new(&["b", "c"], (0, 0));
    let (has, _) = pair.stands();
    assert_eq!(has.len(), 2);
    let settings = 96 + br#"{"labels":{}}"#.len() as u64;
    let of_a_device = {
        let view = View { index: &pair.index, gate: &Open, now: pair.now };
        let slots = view.index.set(NODE, &crate::index::Pins::new());
        crate::session::delta::weight(&slots[&device_entry(&ObjectKey::new("shop", "b"))])
    };
    let mut pair = Pair::new(&["b", "c", "d"], (0, settings + 2 * of_a_device));
    assert_eq!(pair.stands(), (names(&["b", "c"]), names(&["d"])));
    // The same in other words.
    (0..20).for_each(|level| pair.device("b", Some(level % 10)));
    pair.device("b", None);
    assert_eq!(pair.stands(), (names(&["c", "d"]), names(&[])));
}

#[test]
fn ten_thousand_devices_of_one_node_are_well_within_what_agents_hold() {
    let all: Vec<String> = (0..10_000).map(|number| format!("d{number:05}")).collect();
    let devices: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut pair = Pair::new(&devices, (0, 0));
    assert_eq!(pair.stands(), (all.clone(), names(&[])));
    pair.reconnect((0, 0));
    assert_eq!(pair.compared, 0);
}
