//! The way to the hub: TCP from an address of its own, counted bytes, TLS, WebSocket.
//!
//! In: who the agent is and which hub. Out: a socket as the real agent's, whose bytes are counted where they
//! are paid for: between TLS and TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use selvedge_agent::dial::{Endpoint, Tls};
use selvedge_protocol::{MAX_FRAME_BYTES, SESSION_PATH};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::{Error as SocketError, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// As the real agent waits for TCP, TLS and upgrade together.
const DIAL: Duration = Duration::from_secs(20);
/// Small, because there are many: frames mostly fit, larger ones grow it.
const READ_BUFFER: usize = 4096;
/// Connections from one loopback address: below the 28,232 ephemeral ports of Linux, with room for those
/// that linger.
const FROM_ONE_ADDRESS: u32 = 10_000;

/// A session's socket.
pub type Socket = WebSocketStream<TlsStream<Counted>>;

/// Bytes on the wire, both ways, TLS included.
#[derive(Debug, Default)]
pub struct Bytes {
    /// To agents.
    pub down: AtomicU64,
    /// To hubs.
    pub up: AtomicU64,
}

/// A TCP stream that counts.
#[derive(Debug)]
pub struct Counted {
    stream: TcpStream,
    bytes: Arc<Bytes>,
}

/// The hub was not reached.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Its name means no address.
    #[error("{0} has no address")]
    Unresolved(String),
    /// TCP or TLS.
    #[error("no connection to {to}")]
    Connect {
        /// `host:port` of the hub.
        to: String,
        /// What the system or TLS says.
        #[source]
        source: io::Error,
    },
    /// It took the connection and not the WebSocket.
    #[error("{to} took no WebSocket")]
    Upgrade {
        /// `host:port` of the hub.
        to: String,
        /// Why.
        #[source]
        source: Box<SocketError>,
    },
    /// Nothing in time.
    #[error("{0} did not answer in {within} s", within = DIAL.as_secs())]
    Timeout(String),
}

/// Dials a hub for agent `number`.
///
/// # Errors
/// [`WireError`].
pub async fn dial(
    number: u32,
    endpoint: &Endpoint,
    tls: &Tls,
    bytes: Arc<Bytes>,
) -> Result<Socket, WireError> {
    let to = endpoint.authority();
    timeout(DIAL, connect(number, endpoint, tls, bytes)).await.unwrap_or(Err(WireError::Timeout(to)))
}

async fn connect(
    number: u32,
    endpoint: &Endpoint,
    tls: &Tls,
    bytes: Arc<Bytes>,
) -> Result<Socket, WireError> {
    let to = endpoint.authority();
    let failed = |source| WireError::Connect { to: to.clone(), source };
    let mut addresses = lookup_host((endpoint.host.as_str(), endpoint.port)).await.map_err(failed)?;
    let address = addresses.next().ok_or_else(|| WireError::Unresolved(to.clone()))?;
    let stream = tcp(number, address).await.map_err(failed)?;
    let stream = TlsConnector::from(tls.config.clone())
        .connect(endpoint.name.clone(), Counted { stream, bytes })
        .await
        .map_err(failed)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_FRAME_BYTES)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES));
    let url = format!("wss://{to}{SESSION_PATH}");
    let upgraded = client_async_with_config(url, stream, Some(config)).await;
    upgraded.map(|(socket, _)| socket).map_err(|source| WireError::Upgrade { to, source: Box::new(source) })
}

/// On loopback every agent block has a source address of its own: one address has too few ports for a fleet.
async fn tcp(number: u32, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let [block, _, _, _] = (number / FROM_ONE_ADDRESS).to_le_bytes();
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::new(127, 0, 1, block + 1), 0).into())?;
            socket.connect(to).await?
        }
        _ => TcpStream::connect(to).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.bytes.down.fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, buffer);
        if let Poll::Ready(Ok(written)) = &polled {
            self.bytes.up.fetch_add(*written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
