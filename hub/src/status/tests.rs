mod anew;
mod writes;

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::time::Duration;

use jiff::Timestamp;
use selvedge_model::{ContentHash, EntryKey, EntryKind};
use selvedge_protocol::agent::{self as wire, entry_report::State, verdict::Code};
use serde_json::{Value, json};

use super::{Book, Known, Target, Written, device, node};
use crate::index::{DeviceStands, Held, ObjectKey, Reason};
use crate::session::{Entry, Reported, Standing, Sync};

const WANTED: ContentHash = ContentHash([1; 32]);
const OLDER: ContentHash = ContentHash([2; 32]);

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn entry() -> Entry {
    Entry { desired: Some(WANTED), delivered: true, revision: "web-1".into(), held: None, refused: None }
}

fn condition<'a>(status: &'a Value, type_: &str) -> (&'a str, &'a str) {
    let all = status["conditions"].as_array().unwrap();
    let found = all.iter().find(|condition| condition["type"] == type_).unwrap();
    (found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

fn boiler(in_force: ContentHash, error: &str) -> device::Facts {
    let property = |name: &str, reported: &str, written: &str| wire::PropertyState {
        name: name.into(),
        reported: reported.into(),
        read_unix_ms: 1_767_225_600_000,
        written: written.into(),
        error: if name == "setpoint" { error.into() } else { String::new() },
    };
    let state = wire::DeviceState {
        connected: true,
        properties: vec![property("setpoint", "60", "60"), property("temperature", "21.4", "")],
        ..Default::default()
    };
    device::Facts { entry: entry(), generation: 3, reported: Some((state, Some(in_force))) }
}

fn compose_boiler(facts: &device::Facts) -> Value {
    let body = json!({"properties": [{"name": "temperature"}, {"name": "setpoint", "desired": 60}]});
    device::compose(facts, &body, &Value::Null, now())
}

#[test]
fn a_device_is_synced_when_what_is_desired_is_in_force_and_not_before() {
    let status = compose_boiler(&boiler(WANTED, ""));
    assert_eq!(condition(&status, "Synced"), ("True", "Applied"));
    assert_eq!(condition(&status, "Ready"), ("True", "Connected"));
    assert_eq!(
        (&status["observedGeneration"], &status["summary"]),
        (&json!(3), &json!("temperature=21.4 setpoint=60"))
    );
    assert_eq!(
        status["properties"][1],
        json!({"name": "setpoint", "reported": 60, "time": "2026-01-01T00:00:00Z", "desired": 60, "generation": 3})
    );

    let status = compose_boiler(&boiler(OLDER, ""));
    assert_eq!(condition(&status, "Synced"), ("False", "Applying"));
    assert_eq!(
        (&status["observedGeneration"], &status["properties"][1]["generation"]),
        (&Value::Null, &Value::Null)
    );

    let status = compose_boiler(&boiler(WANTED, "the register is read-only"));
    assert_eq!(condition(&status, "Synced"), ("False", "WriteFailed"));

    let mut held = boiler(WANTED, "");
    held.entry.held =
        Some(Held { reason: Reason::MissingReference, message: "DeviceModel shop/x does not exist".into() });
    assert_eq!(condition(&compose_boiler(&held), "Synced"), ("False", "MissingReference"));
}

fn web() -> EntryKey {
    EntryKey::new(EntryKind::Workload, "shop", "web")
}

fn shop(reported: Option<wire::Phase>) -> node::Facts {
    let tank = EntryKey::new(EntryKind::Device, "shop", "tank");
    let workloads = reported.map(|phase| {
        let state =
            wire::WorkloadState { phase: phase.into(), revision: "web-1".into(), ..Default::default() };
        (web(), (state, Some(WANTED)))
    });
    node::Facts {
        standing: Standing {
            entries: BTreeMap::from([
                (EntryKey::node_settings(), entry()),
                (web(), entry()),
                (tank.clone(), entry()),
            ]),
            sync: Sync::Ok,
        },
        machine: Some(wire::NodeState { cpu_millis: 1500, memory_bytes: 1 << 20, ..Default::default() }),
        workloads: workloads.into_iter().collect(),
        devices: BTreeMap::from([(tank, DeviceStands { connected: true, applied: true })]),
        duplicate: false,
    }
}

#[test]
fn a_node_is_synced_when_all_is_in_force() {
    let status = node::compose(&shop(Some(wire::Phase::Running)), &Value::Null, now());
    assert_eq!(condition(&status, "Synced"), ("True", "Applied"));
    assert_eq!(condition(&status, "Ready"), ("True", "AgentReports"));
    assert_eq!(status["sync"], json!({"desired": 3, "delivered": 3, "applied": 3, "failed": 0}));
    assert_eq!(status["summary"], json!({"applications": "1/1", "devices": "1/1"}));
    assert_eq!(status["capacity"]["cpu"], "1500m");

    let status = node::compose(&shop(Some(wire::Phase::Failed)), &Value::Null, now());
    assert_eq!(status["summary"]["applications"], "0/1");
    assert_eq!(status["sync"]["failed"], 1);
}

#[test]
fn what_this_session_has_not_heard_of_stands_as_it_stood() {
    let before = json!({"applications": [{"namespace": "shop", "name": "web", "revision": "web-1", "state": "Running"},
        {"namespace": "shop", "name": "gone", "state": "Running"}]});
    let status = node::compose(&shop(None), &before, now());
    assert_eq!(status["applications"].as_array().unwrap().len(), 1);
    assert_eq!(condition(&status, "Synced"), ("True", "Applied"));
    let older = json!({"applications": [{"namespace": "shop", "name": "web", "revision": "web-0", "state": "Running"}]});
    assert_eq!(condition(&node::compose(&shop(None), &older, now()), "Synced"), ("False", "Applying"));
}

#[test]
fn a_runtime_that_is_away_does_not_hide_what_else_there_is_to_know() {
    let said = |runtime_error: &str, notice: &str| {
        let (runtime_error, notice) = (runtime_error.to_owned(), notice.to_owned());
        let machine = Some(wire::NodeState { runtime_error, notice, ..Default::default() });
        let status = node::compose(&node::Facts { machine, ..shop(None) }, &Value::Null, now());
        let all = status["conditions"].as_array().unwrap();
        let ready = all.iter().find(|condition| condition["type"] == "Ready").unwrap();
        [&ready["status"], &ready["reason"], &ready["message"]].map(|part| part.as_str().unwrap().to_owned())
    };
    assert_eq!(said("", ""), ["True", "AgentReports", ""]);
    assert_eq!(said("", "rebuilt"), ["True", "AgentReports", "rebuilt"]);
    assert_eq!(said("no socket", "rebuilt"), ["False", "RuntimeUnavailable", "no socket; rebuilt"]);
}

#[test]
fn a_held_application_says_why() {
    let mut facts = shop(Some(wire::Phase::Running));
    let held = Held { reason: Reason::MissingReference, message: "ConfigMap shop/x does not exist".into() };
    facts
        .standing
        .entries
        .insert(web(), Entry { desired: None, delivered: false, held: Some(held), ..entry() });
    let status = node::compose(&facts, &Value::Null, now());
    assert_eq!(
        (&status["applications"][0]["state"], &status["applications"][0]["revision"]),
        (&json!("Held"), &json!("web-1"))
    );
    assert_eq!(condition(&status, "Synced"), ("False", "MissingReference"));
}

#[test]
fn facts_have_one_hash_if_and_only_if_they_say_the_same() {
    let hashes = std::hash::RandomState::new();
    let running = || shop(Some(wire::Phase::Running));
    let mut changed = running();
    changed.standing.entries.insert(web(), Entry { desired: Some(OLDER), ..entry() });
    changed.workloads.values_mut().for_each(|(_, content)| *content = Some(OLDER));
    let mut undelivered = running();
    undelivered.standing.entries.insert(web(), Entry { delivered: false, ..entry() });
    let mut applying = running();
    applying.workloads.values_mut().for_each(|(_, content)| *content = Some(OLDER));
    let mut unreachable = running();
    unreachable.devices.values_mut().for_each(|device| device.connected = false);
    let refused = Some(("Invalid".to_owned(), "no such image".to_owned()));
    let mut broken = running();
    broken.standing.entries.insert(web(), Entry { refused, ..entry() });
    let mut waiting = running();
    waiting.standing.sync = Sync::CatchingUp;
    let others = [
        undelivered,
        applying,
        unreachable,
        broken,
        waiting,
        shop(Some(wire::Phase::Failed)),
        node::Facts { machine: None, ..running() },
        node::Facts { duplicate: true, ..running() },
    ];
    let says = |facts: &node::Facts| node::compose(facts, &Value::Null, now());
    let same = |facts: &node::Facts| hashes.hash_one(facts) == hashes.hash_one(running());
    assert!(same(&changed) && says(&changed) == says(&running()));
    for other in others {
        assert!(!same(&other) && says(&other) != says(&running()), "{other:?}");
    }
}

fn report(seq: u64) -> Reported {
    let state = State::Device(wire::DeviceState { connected: true, ..Default::default() });
    let key = EntryKey::new(EntryKind::Device, "shop", "tank");
    Reported { key, uid: "d".into(), content: Some(WANTED), seq, state: Some(state) }
}

#[test]
fn one_write_at_a_time_and_the_newest_report_is_answered() {
    let start = crate::clock::now();
    let mut book = Book::new("n1".into());
    let tank = Target::Device(ObjectKey::new("shop", "tank"));
    book.report(report(1), start);
    let jobs: Vec<Target> = book.jobs(start, 8).into_iter().map(|job| job.target).collect();
    assert_eq!(
        jobs,
        [Target::Node("n1".into()), tank.clone()],
        "a report that changes the node's counts writes both"
    );
    book.report(report(2), start);
    book.report(report(3), start);
    assert!(book.jobs(start, 8).is_empty(), "two writes of one object at once");
    assert_eq!(book.coalesced, 1);
    let written = |code| Written { code: Some(code), reason: "", known: None, newer: None };
    assert!(
        book.written(&tank, &written(Code::Written), start).is_empty(),
        "the report that was overtaken was answered"
    );
    assert_eq!(book.jobs(start, 8).len(), 1);
    let verdicts = book.written(&tank, &written(Code::Written), start);
    assert_eq!(verdicts.iter().map(|verdict| verdict.seq).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_passing_state_waits_and_a_report_does_not() {
    let start = crate::clock::now();
    let mut book = Book::new("n1".into());
    book.news(start, true);
    assert!(book.jobs(start, 8).is_empty());
    assert_eq!(book.due(), Some(start + Duration::from_secs(1)));
    book.news(start, false);
    assert_eq!(book.jobs(start, 8).len(), 1);
}

#[test]
fn a_device_that_left_the_set_is_forgotten_once_its_reports_are_answered() {
    let start = crate::clock::now();
    let mut book = Book::new("n1".into());
    let tank = Target::Device(ObjectKey::new("shop", "tank"));
    book.report(report(1), start);
    book.jobs(start, 8);
    book.retain([]);
    let written = Written { code: Some(Code::Refused), reason: "", known: None, newer: None };
    assert_eq!(book.written(&tank, &written, start).len(), 1, "a report in a write was forgotten");
    book.device_news(&ObjectKey::new("shop", "tank"), start);
    book.retain([]);
    let later = start + Duration::from_secs(60);
    assert!(book.jobs(later, 8).iter().all(|job| job.target != tank));
}

#[test]
fn a_node_that_two_machines_are_and_one_that_is_ahead_say_what_to_do() {
    let mut facts = shop(Some(wire::Phase::Running));
    facts.duplicate = true;
    facts.standing.sync = Sync::AheadOfCluster { accept: 3 };
    let status = node::compose(&facts, &Value::Null, now());
    assert_eq!(condition(&status, "Ready"), ("False", "DuplicateIdentity"));
    assert_eq!(condition(&status, "Synced"), ("False", "AheadOfCluster"));
    let text = status["conditions"].to_string();
    assert!(text.contains("data.epoch of ConfigMap selvedge-cluster to 3"), "{text}");
    assert!(text.contains("selvedge.dev/accept-restore=3"), "{text}");
    // Said also before the agent has reported anything.
    facts.machine = None;
    let status = node::compose(&facts, &Value::Null, now());
    assert_eq!(condition(&status, "Ready"), ("False", "DuplicateIdentity"));
}

#[test]
fn an_answer_of_the_agent_wakes_the_writer_only_if_it_changes_where_the_node_stands() {
    let start = crate::clock::now();
    let due = |settled, answered, refused| {
        let mut book = Book::new("n1".into());
        book.composed(settled, false);
        book.acked(answered, refused, start);
        book.due().is_some()
    };
    assert!(!due(Some(3), 3, false), "all stands as the status says");
    assert!(due(None, 3, false) && due(Some(3), 4, false) && due(Some(3), 2, false) && due(Some(3), 3, true));
}

#[test]
fn a_node_that_has_all_is_looked_at_again_if_its_status_says_that_something_is_on_its_way() {
    let start = crate::clock::now();
    let due = |delivering| {
        let mut book = Book::new("n1".into());
        book.composed(None, delivering);
        book.delivered(start);
        let due = book.due().is_some();
        book.delivered(start);
        (due, book.due().is_some())
    };
    assert_eq!((due(true), due(false)), ((true, true), (false, false)));
}

#[test]
fn what_a_status_says_already_is_not_said_again_unless_somebody_else_has_written() {
    let start = crate::clock::now();
    let mut book = Book::new("n1".into());
    let tank = Target::Device(ObjectKey::new("shop", "tank"));
    let known = Known::of(&json!({"metadata": {"resourceVersion": "7"}, "status": {}}));
    let written = Written { code: Some(Code::Written), reason: "", known: Some(known), newer: None };
    book.report(report(1), start);
    book.jobs(start, 8);
    assert!(!book.says(&tank, WANTED, None));
    book.written(&tank, &written, start);
    assert!(book.says(&tank, WANTED, None) && book.says(&tank, WANTED, Some(7)));
    assert!(!book.says(&tank, WANTED, Some(8)) && !book.says(&tank, OLDER, Some(7)));
    // A write of which nobody knows how it ended.
    book.report(report(2), start);
    book.jobs(start, 8);
    book.written(&tank, &Written { code: Some(Code::Refused), reason: "", known: None, newer: None }, start);
    assert!(!book.says(&tank, WANTED, None));
}

/// What an agent had all along is reported as its session begins, before the sets are compared, and never again.
#[test]
fn a_device_that_was_on_its_way_is_told_again_once_all_is_there() {
    let start = crate::clock::now();
    let later = start + Duration::from_secs(60);
    let tank = ObjectKey::new("shop", "tank");
    let mut book = Book::new("n1".into());
    book.awaits(&tank);
    assert!(book.jobs(later, 8).is_empty(), "nothing has changed yet");
    book.delivered(start);
    let jobs: Vec<Target> = book.jobs(later, 8).into_iter().map(|job| job.target).collect();
    assert_eq!(jobs, [Target::Device(tank)]);
    book.delivered(later);
    assert!(book.jobs(later + Duration::from_secs(60), 8).is_empty(), "it is told once");
}
