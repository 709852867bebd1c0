//! What an idle session costs: its TLS, its WebSocket, its task, the rows that its agent has answered, and what
//! is kept of its reports and statuses.
//!
//! The agents are in this process. When a session has come to rest its agent drops all but the open socket, so
//! that what remains is the hub's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_hub::index::Resource;
use selvedge_model::EntryKind;
use selvedge_protocol::agent::{
    self as wire, entry_report::State, to_agent::Message as ToAgent, to_hub::Message as ToHub,
};
use serde_json::{Value, json};

use crate::rig::{Agent, Rig, machine};
use crate::{allocated, alone};

/// Of each kind on a node.
const OBJECTS: usize = 10;
/// Before these sessions, as many: what is made once is made then.
const SESSIONS: usize = 30;
/// What is aimed at, in bytes of an idle session.
const TARGET: usize = 18 * 1024;
/// What it must not cost again, right after its first sync: of it 8 KB are the answered rows, 8 KB TLS and its
/// buffers, 4 KB the largest frame of the agent, 4 KB the task and 5 KB what was reported.
const BOUND: usize = 36 * 1024;

/// An API server that holds nothing: an object is as its name says, a status as it was patched last.
fn api() -> Client {
    let revision = Arc::new(AtomicU64::new(1_000_000));
    let service = tower::service_fn(move |request: Request<Body>| {
        let revision = revision.fetch_add(1, Ordering::Relaxed);
        async move {
            let (head, body) = request.into_parts();
            let patch: Value =
                serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
            let path = head.uri.path().trim_end_matches("/status");
            let name = path.rsplit('/').next().unwrap();
            let mut object = json!({"metadata": {
                "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": revision.to_string(),
            }});
            if head.method == Method::PATCH {
                object["status"] = patch["status"].clone();
            }
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(object.to_string().into_bytes())))
        }
    });
    Client::new(service, "default")
}

fn node(number: usize) -> String {
    format!("shop-{number:04}")
}

/// A node with ten devices; the applications select it by its label.
fn place(rig: &mut Rig, number: usize) {
    let node = node(number);
    rig.labelled(&node, &format!("uid-of-{node}"), "a");
    for device in 0..OBJECTS {
        let name = format!("boiler-{number:04}-{device}");
        let metadata =
            json!({"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "generation": 1});
        let spec = json!({"nodeName": node, "modelRef": {"name": "boiler"}, "protocol": {"simulated": {}},
            "desired": {"setpoint": 50 + device, "level": number}});
        rig.put(Resource::Devices, json!({"metadata": metadata, "spec": spec}));
    }
}

fn applications(rig: &mut Rig) {
    let property = |name: &str| json!({"name": name, "type": "float", "access": "ReadWrite", "source": {"simulated": {}}});
    let properties = ["setpoint", "level", "temperature", "pressure"].map(property);
    let metadata = json!({"name": "boiler", "namespace": "shop", "uid": "uid-of-boiler"});
    rig.put(Resource::DeviceModels, json!({"metadata": metadata, "spec": {"properties": properties}}));
    for application in 0..OBJECTS {
        let name = format!("application-{application}");
        let revision = format!("{name}-5f7d8c9b6d");
        rig.put(
            Resource::ControllerRevisions,
            json!({
                "metadata": {"name": revision, "namespace": "shop", "labels": {"selvedge.dev/application": name}},
                "data": {"selector": {"matchLabels": {"tier": "shop"}},
                    "template": {"spec": {"containers": [{"name": "main", "image": "registry.example/app:1",
                        "env": [{"name": "GREETING", "value": "x".repeat(500)}]}]}}},
            }),
        );
        let intervals = json!([{"from": 0, "to": 1_u64 << 32, "revision": revision}]);
        rig.put(
            Resource::EdgeApplications,
            json!({
                "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}")},
                "status": {"rollout": {"intervals": intervals}},
            }),
        );
    }
}

/// What an agent says of an entry that is in force.
fn state(kind: EntryKind) -> State {
    let property = |name: &str| wire::PropertyState {
        name: name.into(),
        reported: "21.25".into(),
        read_unix_ms: 1_767_225_600_000,
        written: "50".into(),
        error: String::new(),
    };
    match kind {
        EntryKind::Device => State::Device(wire::DeviceState {
            connected: true,
            properties: ["setpoint", "level", "temperature", "pressure"].map(property).into(),
            ..Default::default()
        }),
        EntryKind::Workload => State::Workload(wire::WorkloadState {
            phase: wire::Phase::Running.into(),
            revision: "application-0-5f7d8c9b6d".into(),
            started_unix_ms: 1_767_225_600_000,
            ..Default::default()
        }),
        _ => State::Node(wire::NodeState {
            agent_version: "0.1.0".into(),
            arch: "amd64".into(),
            os: "linux".into(),
            kernel: "6.12.0-amd64".into(),
            runtime: "containerd://2.4.2".into(),
            cpu_millis: 4_000,
            memory_bytes: 8 << 30,
            storage_bytes: 64 << 30,
            ..Default::default()
        }),
    }
}

fn report(machine: &Machine<MemoryStore>) -> Vec<wire::EntryReport> {
    let rows = machine.rows().iter().zip(1_u64..);
    let entries = rows.map(|((key, row), seq)| {
        let (key, in_force) = (key.entry_key().unwrap(), row.in_force.as_ref().unwrap());
        wire::EntryReport {
            key: Some((&key).into()),
            uid: in_force.uid.clone(),
            content_hash: in_force.hash.0.to_vec(),
            seq,
            state: Some(state(key.kind)),
        }
    });
    entries.collect()
}

/// A session that has all it should have and has said so; what is left of its agent.
async fn rest(rig: &Rig, number: usize, reports: bool) -> std::net::TcpStream {
    let (mut machine, node) = (machine(), node(number));
    let mut agent: Agent = rig.agent_of(&node, &format!("uid-of-{node}"), &mut machine, 1).await;
    agent.until(&mut machine, |machine| machine.synced() && machine.rows().len() > 2 * OBJECTS).await;
    if reports {
        let entries = report(&machine);
        let mut unanswered = entries.len();
        agent.send(ToHub::Report(wire::Report { entries })).await;
        while unanswered > 0 {
            match agent.receive().await {
                Some(ToAgent::Verdicts(verdicts)) => unanswered -= verdicts.verdicts.len(),
                Some(_) => {}
                None => panic!("the hub closed the session of {node}"),
            }
        }
    }
    agent.socket.into_inner().into_inner().0.into_std().unwrap()
}

/// Bytes that one more idle session costs.
fn cost(reports: bool) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut rig = Rig::with(Some(api())).await;
        applications(&mut rig);
        for number in 0..2 * SESSIONS {
            place(&mut rig, number);
        }
        let mut sockets = Vec::with_capacity(2 * SESSIONS);
        for number in 0..SESSIONS {
            sockets.push(rest(&rig, number, reports).await);
        }
        // What is kept for a while of statuses has a bound of its own, for all sessions together.
        let held = || allocated() - rig.hub.recall.bytes();
        let before = held();
        for number in SESSIONS..2 * SESSIONS {
            sockets.push(rest(&rig, number, reports).await);
        }
        let grown = held() - before;
        assert_eq!(rig.hub.sessions.len(), 2 * SESSIONS);
        rig.end().await;
        grown / SESSIONS
    })
}

#[test]
fn an_idle_session_costs_little() {
    let _alone = alone();
    let synced = cost(false);
    let idle = cost(true);
    println!(
        "{}",
        json!({"name": "hub_idle_session_bytes", "value": idle, "unit": "bytes", "n": SESSIONS,
        "target": TARGET, "met": idle <= TARGET, "note": format!("{synced} of it before anything is reported")})
    );
    assert!(
        idle <= BOUND,
        "an idle session costs {idle} bytes, {synced} of them before anything is reported"
    );
}
