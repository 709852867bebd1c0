//! A restored cluster: who has seen more of it than there is waits for a person, and nobody else does.

use std::time::Duration;

use selvedge_agent::ledger::{Batch, Store as _};
use serde_json::json;

use super::world::{Action, CLUSTER, NODE, Open, World};
use super::{put, rollout, running, stage};
use crate::index::tests::Change;
use crate::index::{ACCEPT_ANNOTATION, Event, ObjectKey, Resource};
use crate::session::{Output, Sync, View};

fn session(world: &World) -> &crate::session::Session {
    &world.connection.as_ref().expect("a session").session
}

/// Whether the node is paused, after all had time to come out.
fn is_paused(world: &mut World) -> bool {
    world.deliver();
    session(world).is_paused()
}

/// A node with revision r2 of an application, in a cluster that then goes back to r1.
fn restored(raised: bool) -> World {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    world.act(rollout("r2", &[]));
    world.settle();
    assert_eq!(running(&world), Some("r2"));
    world.act(Action::Restore { changes: 1, raised });
    world
}

#[test]
fn a_live_node_is_paused_until_a_new_epoch_and_then_takes_what_was_restored() {
    for raised in [false, true] {
        let mut world = restored(raised);
        world.act(Action::List(0));
        assert!(is_paused(&mut world), "raised: {raised}");
        assert_eq!(running(&world), Some("r2"), "something was taken from a node that is ahead");
        assert_eq!(session(&world).obstacle(), Some(Sync::AheadOfCluster { accept: 1 }));
        // The cluster goes on past what the node has seen: that releases nobody.
        for _ in 0..5 {
            world.act(put(Resource::Namespaces, "", "other", json!({"metadata": {}})));
            world.act(rollout("r3", &[]));
            world.act(Action::Hear(0));
            world.act(Action::Hear(0));
        }
        assert!(is_paused(&mut world));
        world.act(Action::Accept);
        world.settle();
        assert_eq!(world.agent.meta().watermark.epoch, 1);
        // It held r2 when the position was passed without it: it is late, as any node that comes back.
        assert_eq!(running(&world), Some("r2"));
        world.act(rollout("r3", &["n1-0"]));
        world.settle();
        assert_eq!(running(&world), Some("r3"));
    }
}

#[test]
fn a_replica_that_has_seen_nothing_finds_the_proof_by_watermark_or_by_rows() {
    for raised in [false, true] {
        let mut world = restored(raised);
        world.act(Action::Cut);
        world.act(Action::Restart(0));
        world.act(Action::Dial(0));
        assert!(is_paused(&mut world), "raised: {raised}");
        assert_eq!(running(&world), Some("r2"));
    }
}

#[test]
fn who_has_seen_no_more_than_there_is_goes_on() {
    for raised in [false, true] {
        let mut world = stage();
        world.act(rollout("r1", &[]));
        world.settle();
        // What is lost does not concern the node.
        world.act(put(Resource::EdgeNodes, "", "n2", json!({"metadata": {"uid": "n2-0"}})));
        world.act(Action::Hear(0));
        world.act(Action::Restore { changes: 1, raised });
        world.act(Action::List(0));
        assert!(!is_paused(&mut world));
        world.act(rollout("r2", &[]));
        world.settle();
        assert_eq!(running(&world), Some("r2"), "raised: {raised}");
    }
}

#[test]
fn an_annotation_accepts_for_one_node_and_may_go_again() {
    let mut world = restored(false);
    world.act(Action::List(0));
    assert!(is_paused(&mut world));
    let node = |annotations: serde_json::Value| {
        let metadata = json!({"uid": "n1-0", "labels": {"tier": "a"}, "annotations": annotations});
        put(Resource::EdgeNodes, "", NODE, json!({"metadata": metadata}))
    };
    world.act(node(json!({ACCEPT_ANNOTATION: "0"})));
    world.act(Action::Hear(0));
    assert!(is_paused(&mut world), "an epoch that is over accepts nothing");
    world.act(node(json!({ACCEPT_ANNOTATION: "1"})));
    world.settle();
    assert_eq!((world.agent.meta().watermark.epoch, world.epoch), (1, 0));
    let watermark = world.agent.meta().watermark.clone();

    // Without it, a replica asks whether the cluster's epoch is higher than it knows, and then goes on.
    world.act(node(json!({})));
    world.act(Action::Hear(0));
    world.act(rollout("r3", &["n1-0"]));
    world.act(Action::Hear(0));
    world.act(Action::Cut);
    world.act(Action::Dial(0));
    world.deliver();
    assert_eq!(session(&world).obstacle(), Some(Sync::CatchingUp));
    world.replicas[0].index.epoch_read(world.now);
    world.settle();
    assert_eq!(running(&world), Some("r3"));
    assert!(world.agent.meta().watermark.epoch == 1 && watermark.epoch == 1);
}

/// What the cluster says of its history is read by both replicas.
fn mark(world: &mut World, history: &str) {
    for replica in &mut world.replicas {
        replica.index.read_history(history.parse().unwrap());
        replica.index.epoch_read(world.now);
    }
    world.with_session(|session, view| session.proceed(view));
    world.deliver();
}

#[test]
fn a_mark_later_than_what_was_sent_proves_a_restore_however_high_revisions_have_risen() {
    let mut world = stage();
    mark(&mut world, "5-5");
    world.act(rollout("r1", &[]));
    world.settle();
    let marked = |world: &World| world.agent.meta().watermark.revision(selvedge_model::HISTORY);
    assert_eq!(marked(&world), 5);
    // The first one that is read after it may be older than what was sent.
    mark(&mut world, "5-6");
    assert_eq!(marked(&world), 5);
    mark(&mut world, "5-7");
    assert_eq!(marked(&world), 7);
    mark(&mut world, "5-8");
    assert_eq!(marked(&world), 7, "a quiet node is left alone");

    // The cluster goes back to mark 6, and its revision far beyond all that was seen.
    world.act(Action::Cut);
    world.act(Action::Restore { changes: 0, raised: true });
    world.act(Action::List(0));
    world.act(rollout("r2", &["n1-0"]));
    world.act(Action::Hear(0));
    world.act(Action::Dial(0));
    // Before what differs is compared, the marks are read.
    world.deliver();
    assert_eq!(running(&world), Some("r1"));
    mark(&mut world, "5-6,90-95");
    assert!(is_paused(&mut world));
    assert_eq!(running(&world), Some("r1"));
    world.act(Action::Accept);
    world.settle();
    assert_eq!(running(&world), Some("r2"));
}

#[test]
fn what_a_list_brought_goes_nowhere_before_the_marks_were_read() {
    let mut world = stage();
    mark(&mut world, "5-6");
    world.act(rollout("r1", &[]));
    world.settle();
    // A live session, whose replica lists another history at a higher revision.
    world.act(Action::Restore { changes: 0, raised: true });
    world.now += Duration::from_millis(1);
    let now = world.now;
    world.replicas[0].index.list_complete(&Resource::Devices, now, now);
    world.act(rollout("r2", &["n1-0"]));
    world.act(Action::List(0));
    world.act(Action::Hear(0));
    world.deliver();
    assert_eq!(running(&world), Some("r1"));
    mark(&mut world, "5-6,90-90");
    world.settle();
    assert_eq!(running(&world), Some("r2"), "a new leader is no restore");
}

#[test]
fn a_restore_that_was_proved_elsewhere_pauses_who_differs_and_nobody_else() {
    let mut world = stage();
    world.act(rollout("r1", &[]));
    world.settle();
    world.act(Action::Restore { changes: 0, raised: true });
    world.act(Action::List(0));
    world.replicas[0].index.restored_in(0);
    assert!(!is_paused(&mut world), "it has what it should have");
    world.act(Action::Cut);
    world.act(rollout("r2", &["n1-0"]));
    world.act(Action::Hear(0));
    world.act(Action::Dial(0));
    assert!(is_paused(&mut world));
    world.act(Action::Accept);
    world.settle();
    assert_eq!(running(&world), Some("r2"));
}

#[test]
fn a_node_that_was_paused_stays_so_in_its_next_session() {
    let mut world = restored(false);
    world.act(Action::Restart(0));
    world.act(Action::Cut);
    // The cluster's revisions have passed the node's watermark meanwhile, and no row of it proves anything.
    let key = ObjectKey::new("shop", "web");
    world.act(Action::Change(Change { resource: Resource::EdgeApplications, key, object: None }));
    for _ in 0..9 {
        world.act(put(Resource::Namespaces, "", "other", json!({"metadata": {}})));
    }
    world.act(Action::Restart(0));
    let (id, hello) = world.agent.hello(77, 0).unwrap();
    let index = &world.replicas[0].index;
    let who = crate::session::greeting::Admission {
        node: index.node(NODE),
        uid: "n1-0",
        newest: None,
        synced: index.is_synced(),
        denied: false,
        outdated: false,
        deaf: false,
        cluster_id: CLUSTER,
        epoch: 0,
        unix_ms: 0,
    };
    let (greeted, _) = crate::session::greeting::greet(hello, &who).unwrap();
    assert_eq!(greeted.session, id);
    let view = View { index, gate: &Open, now: world.now };
    let begin = || crate::session::Session::new(NODE.into(), "n1-0".into(), greeted.clone(), world.now);
    let mut first = begin();
    assert!(matches!(first.proceed(view)[..], [Output::Admit(_)]), "without memory nothing holds it");
    let mut again = begin().paused_before();
    assert!(again.proceed(view).is_empty() && again.is_paused());
}

#[test]
fn rows_newer_than_the_watermark_are_waited_for() {
    // A sync was cut off between two deltas: its rows are in the ledger, its watermark is not.
    let mut world = stage();
    world.settle();
    let body = |level: i32| {
        json!({"metadata": {"uid": "d"}, "spec": {"nodeName": NODE, "modelRef": {"name": "tank"},
        "protocol": {"simulated": {}}, "desired": {"level": level}}})
    };
    let property = json!({"name": "level", "type": "int", "access": "ReadWrite", "maximum": 9, "source": {"simulated": {}}});
    world.act(put(
        Resource::DeviceModels,
        "shop",
        "tank",
        json!({"metadata": {"uid": "m"}, "spec": {"properties": [property]}}),
    ));
    world.act(put(Resource::Devices, "shop", "d", body(1)));
    world.settle();
    world.act(put(Resource::Devices, "shop", "d", body(2)));
    world.act(Action::Hear(0));
    world.act(Action::Down);
    let mut meta = world.agent.meta().clone();
    meta.watermark.revisions.insert("devices".into(), world.revision - 1);
    world.agent.store().commit(&Batch { meta: Some(meta), rows: Default::default() }).unwrap();
    world.act(Action::Crash);
    // Replica 1 has not heard of the second change, and would take it back.
    world.act(Action::Dial(1));
    world.deliver();
    assert_eq!(session(&world).obstacle(), Some(Sync::CatchingUp));
    world.act(Action::Hear(1));
    world.replicas[1].index.apply(Event::Reached(Resource::Devices, world.revision));
    world.settle();
}
