//! Half-open links, on paused time: a hub that says nothing more is gone two heartbeats after its last
//! word, whenever that was, and not before.

use std::{cell::Cell, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use selvedge_model::SessionId;
use selvedge_protocol::agent::{self as wire, ToAgent, to_agent::Message as Down};
use tokio::{
    io::{DuplexStream, duplex},
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message as Frame, protocol::Role},
};
use tokio_util::sync::CancellationToken;

use super::super::{Counters, Ended, LinkHandles, session::Session};
use crate::ledger::{Dialled, Handle};

const BEAT: Duration = Duration::from_secs(10);

async fn say(hub: &mut WebSocketStream<DuplexStream>, message: Down) -> Instant {
    let frame = selvedge_protocol::encode(&ToAgent { message: Some(message) });
    hub.send(Frame::Binary(frame)).await.unwrap();
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn a_hub_is_gone_two_heartbeats_after_its_last_word() {
    let (near, far) = duplex(1 << 16);
    let mut agent = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let mut hub = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    let (ledger, _inbox) = Handle::new();
    let (verdicts, _verdicts) = mpsc::channel(1);
    let (uplink, _uplink) = watch::channel(None);
    let (_answers, answers) = mpsc::channel(1);
    let handles = LinkHandles { ledger, verdicts, uplink };
    let session = SessionId { counter: 1, nonce: 1 };
    let session = Session {
        socket: &mut agent,
        dialled: Dialled { session, hello: wire::Hello::default(), answers },
        handles: &handles,
        counters: &Counters::default(),
        welcomed: &mut |_| {},
        stop: &CancellationToken::new(),
    };
    let last = Cell::new(None);
    let hub = async {
        hub.next().await.unwrap().unwrap();
        let heartbeat_ms = u64::try_from(BEAT.as_millis()).unwrap();
        say(&mut hub, Down::Welcome(wire::Welcome { protocol: 1, heartbeat_ms, ..Default::default() })).await;
        // Its last word falls between two beats of the agent; after that it only reads.
        sleep(BEAT * 17 / 10).await;
        last.set(Some(say(&mut hub, Down::Heartbeat(wire::Heartbeat::default())).await));
        while hub.next().await.is_some() {}
    };
    let ended = tokio::select! {
        ended = session.run() => ended,
        () = hub => panic!("the agent's end of the connection is gone"),
    };
    let after = last.get().unwrap().elapsed();
    assert!(matches!(ended, Ended::Silent(_)), "{ended:?}");
    // Timers have milliseconds.
    assert!((BEAT * 2..BEAT * 2 + Duration::from_millis(2)).contains(&after), "{after:?}");
}
