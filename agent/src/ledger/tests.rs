//! The ledger against a hub that changes its mind, frames that come twice or late, full disks, and
//! crashes between any two steps.

mod file;
mod property;

use std::collections::BTreeMap;

use bytes::Bytes;
use selvedge_model::{ContentHash, Digest, EntryKind, SessionId, canonical_json};
use selvedge_protocol::agent::{self as wire, to_agent::Message as FromHub, to_hub::Message as ToHub};
use serde_json::{Value, json};

use super::{Desired, Machine, MemoryStore, Publisher, Row, RowKey, Store, StoreError};

const CLUSTER: &str = "cluster-1";

/// What the test hub wants of one key.
#[derive(Clone, Debug)]
struct Offer {
    uid: String,
    revision: u64,
    body: Bytes,
}

impl Offer {
    fn new(uid: &str, revision: u64, body: &Value) -> Self {
        Self { uid: uid.into(), revision, body: canonical_json(body).into() }
    }

    fn hash(&self) -> ContentHash {
        ContentHash::of_canonical(&self.body)
    }
}

fn key(kind: u8, name: &str, version: &str) -> RowKey {
    RowKey { kind, namespace: "shop".into(), name: name.into(), version: version.into() }
}

fn device(name: &str) -> RowKey {
    key(EntryKind::Device.number(), name, "")
}

fn workload(name: &str) -> RowKey {
    key(EntryKind::Workload.number(), name, "")
}

fn config_map(name: &str, version: &str) -> RowKey {
    key(EntryKind::ConfigMap.number(), name, version)
}

fn device_body(host: &str) -> Value {
    json!({"protocol": {"modbus": {"tcp": {"host": host}}}})
}

fn workload_body(revision: &str, config_map: &str, version: &str) -> Value {
    let references = json!([{"kind": "ConfigMap", "name": config_map, "version": version}]);
    json!({"revision": revision, "references": references, "template": {}})
}

/// The answered set of a machine.
fn answered<S: Store>(machine: &Machine<S>) -> BTreeMap<RowKey, (String, ContentHash)> {
    let rows = machine.rows().iter();
    rows.filter_map(|(key, row)| {
        let version = &row.answered.as_ref()?.version;
        Some((key.clone(), (version.uid.clone(), version.hash)))
    })
    .collect()
}

fn row<'a, S: Store>(machine: &'a Machine<S>, key: &RowKey) -> &'a Row {
    &machine.rows()[key]
}

/// The deltas of at most `chunk` changes each that lead from what `machine` answered to `wanted`.
fn deltas<S: Store>(
    machine: &Machine<S>,
    wanted: &BTreeMap<RowKey, Offer>,
    chunk: usize,
    revision: u64,
) -> Vec<wire::Delta> {
    enum Change<'a> {
        Remove(RowKey, String, ContentHash),
        Upsert(RowKey, &'a Offer, Option<(String, ContentHash)>),
    }
    let has = answered(machine);
    let mut changes = Vec::new();
    for (key, (uid, hash)) in &has {
        if !wanted.contains_key(key) {
            changes.push(Change::Remove(key.clone(), uid.clone(), *hash));
        }
    }
    for (key, offer) in wanted {
        let old = has.get(key).cloned();
        if old.as_ref().is_none_or(|(uid, hash)| *uid != offer.uid || *hash != offer.hash()) {
            changes.push(Change::Upsert(key.clone(), offer, old));
        }
    }
    let mut digest = machine.meta().digest;
    let mut deltas = Vec::new();
    for (index, changes) in changes.chunks(chunk).enumerate() {
        let mut delta = wire::Delta { base_digest: digest.to_bytes().to_vec(), ..Default::default() };
        delta.nonce = index as u64 + 1;
        for change in changes {
            match change {
                Change::Remove(key, uid, hash) => {
                    digest = digest.minus(key.row_hash(uid, hash));
                    delta.removes.push(wire::Remove { key: Some(key.into()), uid: uid.clone() });
                }
                Change::Upsert(key, offer, old) => {
                    if let Some((uid, hash)) = old {
                        digest = digest.minus(key.row_hash(uid, hash));
                    }
                    digest = digest.plus(key.row_hash(&offer.uid, &offer.hash()));
                    delta.upserts.push(upsert(key, offer));
                }
            }
        }
        delta.target_digest = digest.to_bytes().to_vec();
        deltas.push(delta);
    }
    if let Some(last) = deltas.last_mut() {
        last.watermark = Some(mark(0, revision));
    }
    deltas
}

fn upsert(key: &RowKey, offer: &Offer) -> wire::Upsert {
    wire::Upsert {
        key: Some(key.into()),
        uid: offer.uid.clone(),
        source_revision: offer.revision,
        revision: format!("rev-{}", offer.revision),
        content_hash: offer.hash().0.to_vec(),
        encoding: wire::Encoding::Json.into(),
        body: offer.body.clone(),
    }
}

fn mark(epoch: u64, revision: u64) -> wire::Watermark {
    let revisions = [("devices".to_owned(), revision)].into();
    wire::Watermark { cluster_id: CLUSTER.into(), epoch, revisions }
}

fn welcome(epoch: u64) -> FromHub {
    FromHub::Welcome(wire::Welcome { cluster_id: CLUSTER.into(), epoch, ..Default::default() })
}

fn open(store: MemoryStore) -> Machine<MemoryStore> {
    Machine::open(store, "1", CLUSTER).unwrap()
}

fn begin<S: Store>(machine: &mut Machine<S>) -> SessionId {
    let (session, _) = machine.hello(7, 0).unwrap();
    machine.receive(session, welcome(machine.meta().watermark.epoch)).unwrap();
    session
}

/// Makes one entry the whole set.
pub fn set<S: Store>(machine: &mut Machine<S>, key: &selvedge_model::EntryKey, body: &serde_json::Value) {
    sync(machine, &[(RowKey::from(key), Offer::new("u", 1, body))].into(), 1);
}

/// One delta from what the machine has to `wanted`, in a session of its own.
fn sync<S: Store>(machine: &mut Machine<S>, wanted: &BTreeMap<RowKey, Offer>, revision: u64) -> Vec<ToHub> {
    let session = begin(machine);
    let mut answers = Vec::new();
    for delta in deltas(machine, wanted, 100, revision) {
        answers.extend(machine.receive(session, FromHub::Delta(delta)).unwrap().answers);
    }
    answers
}

fn digest_of<S: Store>(machine: &Machine<S>) -> Digest {
    answered(machine).iter().map(|(key, (uid, hash))| key.row_hash(uid, hash)).collect()
}

fn only_delta(key: &RowKey, offer: &Offer, digest: Digest) -> wire::Delta {
    wire::Delta {
        nonce: 99,
        base_digest: digest.to_bytes().to_vec(),
        upserts: vec![upsert(key, offer)],
        target_digest: digest.plus(key.row_hash(&offer.uid, &offer.hash())).to_bytes().to_vec(),
        watermark: Some(mark(0, offer.revision)),
        ..Default::default()
    }
}

#[test]
fn a_workload_waits_for_what_it_names_and_the_old_one_runs_on() {
    let mut machine = open(MemoryStore::default());
    let web = workload("web");
    let data = Offer::new("m", 1, &json!({"data": {"a": "1"}}));
    let first = Offer::new("w", 1, &workload_body("r1", "menu", "v1"));
    let wanted = [(config_map("menu", "v1"), data.clone()), (web.clone(), first)].into();
    sync(&mut machine, &wanted, 1);
    assert_eq!(row(&machine, &web).in_force.as_ref().unwrap().source_revision, 1);

    // The new version names what is not there yet, and the hub has removed the old reference already.
    let second = Offer::new("w", 2, &workload_body("r2", "menu", "v2"));
    sync(&mut machine, &[(web.clone(), second.clone())].into(), 2);
    assert!(row(&machine, &web).pending);
    assert_eq!(row(&machine, &web).in_force.as_ref().unwrap().source_revision, 1);
    assert!(machine.entry(&config_map("menu", "v1")).unwrap().is_some(), "what runs can start again");
    let publisher = Publisher::load(&mut machine).unwrap();
    assert_eq!(publisher.desired(&machine).held_back[0].reason, "WaitingForReferences");

    let mut machine = open(machine.store().clone());
    sync(&mut machine, &[(config_map("menu", "v2"), data), (web.clone(), second)].into(), 3);
    assert_eq!(row(&machine, &web).in_force.as_ref().unwrap().source_revision, 2);
    assert!(!machine.rows().contains_key(&config_map("menu", "v1")), "nobody names it any more");
    assert!(machine.entry(&web).unwrap().is_some());
}

#[test]
fn a_refused_entry_leaves_its_last_good_version_and_blocks_no_other() {
    let mut machine = open(MemoryStore::default());
    let (boiler, other) = (device("boiler"), device("other"));
    sync(&mut machine, &[(boiler.clone(), Offer::new("b", 1, &device_body("a")))].into(), 1);
    let bad = Offer::new("b", 2, &json!({"protocol": 5}));
    let good = Offer::new("o", 2, &device_body("c"));
    let stranger = key(77, "thing", "");
    let wanted: BTreeMap<_, _> =
        [(boiler.clone(), bad), (other.clone(), good), (stranger.clone(), Offer::new("t", 2, &json!({})))]
            .into();
    let answers = sync(&mut machine, &wanted, 2);
    let [ToHub::Ack(ack)] = &answers[..] else { panic!("{answers:?}") };
    let reasons: Vec<_> = ack.refused.iter().map(|refused| refused.reason.as_str()).collect();
    assert_eq!(reasons, ["Undecodable", "UnknownKind"]);
    assert_eq!(row(&machine, &boiler).in_force.as_ref().unwrap().source_revision, 1);
    assert!(row(&machine, &other).in_force.is_some());
    assert!(deltas(&machine, &wanted, 100, 2).is_empty(), "answered, so not offered again");

    // A newer agent may understand them: it is offered them again.
    let mut machine = Machine::open(machine.store().clone(), "2", CLUSTER).unwrap();
    assert_eq!(machine.meta().digest, digest_of(&machine));
    assert!(!machine.rows().contains_key(&stranger));
    let offered = deltas(&machine, &wanted, 100, 3).remove(0).upserts;
    assert_eq!(offered.len(), 2);
    sync(&mut machine, &wanted, 3);
    assert!(deltas(&machine, &wanted, 100, 3).is_empty());
}

#[test]
fn a_body_that_is_not_what_its_hash_says_is_refused() {
    let mut machine = open(MemoryStore::default());
    let session = begin(&mut machine);
    let offer = Offer::new("b", 1, &device_body("a"));
    let mut delta = only_delta(&device("boiler"), &offer, Digest::EMPTY);
    delta.upserts[0].body = Bytes::from_static(b"{\"protocol\":{}}");
    let outcome = machine.receive(session, FromHub::Delta(delta)).unwrap();
    let [ToHub::Ack(ack)] = &outcome.answers[..] else { panic!("{outcome:?}") };
    assert_eq!(ack.refused[0].reason, "HashMismatch");
    assert!(outcome.changed.is_empty());
}

#[test]
fn what_does_not_fit_or_is_older_is_not_taken() {
    let mut machine = open(MemoryStore::default());
    let boiler = device("boiler");
    sync(&mut machine, &[(boiler.clone(), Offer::new("b", 5, &device_body("a")))].into(), 9);
    let session = begin(&mut machine);
    let digest = machine.meta().digest;
    let mut resync = |change: &dyn Fn(&mut wire::Delta)| {
        let mut delta = only_delta(&device("new"), &Offer::new("n", 9, &device_body("a")), digest);
        change(&mut delta);
        let outcome = machine.receive(session, FromHub::Delta(delta)).unwrap();
        match &outcome.answers[..] {
            [ToHub::Resync(resync)] => resync.reason.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(resync(&|delta| delta.base_digest = vec![0; 32]), "BaseDigest");
    assert_eq!(resync(&|delta| delta.target_digest = vec![0; 32]), "TargetDigest");
    assert_eq!(resync(&|delta| delta.target_digest = vec![0; 3]), "Malformed");
    assert_eq!(resync(&|delta| delta.watermark = Some(mark(0, 8))), "OlderWatermark");
    let older = Offer::new("b", 4, &device_body("z"));
    assert_eq!(resync(&|delta| delta.upserts = vec![upsert(&boiler, &older)]), "OlderRevision");
    assert_eq!(machine.meta().digest, digest);
}

#[test]
fn a_removal_is_void_for_another_uid() {
    let mut machine = open(MemoryStore::default());
    let boiler = device("boiler");
    sync(&mut machine, &[(boiler.clone(), Offer::new("new", 5, &device_body("a")))].into(), 5);
    let session = begin(&mut machine);
    let digest = machine.meta().digest.to_bytes().to_vec();
    let delta = wire::Delta {
        nonce: 1,
        base_digest: digest.clone(),
        removes: vec![wire::Remove { key: Some((&boiler).into()), uid: "old".into() }],
        target_digest: digest,
        ..Default::default()
    };
    machine.receive(session, FromHub::Delta(delta)).unwrap();
    assert!(machine.rows().contains_key(&boiler));
}

#[test]
fn a_full_disk_is_answered_and_commits_nothing() {
    let mut machine = open(MemoryStore::default());
    let session = begin(&mut machine);
    machine.store().full = true;
    let delta = only_delta(&device("a"), &Offer::new("a", 1, &device_body("a")), Digest::EMPTY);
    let outcome = machine.receive(session, FromHub::Delta(delta.clone())).unwrap();
    assert!(matches!(outcome.answers[..], [ToHub::Retry(_)]), "{outcome:?}");
    assert!(machine.rows().is_empty());
    machine.hello(1, 0).unwrap();
    machine.store().full = false;
    let session = begin(&mut machine);
    let outcome = machine.receive(session, FromHub::Delta(delta)).unwrap();
    assert!(matches!(outcome.answers[..], [ToHub::Ack(_)]), "the same again: {outcome:?}");
}

#[test]
fn frames_of_another_session_and_frames_before_the_welcome_are_dropped() {
    let mut machine = open(MemoryStore::default());
    let old = begin(&mut machine);
    let (session, hello) = machine.hello(8, 0).unwrap();
    assert!(session > old);
    assert_eq!(hello.session, Some(session.into()));
    let delta =
        || FromHub::Delta(only_delta(&device("a"), &Offer::new("a", 1, &device_body("a")), Digest::EMPTY));
    assert!(machine.receive(old, delta()).unwrap().answers.is_empty());
    assert!(machine.receive(session, delta()).unwrap().answers.is_empty());
    machine.receive(session, welcome(0)).unwrap();
    assert_eq!(machine.receive(session, delta()).unwrap().answers.len(), 1);
    assert_eq!(machine.receive(session, delta()).unwrap().answers.len(), 0, "twice is once");
}

#[test]
fn a_stale_counter_goes_above_the_newest_and_another_cluster_changes_nothing() {
    let mut machine = open(MemoryStore::default());
    let (session, _) = machine.hello(1, 0).unwrap();
    let stale = wire::Refused {
        code: wire::refused::Code::Stale.into(),
        newest: Some(wire::Session { counter: 41, nonce: 3 }),
        ..Default::default()
    };
    machine.receive(session, FromHub::Refused(stale)).unwrap();
    let mut machine = open(machine.store().clone());
    assert_eq!(machine.hello(1, 0).unwrap().0.counter, 42);

    let (session, _) = machine.hello(1, 0).unwrap();
    let before = machine.meta().clone();
    let foreign = wire::Welcome { cluster_id: "other".into(), epoch: 9, ..Default::default() };
    let outcome = machine.receive(session, FromHub::Welcome(foreign)).unwrap();
    assert!(outcome.close.unwrap().contains("other"));
    assert_eq!(*machine.meta(), before);
    assert!(matches!(Machine::open(machine.store().clone(), "1", "other"), Err(StoreError::Damaged(_))));
}

#[test]
fn a_new_epoch_empties_the_watermark_and_keeps_the_rows() {
    let mut machine = open(MemoryStore::default());
    let boiler = device("boiler");
    let offer = Offer::new("b", 50, &device_body("a"));
    sync(&mut machine, &[(boiler.clone(), offer)].into(), 50);
    let (session, _) = machine.hello(1, 0).unwrap();
    machine.receive(session, welcome(1)).unwrap();
    assert!(machine.meta().watermark.revisions.is_empty());
    // The restored cluster counts from an older revision: in the new epoch that is no time travel.
    let restored = Offer::new("b", 20, &device_body("b"));
    let mut delta = deltas(&machine, &[(boiler.clone(), restored)].into(), 9, 20).remove(0);
    delta.watermark = Some(mark(1, 20));
    let outcome = machine.receive(session, FromHub::Delta(delta)).unwrap();
    assert!(matches!(outcome.answers[..], [ToHub::Ack(_)]), "{outcome:?}");
    assert_eq!(outcome.changed, [boiler]);
}

#[test]
fn large_sets_answer_buckets_first_and_then_rows() {
    let mut machine = open(MemoryStore::default());
    let wanted: BTreeMap<_, _> =
        (0..600).map(|i| (device(&format!("d{i}")), Offer::new("u", 1, &device_body("a")))).collect();
    sync(&mut machine, &wanted, 1);
    let session = begin(&mut machine);
    let mut ask = |buckets: Vec<u32>| -> Vec<wire::Inventory> {
        let outcome = machine.receive(session, FromHub::Compare(wire::Compare { buckets })).unwrap();
        let inventory = |answer| match answer {
            ToHub::Inventory(inventory) => inventory,
            other => panic!("{other:?}"),
        };
        outcome.answers.into_iter().map(inventory).collect()
    };
    let first = ask(vec![]);
    assert_eq!((first.len(), first[0].buckets.len(), first[0].rows.len()), (1, 256, 0));
    let all = ask((0..256).collect());
    assert_eq!(all.iter().map(|inventory| inventory.rows.len()).sum::<usize>(), 600);
    assert_eq!(all.iter().map(|inventory| inventory.last).collect::<Vec<_>>(), [false, false, true]);
    let one = ask(vec![u32::from(device("d0").bucket())]);
    assert!(one[0].rows.iter().any(|row| row.key.as_ref().is_some_and(|key| key.name == "d0")));
    assert!(one[0].rows.len() < 60 && one[0].last);
}

#[test]
fn a_farewell_stops_workloads_only_when_the_settings_say_so() {
    let mut machine = open(MemoryStore::default());
    let settings = RowKey::from(&selvedge_model::EntryKey::node_settings());
    let farewell = || FromHub::Farewell(wire::Farewell::default());
    sync(&mut machine, &[(settings.clone(), Offer::new("n", 1, &json!({})))].into(), 1);
    let session = begin(&mut machine);
    machine.receive(session, farewell()).unwrap();
    assert!(!machine.meta().stopped);
    sync(&mut machine, &[(settings, Offer::new("n", 2, &json!({"onDelete": "Stop"})))].into(), 2);
    let session = begin(&mut machine);
    machine.receive(session, farewell()).unwrap();
    let publisher = Publisher::default();
    let desired: std::sync::Arc<Desired> = publisher.desired(&machine);
    assert!(desired.stopped && desired.complete);
    let mut machine = open(machine.store().clone());
    assert!(machine.meta().stopped, "a restart starts it again");
    let session = begin(&mut machine);
    assert!(machine.meta().stopped, "what the ledger holds is not what a hub that greets wants here now");
    machine.receive(session, FromHub::InSync(wire::InSync {})).unwrap();
    assert!(!machine.meta().stopped, "a hub knows this node again");
}
