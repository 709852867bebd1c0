//! One session of a simulated agent over its socket, with the accidents that happen in it.
//!
//! In: a dialled socket, a [`Life`]. Out: how it ended. The rules of time are the real agent's
//! (`selvedge_agent::link`): a heartbeat so often, silence of two ends it.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use selvedge_agent::ledger::StoreError;
use selvedge_protocol::agent::{
    self as wire, ToAgent, refused::Code, to_agent::Message as FromHub, to_hub::Message as ToHub,
};
use selvedge_protocol::{DecodeError, HEARTBEAT, decode, encode};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Frame};

use crate::faults::{Fate, Fault};
use crate::fleet::{Fleet, Present};
use crate::life::Life;
use crate::wire::Socket;

/// A hub admits or refuses well before this.
const WELCOME: Duration = Duration::from_secs(20);
/// How seldom a slow reader takes a frame.
const SLOW: Duration = Duration::from_millis(500);
/// As the real agent: a hub may ask for other heartbeats, within reason.
const HEARTBEAT_RANGE: std::ops::RangeInclusive<u64> = 200..=300_000;

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Nothing of the hub for two heartbeats, or no Welcome.
    #[error("the hub was silent")]
    Silent,
    /// It broke.
    #[error("the connection broke")]
    Broken(#[source] Box<SocketError>),
    /// The hub closed it.
    #[error("the hub closed the connection")]
    Closed,
    /// The hub sent what is no message.
    #[error("the hub sent what is no message")]
    Malformed(#[from] DecodeError),
    /// Not admitted, or no longer.
    #[error("refused ({}): {}", .0.code().as_str_name(), .0.message)]
    Refused(wire::Refused),
    /// Sent away.
    #[error("sent away: {}", .0.reason)]
    Goodbye(wire::Goodbye),
    /// The ledger ends it.
    #[error("{0}")]
    GivenUp(String),
    /// What was once acknowledged is not there.
    #[error("the simulated ledger is damaged")]
    Ledger(#[from] StoreError),
    /// An accident that ends a session.
    #[error("an accident: {}", .0.name())]
    Fault(Fault),
    /// Its time is over.
    #[error("the run ends")]
    Over,
}

impl From<SocketError> for Ended {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::ConnectionClosed | SocketError::AlreadyClosed => Self::Closed,
            error => Self::Broken(Box::new(error)),
        }
    }
}

/// One session.
pub struct Session<'a> {
    /// The socket.
    pub socket: &'a mut Socket,
    /// The machine.
    pub life: &'a mut Life,
    /// All agents.
    pub fleet: &'a Fleet,
    /// What happens to it; none: nothing.
    pub fate: Option<&'a mut Fate>,
    /// How many replicas in a row sent it away for being behind.
    pub redirects: u32,
    /// When it ends by itself.
    pub until: Option<Instant>,
}

impl Session<'_> {
    /// Lives until it ends.
    pub async fn run(mut self) -> Ended {
        match self.live().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn live(&mut self) -> Result<std::convert::Infallible, Ended> {
        let hello = self.life.hello(rand::random(), self.redirects)?;
        self.send(ToHub::Hello(hello), HEARTBEAT).await?;
        let heartbeat = self.greeting().await?;
        let mut present = Present::begin(self.fleet, self.life.who().agent.node.clone());
        self.life.began();
        let mut heard = Instant::now();
        let mut beat = heard + heartbeat;
        let mut next_fault = self.next_fault();
        let mut slow_until = heard;
        loop {
            // Applied at once, said at once.
            while let Some(report) = self.life.reports() {
                self.send(ToHub::Report(report), heartbeat).await?;
            }
            let mut wake = beat.min(heard + heartbeat * 2);
            wake = wake.min(self.until.unwrap_or(wake));
            wake = wake.min(next_fault.map_or(wake, |(at, _)| at));
            let socket = &mut *self.socket;
            let frame = async {
                if Instant::now() < slow_until {
                    sleep(SLOW).await;
                }
                next(socket).await
            };
            tokio::select! {
                () = self.fleet.stop.cancelled() => return Err(Ended::Over),
                frame = frame => {
                    heard = Instant::now();
                    if let Some(message) = frame? {
                        self.receive(message, heartbeat).await?;
                        present.synced(self.life.synced());
                    }
                }
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            if self.until.is_some_and(|until| until <= now) {
                return Err(Ended::Over);
            }
            if let Some((at, fault)) = next_fault.filter(|(at, _)| *at <= now) {
                next_fault = self.next_fault();
                if !self.fleet.is_calm() {
                    slow_until = self.suffer(fault, at).await?;
                }
            }
            if now >= heard + heartbeat * 2 {
                return Err(Ended::Silent);
            }
            if now >= beat {
                beat = now + heartbeat;
                self.life.save();
                let unix_ms = self.life.unix_ms();
                self.send(ToHub::Heartbeat(wire::Heartbeat { unix_ms }), heartbeat).await?;
            }
        }
    }

    fn next_fault(&mut self) -> Option<(Instant, Fault)> {
        let (wait, fault) = self.fate.as_mut()?.next_fault()?;
        Some((Instant::now() + wait, fault))
    }

    /// An accident; until when the agent reads slowly after it.
    async fn suffer(&mut self, fault: Fault, at: Instant) -> Result<Instant, Ended> {
        self.fleet.suffered(fault);
        let length = self.fate.as_mut().map(|fate| fate.length()).unwrap_or_default();
        match fault {
            Fault::Stall => {
                sleep(length).await;
                Ok(at)
            }
            Fault::SlowReader => Ok(at + length),
            fault => Err(Ended::Fault(fault)),
        }
    }

    /// Waits for the Welcome; gives the heartbeat to keep.
    async fn greeting(&mut self) -> Result<Duration, Ended> {
        let greeting = async {
            loop {
                if let Some(message) = next(self.socket).await? {
                    return Ok::<_, Ended>(message);
                }
            }
        };
        let message = tokio::select! {
            () = self.fleet.stop.cancelled() => return Err(Ended::Over),
            message = timeout(WELCOME, greeting) => message.map_err(|_| Ended::Silent)??,
        };
        let FromHub::Welcome(welcome) = message else {
            self.receive(message, HEARTBEAT).await?;
            return Err(Ended::GivenUp("the hub did not begin with a Welcome".into()));
        };
        let heartbeat = match welcome.heartbeat_ms {
            0 => HEARTBEAT,
            asked => Duration::from_millis(asked.clamp(*HEARTBEAT_RANGE.start(), *HEARTBEAT_RANGE.end())),
        };
        self.receive(FromHub::Welcome(welcome), heartbeat).await?;
        Ok(heartbeat)
    }

    async fn receive(&mut self, message: FromHub, heartbeat: Duration) -> Result<(), Ended> {
        self.fleet.counters.frame(&message);
        match message {
            FromHub::Heartbeat(_) => return Ok(()),
            FromHub::Refused(refused) => {
                if refused.code() == Code::Stale {
                    self.life.receive(FromHub::Refused(refused.clone()))?;
                }
                return Err(Ended::Refused(refused));
            }
            FromHub::Goodbye(goodbye) => return Err(Ended::Goodbye(goodbye)),
            _ => {}
        }
        let step = self.life.receive(message)?;
        for answer in step.answers {
            self.send(answer, heartbeat).await?;
        }
        step.close.map_or(Ok(()), |why| Err(Ended::GivenUp(why)))
    }

    /// A hub that takes nothing for two heartbeats is as good as gone.
    async fn send(&mut self, message: ToHub, heartbeat: Duration) -> Result<(), Ended> {
        let frame = encode(&wire::ToHub { message: Some(message) });
        timeout(heartbeat * 2, self.socket.send(Frame::Binary(frame)))
            .await
            .map_err(|_| Ended::Silent)?
            .map_err(Ended::from)
    }
}

/// The next message; none for frames that are none, and for messages of a newer hub.
async fn next(socket: &mut Socket) -> Result<Option<FromHub>, Ended> {
    match socket.next().await {
        Some(Ok(Frame::Binary(frame))) => Ok(decode::<ToAgent>(frame)?.message),
        Some(Ok(Frame::Close(_))) | None => Err(Ended::Closed),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.into()),
    }
}
