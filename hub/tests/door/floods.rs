//! One source that opens thousands of connections and leaves them half open, beside agents that live.

use std::time::Duration;

use futures::StreamExt as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use selvedge_agent::ledger::{Machine, MemoryStore};
use selvedge_protocol::agent::{self as wire, to_hub::Message as Up};
use selvedge_protocol::{HEARTBEAT, decode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::rig::{Agent, Rig, has, machine};

const AGENTS: usize = 500;
/// Of the attacker, if this process may have as many files open.
const HALF_OPEN: usize = 10_000;
/// A ClientHello that does not go on: a record of 512 bytes is announced.
const BEGINNING: [u8; 6] = [0x16, 3, 1, 2, 0, 1];
const HONEST: [u8; 4] = [127, 0, 0, 2];
/// Hundreds of agents in one process, and of those that run beside it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many half-open connections there is room for, both ends of each, beside the agents.
fn half_open() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let files = limit.maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap());
    HALF_OPEN.min(files.saturating_sub(4 * AGENTS) / 2)
}

/// Lives until the next change of its set was answered.
async fn live(mut agent: Agent, mut machine: Machine<MemoryStore>) {
    let before = machine.meta().digest;
    let mut beat = interval(HEARTBEAT);
    while machine.meta().digest == before {
        tokio::select! {
            _ = beat.tick() => agent.send(Up::Heartbeat(wire::Heartbeat::default())).await,
            frame = agent.socket.next() => {
                let Some(Ok(Message::Binary(frame))) = frame else { panic!("its session ended: {frame:?}") };
                let message = decode::<wire::ToAgent>(frame).unwrap().message.unwrap();
                for answer in machine.receive(agent.id, message).unwrap().answers {
                    agent.send(answer).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_of_one_source_keep_nobody_out() {
    let half_open = half_open();
    let mut rig = Rig::new().await;
    let mut fleet = JoinSet::new();
    for number in 0..AGENTS {
        let (name, uid) = (format!("a{number}"), format!("ua{number}"));
        rig.labelled(&name, &uid, "before");
        let mut machine = machine();
        let mut agent = rig.agent_from(HONEST, (&name, &uid), &mut machine).await;
        agent.until(&mut machine, |machine| machine.synced() && has(machine, "NodeSettings/node")).await;
        fleet.spawn(live(agent, machine));
    }
    let mut flood = Vec::with_capacity(half_open);
    for number in 0..half_open {
        let stream = timeout(PATIENCE, TcpStream::connect(rig.address)).await;
        let mut stream = stream.expect("the flood itself is kept waiting").unwrap();
        // Some say nothing, some begin and do not go on.
        if number % 2 == 0 {
            let _ = stream.write_all(&BEGINNING).await;
        }
        flood.push(stream);
    }
    // Who comes now is let in while the flood stands.
    rig.labelled("late", "ulate", "late");
    let mut machine = machine();
    let mut late = rig.agent_from(HONEST, ("late", "ulate"), &mut machine).await;
    late.until(&mut machine, |machine| machine.synced() && has(machine, "NodeSettings/node")).await;
    // Who lives has heard of nothing, and hears of every change.
    assert_eq!(fleet.len(), AGENTS);
    for number in 0..AGENTS {
        rig.labelled(&format!("a{number}"), &format!("ua{number}"), "after");
    }
    timeout(PATIENCE, fleet.join_all()).await.expect("a change did not come to all");
    drop(flood);
    rig.end().await;
}
