//! Reports on objects that were deleted and created anew under their names before anything was written.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use selvedge_model::{ContentHash, Digest, EntryKey, EntryKind, SessionId, Watermark};
use selvedge_protocol::agent::{self as wire, entry_report::State, verdict::Code};
use serde_json::{Value, json};

use crate::index::{Event, Index, ObjectKey, Resource};
use crate::removals::Removals;
use crate::session::greeting::Greeted;
use crate::session::limit::Limits;
use crate::session::{Reported, Session, View};
use crate::status::{Begun, Book, Known, Recall, Target, Work, Written, work};

/// A write, what the status came to say, and the verdicts by name.
type Done = (Work, Value, Vec<(String, Code)>);

struct Stage {
    index: Index,
    removals: Removals,
    session: Session,
    book: Book,
    recall: Recall,
    now: Instant,
    revision: u64,
}

impl Stage {
    /// A node with a Device and an EdgeApplication; its agent has seen Devices up to a revision.
    fn new(devices_seen: u64) -> Self {
        let now = crate::clock::now();
        let mut watermark = Watermark::default();
        watermark.raise(&Resource::Devices.to_string(), devices_seen);
        let session = SessionId { counter: 1, nonce: 0 };
        let greeted = Greeted {
            session,
            digest: Digest::EMPTY,
            watermark,
            epoch: 0,
            redirects: 0,
            inflates: true,
            limits: Limits::default(),
            refused: Vec::new(),
        };
        let session = Session::new("n1".into(), "u1".into(), greeted, now);
        let (removals, recall) = (Removals::default(), Recall::default());
        let (index, book) = (Index::default(), Book::new("n1".into()));
        let mut stage = Self { index, removals, session, book, recall, now, revision: 1 };
        for resource in Resource::CORE {
            stage.index.apply(Event::Listed(resource, 1));
        }
        let labels = json!({"selvedge.dev/edge": "enabled"});
        stage.put(Resource::Namespaces, json!({"metadata": {"name": "shop", "labels": labels}}));
        let labels = json!({"tier": "shop"});
        stage.put(Resource::EdgeNodes, json!({"metadata": {"name": "n1", "uid": "u1", "labels": labels}}));
        let property =
            json!({"name": "level", "type": "float", "access": "ReadOnly", "source": {"simulated": {}}});
        let model = json!({"name": "tank", "namespace": "shop", "uid": "m1"});
        stage.put(Resource::DeviceModels, json!({"metadata": model, "spec": {"properties": [property]}}));
        let template = json!({"spec": {"containers": [{"name": "c", "image": "web:1"}]}});
        let labels = json!({"selvedge.dev/application": "web"});
        stage.put(
            Resource::ControllerRevisions,
            json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": labels},
                "data": {"selector": {"matchLabels": {"tier": "shop"}}, "template": template}}),
        );
        stage.objects("1");
        stage
    }

    /// Sets are compared: the agent has nothing yet.
    fn compare(&mut self) {
        let view = View { index: &self.index, gate: &self.removals, now: self.now };
        self.session.proceed(view);
        self.session.admitted(view);
        let inventory = wire::Inventory { last: true, ..Default::default() };
        self.session.receive(wire::to_hub::Message::Inventory(inventory), view);
        assert!(self.session.knows_its_agent());
    }

    fn put(&mut self, resource: Resource, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.index.apply(Event::Applied(resource, object));
    }

    /// Device and EdgeApplication, under uids of their own.
    fn objects(&mut self, life: &str) {
        let metadata =
            json!({"name": "tank", "namespace": "shop", "uid": format!("d{life}"), "generation": 1});
        let spec = json!({"nodeName": "n1", "modelRef": {"name": "tank"}, "protocol": {"simulated": {}}});
        self.put(Resource::Devices, json!({"metadata": metadata, "spec": spec}));
        let interval = json!({"from": 0, "to": 1_u64 << 32, "revision": "web-1"});
        let metadata = json!({"name": "web", "namespace": "shop", "uid": format!("a{life}")});
        let status = json!({"rollout": {"intervals": [interval]}});
        self.put(Resource::EdgeApplications, json!({"metadata": metadata, "status": status}));
    }

    /// The agent says that both are in force, each with a state that it has read.
    fn report(&mut self, life: &str) {
        self.report_device(life);
        let phase = wire::Phase::Running.into();
        let state = wire::WorkloadState { phase, revision: "web-1".into(), ..Default::default() };
        self.told(EntryKind::Workload, "web", format!("a{life}"), 2, State::Workload(state));
    }

    /// The agent says this of the Device alone.
    fn report_device(&mut self, life: &str) {
        let property =
            wire::PropertyState { name: "level".into(), reported: "7".into(), ..Default::default() };
        let device = wire::DeviceState { connected: true, properties: vec![property], ..Default::default() };
        self.told(EntryKind::Device, "tank", format!("d{life}"), 1, State::Device(device));
    }

    fn told(&mut self, kind: EntryKind, name: &str, uid: String, seq: u64, state: State) {
        let (key, content) = (EntryKey::new(kind, "shop", name), Some(ContentHash([1; 32])));
        self.book.report(Reported { key, uid, content, seq, state: Some(state) }, self.now);
    }

    /// What comes of the jobs that are due: of the node first, then of the device.
    fn begin(&mut self) -> Vec<Begun> {
        let view = View { index: &self.index, gate: &self.removals, now: self.now };
        let jobs = self.book.jobs(self.now, 8);
        let (book, session, recall) = (&mut self.book, &self.session, &self.recall);
        let begun = jobs
            .into_iter()
            .map(|job| work(job, book, session, view, false, recall, || Timestamp::UNIX_EPOCH));
        begun.collect()
    }

    /// The writes that begin, each done by the API server: what the status would say, and the verdicts.
    fn write(&mut self) -> Vec<Done> {
        let begun = self.begin();
        let done = |begun| match begun {
            Begun::Write(work) => {
                let status = (work.compose)(&Value::Null);
                let revision = self.revision.to_string();
                let known = Known::of(&json!({"metadata": {"resourceVersion": revision}, "status": status}));
                let written =
                    Written { code: Some(Code::Written), reason: "", known: Some(known), newer: None };
                let verdicts = self.book.written(&work.target, &written, self.now);
                let verdicts =
                    verdicts.into_iter().map(|one| (one.key.clone().unwrap().name, one.code())).collect();
                (work, status, verdicts)
            }
            _ => panic!("nothing is written"),
        };
        begun.into_iter().map(done).collect()
    }
}

fn tank() -> Target {
    Target::Device(ObjectKey::new("shop", "tank"))
}

#[test]
fn a_report_on_an_object_that_stands_is_written() {
    let mut stage = Stage::new(0);
    stage.report("1");
    let written = stage.write();
    let [(_, node, of_node), (_, device, of_device)] = &written[..] else {
        panic!("{} writes", written.len())
    };
    assert_eq!(of_node, &[("web".to_owned(), Code::Written)]);
    assert_eq!(of_device, &[("tank".to_owned(), Code::Written)]);
    assert_eq!(
        (&node["applications"][0]["state"], &node["summary"]["devices"]),
        (&json!("Running"), &json!("1/1"))
    );
    assert_eq!(device["properties"][0]["reported"], 7);
}

#[test]
fn a_report_on_an_object_that_was_created_anew_is_gone_and_says_nothing_of_the_new_one() {
    let mut stage = Stage::new(0);
    stage.compare();
    stage.report("1");
    stage.objects("2");
    let written = stage.write();
    let [(_, node, of_node), (work, device, of_device)] = &written[..] else {
        panic!("{} writes", written.len())
    };
    assert_eq!(
        (of_node, of_device),
        (&vec![("web".to_owned(), Code::Gone)], &vec![("tank".to_owned(), Code::Gone)])
    );
    assert_eq!((&work.target, &*work.uid), (&tank(), "d2"));
    assert!(device["properties"].is_null(), "{device}");
    assert_eq!(
        (&node["applications"][0]["state"], &node["summary"]["devices"]),
        (&json!("Pending"), &json!("0/1"))
    );
    // What is reported of the new one is of it.
    stage.report("2");
    let written = stage.write();
    assert!(written.iter().all(|(_, _, verdicts)| verdicts.iter().all(|(_, code)| *code == Code::Written)));
}

#[test]
fn what_was_written_before_says_nothing_of_a_new_object() {
    let mut stage = Stage::new(0);
    stage.report("1");
    stage.write();
    stage.objects("2");
    stage.book.device_news(&ObjectKey::new("shop", "tank"), stage.now);
    stage.now += Duration::from_secs(1);
    let written = stage.write();
    assert!(written[0].1["properties"].is_null(), "the older one's values are shown as the new one's");
}

/// Its node's status was written before anything was said of it.
#[test]
fn a_new_object_that_stands_as_the_one_before_it_did_is_told_to_its_node() {
    let mut stage = Stage::new(0);
    stage.report("1");
    stage.write();
    stage.objects("2");
    stage.book.news(stage.now, false);
    let [(_, node, _)] = &stage.write()[..] else { panic!("only the node is written") };
    assert_eq!(node["summary"]["devices"], "0/1");
    stage.report_device("2");
    let [(_, node, _), (_, device, _)] = &stage.write()[..] else {
        panic!("the node's status stays as it was")
    };
    assert_eq!(
        (&node["summary"]["devices"], &device["properties"][0]["reported"]),
        (&json!("1/1"), &json!(7))
    );
}

#[test]
fn a_replica_that_is_behind_calls_nothing_gone() {
    let mut stage = Stage::new(1_000);
    stage.report("1");
    stage.objects("2");
    let begun = stage.begin();
    assert!(begun.iter().all(|begun| matches!(begun, Begun::Later)), "{} jobs", begun.len());
    assert_eq!(stage.book.due(), Some(stage.now + Duration::from_secs(5)));
    // It has caught up, and they are.
    stage.index.apply(Event::Reached(Resource::Devices, 1_000));
    stage.compare();
    stage.now += Duration::from_secs(5);
    let written = stage.write();
    let codes: Vec<Code> =
        written.iter().flat_map(|(_, _, verdicts)| verdicts).map(|(_, code)| *code).collect();
    assert_eq!(codes, [Code::Gone, Code::Gone]);
}

/// Which revision of an application a late node keeps, and so what its set is, shows when the sets are compared.
#[test]
fn nothing_is_gone_before_the_sets_were_compared() {
    let mut stage = Stage::new(0);
    stage.report("1");
    stage.objects("2");
    let begun = stage.begin();
    assert!(begun.iter().all(|begun| matches!(begun, Begun::Later)), "{} jobs", begun.len());
}

#[test]
fn what_the_api_server_does_not_have_is_not_called_gone_before_the_caches_say_so() {
    let mut stage = Stage::new(0);
    stage.compare();
    stage.report("1");
    let begun = stage.begin();
    let works = begun.into_iter().filter_map(|begun| match begun {
        Begun::Write(work) => Some(work.target),
        _ => None,
    });
    for target in works.collect::<Vec<_>>() {
        assert_eq!(stage.book.written(&target, &Written::missing(), stage.now), [], "{target}");
    }
    assert_eq!(stage.book.due(), Some(stage.now + Duration::from_secs(5)));
    stage.objects("2");
    stage.now += Duration::from_secs(5);
    let written = stage.write();
    let codes = written.iter().flat_map(|(_, _, verdicts)| verdicts).map(|(_, code)| *code);
    assert_eq!(codes.collect::<Vec<_>>(), [Code::Gone, Code::Gone]);
}

/// A status is written between the Welcome and the comparison of sets, while nobody knows what the agent has.
#[test]
fn what_was_reported_before_the_sets_were_compared_is_not_forgotten() {
    let mut stage = Stage::new(0);
    let web = || json!({"name": "web", "namespace": "shop", "uid": "a1"});
    stage.put(Resource::EdgeApplications, json!({"metadata": web()}));
    stage.report("1");
    stage.write();
    let interval = json!({"from": 0, "to": 1_u64 << 32, "revision": "web-1"});
    let status = json!({"rollout": {"intervals": [interval]}});
    stage.put(Resource::EdgeApplications, json!({"metadata": web(), "status": status}));
    stage.book.news(stage.now, false);
    let [(_, node, _)] = &stage.write()[..] else { panic!("only the node is written") };
    assert_eq!(node["applications"][0]["state"], "Running");
}
