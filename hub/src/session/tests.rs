//! Sessions against the agent's own ledger: whatever is cut, lost, repeated or restarted in between, the
//! agent comes to what is desired, never takes anything older, and the digests agree.

mod limit;
mod restore;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use selvedge_model::EntryKey;
use selvedge_protocol::agent::{self as wire, to_agent::Message as ToAgent, to_hub::Message as ToHub};

use super::{Output, Sync, View};
use crate::index::tests::{Change, event};
use crate::index::{Index, Part, Pins, Resource, Slot};
use crate::removals::{CHECKING_CRD, Gate, Removal};
use world::{Action, NODE, Open, World, actions, any_actions};

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
        rests_at_what_is_desired(&mut world)?;
    }

    /// Also when the cluster is restored, however often, once a person has accepted that.
    #[test]
    fn the_agent_comes_to_what_was_restored(actions in proptest::collection::vec(any_actions(), 1..120)) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        let node = serde_json::json!({"metadata": {"name": NODE, "uid": "n1-0", "labels": {"tier": "a"}}, "spec": {}});
        let key = crate::index::ObjectKey::new("", NODE);
        world.act(Action::Change(Change { resource: Resource::EdgeNodes, key, object: Some(node) }));
        world.act(Action::Accept);
        rests_at_what_is_desired(&mut world)?;
    }
}

fn rests_at_what_is_desired(world: &mut World) -> Result<(), TestCaseError> {
    world.settle();
    let connection = world.connection.as_ref().unwrap();
    let index = &world.replicas[0].index;
    let answered: BTreeMap<EntryKey, _> = world
        .agent
        .rows()
        .iter()
        .filter_map(|(key, row)| Some((key.entry_key()?, row.answered.as_ref()?.clone())))
        .collect();
    prop_assert_eq!(world.agent.meta().digest, connection.session.digest);
    let pins = &connection.session.pins;
    let slots = index.set(NODE, pins);
    for (key, slot) in &slots {
        if let Slot::Present(present) = slot {
            let row = answered.get(key);
            prop_assert!(
                row.is_some_and(
                    |row| row.version.hash == present.body.hash && *row.version.uid == *present.uid
                ),
                "{key} is desired as {present:?} and answered as {row:?}"
            );
        }
    }
    let kept = |key: &EntryKey| {
        slots.iter().any(|(other, slot)| matches!(slot, Slot::Held(_)) && other.namespace == key.namespace)
    };
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
    Ok(())
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
    rollout_of("web", revision, admitted)
}

fn rollout_of(uid: &str, revision: &str, admitted: &[&str]) -> Action {
    let interval = serde_json::json!({"from": 0, "to": 1_u64 << 32, "revision": revision});
    let status = serde_json::json!({"rollout": {"intervals": [interval], "admitted": admitted}});
    put(
        Resource::EdgeApplications,
        "shop",
        "web",
        serde_json::json!({"metadata": {"uid": uid}, "status": status}),
    )
}

fn running(world: &World) -> Option<&str> {
    let row = world.agent.rows().iter().find(|(key, _)| key.to_string() == "Workload/shop/web")?.1;
    Some(row.in_force.as_ref()?.revision.as_str())
}

fn revision(name: &str, tier: &str) -> Action {
    let data = serde_json::json!({"selector": {"matchLabels": {"tier": tier}},
        "template": {"spec": {"containers": [{"name": "c", "image": name}]}}});
    let labels = serde_json::json!({"selvedge.dev/application": "web"});
    put(
        Resource::ControllerRevisions,
        "shop",
        name,
        serde_json::json!({"metadata": {"labels": labels}, "data": data}),
    )
}

fn labelled(tier: &str) -> Action {
    let node = serde_json::json!({"metadata": {"uid": "n1-0", "labels": {"tier": tier}}});
    put(Resource::EdgeNodes, "", NODE, node)
}

/// A node of the tier "a", an enabled namespace, and three revisions.
fn stage() -> World {
    let mut world = World::new();
    let labels = serde_json::json!({"selvedge.dev/edge": "enabled"});
    world.act(put(Resource::Namespaces, "", "shop", serde_json::json!({"metadata": {"labels": labels}})));
    world.act(labelled("a"));
    for name in ["r1", "r2", "r3"] {
        world.act(revision(name, "a"));
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

/// A namespace that does not take part disturbs no node; what a node has of one that took part is held, and says so.
#[test]
fn a_namespace_that_does_not_take_part_shows_only_where_something_of_it_is() {
    let held = |world: &World| -> Vec<&str> {
        let connection = world.connection.as_ref().unwrap();
        let index = &world.replicas[connection.replica].index;
        let standing = connection.session.standing(View { index, gate: &Open, now: world.now });
        standing.entries.into_values().filter_map(|entry| Some(entry.held?.reason.name())).collect()
    };
    let leave = || put(Resource::Namespaces, "", "shop", serde_json::json!({"metadata": {}}));
    let mut world = stage();
    world.act(leave());
    world.act(rollout("r1", &[]));
    world.settle();
    assert_eq!((running(&world), held(&world)), (None, vec![]));
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    world.act(leave());
    world.settle();
    assert_eq!((running(&world), held(&world)), (Some("r1"), vec!["NamespaceNotEnabled"]));
}

#[test]
fn what_a_node_lets_in_no_more_goes_from_it_and_what_it_lets_in_comes() {
    let mut world = stage();
    let team = |team: &str| {
        let labels = serde_json::json!({"selvedge.dev/edge": "enabled", "team": team});
        put(Resource::Namespaces, "", "shop", serde_json::json!({"metadata": {"labels": labels}}))
    };
    let node = serde_json::json!({"metadata": {"uid": "n1-0", "labels": {"tier": "a"}},
        "spec": {"allowedNamespaces": {"matchLabels": {"team": "shops"}}}});
    world.act(put(Resource::EdgeNodes, "", NODE, node));
    world.act(rollout("r1", &[]));
    for (labelled, runs) in [("others", None), ("shops", Some("r1")), ("others", None)] {
        world.act(team(labelled));
        world.settle();
        assert_eq!(running(&world), runs, "{labelled}");
    }
    world.act(self::labelled("a"));
    world.settle();
    assert_eq!(running(&world), Some("r1"), "it lets all in");
}

#[test]
fn what_is_on_its_way_to_a_live_node_is_what_it_goes_on_from() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    // Created anew: the node is late, and admitted.
    world.act(rollout_of("web2", "r2", &["n1-0"]));
    world.act(Action::Hear(0));
    assert!(world.connection.as_ref().unwrap().session.in_flight.is_some(), "r2 is not on its way");
    world.act(rollout_of("web2", "r3", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r3"), "it went back to what it had before");
}

#[test]
fn what_an_agent_refused_is_known_to_a_hub_that_begins_anew() {
    let mut world = stage();
    let data = serde_json::json!({"selector": {"matchLabels": {"tier": "a"}}, "template": {"spec": {"containers":
        [{"name": "c", "image": "r1", "envFrom": [{"configMapRef": {"name": "odd"}}]}]}}});
    let labels = serde_json::json!({"selvedge.dev/application": "web"});
    let revision = serde_json::json!({"metadata": {"labels": labels}, "data": data});
    world.act(put(Resource::ControllerRevisions, "shop", "r1", revision));
    let map = serde_json::json!({"metadata": {"uid": "odd"}, "data": {"VALUE": 1}});
    world.act(put(Resource::ConfigMaps("shop".into()), "shop", "odd", map));
    world.act(rollout("r1", &[]));
    let refused = |world: &World| -> Vec<String> {
        let connection = world.connection.as_ref().unwrap();
        let index = &world.replicas[connection.replica].index;
        let standing = connection.session.standing(View { index, gate: &Open, now: world.now });
        standing.entries.into_values().filter_map(|entry| Some(entry.refused?.0)).collect()
    };
    for replica in [1, 0] {
        world.settle();
        assert_eq!(refused(&world), ["Undecodable"], "before replica {replica} begins anew");
        world.act(Action::Restart(replica));
    }
    world.settle();
    assert_eq!(refused(&world), ["Undecodable"]);
    let map = serde_json::json!({"metadata": {"uid": "odd"}, "data": {"VALUE": "1"}});
    world.act(put(Resource::ConfigMaps("shop".into()), "shop", "odd", map));
    world.settle();
    assert_eq!(refused(&world), [""; 0]);
    assert_eq!(running(&world), Some("r1"));
}

#[test]
fn a_late_node_keeps_what_its_old_revision_does_not_select_any_more_and_the_new_one_does() {
    let mut world = stage();
    world.act(revision("r2", "b"));
    world.act(rollout("r1", &[]));
    world.settle();
    world.act(Action::Cut);
    world.act(rollout("r2", &[]));
    world.act(labelled("b"));
    world.settle();
    assert_eq!(running(&world), Some("r1"), "it would have come back when it is admitted");
    world.act(rollout("r2", &["n1-0"]));
    world.settle();
    assert_eq!(running(&world), Some("r2"));
}

#[test]
fn a_late_node_that_neither_revision_selects_holds_none_and_takes_what_selects_it_next() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    world.act(Action::Cut);
    world.act(rollout("r2", &[]));
    world.act(labelled("b"));
    world.settle();
    assert_eq!(running(&world), None);
    world.act(revision("r2", "b"));
    world.settle();
    assert_eq!(running(&world), Some("r2"));
}

/// Holds all removals for one reason.
struct Holds(&'static str);

impl Gate for Holds {
    fn ask(&self, _: &EntryKey, _: &str, _: bool, _: Instant) -> Removal {
        Removal::Held(self.0)
    }
}

#[test]
fn why_a_removal_waits_is_not_forgotten_while_the_crd_is_read_once_more() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    let Action::Change(change) = labelled("b") else { panic!() };
    let connection = world.connection.as_mut().unwrap();
    let index = &mut world.replicas[connection.replica].index;
    index.apply(event(&change, world.revision));
    let mut waits = |reason| {
        let view = View { index, gate: &Holds(reason), now: world.now };
        connection.session.touch([Part::Workloads].into(), BTreeMap::new(), view);
        connection.session.obstacle()
    };
    assert_eq!(waits(CHECKING_CRD), Some(Sync::RemovalsHeld(CHECKING_CRD)));
    assert_eq!(waits("RemovalsHeld"), Some(Sync::RemovalsHeld("RemovalsHeld")));
    assert_eq!(waits(CHECKING_CRD), Some(Sync::RemovalsHeld("RemovalsHeld")));
    assert_eq!(waits("CrdDeleted"), Some(Sync::RemovalsHeld("CrdDeleted")));
}

#[test]
fn the_fourth_resync_in_a_row_is_said_and_backs_off() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    while world.replicas[0].heard < world.log.len() {
        world.act(Action::Hear(0));
    }
    world.act(Action::Dial(0));
    let index = &world.replicas[0].index;
    let session = &mut world.connection.as_mut().unwrap().session;
    let mut now = world.now;
    let mut compared = 0;
    for resyncs in 1..=6_u32 {
        // An agent without rows, whose sums never come to match.
        let view = View { index, gate: &Open, now };
        let inventory = ToHub::Inventory(wire::Inventory { last: true, ..Default::default() });
        let delta = session.receive(inventory, view).into_iter().find_map(|output| match output {
            Output::Send(ToAgent::Delta(delta)) => Some(delta),
            _ => None,
        });
        let nonce = delta.expect("the set differs").nonce;
        let outputs = session.receive(ToHub::Resync(wire::Resync { nonce, reason: String::new() }), view);
        compared +=
            usize::from(outputs.iter().any(|output| matches!(output, Output::Send(ToAgent::Compare(_)))));
        let mismatch = (resyncs > 3).then_some(Sync::DigestMismatch);
        assert_eq!(session.obstacle(), mismatch, "after {resyncs}");
        if resyncs > 3 {
            let wait = Duration::from_secs(30 * 2_u64.pow(resyncs - 4));
            assert_eq!(session.due(), Some(now + wait));
            assert!(!session.is_resyncing(), "it keeps its turn while it waits");
            now += wait;
            let view = View { index, gate: &Open, now };
            assert!(matches!(session.proceed(view)[..], [Output::Admit(_)]));
            session.admitted(view);
            assert_eq!(session.obstacle(), mismatch, "another try is no success");
        }
    }
    assert_eq!(compared, 3);
}

#[test]
fn a_comparison_waits_for_its_turn_and_ends_with_what_differs() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.act(Action::Restart(0));
    let (_, hello) = world.agent.hello(1, 0).unwrap();
    let index = &world.replicas[0].index;
    let who = super::greeting::Admission {
        node: index.node(NODE),
        uid: "n1-0",
        newest: None,
        synced: true,
        denied: false,
        outdated: false,
        deaf: false,
        cluster_id: world::CLUSTER,
        epoch: 0,
        unix_ms: 0,
    };
    let (greeted, _) = super::greeting::greet(hello, &who).unwrap();
    let mut session = super::Session::new(NODE.into(), "n1-0".into(), greeted, world.now);
    let view = View { index, gate: &Open, now: world.now };
    let bytes: usize = index
        .set(NODE, &Pins::new())
        .values()
        .map(|slot| match slot {
            Slot::Present(present) => present.body.bytes.len(),
            _ => 0,
        })
        .sum();
    let outputs = session.proceed(view);
    assert!(matches!(outputs[..], [Output::Admit(asked)] if asked > bytes as u64), "{outputs:?}");
    // What is touched meanwhile is found by the comparison.
    assert!(session.touch(index.parts(NODE), BTreeMap::new(), view).is_empty());
    assert!(session.is_resyncing() && session.due().is_none());
    assert!(matches!(session.admitted(view)[..], [Output::Send(ToAgent::Compare(_))]));
    let inventory = ToHub::Inventory(wire::Inventory { last: true, ..Default::default() });
    let outputs = session.receive(inventory, view);
    let [Output::Send(ToAgent::Delta(delta))] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(session.is_resyncing(), "the turn lasts until all is there");
    session.receive(ToHub::Ack(wire::Ack { nonce: delta.nonce, refused: Vec::new() }), view);
    assert!(session.is_quiet() && !session.is_resyncing());
}

#[test]
fn a_node_that_is_not_known_comes_back_soon_while_nodes_are_being_read() {
    let mut world = stage();
    for (synced, after) in [(false, 1_000), (true, 5_000)] {
        let (_, hello) = world.agent.hello(1, 0).unwrap();
        let who = super::greeting::Admission {
            node: None,
            synced,
            uid: "n1-0",
            newest: None,
            denied: false,
            outdated: false,
            deaf: false,
            cluster_id: world::CLUSTER,
            epoch: 0,
            unix_ms: 0,
        };
        let refused = super::greeting::greet(hello, &who).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after_ms), (wire::refused::Code::TryLater, after));
    }
}
