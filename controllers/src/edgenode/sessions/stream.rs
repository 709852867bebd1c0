//! One stream of one replica, after its token was checked: reports up, orders down, heartbeats both ways.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use selvedge_operator::clock;
use selvedge_protocol::controller::{Heartbeat, ToController, ToReplica, to_controller, to_replica};
use selvedge_protocol::{DecodeError, decode, encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::state::Effects;
use super::switchboard::Switchboard;

/// How often both sides say that they live.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence for this long ends a stream: two heartbeats may be lost.
const DEAD: Duration = Duration::from_secs(15);
/// A frame is written within this.
const WRITE: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The replica went.
    #[error("the replica closed the stream")]
    Closed,
    /// The controller has a newer stream of the replica, or the replica takes no orders.
    #[error("the stream was replaced or cut off")]
    Replaced,
    /// Nothing was heard for too long.
    #[error("the replica was silent for {DEAD:?}")]
    Silent,
    /// It does not read.
    #[error("the replica takes no frame for {WRITE:?}")]
    Stuck,
    /// The connection broke.
    #[error("the connection broke")]
    Socket(#[from] tungstenite::Error),
    /// Not our protocol.
    #[error("the replica sent something else")]
    Decode(#[from] DecodeError),
}

/// Runs a stream to its end; the state has forgotten it then.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    replica: &str,
    switchboard: &Switchboard,
) -> StreamError {
    let (stream, mut orders) = switchboard.connect(replica);
    let mut beat = interval(HEARTBEAT);
    let mut heard = Instant::now();
    let ended = loop {
        let step = tokio::select! {
            () = sleep_until(heard + DEAD) => Err(StreamError::Silent),
            _ = beat.tick() => {
                let heartbeat = Heartbeat { unix_ms: clock::now().as_millisecond() };
                let message = Some(to_replica::Message::Heartbeat(heartbeat));
                send(&mut socket, &ToReplica { message }).await
            }
            order = orders.recv() => match order {
                Some(order) => send(&mut socket, &order).await,
                None => Err(StreamError::Replaced),
            },
            frame = socket.next() => {
                heard = Instant::now();
                match frame {
                    Some(Ok(Message::Binary(frame))) => take(frame, replica, stream, switchboard).await,
                    Some(Ok(Message::Close(_))) | None => Err(StreamError::Closed),
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => Err(error.into()),
                }
            }
        };
        if let Err(error) = step {
            break error;
        }
    };
    switchboard.hang_up(replica, stream);
    switchboard.change(|sessions| sessions.lose(replica, stream, clock::now())).await;
    ended
}

async fn take(
    frame: bytes::Bytes,
    replica: &str,
    stream: u64,
    switchboard: &Switchboard,
) -> Result<(), StreamError> {
    match decode::<ToController>(frame)?.message {
        Some(to_controller::Message::Sessions(report)) => {
            switchboard.change(|sessions| sessions.report(replica, stream, &report, clock::now())).await;
        }
        Some(to_controller::Message::Done(done)) => {
            let done = |sessions: &mut super::Sessions| {
                sessions.done(replica, done.order);
                Effects::default()
            };
            switchboard.change(done).await;
        }
        Some(to_controller::Message::Restored(restored)) => {
            tracing::warn!(
                replica,
                epoch = restored.epoch,
                "a hub replica proves that the cluster was restored"
            );
            switchboard.restored.send_replace(Some(restored.epoch));
        }
        Some(to_controller::Message::Waiting(waiting)) => {
            let wait =
                |sessions: &mut super::Sessions| sessions.wait(&waiting.node, &waiting.uid, clock::now());
            switchboard.change(wait).await;
        }
        // Who it is was said by its token; a message of a newer version is passed over.
        Some(to_controller::Message::Register(_) | to_controller::Message::Heartbeat(_)) | None => {}
    }
    Ok(())
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    message: &ToReplica,
) -> Result<(), StreamError> {
    let frame = Message::Binary(encode(message));
    Ok(timeout(WRITE, socket.send(frame)).await.map_err(|_| StreamError::Stuck)??)
}
