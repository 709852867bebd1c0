//! One simulated agent: dials, lives through sessions and accidents, and tells at the end what it has.
//!
//! In: an identity, a fate. Out: [`Last`]. No refusal makes it stop; it only waits, as the real agent does
//! (sync rule 13).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rcgen::KeyPair;
use selvedge_agent::backoff::{Backoff, directed};
use selvedge_agent::dial::{Endpoint, EndpointError, Tls, TlsError};
use selvedge_agent::identity::Identity;
use selvedge_agent::ledger::StoreError;
use selvedge_history::{Agent as Name, Event, Row};
use selvedge_model::SessionId;
use selvedge_protocol::agent::refused::Code;
use tokio::time::{Instant, sleep, timeout_at};

use crate::faults::{Fate, Fault};
use crate::fleet::Fleet;
use crate::life::{Disk, Life, Who};
use crate::session::{Ended, Session};
use crate::wire::{self, Socket};

// As `selvedge_agent::link`.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const SLOWEST_RETRY: Duration = Duration::from_secs(20);
const REFUSED_RETRY: Duration = Duration::from_secs(60);
const GOOD_SESSION: Duration = Duration::from_secs(30);
const LONGEST_DIRECTED: Duration = Duration::from_secs(600);

/// An identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its key.
    #[error("the key of {node} cannot be used: remove its line from the identities")]
    Key {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// Its certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Where its hubs are.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// It names no hub.
    #[error("{0} knows no hub: name one with --hub")]
    NoHub(String),
    /// What it acknowledged is not on its disk: a fault of this program or of the ledger.
    #[error("the ledger of {node} is damaged")]
    Ledger {
        /// The node.
        node: Arc<str>,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// What an agent had when the run ended.
#[derive(Debug)]
pub struct Last {
    /// Which agent.
    pub agent: Name,
    /// Its session, if one was up.
    pub session: Option<SessionId>,
    /// What it had answered.
    pub rows: Vec<Row>,
    /// What it had said last of each key.
    pub said: Vec<(selvedge_history::Name, u64)>,
}

/// How an agent reaches hubs.
struct Dialer {
    number: u32,
    identity: Identity,
    key: KeyPair,
    tls: Tls,
    hubs: Vec<Endpoint>,
    turn: usize,
    redirects: u32,
    backoff: Backoff,
}

/// See the module.
pub struct Agent {
    fleet: Arc<Fleet>,
    who: Who,
    dialer: Dialer,
    fate: Fate,
    copies: u32,
    /// A connection that the agent has forgotten, and the hub not yet.
    forgotten: Option<Socket>,
}

impl Agent {
    /// Agent `number` with its identity; dials `hubs`, or those of its identity when there are none.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn new(
        fleet: Arc<Fleet>,
        number: u32,
        identity: Identity,
        key: &str,
        hubs: &[String],
        fate: Fate,
    ) -> Result<Self, AgentError> {
        let node = identity.node.clone();
        let key = KeyPair::from_pem(key).map_err(|source| AgentError::Key { node: node.clone(), source })?;
        let hubs = if hubs.is_empty() { &identity.hub } else { hubs };
        let hubs: Vec<Endpoint> = hubs.iter().map(|hub| hub.parse()).collect::<Result<_, _>>()?;
        if hubs.is_empty() {
            return Err(AgentError::NoHub(node));
        }
        let who = Who {
            agent: Name::of(&node),
            uid: identity.node_uid.as_str().into(),
            cluster: identity.cluster.as_str().into(),
            says: Arc::new(AtomicU64::new(fleet.first_state)),
        };
        let tls = Tls::mutual(&identity, &key, 0)?;
        let backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        let turn = rand::random_range(0..1024);
        let dialer = Dialer { number, identity, key, tls, hubs, turn, redirects: 0, backoff };
        Ok(Self { fleet, who, dialer, fate, copies: 0, forgotten: None })
    }

    /// Lives until the fleet stops.
    ///
    /// # Errors
    /// [`AgentError`] when the simulated machine itself failed.
    pub async fn run(mut self) -> Result<Last, AgentError> {
        let mut life = self.boot(Disk::default(), true)?;
        loop {
            let (fault, socket) = live(&self.fleet, &mut self.dialer, &mut life, Some(&mut self.fate), None)
                .await
                .map_err(|source| self.damaged(source))?;
            let session = match fault {
                Some(fault) => {
                    life = self.suffer(fault, life, socket).await?;
                    continue;
                }
                None => socket.map(|_| life.session()),
            };
            return Ok(Last { agent: self.who.agent, session, rows: life.answered(), said: life.said() });
        }
    }

    /// What an accident leaves.
    async fn suffer(
        &mut self,
        fault: Fault,
        mut life: Life,
        socket: Option<Socket>,
    ) -> Result<Life, AgentError> {
        match fault {
            Fault::Crash => {
                drop(socket);
                let who = self.who.agent.node.clone();
                self.fleet.record.tell(|| Event::Crashed { who });
                return self.boot(life.crash(), false);
            }
            Fault::LostLedger => return self.boot(Disk::default(), true),
            Fault::HalfOpen => self.forgotten = socket,
            Fault::Duplicate => {
                drop(socket);
                self.copies += 1;
                let agent = Name { copy: self.copies, ..self.who.agent.clone() };
                let who = Who { agent, ..self.who.clone() };
                let copy = Life::boot(who, self.fleet.clone(), life.copy(), true);
                let mut copy = copy.map_err(|source| self.damaged(source))?;
                let until = Some(Instant::now() + self.fate.length());
                let mut second = self.dialer.another()?;
                let fleet = self.fleet.clone();
                let (first, second) = futures::join!(
                    Box::pin(live(&fleet, &mut self.dialer, &mut life, None, until)),
                    Box::pin(live(&fleet, &mut second, &mut copy, None, until)),
                );
                first.and(second).map_err(|source| self.damaged(source))?;
            }
            Fault::ClockSkew => {
                drop(socket);
                life.skew = self.fate.skew();
                self.dialer.judge_at(life.unix_ms())?;
            }
            Fault::Cut | Fault::Stall | Fault::SlowReader => drop(socket),
        }
        Ok(life)
    }

    fn boot(&self, disk: Disk, fresh: bool) -> Result<Life, AgentError> {
        let booted = Life::boot(self.who.clone(), self.fleet.clone(), disk, fresh);
        booted.map_err(|source| self.damaged(source))
    }

    fn damaged(&self, source: StoreError) -> AgentError {
        AgentError::Ledger { node: self.who.agent.node.clone(), source }
    }
}

/// Session after session, until an accident, `until`, or the end of the run; with the socket, if one was up.
async fn live(
    fleet: &Arc<Fleet>,
    dialer: &mut Dialer,
    life: &mut Life,
    mut fate: Option<&mut Fate>,
    until: Option<Instant>,
) -> Result<(Option<Fault>, Option<Socket>), StoreError> {
    loop {
        let began = Instant::now();
        let dialled = tokio::select! {
            () = fleet.stop.cancelled() => return Ok((None, None)),
            // Boxed: the handshake's state is large, and there are many of us.
            dialled = Box::pin(dialer.dial(fleet)) => dialled,
        };
        let wait = match dialled {
            Err(error) => {
                fleet.counters.no_connection(&error);
                dialer.backoff.next(rand::random())
            }
            Ok(mut socket) => {
                let redirects = dialer.redirects;
                let session =
                    Session { socket: &mut socket, life, fleet, fate: fate.as_deref_mut(), redirects, until };
                let ended = session.run().await;
                fleet.counters.ended(&ended);
                match ended {
                    Ended::Over => return Ok((None, Some(socket))),
                    Ended::Fault(fault) => return Ok((Some(fault), Some(socket))),
                    Ended::Ledger(source) => return Err(source),
                    _ => {}
                }
                if began.elapsed() > GOOD_SESSION {
                    dialer.backoff.reset();
                }
                dialer.after(&ended)
            }
        };
        let again = Instant::now() + wait;
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = fleet.stop.cancelled() => return Ok((None, None)),
            () = over => return Ok((None, None)),
            () = sleep(again.saturating_duration_since(Instant::now())) => {}
        }
    }
}

impl Dialer {
    async fn dial(&mut self, fleet: &Fleet) -> Result<Socket, wire::WireError> {
        let hub = &self.hubs[self.turn % self.hubs.len()];
        self.turn = self.turn.wrapping_add(1);
        // A fleet that dials at one moment from one process would spend its time in each other's way.
        let _turn = timeout_at(Instant::now() + SLOWEST_RETRY, fleet.dials.acquire()).await;
        wire::dial(self.number, hub, &self.tls, fleet.bytes.clone()).await
    }

    /// How long to wait after a session ended.
    fn after(&mut self, ended: &Ended) -> Duration {
        self.redirects = match ended {
            Ended::Goodbye(goodbye) if goodbye.behind => self.redirects + 1,
            _ => 0,
        };
        let ours = self.backoff.next(rand::random());
        let asked = |wait: Duration| match wait {
            Duration::ZERO => ours,
            wait => directed(wait.min(LONGEST_DIRECTED), rand::random()),
        };
        match ended {
            Ended::Refused(refused) => {
                let wait = Duration::from_millis(refused.retry_after_ms);
                match refused.code() {
                    Code::Denied | Code::OtherCluster | Code::Protocol => asked(wait.max(REFUSED_RETRY)),
                    _ => asked(wait),
                }
            }
            Ended::Goodbye(goodbye) => asked(Duration::from_millis(goodbye.retry_after_ms)),
            _ => ours,
        }
    }

    /// The same identity on another machine.
    fn another(&self) -> Result<Self, AgentError> {
        let node = || self.identity.node.clone();
        let key = KeyPair::from_pem(&self.key.serialize_pem())
            .map_err(|source| AgentError::Key { node: node(), source })?;
        Ok(Self {
            number: self.number,
            identity: self.identity.clone(),
            key,
            tls: self.tls.clone(),
            hubs: self.hubs.clone(),
            turn: self.turn,
            redirects: 0,
            backoff: Backoff::new(FIRST_RETRY, SLOWEST_RETRY),
        })
    }

    /// Hubs are judged at this time from now on, never earlier than the system's.
    fn judge_at(&mut self, unix_ms: i64) -> Result<(), TlsError> {
        let latest = u64::try_from(unix_ms / 1000).unwrap_or(0);
        self.tls = Tls::mutual(&self.identity, &self.key, latest)?;
        Ok(())
    }
}
