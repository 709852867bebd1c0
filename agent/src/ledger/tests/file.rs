//! The ledger on a real disk: opened again, truncated, overwritten, deleted, held by another.

use std::{fs, path::Path, sync::Arc};

use selvedge_model::EntryKind;
use selvedge_protocol::agent::{EntryReport, WorkloadState, entry_report::State};
use serde_json::json;
use tokio::sync::watch;

use super::{
    CLUSTER, Offer, answered, begin, config_map, deltas, device, device_body, key, sync, workload,
    workload_body,
};
use crate::ledger::{
    Desired, Handle, KEY_FILE, LEDGER_FILE, Machine, OpenError, Opened, Publisher, RowKey, SqliteStore, open,
    run,
};
use selvedge_protocol::agent::to_agent::Message as FromHub;

fn wanted() -> std::collections::BTreeMap<RowKey, Offer> {
    let data = Offer::new("m", 1, &json!({"data": {"a": "1"}}));
    let web = Offer::new("w", 1, &workload_body("r1", "menu", "v1"));
    let waits = Offer::new("x", 1, &workload_body("r1", "menu", "v2"));
    [(config_map("menu", "v1"), data), (workload("web"), web), (workload("waits"), waits)].into()
}

fn opened(dir: &Path) -> Opened {
    open(dir, "1", CLUSTER).unwrap()
}

#[test]
fn what_was_answered_is_there_when_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { mut machine, notice } = opened(dir.path());
    assert_eq!(notice, "");
    sync(&mut machine, &wanted(), 7);
    let (rows, meta) = (machine.rows().clone(), machine.meta().clone());
    assert!(rows[&workload("waits")].pending);
    drop(machine);

    let Opened { mut machine, notice } = opened(dir.path());
    assert_eq!(notice, "");
    assert_eq!(*machine.rows(), rows);
    assert_eq!(machine.meta().watermark, meta.watermark);
    assert!(machine.meta().complete);
    assert!(machine.entry(&workload("web")).unwrap().is_some());

    // The pending body was kept too: it comes into force when its reference does.
    let mut wanted = wanted();
    wanted.insert(config_map("menu", "v2"), Offer::new("m", 2, &json!({})));
    sync(&mut machine, &wanted, 8);
    assert!(machine.entry(&workload("waits")).unwrap().is_some());
    sync(&mut machine, &std::collections::BTreeMap::new(), 9);
    assert!(machine.rows().is_empty());
}

/// A Secret, a workload in force that names it, and a device.
fn secretive() -> std::collections::BTreeMap<RowKey, Offer> {
    let secret = key(EntryKind::Secret.number(), "pins", "k1");
    let body = json!({"references": [{"kind": "Secret", "name": "pins", "version": "k1"}], "revision": "r1", "template": {}});
    [
        (secret, Offer::new("p", 1, &json!({"data": {"pin": "aHVudGVyMg=="}, "salt": "s"}))),
        (workload("web"), Offer::new("w", 1, &body)),
        (device("boiler"), Offer::new("d", 1, &device_body("h"))),
    ]
    .into()
}

fn desired(machine: &mut Machine<SqliteStore>) -> Arc<Desired> {
    Publisher::load(machine).unwrap().desired(machine)
}

#[test]
fn secrets_are_on_the_disk_for_nobody_who_lacks_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { mut machine, .. } = opened(dir.path());
    sync(&mut machine, &secretive(), 7);
    let files = || fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    for text in ["hunter2", "aHVudGVyMg"] {
        for file in files() {
            let bytes = fs::read(&file).unwrap();
            assert!(
                !bytes.windows(text.len()).any(|w| w == text.as_bytes()),
                "{text} is in {}",
                file.display()
            );
        }
    }
    assert!(
        files().any(|file| file.ends_with(format!("{LEDGER_FILE}-wal"))),
        "what was not looked at says nothing"
    );
    drop(machine);
    let Opened { mut machine, notice } = opened(dir.path());
    assert_eq!((notice.as_str(), desired(&mut machine).of_kind(EntryKind::Secret).count()), ("", 1));
}

#[test]
fn a_lost_key_costs_the_secrets_and_nothing_else() {
    for lose in
        [(|path| fs::remove_file(path).unwrap()) as fn(&Path), |path| fs::write(path, "garbage").unwrap()]
    {
        let dir = tempfile::tempdir().unwrap();
        let Opened { mut machine, .. } = opened(dir.path());
        sync(&mut machine, &secretive(), 7);
        let whole = machine.meta().digest;
        drop(machine);
        lose(&dir.path().join(KEY_FILE));

        let Opened { mut machine, notice } = opened(dir.path());
        assert!(notice.contains("1 of them"), "{notice}");
        let now = desired(&mut machine);
        assert_eq!(now.of_kind(EntryKind::Secret).count(), 0);
        assert_eq!(
            (now.of_kind(EntryKind::Workload).count(), now.of_kind(EntryKind::Device).count()),
            (1, 1)
        );
        assert!(now.complete);
        assert_ne!(machine.meta().digest, whole, "the next Hello tells that something is missing");

        sync(&mut machine, &secretive(), 7);
        assert_eq!(machine.meta().digest, whole);
        drop(machine);
        let Opened { mut machine, notice } = opened(dir.path());
        assert_eq!((notice.as_str(), desired(&mut machine).of_kind(EntryKind::Secret).count()), ("", 1));
    }
}

#[test]
fn a_secret_that_cannot_be_read_is_refused_without_a_word_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let Opened { mut machine, .. } = opened(dir.path());
    let secret = key(EntryKind::Secret.number(), "pins", "k1");
    let wanted = [(secret.clone(), Offer::new("p", 1, &json!({"data": {"pin": ["hunter2"]}})))].into();
    sync(&mut machine, &wanted, 7);
    let refused = machine.rows()[&secret].answered.clone().unwrap().refused.unwrap();
    assert_eq!((refused.reason.as_str(), refused.message.contains("hunter2")), ("Undecodable", false));
}

#[test]
fn a_damaged_ledger_is_moved_aside_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LEDGER_FILE);
    let damage: [&dyn Fn(); 3] = [
        // Cut off in the middle.
        &|| fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5_000).unwrap(),
        &|| fs::write(&path, vec![b'x'; 20_000]).unwrap(),
        // A row that the digest does not know.
        &|| {
            let sql = "UPDATE rows SET answered_uid = 'other'";
            rusqlite::Connection::open(&path).unwrap().execute(sql, []).unwrap();
        },
    ];
    for (round, damage) in damage.into_iter().enumerate() {
        let Opened { mut machine, .. } = opened(dir.path());
        sync(&mut machine, &wanted(), 7);
        drop(machine);
        damage();
        let Opened { machine, notice } = opened(dir.path());
        assert!(notice.contains(&format!("ledger.db.corrupt-{}", round + 1)), "{notice}");
        assert!(machine.rows().is_empty());
        assert!(!machine.meta().complete, "absence means nothing yet");
    }
    let kept = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("corrupt"));
    assert_eq!(kept.count(), 1, "one damaged ledger is kept, not all");
}

#[test]
fn a_missing_ledger_is_said_once_there_was_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(opened(dir.path()));
    for file in [LEDGER_FILE, "ledger.db-wal"] {
        let _ = fs::remove_file(dir.path().join(file));
    }
    assert!(opened(dir.path()).notice.contains("missing"));
    assert_eq!(opened(dir.path()).notice, "");
    fs::write(dir.path().join(LEDGER_FILE), "").unwrap();
    assert!(opened(dir.path()).notice.contains("missing"), "an empty file is a missing one");
}

#[test]
fn a_second_agent_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = opened(dir.path());
    let error = open(dir.path(), "1", CLUSTER).unwrap_err();
    assert!(matches!(error, OpenError::Unusable { .. }));
    assert!(crate::chain::chain(&error).contains("is another agent running?"), "{error:?}");
    drop(first);
    assert_eq!(opened(dir.path()).notice, "");
}

#[test]
fn reports_are_kept_until_they_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(LEDGER_FILE);
    let key = workload("web");
    let report = EntryReport {
        key: Some((&key).into()),
        seq: 3,
        state: Some(State::Workload(WorkloadState { restarts: 2, ..Default::default() })),
        ..Default::default()
    };
    let mut store = SqliteStore::open(&path).unwrap();
    store.save_reports(&[(key.clone(), Some(report.clone()))]).unwrap();
    drop(store);
    let mut store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.reports().unwrap(), [report]);
    store.save_reports(&[(key, None)]).unwrap();
    assert_eq!(store.reports().unwrap(), []);
}

#[tokio::test]
async fn the_thread_commits_then_publishes_then_answers() {
    let dir = tempfile::tempdir().unwrap();
    let opened = opened(dir.path());
    let frames = {
        let machine = Machine::open(super::MemoryStore::default(), "1", CLUSTER).unwrap();
        deltas(&machine, &wanted(), 100, 7)
    };
    let (handle, inbox) = Handle::new();
    let (sender, mut desired) = watch::channel(Arc::new(Desired::default()));
    let thread = tokio::task::spawn_blocking(move || run(opened, inbox, sender));
    let mut dialled = handle.hello(1, 0).await.unwrap();
    handle.receive(dialled.session, super::welcome(0)).unwrap();
    for frame in frames {
        handle.receive(dialled.session, FromHub::Delta(frame)).unwrap();
    }
    dialled.answers.recv().await.unwrap();
    assert_eq!(desired.borrow_and_update().entries.len(), 2, "published before it is answered");
    assert!(desired.borrow().complete && desired.borrow().synced);
    drop(handle);
    thread.await.unwrap().unwrap();
    let mut machine = super::super::open(dir.path(), "1", CLUSTER).unwrap().machine;
    assert_eq!(answered(&machine).len(), 3);
    begin(&mut machine);
}
