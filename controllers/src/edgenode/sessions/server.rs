//! The door for hub replicas: TLS with a certificate made from the CA, a WebSocket, a token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use selvedge_operator::{clock, telemetry::chain};
use selvedge_protocol::{MAX_FRAME_BYTES, REPLICA_PATH};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{StatusCode, header::AUTHORIZATION};
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::auth::{self, AuthError};
use super::state::{Effects, Sessions};
use super::stream;
use super::switchboard::Switchboard;
use crate::edgenode::authority::{Authority, AuthorityError};

/// TLS, WebSocket and token together take at most this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams at once: more replicas than any installation has.
const MAX_STREAMS: usize = 256;
/// The certificate lives for a day and is made anew this often.
const RENEW: Duration = Duration::from_secs(12 * 3600);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How often it is asked whether replicas without a stream live.
const LOOK: Duration = Duration::from_secs(10);
/// A `Deny` is carried out within this (identity rule 7).
const ANSWER: Duration = Duration::from_secs(5);

/// The door.
pub struct Server {
    /// Asks for TokenReviews and pods.
    pub client: Client,
    /// Makes the certificate.
    pub authority: Arc<Authority>,
    /// Namespace of the hub.
    pub namespace: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where streams end.
    pub switchboard: Arc<Switchboard>,
}

/// The door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken.
    #[error("cannot listen for hub replicas on {address}: choose another --replica-address")]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No certificate.
    #[error("cannot make a certificate for hub replicas")]
    Certificate(#[from] AuthorityError),
    /// rustls does not take it.
    #[error("cannot use the certificate for hub replicas")]
    Tls(#[from] rustls::Error),
}

/// Why a connection did not become a stream.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    #[error("the WebSocket handshake failed")]
    WebSocket(#[from] tungstenite::Error),
    #[error("it brought no token")]
    NoToken,
    #[error("it was not let in")]
    Auth(#[from] AuthError),
    #[error("it took longer than {HANDSHAKE:?}")]
    Slow,
}

impl Server {
    /// Serves until `token` is cancelled. Streams are cut then: replicas dial the next leader.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn run(self: Arc<Self>, token: CancellationToken) -> Result<(), ServerError> {
        let (address, refuse) = (self.address, |source| ServerError::Bind { address: self.address, source });
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let (mut acceptor, mut made) = (self.acceptor()?, Instant::now());
        let mut streams = JoinSet::new();
        streams.spawn(self.clone().look_for_lost_replicas());
        tracing::info!(%address, "listens for hub replicas");
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                Some(_) = streams.join_next() => {}
                accepted = listener.accept(), if streams.len() <= MAX_STREAMS => match accepted {
                    Ok((socket, peer)) => {
                        if made.elapsed() > RENEW {
                            (acceptor, made) = (self.acceptor()?, Instant::now());
                        }
                        streams.spawn(self.clone().serve(acceptor.clone(), socket, peer));
                    }
                    // Out of file descriptors, or a client that left at once.
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "cannot accept a hub replica");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn serve(self: Arc<Self>, acceptor: TlsAcceptor, socket: TcpStream, peer: SocketAddr) {
        let opened = timeout(HANDSHAKE, self.open(acceptor, socket)).await;
        match opened.unwrap_or(Err(HandshakeError::Slow)) {
            Ok((socket, replica)) => {
                tracing::info!(replica, %peer, "hub replica connected");
                let ended = stream::run(socket, &replica, &self.switchboard).await;
                tracing::info!(replica, why = chain(&ended), "hub replica disconnected");
            }
            Err(error) => tracing::warn!(%peer, error = chain(&error), "turned away"),
        }
    }

    /// A stream and the pod name of its replica.
    async fn open(
        &self,
        acceptor: TlsAcceptor,
        socket: TcpStream,
    ) -> Result<(WebSocketStream<TlsStream<TcpStream>>, String), HandshakeError> {
        let socket = acceptor.accept(socket).await.map_err(HandshakeError::Tls)?;
        let mut bearer = None;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        // The signature is tungstenite's.
        #[allow(clippy::result_large_err)]
        let check = |request: &Request, response: Response| {
            if request.uri().path() != REPLICA_PATH {
                return Err(refusal(StatusCode::NOT_FOUND));
            }
            let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            bearer = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
            if bearer.is_some() { Ok(response) } else { Err(refusal(StatusCode::UNAUTHORIZED)) }
        };
        let mut socket = tokio_tungstenite::accept_hdr_async_with_config(socket, check, Some(config)).await?;
        let token = bearer.ok_or(HandshakeError::NoToken)?;
        match auth::replica(&self.client, &self.namespace, token).await {
            Ok(replica) => Ok((socket, replica)),
            Err(error) => {
                socket.close(None).await?;
                Err(error.into())
            }
        }
    }

    fn acceptor(&self) -> Result<TlsAcceptor, ServerError> {
        let name = format!("edgenode-controller.{}.svc", self.namespace);
        let (certificate, key) = self.authority.issue_controller(&name, clock::now())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certificate)],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
            )?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// A replica that lost its stream and is Ready goes on serving its agents: nobody is offline for that.
    async fn look_for_lost_replicas(self: Arc<Self>) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut look = interval(LOOK);
        loop {
            look.tick().await;
            let overdue = self.switchboard.look(|sessions| sessions.overdue(clock::now() - ANSWER));
            if overdue > 0 {
                tracing::warn!(overdue, "hub replicas have not carried out orders within {ANSWER:?}");
            }
            for replica in self.switchboard.look(Sessions::doubted) {
                match timeout(HANDSHAKE, pods.get_opt(&replica)).await {
                    Ok(Ok(Some(pod))) if is_ready(&pod) => {
                        let confirm = |sessions: &mut Sessions| {
                            sessions.confirm(&replica, clock::now());
                            Effects::default()
                        };
                        self.switchboard.change(confirm).await;
                    }
                    Ok(Ok(_)) => self.switchboard.change(|sessions| sessions.bury(&replica)).await,
                    // Without an answer nothing is known: the replica is doubted on.
                    Ok(Err(error)) => {
                        tracing::warn!(
                            replica,
                            error = chain(&error),
                            "cannot ask whether a hub replica lives"
                        );
                    }
                    Err(_) => tracing::warn!(replica, "cannot ask whether a hub replica lives: no answer"),
                }
            }
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn refusal(status: StatusCode) -> ErrorResponse {
    let mut response = ErrorResponse::new(None);
    *response.status_mut() = status;
    response
}
