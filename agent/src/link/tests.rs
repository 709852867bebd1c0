//! The link, the ledger's thread and the report task against a hub over real TLS.

mod silence;

use std::{sync::Arc, time::Duration};

use selvedge_model::{ContentHash, Digest, EntryKey, EntryKind, canonical_json};
use selvedge_protocol::agent::{
    self as wire, DeviceState, entry_report::State, refused::Code, to_agent::Message as Down,
    to_hub::Message as Up,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, Ended, FIRST_RETRY, LONGEST_DIRECTED, Link, LinkHandles, LinkStatus, REFUSED_RETRY,
    SLOWEST_RETRY, wait,
};
use crate::{
    backoff::Backoff,
    clock::{self, Latest},
    fakehub::{CLUSTER, FakeHub, HubSession},
    ledger::{self, Desired, RowKey},
    report::{Book, Note, Reporter},
};

/// Far more than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent without containers and devices.
struct Agent {
    dir: TempDir,
    status: watch::Receiver<LinkStatus>,
    counters: Arc<Counters>,
    desired: watch::Receiver<Arc<Desired>>,
    notes: mpsc::Sender<Vec<Note>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Agent {
    fn start(hub: &FakeHub, known: &FakeHub) -> Self {
        let dir = tempfile::tempdir().unwrap();
        known.identify(dir.path());
        Self::start_in(dir, hub)
    }

    /// Starts on a state directory that has an identity.
    fn start_in(dir: TempDir, hub: &FakeHub) -> Self {
        let mut opened = ledger::open(dir.path(), "1", CLUSTER).unwrap();
        let book = Book::open(opened.machine.meta().boots, opened.machine.store().reports().unwrap());
        let (handle, inbox) = ledger::Handle::new();
        let (desired_out, desired) = watch::channel(Arc::default());
        let (uplink_out, uplink) = watch::channel(None);
        let (status_out, status) = watch::channel(LinkStatus::begin(clock::unix()));
        let (verdicts_out, verdicts) = mpsc::channel(8);
        let (notes_out, notes) = mpsc::channel(8);
        let (_, questions) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn_blocking(move || ledger::run(opened, inbox, desired_out).unwrap());
        let reporter =
            Reporter { notes, verdicts, uplink, desired: desired.clone(), questions, ledger: handle.clone() };
        let token = stop.clone();
        tasks.spawn(async move { reporter.run(book, token).await.unwrap() });
        let link = Link {
            state_dir: dir.path().to_owned(),
            hubs: vec![hub.url()],
            handles: LinkHandles { ledger: handle, verdicts: verdicts_out, uplink: uplink_out },
            status: status_out,
            counters: Arc::clone(&counters),
            latest: watch::Sender::new(Latest::at(0)),
            renewed: Arc::default(),
            replaced: Arc::default(),
        };
        let token = stop.clone();
        tasks.spawn(async move { link.run(token).await });
        Self { dir, status, counters, desired, notes: notes_out, stop, tasks }
    }

    /// Stops it as SIGTERM does; gives its state directory.
    async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.dir
    }

    async fn down(&mut self) -> LinkStatus {
        let down = self.status.wait_for(|status| !status.connected && status.next_try > 0);
        timeout(PATIENCE, down).await.unwrap().unwrap().clone()
    }
}

async fn hello(session: &mut HubSession) -> wire::Hello {
    session
        .expect(|up| match up {
            Up::Hello(hello) => Some(hello),
            _ => None,
        })
        .await
}

fn welcome(unix: u64) -> Down {
    Down::Welcome(wire::Welcome {
        protocol: 1,
        cluster_id: CLUSTER.into(),
        unix_ms: i64::try_from(unix * 1000).unwrap(),
        ..Default::default()
    })
}

fn boiler_delta() -> wire::Delta {
    delta(&EntryKey::new(EntryKind::Device, "shop", "boiler"), &json!({"protocol": {"simulated": {}}}))
}

/// The whole set, from nothing: this one entry.
fn delta(key: &EntryKey, body: &serde_json::Value) -> wire::Delta {
    let key = RowKey::from(key);
    let body = canonical_json(body);
    let hash = ContentHash::of_canonical(&body);
    wire::Delta {
        nonce: 1,
        base_digest: Digest::EMPTY.to_bytes().to_vec(),
        upserts: vec![wire::Upsert {
            key: Some((&key).into()),
            uid: "b".into(),
            source_revision: 3,
            content_hash: hash.0.to_vec(),
            encoding: wire::Encoding::Json.into(),
            body: body.into(),
            ..Default::default()
        }],
        target_digest: Digest::EMPTY.plus(key.row_hash("b", &hash)).to_bytes().to_vec(),
        watermark: Some(wire::Watermark { cluster_id: CLUSTER.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn boiler_note() -> Note {
    Note {
        key: RowKey::from(&EntryKey::new(EntryKind::Device, "shop", "boiler")),
        uid: "b".into(),
        content_hash: vec![1; 32],
        state: State::Device(DeviceState { connected: true, ..Default::default() }),
    }
}

async fn report(session: &mut HubSession) -> wire::EntryReport {
    session
        .expect(|up| match up {
            Up::Report(report) => report.entries.into_iter().next(),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn desired_state_comes_down_and_reports_go_up_until_they_are_written() {
    let hub = FakeHub::start(true).await;
    let mut agent = Agent::start(&hub, &hub);
    let story = async {
        let mut session = hub.accept().await;
        let first = hello(&mut session).await;
        assert_eq!(first.cluster_id, CLUSTER);
        session.send(welcome(clock::unix())).await;
        session.send(Down::Delta(boiler_delta())).await;
        let ack = session.expect(|up| if let Up::Ack(ack) = up { Some(ack) } else { None }).await;
        assert_eq!((ack.nonce, ack.refused.len()), (1, 0));
        agent.desired.wait_for(|desired| desired.complete && desired.entries.len() == 1).await.unwrap();
        agent.notes.send(vec![boiler_note()]).await.unwrap();
        let unwritten = report(&mut session).await;

        // The session breaks before the hub has written it: the next one hears it again.
        drop(session);
        let mut session = hub.accept().await;
        let second = hello(&mut session).await;
        assert!(second.session.unwrap().counter > first.session.unwrap().counter);
        assert_eq!(second.digest, boiler_delta().target_digest);
        session.send(welcome(clock::unix())).await;
        session.send(Down::InSync(wire::InSync {})).await;
        let again = report(&mut session).await;
        assert_eq!(again, unwritten);
        let verdict = wire::Verdict {
            key: again.key,
            seq: again.seq,
            code: wire::verdict::Code::Written.into(),
            reason: String::new(),
        };
        session.send(Down::Verdicts(wire::Verdicts { verdicts: vec![verdict] })).await;
        // A stream of a later version is refused, and nothing else is disturbed.
        session.send(Down::OpenStream(wire::OpenStream { stream: 4, ..Default::default() })).await;
        let stream = session.expect(|up| if let Up::Stream(stream) = up { Some(stream) } else { None }).await;
        assert!(stream.end && !stream.error.is_empty());
        session
    };
    let session = timeout(PATIENCE, story).await.unwrap();
    assert!(agent.status.borrow().connected);
    drop(session);
    agent.stop().await;
}

#[tokio::test]
async fn a_silent_hub_is_noticed_within_two_heartbeats_and_dialled_again() {
    let hub = FakeHub::start(true).await;
    let mut agent = Agent::start(&hub, &hub);
    let story = async {
        let mut silent = hub.accept().await;
        hello(&mut silent).await;
        let welcome = wire::Welcome {
            protocol: 1,
            cluster_id: CLUSTER.into(),
            heartbeat_ms: 200,
            ..Default::default()
        };
        silent.send(Down::Welcome(welcome)).await;
        // Not dropped: the connection is open, only nothing comes.
        let status = agent.down().await;
        assert!(status.reason.contains("silent"), "{status:?}");
        let mut next = hub.accept().await;
        hello(&mut next).await;
    };
    timeout(PATIENCE, story).await.unwrap();
    let counts = agent.counters.counts();
    assert_eq!(counts.sessions_ended["Silent"], 1);
    assert_eq!(counts.dials["Connected"], 2);
    assert_eq!(counts.received["Welcome"].messages, 1);
    assert!(counts.sent["Hello"].bytes > 64);
    agent.stop().await;
}

#[tokio::test]
async fn a_hub_decides_when_it_is_dialled_again_within_bounds() {
    for (asked, least, most) in [(30, 30, 45), (86_400, 600, 900)] {
        let hub = FakeHub::start(true).await;
        let mut agent = Agent::start(&hub, &hub);
        let before = clock::unix();
        let story = async {
            let mut session = hub.accept().await;
            hello(&mut session).await;
            let code = Code::TryLater.into();
            let later = wire::Refused { code, retry_after_ms: asked * 1000, ..Default::default() };
            session.send(Down::Refused(later)).await;
            agent.down().await
        };
        let status = timeout(PATIENCE, story).await.unwrap();
        assert!(status.reason.contains("TRY_LATER"), "{status:?}");
        assert!(status.next_try >= before + least && status.next_try <= clock::unix() + most, "{status:?}");
        assert_eq!(agent.counters.counts().sessions_ended["RefusedTryLater"], 1);
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_hub_that_closes_with_a_code_is_quoted() {
    let hub = FakeHub::start(true).await;
    let mut agent = Agent::start(&hub, &hub);
    let story = async {
        let mut session = hub.accept().await;
        hello(&mut session).await;
        session.close(1009, "oversized_frame").await;
        agent.down().await
    };
    let status = timeout(PATIENCE, story).await.unwrap();
    assert_eq!(status.reason, "the hub closed the connection (1009 oversized_frame)");
    assert_eq!(agent.counters.counts().sessions_ended["Closed"], 1);
    agent.stop().await;
}

#[test]
fn waits_are_jittered_and_bounded() {
    let refused = |code, asked: u64| Ended::Refused {
        code,
        message: String::new(),
        retry_after: Duration::from_secs(asked),
    };
    for _ in 0..200 {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        assert!(wait(&Ended::Closed(None), false, &mut backoff) <= FIRST_RETRY);
        (0..20).for_each(|_| assert!(wait(&Ended::Closed(None), false, &mut backoff) <= SLOWEST_RETRY));
        // A hub that names no time leaves it to us.
        assert!(wait(&refused(Code::Superseded, 0), false, &mut backoff) <= SLOWEST_RETRY);
        // What will not change by itself is asked seldom, whatever the hub says.
        for code in [Code::Denied, Code::OtherCluster, Code::Protocol] {
            assert!(wait(&refused(code, 1), false, &mut backoff) >= REFUSED_RETRY);
        }
        for ended in [Ended::Farewell(String::new()), refused(Code::TryLater, 5)] {
            assert!(wait(&ended, true, &mut backoff) >= REFUSED_RETRY, "{ended}");
        }
        assert!(wait(&refused(Code::TryLater, 5), false, &mut backoff) < REFUSED_RETRY);
        let longest = wait(&refused(Code::TryLater, u64::MAX / 2000), false, &mut backoff);
        assert!(longest >= LONGEST_DIRECTED && longest <= LONGEST_DIRECTED.mul_f64(1.5));
    }
}

#[tokio::test]
async fn after_a_farewell_the_ledger_knows_and_the_hub_is_asked_seldom() {
    let hub = FakeHub::start(true).await;
    let mut agent = Agent::start(&hub, &hub);
    let story = async {
        let mut session = hub.accept().await;
        hello(&mut session).await;
        session.send(welcome(1_800_000_000)).await;
        session.send(Down::Delta(delta(&EntryKey::node_settings(), &json!({"onDelete": "Stop"})))).await;
        session.expect(|up| matches!(up, Up::Ack(_)).then_some(())).await;
        session.send(Down::Farewell(wire::Farewell { reason: "the EdgeNode was deleted".into() })).await;
        assert!(session.next().await.is_none(), "it stays");
        agent.desired.wait_for(|desired| desired.stopped).await.unwrap();
        let down = agent.down().await;
        assert!(down.next_try >= clock::unix() + REFUSED_RETRY.as_secs() - 2, "{down:?}");
        assert_eq!(down.reason, "the hub said farewell: the EdgeNode was deleted");
    };
    timeout(PATIENCE, story).await.unwrap();
    let dir = agent.stop().await;
    let opened = ledger::open(dir.path(), "1", CLUSTER).unwrap();
    assert!(opened.machine.meta().stopped, "a restart starts it again");
}

#[tokio::test]
async fn a_hub_of_another_ca_is_not_trusted() {
    let (stranger, known) = (FakeHub::start(false).await, FakeHub::start(true).await);
    let mut agent = Agent::start(&stranger, &known);
    assert!(timeout(PATIENCE, stranger.accept_tls()).await.unwrap().is_err());
    let status = agent.down().await;
    assert!(status.reason.contains("no trusted TLS with localhost"), "{status:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_stale_session_goes_above_the_newest() {
    let hub = FakeHub::start(true).await;
    let agent = Agent::start(&hub, &hub);
    let story = async {
        let mut session = hub.accept().await;
        hello(&mut session).await;
        let newest = Some(wire::Session { counter: 900, nonce: 1 });
        let stale = wire::Refused { code: Code::Stale.into(), newest, ..Default::default() };
        session.send(Down::Refused(stale)).await;
        let mut session = hub.accept().await;
        assert_eq!(hello(&mut session).await.session.unwrap().counter, 901);
    };
    timeout(PATIENCE, story).await.unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn a_time_outside_the_hubs_certificate_is_not_believed() {
    let hub = FakeHub::start(true).await;
    let mut agent = Agent::start(&hub, &hub);
    // rcgen's certificates end in 4096; a hub that is in 5000 must not poison the ledger.
    let story = async {
        for _ in 0..2 {
            let mut session = hub.accept().await;
            hello(&mut session).await;
            session.send(welcome(95_617_584_000)).await;
            agent.status.wait_for(|status| status.connected).await.unwrap();
            drop(session);
            agent.down().await;
        }
    };
    timeout(PATIENCE, story).await.unwrap();
    let dir = agent.stop().await;
    let opened = ledger::open(dir.path(), "1", CLUSTER).unwrap();
    assert_eq!(opened.machine.meta().latest_time, 0);
}
