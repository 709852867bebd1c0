//! The agent's own socket: `/status` (JSON) and `/metrics` (Prometheus), over HTTP/1.1.
//!
//! A Unix socket in the state directory, for its owner alone; the same over TCP when an address is set,
//! for a Prometheus on the node.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{NodeStatus, Sources, metrics::metrics};
use crate::join::http::{HttpError, exchange};

/// File name of the socket in the state directory.
pub const SOCKET_FILE: &str = "agent.sock";
/// People and one Prometheus: more at a time is a mistake, and waits.
const CONNECTIONS: usize = 8;
/// An exchange takes milliseconds.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the socket cannot be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The Unix socket cannot be made.
    #[error("cannot listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The TCP address cannot be used.
    #[error("cannot listen on {address} for metrics; set another metricsAddress")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No agent behind the socket.
    #[error("no agent answers on {path}; is `selvedge-agent run` running with this state directory?")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The agent's answer cannot be read.
    #[error("the agent does not answer as it should")]
    Exchange(#[from] HttpError),
    /// The agent's answer is of another version.
    #[error("the agent's status cannot be read; is it of another version?")]
    Status(#[from] serde_json::Error),
    /// No answer in time.
    #[error("the agent did not answer in {} s", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
}

/// The listeners.
pub struct Server {
    unix: UnixListener,
    tcp: Option<TcpListener>,
}

impl Server {
    /// Listens in `state_dir`, and on `metrics` when it is set. The caller holds the state directory's
    /// ledger, so a socket that is there is a left-over.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn listen(state_dir: &Path, metrics: Option<SocketAddr>) -> Result<Self, ServerError> {
        let path = state_dir.join(SOCKET_FILE);
        let fault = |source| ServerError::Socket { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
            _ => {}
        }
        let unix = UnixListener::bind(&path).map_err(fault)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
        let tcp = match metrics {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| ServerError::Address { address, source })?,
            ),
            None => None,
        };
        Ok(Self { unix, tcp })
    }

    /// Serves until `stop`.
    pub async fn run(self, sources: Sources, stop: CancellationToken) {
        let sources = Arc::new(sources);
        let mut connections = JoinSet::new();
        loop {
            let room = connections.len() < CONNECTIONS;
            let tcp = async {
                match &self.tcp {
                    Some(tcp) => tcp.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = self.unix.accept(), if room => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(answer(stream, Arc::clone(&sources)))),
                    Err(error) => refused(error).await,
                },
                accepted = tcp, if room => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(answer(stream, Arc::clone(&sources)))),
                    Err(error) => refused(error).await,
                },
            }
        }
    }
}

/// No file descriptor left, mostly: to try again at once would spin.
async fn refused(error: io::Error) {
    tracing::warn!(%error, "cannot accept a connection on the agent's socket");
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn answer<S>(stream: S, sources: Arc<Sources>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| respond(request, &sources));
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(EXCHANGE_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an exchange on the agent's socket failed"),
        Err(_) => tracing::debug!("an exchange on the agent's socket took too long"),
    }
}

async fn respond(
    request: Request<Incoming>,
    sources: &Sources,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let (status, kind, body) = match request.uri().path() {
        "/status" => match serde_json::to_vec(&sources.collect().await) {
            Ok(json) => (StatusCode::OK, "application/json", json),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into()),
        },
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", metrics(&sources.collect().await).into()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "ask for /status or /metrics\n".into()),
    };
    Response::builder().status(status).header(header::CONTENT_TYPE, kind).body(Full::new(body.into()))
}

/// Asks the agent that runs on `state_dir` for its status.
///
/// # Errors
/// [`ServerError`]; `NotRunning` when there is no agent.
pub async fn ask(state_dir: &Path) -> Result<NodeStatus, ServerError> {
    let path = state_dir.join(SOCKET_FILE);
    let exchange = async {
        let stream =
            UnixStream::connect(&path).await.map_err(|source| ServerError::NotRunning { path, source })?;
        let request = Request::get("/status")
            .header(header::HOST, "localhost")
            .body(Full::default())
            .map_err(HttpError::from)?;
        Ok(serde_json::from_slice(&exchange(TokioIo::new(stream), request).await?.body)?)
    };
    timeout(EXCHANGE_TIMEOUT, exchange).await.unwrap_or(Err(ServerError::Timeout))
}
