//! A connection's way to a session and out of it: the first frame, whether it is admitted, and with which code
//! it is closed.
//!
//! In: a socket of a verified peer. Out: a live session for [`super::drive`], or a refusal.

use std::sync::Arc;
use std::time::Duration;

use selvedge_protocol::agent::{
    self as wire, refused::Code, to_agent::Message as ToAgent, to_hub::Message as ToHub,
};
use selvedge_protocol::{decode, negotiate};
use tokio::time::timeout;

use super::drive::{SILENCE, live, send};
use super::socket::{Socket, SocketError};
use super::{Door, Peer};
use crate::clock;
use crate::faults::Fault;
use crate::metrics::{Metrics, refusal};
use crate::session::Session;
use crate::session::greeting::{Admission, greet};
use crate::sessions::{Inbox, Seen};

/// The first frame is here within this.
const HELLO: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the agent was silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the agent sent what is no message")]
    Malformed(#[from] selvedge_protocol::DecodeError),
    #[error("the agent sent what it should not ({})", .0.name())]
    Broken(Fault),
    #[error("{0}")]
    Said(&'static str),
}

impl Ended {
    /// What the agent did wrong, if that is why.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Socket(error) => error.fault(),
            Self::Malformed(error) => Some(error.into()),
            Self::Broken(fault) => Some(*fault),
            Self::Silent | Self::Said(_) => None,
        }
    }
}

/// Runs a session from its first frame to its end.
pub async fn run(mut socket: Socket, peer: Peer, door: Door) {
    let ended = match timeout(HELLO, hello(&mut socket, &door.hub.metrics)).await {
        Ok(Ok(hello)) => match Box::pin(admit(&mut socket, &peer, &door, hello)).await {
            Ok(Some((session, inbox))) => Some(live(&mut socket, session, inbox, &door).await),
            Ok(None) | Err(_) => None,
        },
        Ok(Err(error)) => {
            tracing::debug!(node = %peer.node, %error, "no Hello");
            Some(error)
        }
        Err(_) => {
            tracing::debug!(node = %peer.node, "no Hello in time");
            None
        }
    };
    let fault = ended.and_then(|ended| ended.fault());
    if let Some(fault) = fault {
        door.hub.faults.note(&peer.node, fault, clock::now());
    }
    socket.close(fault).await;
}

async fn hello(socket: &mut Socket, metrics: &Metrics) -> Result<wire::Hello, Ended> {
    let frame = socket.next().await?;
    let bytes = frame.len();
    let message = decode::<wire::ToHub>(frame)?.message;
    metrics.received(message.as_ref(), bytes);
    match message {
        Some(ToHub::Hello(hello)) => Ok(hello),
        _ => Err(Ended::Broken(Fault::NoHello)),
    }
}

async fn admit(
    socket: &mut Socket,
    peer: &Peer,
    door: &Door,
    hello: wire::Hello,
) -> Result<Option<(Box<Session>, Arc<Inbox>)>, Ended> {
    let hub = &door.hub;
    let Some(cluster) = hub.cluster.borrow().clone() else { return Ok(None) };
    let agreed = negotiate(hello.protocol_min, hello.protocol_max);
    let now = clock::now();
    let (greeted, outdated) = {
        let index = hub.index();
        let node = index.node(&peer.node);
        let outdated =
            node.is_some_and(|node| node.uid == peer.uid && node.is_outdated(&peer.serial, peer.not_after));
        let greeted = greet(
            hello,
            &Admission {
                node,
                synced: index.is_synced(),
                uid: &peer.uid,
                newest: hub.sessions.newest(&peer.uid),
                denied: hub.sessions.denied_at(&peer.uid).is_some(),
                outdated,
                deaf: hub.hearing.is_deaf(now),
                cluster_id: &cluster.id,
                epoch: cluster.epoch,
                unix_ms: clock::unix_ms(),
            },
        );
        (greeted, outdated)
    };
    if outdated {
        hub.notices.outdated(&peer.node, &peer.uid, &peer.serial, now);
    }
    let (greeted, welcome) = match greeted {
        Ok(greeted) => greeted,
        Err(refused) => {
            let code = refused.code();
            let fault = match code {
                Code::OtherCluster => Some(Fault::OtherCluster),
                Code::OtherUid => {
                    hub.sessions.wait_outside(&peer.node, &peer.uid);
                    None
                }
                Code::Protocol if agreed.is_none() => Some(Fault::OtherProtocol),
                Code::Protocol => Some(Fault::BadDigest),
                _ => None,
            };
            match fault {
                Some(fault) => hub.faults.note(&peer.node, fault, clock::now()),
                None => {
                    let message = &refused.message;
                    tracing::info!(node = %peer.node, reason = refusal(code), message, "session refused");
                }
            }
            send(&hub.metrics, socket, ToAgent::Refused(refused)).await?;
            return Ok(None);
        }
    };
    let seen = Seen {
        node: peer.node.clone(),
        uid: peer.uid.clone(),
        id: greeted.session,
        serial: peer.serial.clone(),
        closed: false,
    };
    // Open before the first look at the index: no event falls in between.
    let Some(inbox) = hub.sessions.open(seen) else { return Ok(None) };
    let mut session = Session::new(peer.node.clone(), peer.uid.clone(), greeted, clock::now());
    if hub.sessions.is_paused(&peer.uid, session.epoch()) {
        session = session.paused_before();
    }
    tracing::info!(node = %peer.node, session = %session.id(), "session");
    if let Err(ended) = send(&hub.metrics, socket, ToAgent::Welcome(welcome)).await {
        hub.sessions.close(session.uid(), session.id());
        return Err(ended);
    }
    Ok(Some((Box::new(session), inbox)))
}
