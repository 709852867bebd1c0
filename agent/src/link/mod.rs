//! The link: keeps one session with some hub, for as long as the agent lives.
//!
//! In: the identity (read anew at every dial), the ledger's Hello and answers, reports to send. Out:
//! messages of the hub to ledger and report task, and [`LinkStatus`]. No refusal of a hub makes it stop;
//! it only waits longer (sync rule 13).

mod closing;
mod counters;
mod session;
mod status;

#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use selvedge_protocol::{
    MAX_FRAME_BYTES, SESSION_PATH,
    agent::{self as wire, refused::Code},
};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error as SocketError, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

use self::{
    closing::Told,
    session::{Ended, Session},
};
pub use self::{
    counters::{Counters, Counts, Traffic},
    status::LinkStatus,
};
use crate::{
    backoff::{Backoff, directed},
    chain::chain,
    clock::{self, Latest},
    dial::{DialError, Endpoint, EndpointError, Tls, TlsError, dial},
    identity::{self, Identity, IdentityError},
    ledger,
};

/// After a lost session the other replica is there at once: the first try is within half a second.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// A hub that comes back after a long outage sees its fleet within this.
const SLOWEST_RETRY: Duration = Duration::from_secs(20);
/// What will not change by itself is asked seldom: denied, another cluster, no common protocol, a node that was
/// deleted.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// A session that lived this long was a good one.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// What a hub may ask us to wait at most: a wrong hub must not send a fleet away for days.
const LONGEST_DIRECTED: Duration = Duration::from_secs(600);
/// An upgrade is answered at once, or not at all.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(20);
/// Small: frames are mostly small, and the socket is flushed after every one.
const READ_BUFFER: usize = 4096;

/// What the link gets messages from and gives messages to.
#[derive(Clone, Debug)]
pub struct LinkHandles {
    /// The ledger.
    pub ledger: ledger::Handle,
    /// Verdicts on reports.
    pub verdicts: mpsc::Sender<wire::Verdicts>,
    /// Where reports go while a session is up.
    pub uplink: watch::Sender<Option<mpsc::Sender<wire::Report>>>,
}

/// While it lives, the report task sees the session's uplink.
struct Uplink<'a>(&'a watch::Sender<Option<mpsc::Sender<wire::Report>>>);

impl<'a> Uplink<'a> {
    fn open(
        uplink: &'a watch::Sender<Option<mpsc::Sender<wire::Report>>>,
        sender: mpsc::Sender<wire::Report>,
    ) -> Self {
        uplink.send_replace(Some(sender));
        Self(uplink)
    }
}

impl Drop for Uplink<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Why no session came up.
#[derive(Debug, thiserror::Error)]
enum NoSession {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the hub did not take the WebSocket")]
    Upgrade(#[source] Box<SocketError>),
    #[error("the hub did not answer the upgrade in {} s", UPGRADE_TIMEOUT.as_secs())]
    UpgradeTimeout,
    #[error(transparent)]
    Ledger(#[from] ledger::Stopped),
}

impl NoSession {
    /// How far the try came, as a label.
    fn name(&self) -> &'static str {
        match self {
            Self::Identity(_) => "NoIdentity",
            Self::Endpoint(_) => "NoEndpoint",
            Self::Tls(_) => "TlsSetup",
            Self::Dial(DialError::Connect { .. }) => "ConnectFailed",
            Self::Dial(DialError::Proxy { .. }) => "ProxyFailed",
            Self::Dial(DialError::Tls { .. }) => "TlsFailed",
            Self::Dial(DialError::Timeout { .. }) => "DialTimeout",
            Self::Upgrade(_) => "UpgradeFailed",
            Self::UpgradeTimeout => "UpgradeTimeout",
            Self::Ledger(_) => "LedgerStopped",
        }
    }
}

/// The link of one agent.
pub struct Link {
    /// Where the identity is.
    pub state_dir: PathBuf,
    /// Hubs to dial instead of those of the identity; empty: those.
    pub hubs: Vec<String>,
    /// Ledger and reports.
    pub handles: LinkHandles,
    /// Told to whoever asks.
    pub status: watch::Sender<LinkStatus>,
    /// Of everything that goes over it.
    pub counters: Arc<Counters>,
    /// Time known to have passed.
    pub latest: watch::Sender<Latest>,
    /// There is a new identity: the session is ended, and the next one begins with it.
    pub renewed: Arc<Notify>,
    /// Told when the EdgeNode of our name is another one.
    pub replaced: Arc<Notify>,
}

impl Link {
    /// Keeps a session until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        // Replicas share a fleet by chance; after that an agent goes round.
        let mut turn: usize = rand::random_range(0..1024);
        let (mut redirects, mut told) = (0, Told::default());
        // The EdgeNode was deleted, as far as is known since.
        let mut parted = false;
        while !stop.is_cancelled() {
            let started = Instant::now();
            let sessions = self.status.borrow().sessions;
            let mut hub = String::new();
            let (round, renewed) = (stop.child_token(), Arc::clone(&self.renewed));
            let result = {
                let mut session = Box::pin(self.session(turn, redirects, &mut hub, &round));
                tokio::select! {
                    result = &mut session => result,
                    () = renewed.notified() => {
                        round.cancel();
                        session.await
                    }
                }
            };
            if self.status.borrow().sessions > sessions && started.elapsed() > GOOD_SESSION {
                backoff.reset();
            }
            let (reason, wait) = match result {
                Ok(Ended::Stopping) if stop.is_cancelled() => return,
                Ok(Ended::Stopping) => {
                    tracing::info!(hub, "dials anew with its new certificate");
                    continue;
                }
                Ok(ended) => {
                    self.counters.ended(ended.name());
                    explain(&ended, &hub, &mut told);
                    if matches!(ended, Ended::Refused { code: Code::OtherUid, .. }) {
                        self.replaced.notify_one();
                    }
                    parted = matches!(ended, Ended::Farewell(_))
                        || parted && self.status.borrow().sessions == sessions;
                    redirects = match ended {
                        Ended::Goodbye { behind: true, .. } => redirects + 1,
                        _ => 0,
                    };
                    (chain(&ended), wait(&ended, parted, &mut backoff))
                }
                Err(error) => {
                    self.counters.dialled(error.name());
                    (chain(&error), backoff.next(rand::random()))
                }
            };
            turn = turn.wrapping_add(1);
            tracing::warn!(
                hub,
                reason,
                next_try_ms = wait.as_millis(),
                "no session; working from the ledger"
            );
            self.status.send_modify(|status| status.down(hub, reason, clock::unix(), wait.as_secs()));
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(wait) => {}
            }
        }
    }

    async fn session(
        &self,
        turn: usize,
        redirects: u32,
        hub: &mut String,
        stop: &CancellationToken,
    ) -> Result<Ended, NoSession> {
        let identity = Identity::load(&self.state_dir)?;
        let key = identity::key(&self.state_dir)?;
        let hubs = if self.hubs.is_empty() { &identity.hub } else { &self.hubs };
        let endpoint: Endpoint = hubs.get(turn % hubs.len().max(1)).map_or("", String::as_str).parse()?;
        *hub = endpoint.to_string();
        let tls = Tls::mutual(&identity, &key, self.latest.borrow().now())?;
        let dialled = async {
            let stream = dial(&endpoint, &tls).await?;
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
            Ok::<_, NoSession>((upgrade(&endpoint, stream).await?, chain))
        };
        let (mut socket, chain) = tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Stopping),
            // Boxed: the handshake's state is large, and the session that follows lives for days.
            dialled = Box::pin(dialled) => dialled?,
        };
        let dialled = self.handles.ledger.hello(rand::random(), redirects).await?;
        self.counters.dialled("Connected");
        let session = dialled.session;
        let (latest, handles, status) = (&self.latest, &self.handles, &self.status);
        let mut welcomed = |welcome: &wire::Welcome| {
            tracing::info!(%hub, %session, protocol = welcome.protocol, "session up");
            status.send_modify(|status| status.up(hub.clone(), clock::unix()));
            let told = u64::try_from(welcome.unix_ms / 1000).unwrap_or(0);
            if told <= latest.borrow().now() {
                return;
            }
            if !tls.valid_at(&chain, &endpoint.name, told) {
                tracing::warn!(%hub, told, "the hub's time is outside its own certificate; not believed");
                return;
            }
            latest.send_replace(Latest::at(told));
            // When the ledger is too busy the next Welcome tells it.
            let _ = handles.ledger.note_time(told);
        };
        let counters = &self.counters;
        let session =
            Session { socket: &mut socket, dialled, handles, counters, welcomed: &mut welcomed, stop };
        let ended = session.run().await;
        // A clean end lets the hub know at once; a broken connection cannot be told anything.
        let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
        Ok(ended)
    }
}

async fn upgrade(
    endpoint: &Endpoint,
    stream: TlsStream<TcpStream>,
) -> Result<WebSocketStream<TlsStream<TcpStream>>, NoSession> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_FRAME_BYTES)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    let url = format!("wss://{}{SESSION_PATH}", endpoint.authority());
    let upgrade = client_async_with_config(url, stream, Some(config));
    let (socket, _) = timeout(UPGRADE_TIMEOUT, upgrade)
        .await
        .map_err(|_| NoSession::UpgradeTimeout)?
        .map_err(|error| NoSession::Upgrade(Box::new(error)))?;
    Ok(socket)
}

/// Says once what the close code of a hub means. Every dial that fails has its line anyway.
fn explain(ended: &Ended, hub: &str, told: &mut Told) {
    let closing = match ended {
        Ended::Closed(closing) => closing.as_ref(),
        _ => None,
    };
    let news = told.is_news(closing);
    if let Some((closing, (means, advice))) = closing.and_then(|closing| Some((closing, closing.advice()?)))
        && news
    {
        tracing::error!(
            hub,
            code = closing.code,
            reason = closing.reason,
            "the hub ended the session for what this agent sent: {means}; {advice}; see \
             docs/reference/protocol-errors.md"
        );
    }
}

/// How long to wait after a session ended. Whose EdgeNode was deleted (`parted`) is not waited for.
fn wait(ended: &Ended, parted: bool, backoff: &mut Backoff) -> Duration {
    let ours = backoff.next(rand::random());
    let asked = |wait: Duration| match wait {
        Duration::ZERO => ours,
        wait => directed(wait.min(LONGEST_DIRECTED), rand::random()),
    };
    match ended {
        Ended::Refused { code: Code::Denied | Code::OtherCluster | Code::Protocol, retry_after, .. } => {
            asked((*retry_after).max(REFUSED_RETRY))
        }
        Ended::Refused { code: Code::TryLater, retry_after, .. } if parted => {
            asked((*retry_after).max(REFUSED_RETRY))
        }
        Ended::Farewell(_) => asked(REFUSED_RETRY),
        Ended::Refused { retry_after, .. } | Ended::Goodbye { retry_after, .. } => asked(*retry_after),
        _ => ours,
    }
}
