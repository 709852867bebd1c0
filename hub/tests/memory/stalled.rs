//! What a session costs whose agent does not read while its node's objects change and change again: its dirty
//! keys, and not one byte for each change (I7). The same for reports of one object that come faster than they
//! are written.

use std::sync::Arc;
use std::time::Instant;

use prometheus::Registry;
use selvedge_hub::hub::Hub;
use selvedge_hub::index::{Event, Pins, Resource, Slot};
use selvedge_hub::metrics::Metrics;
use selvedge_hub::session::greeting::Greeted;
use selvedge_hub::session::limit::Limits;
use selvedge_hub::session::{Reported, Session, View};
use selvedge_hub::sessions::{Inbox, Seen};
use selvedge_hub::status::Book;
use selvedge_model::{ContentHash, Digest, EntryKey, EntryKind, RowHash, SessionId, Watermark};
use selvedge_protocol::agent::{self as wire, entry_report::State};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::rig::now;
use crate::{allocated, alone};

/// 100 a second for ten minutes.
const CHANGES: u64 = 60_000;
/// Once all of its keys are dirty.
const WARM: u64 = 500;
const DEVICES: u64 = 10;
/// Devices, settings and workloads, each in the inbox and in the session.
const DIRTY: usize = 2 * (DEVICES as usize + 2);
/// Bytes of a dirty key: a name that is shared, and its place in a half-full node of a tree.
const KEY: usize = 128;
/// Of the delta in flight: rows and watermark.
const IN_FLIGHT: usize = 4 * 1024;

struct Stalled {
    session: Session,
    inbox: Arc<Inbox>,
}

fn put(hub: &Hub, resource: Resource, mut object: Value, revision: u64, now: Instant) {
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    hub.apply(Event::Applied(resource, object), now);
}

/// The node's labels change: its settings, and for all that the hub knows all of its objects.
fn change(hub: &Hub, revision: u64, now: Instant) {
    let labels = json!({"changed": revision.to_string()});
    put(
        hub,
        Resource::EdgeNodes,
        json!({"metadata": {"name": "n1", "uid": "u1", "labels": labels}}),
        revision,
        now,
    );
}

fn cluster(now: Instant) -> Hub {
    let hub = Hub::new(None, watch::channel(None).1, Metrics::new(&Registry::new()).unwrap());
    for resource in Resource::CORE {
        hub.apply(Event::Listed(resource, 1), now);
    }
    let labels = json!({"selvedge.dev/edge": "enabled"});
    put(&hub, Resource::Namespaces, json!({"metadata": {"name": "shop", "labels": labels}}), 2, now);
    let property =
        json!({"name": "level", "type": "float", "access": "ReadOnly", "source": {"simulated": {}}});
    let model = json!({"name": "tank", "namespace": "shop", "uid": "m1"});
    put(&hub, Resource::DeviceModels, json!({"metadata": model, "spec": {"properties": [property]}}), 3, now);
    change(&hub, 4, now);
    for device in 0..DEVICES {
        let name = format!("tank-{device}");
        let metadata =
            json!({"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "generation": 1});
        let spec = json!({"nodeName": "n1", "modelRef": {"name": "tank"}, "protocol": {"simulated": {}}});
        put(&hub, Resource::Devices, json!({"metadata": metadata, "spec": spec}), 5 + device, now);
    }
    hub
}

/// A session that is live: its agent has all that there is.
fn open(hub: &Hub, now: Instant) -> Stalled {
    let index = hub.index();
    let rows = index.set("n1", &Pins::new()).into_iter().map(|(key, slot)| match slot {
        Slot::Present(present) => RowHash::of(&key, &present.uid, &present.body.hash),
        _ => panic!("{key} cannot be resolved"),
    });
    let (digest, id): (Digest, _) = (rows.collect(), SessionId { counter: 1, nonce: 0 });
    let greeted = Greeted {
        session: id,
        digest,
        watermark: Watermark::default(),
        epoch: 0,
        redirects: 0,
        inflates: true,
        limits: Limits::default(),
        refused: Vec::new(),
    };
    let seen = Seen { node: "n1".into(), uid: "u1".into(), id, serial: "01".into(), closed: false };
    let inbox = hub.sessions.open(seen).unwrap();
    let mut session = Session::new("n1".into(), "u1".into(), greeted, now);
    session.proceed(View { index: &index, gate: &hub.removals, now });
    assert!(session.is_quiet(), "it is not live");
    Stalled { session, inbox }
}

/// Bytes that a session holds after so many changes: what its end gives back. Its agent never answers the one
/// delta that it gets, and from half of the changes on the session is stuck in the middle of a frame, so that it
/// does not even look into its inbox.
fn held(changes: u64) -> usize {
    let now = now();
    let hub = cluster(now);
    let mut stalled = open(&hub, now);
    for number in 1..=changes {
        change(&hub, 5 + DEVICES + number, now);
        if number <= changes / 2 {
            let pending = stalled.inbox.take();
            let view = View { index: &hub.index(), gate: &hub.removals, now };
            drop(stalled.session.touch(pending.parts, pending.raises, view));
        }
    }
    let before = allocated();
    hub.sessions.close("u1", stalled.session.id());
    drop(stalled);
    before - allocated()
}

#[test]
fn an_agent_that_does_not_read_costs_its_dirty_keys_and_nothing_for_each_change() {
    let _alone = alone();
    let (quiet, few, many) = (held(0), held(WARM), held(CHANGES));
    println!(
        "{}",
        json!({"name": "stalled_session_bytes", "value": many - quiet, "unit": "bytes", "n": CHANGES,
            "note": format!("beside {quiet} when nothing changes; {} after {WARM} changes", few - quiet)})
    );
    assert!(many > quiet, "nothing was dirty");
    assert!(many <= quiet + DIRTY * KEY + IN_FLIGHT, "{CHANGES} changes cost {} bytes", many - quiet);
    // A revision may have one digit more.
    assert!(many <= few + KEY, "{} changes more cost {} bytes more", CHANGES - WARM, many - few);
}

#[test]
fn reports_of_one_object_cost_as_much_as_one() {
    let _alone = alone();
    let now = now();
    let mut book = Book::new("n1".into());
    let report = |book: &mut Book, seq: u64| {
        let property =
            wire::PropertyState { name: "level".into(), reported: "7.5".into(), ..Default::default() };
        let state = wire::DeviceState { connected: true, properties: vec![property], ..Default::default() };
        let key = EntryKey::new(EntryKind::Device, "shop", "tank");
        let (uid, content) = ("uid-of-tank".into(), Some(ContentHash([1; 32])));
        book.report(Reported { key, uid, content, seq, state: Some(State::Device(state)) }, now);
    };
    report(&mut book, 1);
    // A write is under way, and does not end.
    assert!(!book.jobs(now, 8).is_empty());
    report(&mut book, 2);
    let before = allocated();
    for seq in 3..CHANGES {
        report(&mut book, seq);
    }
    let grown = allocated().saturating_sub(before);
    assert_eq!(book.coalesced, CHANGES - 3);
    assert!(grown <= KEY, "{CHANGES} reports cost {grown} bytes");
}
