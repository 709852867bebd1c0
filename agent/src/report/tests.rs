//! The reported set over the real ledger file, and agents that die without a word.

use std::{path::Path, sync::Arc, thread};

use selvedge_model::{EntryKey, EntryKind};
use selvedge_protocol::agent::{
    DeviceState, EntryReport, Report, Verdict, Verdicts, entry_report::State, verdict,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{Book, Note, Reporter, SAVE_EVERY};
use crate::ledger::{self, Handle, RowKey};

/// Report task and ledger of one life of an agent, with a session that is up.
struct Life {
    notes: mpsc::Sender<Vec<Note>>,
    verdicts: mpsc::Sender<Verdicts>,
    heard: mpsc::Receiver<Report>,
    ledger: Handle,
    tasks: JoinSet<()>,
    thread: thread::JoinHandle<()>,
}

impl Life {
    fn begin(dir: &Path) -> Self {
        let mut opened = ledger::open(dir, "1", "cluster-1").unwrap();
        assert_eq!(opened.notice, "");
        let book = Book::open(opened.machine.meta().boots, opened.machine.store().reports().unwrap());
        let (ledger, inbox) = Handle::new();
        let (desired_out, desired) = watch::channel(Arc::default());
        // A thread of the test's own: the clock of the runtime stands still while one of its own works.
        let thread = thread::spawn(move || ledger::run(opened, inbox, desired_out).unwrap());
        let (notes, notes_in) = mpsc::channel(8);
        let (verdicts, verdicts_in) = mpsc::channel(8);
        let (sender, heard) = mpsc::channel(8);
        let (_, questions) = mpsc::channel(1);
        let reporter = Reporter {
            notes: notes_in,
            verdicts: verdicts_in,
            uplink: watch::channel(Some(sender)).1,
            desired,
            questions,
            ledger: ledger.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { reporter.run(book, CancellationToken::new()).await.unwrap() });
        Self { notes, verdicts, heard, ledger, tasks, thread }
    }

    async fn note(&mut self, name: &str, message: &str) -> EntryReport {
        let state = State::Device(DeviceState { message: message.into(), ..DeviceState::default() });
        let key = RowKey::from(&EntryKey::new(EntryKind::Device, "shop", name));
        let note = Note { key, uid: "u".into(), content_hash: vec![1], state };
        self.notes.send(vec![note]).await.unwrap();
        self.hear().await.remove(0)
    }

    async fn hear(&mut self) -> Vec<EntryReport> {
        self.heard.recv().await.unwrap().entries
    }

    async fn written(&self, report: &EntryReport) {
        let code = verdict::Code::Written.into();
        let verdict = Verdict { key: report.key.clone(), seq: report.seq, code, reason: String::new() };
        self.verdicts.send(Verdicts { verdicts: vec![verdict] }).await.unwrap();
    }

    /// Until what waits for the disk is there.
    async fn saved(&self) {
        sleep(SAVE_EVERY * 2).await;
        // The ledger takes one command after another: when this is answered the reports are stored.
        self.ledger.hello(1, 0).await.unwrap();
    }

    /// Dies as by `kill -9`: nothing more is saved.
    async fn die(mut self) {
        self.tasks.shutdown().await;
        drop(self.ledger);
        self.thread.join().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_is_said_again_after_every_death_until_its_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut life = Life::begin(dir.path());
    let old = life.note("boiler", "starting").await;
    let boiler = life.note("boiler", "warm").await;
    let pump = life.note("pump", "runs").await;
    assert!(boiler.seq > old.seq && pump.seq > boiler.seq);
    // A verdict on what was replaced since says nothing about the newest.
    life.written(&old).await;
    life.saved().await;
    life.die().await;

    for _ in 0..2 {
        let mut life = Life::begin(dir.path());
        assert_eq!(life.hear().await, [boiler.clone(), pump.clone()], "the latest of each key, once");
        life.die().await;
    }

    let mut life = Life::begin(dir.path());
    life.hear().await;
    life.written(&pump).await;
    life.saved().await;
    // Numbers rise over restarts, else the hub would take the newer report for the older one.
    let newer = life.note("boiler", "hot").await;
    assert!(newer.seq > pump.seq);
    life.saved().await;
    life.die().await;

    let mut life = Life::begin(dir.path());
    assert_eq!(life.hear().await, std::slice::from_ref(&newer), "what was written is not said again");
    life.written(&newer).await;
    life.saved().await;
    life.die().await;
    let mut opened = ledger::open(dir.path(), "1", "cluster-1").unwrap();
    assert_eq!(opened.machine.store().reports().unwrap(), []);
}
