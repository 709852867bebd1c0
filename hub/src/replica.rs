//! The stream to the EdgeNode controller's leader: sessions and proof of a restore up, `Supersede`, `Duplicate` and
//! `Deny` down (sync rules 8 and 9).
//!
//! The leader's address stands in its Lease. With the controller away sessions go on; only what it says waits.
//! The token that is sent is of an audience of its own: the API server takes it from nobody (identity rule 4).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use rustls_pki_types::ServerName;
use selvedge_operator::BoxError;
use selvedge_operator::backoff::Backoff;
use selvedge_operator::telemetry::chain;
use selvedge_protocol::controller::{
    self as wire, to_controller::Message as Up, to_replica::Message as Down,
};
use selvedge_protocol::{DecodeError, MAX_FRAME_BYTES, REPLICA_PATH, decode, encode};
use tokio::net::TcpStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::hub::Hub;
use crate::index::Resource;
use crate::sessions::Seen;
use crate::transport::tls;

/// Name of the controller's Lease and Service.
const CONTROLLER: &str = "edgenode-controller";
/// On the Lease: `<ip>:<port>` of the leader.
const ADDRESS: &str = "selvedge.dev/address";
/// Both sides say so often that they live; three lost ones end the stream.
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);
/// Each step of dialling ends within this.
const DIAL: Duration = Duration::from_secs(10);
/// Sessions of a snapshot per frame: at about 120 bytes each a frame stays below 128 KB.
const A_FRAME: usize = 1000;

/// What the stream needs.
pub struct Replica {
    /// The hub.
    pub hub: Arc<Hub>,
    /// The API server.
    pub client: Client,
    /// Namespace of the installation.
    pub namespace: String,
    /// Name of this replica.
    pub name: String,
    /// File of the projected token.
    pub token_file: PathBuf,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot read the Lease of {CONTROLLER}")]
    Lease(#[source] kube::Error),
    #[error("the Lease of {CONTROLLER} names no address: no leader yet")]
    NoLeader,
    #[error("cannot read the token")]
    Token(#[source] std::io::Error),
    #[error("cannot reach {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("the cluster's CA is not known yet")]
    NoCa,
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("cannot make a TLS client")]
    Config(#[source] rustls::Error),
    #[error("the stream broke")]
    Socket(#[source] Box<tungstenite::Error>),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the controller sent what is no message")]
    Malformed(#[from] DecodeError),
    #[error("the Service name of the controller is no DNS name")]
    Name,
}

impl From<tungstenite::Error> for StreamError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

type Socket = WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>;

impl Replica {
    /// Keeps a stream until `token` is cancelled.
    ///
    /// # Errors
    /// Never; what fails is tried again.
    pub async fn keep(self, token: CancellationToken) -> Result<(), BoxError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let began = Instant::now();
            tokio::select! {
                Err(error) = self.stream() => {
                    if began.elapsed() > SILENCE {
                        backoff.succeeded();
                    }
                    tracing::info!(error = chain(&error), "no stream to the edgenode-controller; it is dialled again");
                }
                () = token.cancelled() => return Ok(()),
            }
            tokio::select! {
                () = sleep(backoff.failed()) => {}
                () = token.cancelled() => return Ok(()),
            }
        }
    }

    async fn stream(&self) -> Result<std::convert::Infallible, StreamError> {
        let mut socket = timeout(DIAL, Box::pin(self.dial())).await.map_err(|_| StreamError::Silent)??;
        tracing::info!("stream to the edgenode-controller");
        send(&mut socket, Up::Register(wire::Register { replica: self.name.clone() })).await?;
        let (snapshot, mut changes) = self.hub.sessions.subscribe();
        snapshot_to(&mut socket, &snapshot).await?;
        let mut outside = self.hub.sessions.outside();
        let mut proof = self.hub.proof.subscribe();
        // Also what was proved while nobody listened.
        proof.mark_changed();
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                frame = timeout_at(heard + SILENCE, socket.next()) => {
                    heard = Instant::now();
                    match frame.map_err(|_| StreamError::Silent)? {
                        Some(Ok(Message::Binary(bytes))) => self.obey(&mut socket, decode(bytes)?).await?,
                        Some(Ok(Message::Close(_))) | None => return Err(StreamError::Closed),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(error.into()),
                    }
                }
                change = changes.recv() => match change {
                    Ok(seen) => {
                        let sessions = wire::Sessions { snapshot: false, sessions: vec![session(&seen)] };
                        send(&mut socket, Up::Sessions(sessions)).await?;
                    }
                    Err(RecvError::Lagged(_)) => {
                        let (snapshot, anew) = self.hub.sessions.subscribe();
                        changes = anew;
                        snapshot_to(&mut socket, &snapshot).await?;
                    }
                    Err(RecvError::Closed) => return Err(StreamError::Closed),
                },
                waiting = outside.recv() => match waiting {
                    Ok((node, uid)) => {
                        let waiting = wire::Waiting { node: node.to_string(), uid: uid.to_string() };
                        send(&mut socket, Up::Waiting(waiting)).await?;
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(StreamError::Closed),
                },
                Ok(()) = proof.changed() => {
                    let epoch = *proof.borrow_and_update();
                    if let Some(epoch) = epoch {
                        send(&mut socket, Up::Restored(wire::Restored { epoch })).await?;
                    }
                }
                _ = beat.tick() => {
                    send(&mut socket, Up::Heartbeat(wire::Heartbeat { unix_ms: clock::unix_ms() })).await?;
                }
            }
        }
    }

    async fn obey(&self, socket: &mut Socket, message: wire::ToReplica) -> Result<(), StreamError> {
        let order = match message.message {
            Some(Down::Supersede(supersede)) => {
                let newest = selvedge_model::SessionId { counter: supersede.counter, nonce: supersede.nonce };
                self.hub.sessions.supersede(&supersede.uid, newest);
                supersede.order
            }
            Some(Down::Deny(deny)) => {
                tracing::info!(uid = deny.uid, reason = deny.reason, "the controller shuts a node out");
                self.hub.sessions.deny(&deny.uid, clock::now());
                self.hub.pokes.poke(&[Resource::EdgeNodes]);
                deny.order
            }
            Some(Down::Duplicate(duplicate)) => {
                tracing::warn!(
                    uid = duplicate.uid,
                    "two machines bear the identity of this node and supersede each other"
                );
                let until = clock::now() + Duration::from_secs(duplicate.seconds.into());
                self.hub.sessions.duplicate(&duplicate.uid, until);
                duplicate.order
            }
            Some(Down::Heartbeat(_)) | None => return Ok(()),
        };
        send(socket, Up::Done(wire::Done { order })).await
    }

    async fn dial(&self) -> Result<Socket, StreamError> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let lease = leases.get(CONTROLLER).await.map_err(StreamError::Lease)?;
        let annotations = lease.metadata.annotations.unwrap_or_default();
        let address = annotations.get(ADDRESS).ok_or(StreamError::NoLeader)?;
        let cluster = self.hub.cluster.borrow().clone().ok_or(StreamError::NoCa)?;
        let token = tokio::fs::read_to_string(&self.token_file).await.map_err(StreamError::Token)?;
        let config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(StreamError::Config)?
            .with_root_certificates(tls::roots(&cluster.ca_pem)?)
            .with_no_client_auth();
        let host = format!("{CONTROLLER}.{}.svc", self.namespace);
        let name = ServerName::try_from(host.clone()).map_err(|_| StreamError::Name)?;
        let connect = |error| StreamError::Connect(address.clone(), error);
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(connect)?;
        let mut request = format!("wss://{host}{REPLICA_PATH}").into_client_request()?;
        let bearer = format!("Bearer {}", token.trim()).parse().map_err(|_| StreamError::Name)?;
        request.headers_mut().insert("authorization", bearer);
        let limits = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        Ok(client_async_with_config(request, stream, Some(limits)).await?.0)
    }
}

/// All sessions: the first frame begins the snapshot, further ones add to it.
async fn snapshot_to(socket: &mut Socket, all: &[Seen]) -> Result<(), StreamError> {
    let mut frames = all.chunks(A_FRAME);
    let mut snapshot = true;
    loop {
        let frame = frames.next();
        if frame.is_none() && !snapshot {
            return Ok(());
        }
        let sessions = frame.unwrap_or_default().iter().map(session).collect();
        send(socket, Up::Sessions(wire::Sessions { snapshot, sessions })).await?;
        snapshot = false;
    }
}

fn session(seen: &Seen) -> wire::Session {
    wire::Session {
        node: seen.node.to_string(),
        uid: seen.uid.to_string(),
        counter: seen.id.counter,
        nonce: seen.id.nonce,
        certificate_serial: seen.serial.to_string(),
        closed: seen.closed,
    }
}

async fn send(socket: &mut Socket, message: Up) -> Result<(), StreamError> {
    let frame = encode(&wire::ToController { message: Some(message) });
    timeout(DIAL, socket.send(Message::Binary(frame))).await.map_err(|_| StreamError::Silent)??;
    Ok(())
}
