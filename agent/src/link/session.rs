//! One session over one WebSocket: Hello, Welcome, then frames both ways until it ends.
//!
//! In: a WebSocket to a verified hub, the ledger's first frame. Out: how the session [`Ended`]. Messages
//! of the hub go to the ledger (Welcome, InSync, Compare, Delta, Farewell, Stale) or to the report task
//! (Verdicts); what those answer goes back up.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use selvedge_protocol::{
    DecodeError, HEARTBEAT,
    agent::{
        self as wire, ToAgent, ToHub, refused::Code, to_agent::Message as FromHub, to_hub::Message as Up,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as SocketError, Message as Frame},
};
use tokio_util::sync::CancellationToken;

use super::{Counters, LinkHandles, Uplink, closing::Closing};
use crate::{
    clock,
    ledger::{Dialled, FromLedger},
};

/// A hub admits a handshake or refuses it well before this.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(20);
/// Frames that wait for the socket: reports of one burst.
const UPLINK_FRAMES: usize = 8;
/// A hub may direct other heartbeats, within reason: more often costs data, less often hides dead links.
const HEARTBEAT_RANGE: std::ops::RangeInclusive<u64> = 200..=300_000;

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Nothing of the hub for two heartbeats, or no Welcome.
    #[error("the hub was silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// The socket failed.
    #[error("the connection broke")]
    Socket(#[source] Box<SocketError>),
    /// The hub closed it, and may have said why.
    #[error("the hub closed the connection{}", .0.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Closed(Option<Closing>),
    /// The hub sent what is no message.
    #[error("the hub sent what is no message")]
    Malformed(#[from] DecodeError),
    /// The hub does not admit this session.
    #[error("the hub refused the session ({}): {message}", .code.as_str_name())]
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
        /// When to try again; zero: when we like.
        retry_after: Duration,
    },
    /// The hub sends us away.
    #[error("the hub said goodbye: {reason}")]
    Goodbye {
        /// For people.
        reason: String,
        /// When to dial again.
        retry_after: Duration,
        /// It is behind what this node has already seen; another replica may not be.
        behind: bool,
    },
    /// The EdgeNode is gone.
    #[error("the hub said farewell: {0}")]
    Farewell(String),
    /// Our side ends it.
    #[error("the session was given up: {0}")]
    GivenUp(String),
    /// The agent stops.
    #[error("the agent stops")]
    Stopping,
}

impl Ended {
    /// How, as a label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Silent(_) => "Silent",
            Self::Socket(_) => "Broken",
            Self::Closed(_) => "Closed",
            Self::Malformed(_) => "Malformed",
            Self::Refused { code, .. } => match code {
                Code::Unspecified => "Refused",
                Code::Stale => "RefusedStale",
                Code::TryLater => "RefusedTryLater",
                Code::Denied => "RefusedDenied",
                Code::OtherCluster => "RefusedOtherCluster",
                Code::Protocol => "RefusedProtocol",
                Code::Superseded => "RefusedSuperseded",
                Code::OtherUid => "RefusedOtherUid",
            },
            Self::Goodbye { behind: true, .. } => "SentAwayBehind",
            Self::Goodbye { .. } => "SentAway",
            Self::Farewell(_) => "Farewell",
            Self::GivenUp(_) => "GivenUp",
            Self::Stopping => "Stopping",
        }
    }
}

impl From<SocketError> for Ended {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::ConnectionClosed | SocketError::AlreadyClosed => Self::Closed(None),
            error => Self::Socket(Box::new(error)),
        }
    }
}

/// What a session needs from around it.
pub struct Session<'a, S> {
    /// The socket.
    pub socket: &'a mut WebSocketStream<S>,
    /// Its first frame, and the ledger's answers.
    pub dialled: Dialled,
    /// Ledger and reports.
    pub handles: &'a LinkHandles,
    /// Of messages both ways.
    pub counters: &'a Counters,
    /// Called once, with the Welcome, when the session is up.
    pub welcomed: &'a mut (dyn FnMut(&wire::Welcome) + Send),
    /// The agent stops.
    pub stop: &'a CancellationToken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Lives until it ends.
    pub async fn run(mut self) -> Ended {
        match self.live().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn live(&mut self) -> Result<std::convert::Infallible, Ended> {
        let hello = Up::Hello(self.dialled.hello.clone());
        self.send(hello, HEARTBEAT).await?;
        let heartbeat = self.greeting().await?;
        let (uplink, mut reports) = mpsc::channel(UPLINK_FRAMES);
        let _up = Uplink::open(&self.handles.uplink, uplink);
        let mut beat = ticks(heartbeat);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Err(Ended::Stopping),
                frame = next(self.socket, self.counters) => {
                    heard = Instant::now();
                    if let Some(message) = frame? {
                        self.receive(message, heartbeat).await?;
                    }
                }
                Some(answer) = self.dialled.answers.recv() => match answer {
                    FromLedger::Answers(answers) => {
                        for answer in answers {
                            self.send(answer, heartbeat).await?;
                        }
                    }
                    FromLedger::Close(why) => return Err(Ended::GivenUp(why)),
                },
                Some(report) = reports.recv() => self.send(Up::Report(report), heartbeat).await?,
                () = sleep_until(heard + heartbeat * 2) => return Err(Ended::Silent(heartbeat * 2)),
                _ = beat.tick() => {
                    let unix_ms = i64::try_from(clock::unix()).unwrap_or(i64::MAX).saturating_mul(1000);
                    self.send(Up::Heartbeat(wire::Heartbeat { unix_ms }), heartbeat).await?;
                }
            }
        }
    }

    /// Waits for the Welcome; gives the heartbeat to keep.
    async fn greeting(&mut self) -> Result<Duration, Ended> {
        let greeting = async {
            loop {
                if let Some(message) = next(self.socket, self.counters).await? {
                    return Ok::<_, Ended>(message);
                }
            }
        };
        let message = tokio::select! {
            () = self.stop.cancelled() => return Err(Ended::Stopping),
            message = timeout(WELCOME_TIMEOUT, greeting) => {
                message.map_err(|_| Ended::Silent(WELCOME_TIMEOUT))??
            }
        };
        let FromHub::Welcome(welcome) = message else {
            self.receive(message, HEARTBEAT).await?;
            return Err(Ended::GivenUp("the hub did not begin with a Welcome".into()));
        };
        if !selvedge_protocol::speaks(welcome.protocol) {
            return Err(Ended::GivenUp(format!(
                "the hub chose protocol {}, which was not offered",
                welcome.protocol
            )));
        }
        let heartbeat = match welcome.heartbeat_ms {
            0 => HEARTBEAT,
            asked => Duration::from_millis(asked.clamp(*HEARTBEAT_RANGE.start(), *HEARTBEAT_RANGE.end())),
        };
        (self.welcomed)(&welcome);
        self.to_ledger(FromHub::Welcome(welcome))?;
        Ok(heartbeat)
    }

    async fn receive(&mut self, message: FromHub, heartbeat: Duration) -> Result<(), Ended> {
        match message {
            FromHub::Verdicts(verdicts) => self
                .handles
                .verdicts
                .try_send(verdicts)
                .map_err(|_| Ended::GivenUp("verdicts come faster than they can be noted".into())),
            FromHub::Heartbeat(_) => Ok(()),
            FromHub::Refused(refused) => {
                let code = refused.code();
                let retry_after = Duration::from_millis(refused.retry_after_ms);
                let message = refused.message.clone();
                if code == Code::Stale {
                    self.to_ledger(FromHub::Refused(refused))?;
                }
                Err(Ended::Refused { code, message, retry_after })
            }
            FromHub::Goodbye(goodbye) => Err(Ended::Goodbye {
                reason: goodbye.reason,
                retry_after: Duration::from_millis(goodbye.retry_after_ms),
                behind: goodbye.behind,
            }),
            FromHub::Farewell(farewell) => {
                let reason = farewell.reason.clone();
                self.to_ledger(FromHub::Farewell(farewell))?;
                Err(Ended::Farewell(reason))
            }
            FromHub::OpenStream(open) => {
                let error = format!("this version of the agent knows no stream {:?}", open.kind);
                let refusal = wire::StreamData { stream: open.stream, data: Vec::new(), end: true, error };
                self.send(Up::Stream(refusal), heartbeat).await
            }
            message => self.to_ledger(message),
        }
    }

    fn to_ledger(&self, message: FromHub) -> Result<(), Ended> {
        self.handles
            .ledger
            .receive(self.dialled.session, message)
            .map_err(|error| Ended::GivenUp(error.to_string()))
    }

    /// A hub that takes nothing for two heartbeats is as good as gone.
    async fn send(&mut self, message: Up, heartbeat: Duration) -> Result<(), Ended> {
        let message = ToHub { message: Some(message) };
        let frame = selvedge_protocol::encode(&message);
        let (deadline, bytes) = (heartbeat * 2, frame.len());
        let sent = timeout(deadline, self.socket.send(Frame::Binary(frame)));
        sent.await.map_err(|_| Ended::Silent(deadline))??;
        if let Some(message) = &message.message {
            self.counters.sent(message, bytes);
        }
        Ok(())
    }
}

/// The next message; None for frames that are none, and for messages of a newer hub.
async fn next<S>(socket: &mut WebSocketStream<S>, counters: &Counters) -> Result<Option<FromHub>, Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match socket.next().await {
        Some(Ok(Frame::Binary(frame))) => {
            let bytes = frame.len();
            let message = selvedge_protocol::decode::<ToAgent>(frame)?.message;
            counters.received(message.as_ref(), bytes);
            Ok(message)
        }
        Some(Ok(Frame::Close(frame))) => Err(Ended::Closed(Closing::of(frame))),
        None => Err(Ended::Closed(None)),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.into()),
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
