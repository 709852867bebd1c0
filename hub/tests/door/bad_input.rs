//! What a broken agent sends, each on a real socket: what it gets, what is counted, and that nobody else
//! notices. The rows are those of docs/reference/protocol-errors.md; each row is played, and nothing else is.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_hub::faults::Fault;
use selvedge_protocol::agent::{self as wire, to_agent::Message as Down, to_hub::Message as Up};
use selvedge_protocol::{MAX_ELEMENT_BYTES, MAX_FRAME_BYTES, PROTOCOL_MAX, PROTOCOL_MIN, decode, encode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::rig::{Agent, CLUSTER, Rig, SOON, machine};

const TABLE: &str = include_str!("../../../docs/reference/protocol-errors.md");

/// A row of the table: what the agent sends, what it gets, what becomes of the session, what is counted.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    sends: String,
    gets: String,
    session: String,
    reason: String,
}

fn table() -> Vec<Row> {
    let rows = TABLE.lines().filter(|line| line.starts_with("| ")).skip(1);
    let rows = rows.map(|line| {
        let cells: Vec<_> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [sends, gets, session, reason] = cells.try_into().expect("four cells");
        Row { sends, gets, session, reason }
    });
    rows.collect()
}

/// How far a session has come when the agent does it wrong.
#[derive(Clone, Copy)]
enum When {
    /// Its first frame.
    First,
    /// The answer to Compare.
    Compared,
    /// Everything is in sync.
    Live,
}

/// Numbers of reports: of one that is wrong, and of one that shows how far the hub has read.
const WRONG: u64 = 7;
const PROBE: u64 = 8;

/// What it sends then.
enum Wrong {
    Frame(Message),
    Raw(&'static [u8]),
    Frames(Vec<Message>),
}

fn says(message: Up) -> Wrong {
    Wrong::Frame(Message::Binary(encode(&wire::ToHub { message: Some(message) })))
}

fn report(seq: u64, key: wire::Key, uid: &str, content_hash: Vec<u8>) -> Wrong {
    let entry = wire::EntryReport { key: Some(key), uid: uid.into(), content_hash, seq, state: None };
    says(Up::Report(wire::Report { entries: vec![entry] }))
}

fn key(kind: i32, name: &str) -> wire::Key {
    wire::Key { kind, namespace: "shop".into(), name: name.into(), version: String::new() }
}

fn inventory(rows: Vec<wire::Row>, buckets: Vec<Vec<u8>>) -> Wrong {
    says(Up::Inventory(wire::Inventory { buckets, rows, last: true }))
}

/// What is wrong in a row of the table.
fn wrong(row: &str, hello: wire::Hello) -> (When, Wrong) {
    let binary = |bytes: Vec<u8>| Wrong::Frame(Message::Binary(bytes.into()));
    let hash = vec![7; 32];
    let row_of = |key, content_hash| wire::Row { key: Some(key), content_hash, ..Default::default() };
    let workload = || key(wire::EntryKind::Workload.into(), "web");
    match row {
        "a frame larger than 2 MiB" => (When::Live, binary(vec![0; MAX_FRAME_BYTES + 1])),
        "a frame of more elements than fit into 8 MiB" => {
            let many = MAX_ELEMENT_BYTES / size_of::<wire::Row>() + 1;
            (When::Compared, inventory(vec![wire::Row::default(); many], Vec::new()))
        }
        "a frame that is no message" => (When::Live, binary(vec![0xff; 16])),
        "a frame of text" => (When::Live, Wrong::Frame(Message::text("hello"))),
        // A binary frame, masked, with all reserved bits set.
        "bytes that are no WebSocket frame" => (When::Live, Wrong::Raw(&[0xf2, 0x80, 0, 0, 0, 0])),
        "another message before Hello" => (When::First, says(Up::Heartbeat(wire::Heartbeat::default()))),
        "Hello in a session" => (When::Live, says(Up::Hello(hello))),
        "Hello of protocols that are all newer" => {
            let (protocol_min, protocol_max) = (PROTOCOL_MAX + 1, u32::MAX);
            (When::First, says(Up::Hello(wire::Hello { protocol_min, protocol_max, ..hello })))
        }
        "Hello of protocols that are all older" => {
            let (protocol_min, protocol_max) = (0, PROTOCOL_MIN - 1);
            (When::First, says(Up::Hello(wire::Hello { protocol_min, protocol_max, ..hello })))
        }
        "Hello of another cluster" => {
            (When::First, says(Up::Hello(wire::Hello { cluster_id: "another".into(), ..hello })))
        }
        "Hello with a digest that is not 32 bytes" => {
            (When::First, says(Up::Hello(wire::Hello { digest: vec![7; 31], ..hello })))
        }
        "Hello without a session" => (When::First, says(Up::Hello(wire::Hello { session: None, ..hello }))),
        "an inventory with a hash that is not 32 bytes" => {
            (When::Compared, inventory(vec![row_of(workload(), vec![7; 31])], Vec::new()))
        }
        "an inventory with a bucket digest that is not 32 bytes" => {
            (When::Compared, inventory(Vec::new(), vec![vec![7; 33]; 256]))
        }
        "an inventory of more than 131,072 rows" => {
            let device = |number: usize| key(wire::EntryKind::Device.into(), &format!("d{number}"));
            let frame = |frame: usize| {
                let rows =
                    (0..33_000).map(|row| row_of(device(33_000 * frame + row), hash.clone())).collect();
                let inventory = wire::Inventory { rows, ..Default::default() };
                let message = Some(Up::Inventory(inventory));
                Message::Binary(encode(&wire::ToHub { message }))
            };
            (When::Compared, Wrong::Frames((0..4).map(frame).collect()))
        }
        "a report with a hash that is not 32 bytes" => {
            (When::Live, report(WRONG, workload(), "a1", vec![7; 5]))
        }
        // Field 99, empty.
        "a message that this version does not know" => (When::Live, binary(vec![0x9a, 0x06, 0x00])),
        "a report on a kind that this version does not know" => {
            (When::Live, report(WRONG, key(77, "web"), "a1", hash))
        }
        "an inventory with a kind that this version does not know" => {
            (When::Compared, inventory(vec![row_of(key(77, "web"), hash)], Vec::new()))
        }
        "Ack, Retry or Resync on a delta that is not in flight" => {
            (When::Live, says(Up::Ack(wire::Ack { nonce: 99, refused: Vec::new() })))
        }
        "a report on a key that is not in the node's set" => {
            (When::Live, report(WRONG, key(wire::EntryKind::Device.into(), "theirs"), "d1", hash))
        }
        "a report on an object that was created anew since" => {
            (When::Live, report(WRONG, workload(), "older", hash))
        }
        other => panic!("docs/reference/protocol-errors.md has a row that is not played: {other:?}"),
    }
}

/// An agent that says what it is told to say.
struct Puppet {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

/// What comes from the hub.
#[derive(Debug)]
enum Heard {
    Message(Down),
    Closed(Option<u16>),
}

impl Puppet {
    async fn send(&mut self, wrong: Wrong) {
        // A hub that has heard enough may not read to the end.
        let _ = match wrong {
            Wrong::Frame(message) => {
                timeout(SOON, self.socket.send(message)).await.expect("nothing is read").is_ok()
            }
            Wrong::Frames(messages) => {
                let mut messages = futures::stream::iter(messages.into_iter().map(Ok));
                timeout(SOON, self.socket.send_all(&mut messages)).await.expect("nothing is read").is_ok()
            }
            Wrong::Raw(bytes) => {
                let stream = self.socket.get_mut();
                stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
            }
        };
    }

    async fn hear(&mut self) -> Heard {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("the hub said nothing") {
                Some(Ok(Message::Binary(frame))) => {
                    match decode::<wire::ToAgent>(frame).unwrap().message.unwrap() {
                        Down::Heartbeat(_) => {}
                        message => return Heard::Message(message),
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    return Heard::Closed(frame.map(|frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Heard::Closed(None),
            }
        }
    }

    /// Goes on until it is asked to compare, or is in sync.
    async fn come(&mut self, hello: wire::Hello, when: When) {
        if matches!(when, When::First) {
            return;
        }
        self.send(says(Up::Hello(hello))).await;
        loop {
            match self.hear().await {
                Heard::Message(Down::Compare(_)) if matches!(when, When::Compared) => return,
                Heard::Message(Down::Compare(_)) => self.send(inventory(Vec::new(), Vec::new())).await,
                Heard::Message(Down::Delta(delta)) => {
                    self.send(says(Up::Ack(wire::Ack { nonce: delta.nonce, refused: Vec::new() }))).await;
                    // The only one: nothing is on the way any more.
                    assert!(delta.watermark.is_some());
                    return;
                }
                Heard::Message(_) => {}
                Heard::Closed(code) => panic!("closed with {code:?} before anything was wrong"),
            }
        }
    }
}

/// What a message says about what is wrong; none: it is about something else.
fn answer(message: &Down) -> Option<String> {
    match message {
        Down::Refused(refused) => {
            Some(format!("Refused {}", refused.code().as_str_name().trim_start_matches("CODE_")))
        }
        Down::Verdicts(verdicts) => {
            let verdict = &verdicts.verdicts[0];
            let code = verdict.code().as_str_name().trim_start_matches("CODE_");
            Some(format!("Verdict {code} {}", verdict.reason).trim_end().to_owned())
        }
        _ => None,
    }
}

/// Plays a row of the table; `turn` tells its session from those before.
async fn play(rig: &mut Rig, sends: &str, turn: u64) -> Row {
    let hello = wire::Hello {
        session: Some(wire::Session { counter: turn, nonce: 1 }),
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        cluster_id: CLUSTER.into(),
        digest: vec![0; 32],
        ..Default::default()
    };
    let before = counts(rig);
    let (when, wrong) = wrong(sends, hello.clone());
    let mut puppet = Puppet { socket: rig.dial("n1", "u1").await };
    puppet.come(hello, when).await;
    puppet.send(wrong).await;
    // Frames are read in order: once this has its verdict, the session has gone on.
    if !matches!(when, When::First) {
        puppet.send(report(PROBE, key(wire::EntryKind::Device.into(), "probe"), "", Vec::new())).await;
    }
    let mut gets = "nothing".to_owned();
    let session = loop {
        match puppet.hear().await {
            Heard::Closed(None) => break "ends",
            Heard::Closed(Some(code)) => {
                gets = format!("close {code}");
                break "ends";
            }
            Heard::Message(Down::Verdicts(verdicts)) if verdicts.verdicts[0].seq == PROBE => break "goes on",
            Heard::Message(message) => gets = answer(&message).unwrap_or(gets),
        }
    };
    let mut counted: Vec<_> = counts(rig).iter().zip(before).map(|(after, before)| after - before).collect();
    if session == "goes on" {
        counted[Fault::ALL.iter().position(|fault| *fault == Fault::ForeignKey).unwrap()] -= 1;
    }
    let counted =
        Fault::ALL.iter().zip(counted).flat_map(|(fault, count)| vec![fault.name(); count as usize]);
    let reason = counted.collect::<Vec<_>>().join(" ");
    Row { sends: sends.to_owned(), gets, session: session.to_owned(), reason }
}

fn counts(rig: &Rig) -> Vec<u64> {
    let count = |fault: &Fault| rig.hub.metrics.bad_input.with_label_values(&[fault.name()]).get();
    Fault::ALL.iter().map(count).collect()
}

/// The witness gets what changes for it, in the session that it began with.
async fn witness(rig: &mut Rig, agent: &mut Agent, machine: &mut Machine<MemoryStore>, turn: u64) {
    let before = machine.meta().digest;
    rig.labelled("n2", "u2", &format!("after {turn}"));
    agent.until(machine, |machine| machine.meta().digest != before).await;
}

#[tokio::test]
async fn each_fault_has_its_answer_and_harms_nobody_else() {
    let mut rig = Rig::new().await;
    rig.application("web-1", "web:1");
    rig.labelled("n2", "u2", "before");
    let mut good = machine();
    let mut other = rig.agent_of("n2", "u2", &mut good, 1).await;
    other.until(&mut good, Machine::synced).await;
    for (turn, row) in (1..).zip(table()) {
        assert_eq!(play(&mut rig, &row.sends, turn).await, row);
        witness(&mut rig, &mut other, &mut good, turn).await;
    }
    rig.end().await;
}

#[test]
fn the_table_has_every_fault() {
    let told: BTreeSet<_> = table().into_iter().map(|row| row.reason).collect();
    let known: BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.name().to_owned()).collect();
    assert_eq!(told, known, "docs/reference/protocol-errors.md against the hub");
}

/// A broken agent that dials again at once does not keep a good one out, and costs nothing that stays.
#[tokio::test]
async fn many_broken_sessions_leave_nothing_behind() {
    let mut rig = Rig::new().await;
    let mut good = machine();
    rig.labelled("n2", "u2", "before");
    let mut other = rig.agent_of("n2", "u2", &mut good, 1).await;
    other.until(&mut good, Machine::synced).await;
    for _ in 0..20 {
        let mut puppet = Puppet { socket: rig.dial("n1", "u1").await };
        puppet.send(Wrong::Frame(Message::Binary(Bytes::from_static(&[0xff; 4])))).await;
        assert!(matches!(puppet.hear().await, Heard::Closed(Some(1007))));
    }
    assert_eq!(rig.hub.sessions.len(), 1);
    witness(&mut rig, &mut other, &mut good, 1).await;
    rig.end().await;
}
