//! The agents' door over real TLS on loopback, with agents in this process and no API server: the index is
//! fed by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bad_input;
mod floods;
mod rig;
mod strangers;

use std::time::Duration;

use selvedge_agent::ledger::Machine;
use selvedge_hub::index::{Event, ObjectKey, Resource};
use selvedge_hub::removals::{Crd, CrdState};
use selvedge_protocol::agent::{refused::Code, to_agent::Message as ToAgent};
use serde_json::json;
use tokio::time::timeout;

use rig::{Rig, SOON, has, machine, now, revision};

#[tokio::test]
async fn an_agent_gets_its_set_changes_and_removals() {
    let mut rig = Rig::new().await;
    rig.application("web-1", "web:1");
    let mut machine = machine();
    let mut agent = rig.agent(&mut machine, 1).await;
    agent.until(&mut machine, |machine| machine.synced() && has(machine, "Workload/shop/web")).await;
    assert!(has(&machine, "NodeSettings/node"));
    assert_eq!(revision(&machine).as_deref(), Some("web-1"));

    rig.application("web-2", "web:2");
    agent.until(&mut machine, |machine| revision(machine).as_deref() == Some("web-2")).await;

    rig.revision += 1;
    let (key, revision) = (ObjectKey::new("shop", "web"), rig.revision);
    rig.apply(Event::Gone { resource: Resource::EdgeApplications, key, revision, watched: true });
    // The CRD is read after the deletion was seen: it stands.
    rig.hub.removals.read(Crd::EdgeApplications, CrdState::Stands { uid: "crd".into() }, now());
    rig.hub.sessions.wake_waiting();
    agent.until(&mut machine, |machine| !has(machine, "Workload/shop/web")).await;
    rig.end().await;
}

#[tokio::test]
async fn a_deleted_crd_empties_no_node() {
    let mut rig = Rig::new().await;
    rig.application("web-1", "web:1");
    let mut machine = machine();
    let mut agent = rig.agent(&mut machine, 1).await;
    agent.until(&mut machine, |machine| machine.synced() && has(machine, "Workload/shop/web")).await;
    rig.revision += 1;
    let (key, revision) = (ObjectKey::new("shop", "web"), rig.revision);
    rig.apply(Event::Gone { resource: Resource::EdgeApplications, key, revision, watched: true });
    rig.hub.removals.read(Crd::EdgeApplications, CrdState::Going, now());
    rig.hub.sessions.wake_waiting();
    // Whatever comes after it finds the workload still there.
    rig.put(
        Resource::EdgeNodes,
        json!({"metadata": {"name": "n1", "uid": "u1", "labels": {"tier": "shop", "new": "1"}}}),
    );
    let before = machine.meta().digest;
    agent.until(&mut machine, |machine| machine.meta().digest != before).await;
    assert!(has(&machine, "Workload/shop/web"));
    rig.end().await;
}

/// Deletes the EdgeNode, as a watch or a list brings it.
fn delete_node(rig: &mut Rig, watched: bool) {
    rig.revision += 1;
    let (key, revision) = (ObjectKey::new("", "n1"), rig.revision);
    rig.apply(Event::Gone { resource: Resource::EdgeNodes, key, revision, watched });
}

/// What is said last in a session.
async fn last(agent: &mut rig::Agent) -> Option<ToAgent> {
    let mut last = None;
    while let Some(message) = agent.receive().await {
        last = Some(message);
    }
    last
}

#[tokio::test]
async fn a_watched_deletion_of_its_edge_node_is_a_farewell_once_the_crd_was_read() {
    let mut rig = Rig::new().await;
    rig.node(json!({"onDelete": "Stop"}));
    let mut machine = machine();
    let mut agent = rig.synced(&mut machine).await;
    delete_node(&mut rig, true);
    // Until the CRD was read nothing is said. The session asks for that when it looks, and waits to be woken.
    timeout(SOON, rig.hub.removals.wanted.notified()).await.unwrap();
    rig.hub.removals.read(Crd::EdgeNodes, CrdState::Stands { uid: "crd".into() }, now());
    rig.hub.sessions.wake_waiting();
    let said = last(&mut agent).await.unwrap();
    assert!(matches!(said, ToAgent::Farewell(_)), "{said:?}");
    machine.receive(agent.id, said).unwrap();
    assert!(machine.meta().stopped, "onDelete is in the ledger");
    rig.end().await;
}

#[tokio::test]
async fn a_deletion_that_the_controller_tells_before_the_watch_is_a_farewell_all_the_same() {
    let mut rig = Rig::new().await;
    let mut machine = machine();
    let mut agent = rig.synced(&mut machine).await;
    rig.hub.removals.read(Crd::EdgeNodes, CrdState::Stands { uid: "crd".into() }, now());
    rig.hub.sessions.deny("u1", now());
    for _ in 0..100 {
        // The session looks, and its EdgeNode is still there.
        tokio::task::yield_now().await;
    }
    delete_node(&mut rig, true);
    timeout(SOON, rig.hub.removals.wanted.notified()).await.unwrap();
    rig.hub.removals.read(Crd::EdgeNodes, CrdState::Stands { uid: "crd".into() }, now());
    rig.hub.sessions.wake_waiting();
    let said = last(&mut agent).await.unwrap();
    assert!(matches!(said, ToAgent::Farewell(_)), "{said:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_node_that_the_controller_shuts_out_is_refused_also_when_the_watch_is_stuck() {
    let rig = Rig::new().await;
    let mut machine = machine();
    let mut agent = rig.synced(&mut machine).await;
    rig.hub.sessions.deny("u1", now());
    let said = last(&mut agent).await.unwrap();
    assert!(matches!(&said, ToAgent::Refused(refused) if refused.code() == Code::Denied), "{said:?}");
    rig.end().await;
}

/// It may have missed who was shut out. Who has a session keeps it.
#[tokio::test]
async fn a_replica_that_hears_nothing_of_edge_nodes_begins_no_session() {
    let mut rig = Rig::new().await;
    rig.labelled("n2", "u2", "a");
    let mut lives = machine();
    let mut agent = rig.synced(&mut lives).await;
    rig.hub.hearing.heard(&Resource::EdgeNodes, now().checked_sub(Duration::from_secs(60)).unwrap());
    rig.hub.hearing.heard(&Resource::Devices, now());
    let said = last(&mut rig.agent_of("n2", "u2", &mut machine(), 1).await).await.unwrap();
    assert!(matches!(&said, ToAgent::Refused(refused) if refused.code() == Code::TryLater), "{said:?}");
    rig.application("web-1", "web:1");
    agent.until(&mut lives, |machine| has(machine, "Workload/shop/web")).await;

    rig.hub.hearing.heard(&Resource::EdgeNodes, now());
    let mut machine = machine();
    let mut late = rig.agent_of("n2", "u2", &mut machine, 2).await;
    late.until(&mut machine, Machine::synced).await;
    rig.end().await;
}

#[tokio::test]
async fn an_edge_node_that_a_list_lacks_is_no_farewell() {
    let mut rig = Rig::new().await;
    let mut machine = machine();
    let mut agent = rig.synced(&mut machine).await;
    delete_node(&mut rig, false);
    let Some(ToAgent::Refused(refused)) = last(&mut agent).await else { panic!("no refusal") };
    assert_eq!(refused.code(), Code::TryLater);
    rig.end().await;
}

#[tokio::test]
async fn an_edge_node_that_goes_with_its_crd_is_no_farewell() {
    let mut rig = Rig::new().await;
    let mut machine = machine();
    let mut agent = rig.synced(&mut machine).await;
    delete_node(&mut rig, true);
    rig.hub.removals.read(Crd::EdgeNodes, CrdState::Going, now());
    rig.hub.sessions.wake_waiting();
    // It lives on: it is drained as others are.
    rig.hub.sessions.wake_all();
    rig.drain.cancel();
    let said = last(&mut agent).await;
    assert!(matches!(said, Some(ToAgent::Goodbye(_))), "{said:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_newer_session_ends_an_older_and_an_equal_digest_needs_one_frame() {
    let mut rig = Rig::new().await;
    rig.application("web-1", "web:1");
    let mut machine = machine();
    let mut first = rig.agent(&mut machine, 1).await;
    first.until(&mut machine, Machine::synced).await;
    let mut second = rig.agent(&mut machine, 2).await;
    assert!(matches!(second.receive().await, Some(ToAgent::Welcome(_))));
    assert!(matches!(second.receive().await, Some(ToAgent::InSync(_))));
    loop {
        match first.receive().await {
            Some(ToAgent::Refused(refused)) => break assert_eq!(refused.code(), Code::Superseded),
            Some(_) => {}
            None => panic!("the older session ended without a word"),
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_lost_ledger_heals_and_a_denied_node_is_refused() {
    let mut rig = Rig::new().await;
    let mut old = machine();
    for nonce in 1..4 {
        rig.agent(&mut old, nonce).await.until(&mut old, Machine::synced).await;
    }
    let mut new = machine();
    let mut agent = rig.agent(&mut new, 9).await;
    let Some(ToAgent::Refused(refused)) = agent.receive().await else { panic!("an old session was taken") };
    assert_eq!(refused.code(), Code::Stale);
    new.receive(agent.id, ToAgent::Refused(refused)).unwrap();
    let mut agent = rig.agent(&mut new, 10).await;
    agent.until(&mut new, Machine::synced).await;

    rig.node(json!({"denied": true}));
    let Some(ToAgent::Refused(refused)) = agent.receive().await else {
        panic!("a denied node's session lives")
    };
    assert_eq!(refused.code(), Code::Denied);
    rig.end().await;
}

/// The certificates of the rig end with the year 4095.
#[tokio::test]
async fn a_certificate_that_was_renewed_since_opens_no_session_and_one_that_is_newer_does() {
    let mut rig = Rig::new().await;
    for (ends, refused) in [("9999-01-01T00:00:00Z", true), ("2026-01-01T00:00:00Z", false)] {
        let current = json!({"publicKey": "k", "serial": "4a", "notAfter": ends});
        let record = json!({"uid": "u1", "current": current}).to_string();
        let annotations = json!({"selvedge.dev/identity": record});
        let metadata = json!({"name": "n1", "uid": "u1", "annotations": annotations});
        rig.put(Resource::EdgeNodes, json!({"metadata": metadata, "spec": {}}));
        let mut agent = rig.agent(&mut machine(), 1).await;
        let answer = agent.receive().await;
        let denied = matches!(&answer, Some(ToAgent::Refused(refused)) if refused.code() == Code::Denied);
        assert_eq!(denied, refused, "{answer:?}");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_drained_replica_says_goodbye() {
    let rig = Rig::new().await;
    let mut machine = machine();
    let mut agent = rig.synced(&mut machine).await;
    rig.drain.cancel();
    let Some(ToAgent::Goodbye(goodbye)) = agent.receive().await else { panic!("no goodbye") };
    assert!(!goodbye.behind && goodbye.retry_after_ms <= 1_000);
    assert!(agent.receive().await.is_none());
    rig.end().await;
}
