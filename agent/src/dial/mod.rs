//! The way to a hub: name → TCP (through a proxy where one is set) → TLS.
//!
//! In: an [`Endpoint`] and [`Tls`]. Out: a stream whose other end is proved to be a hub of our cluster.

mod endpoint;
mod proxy;
mod tls;

#[cfg(test)]
mod tests;

use std::{io, time::Duration};

pub use endpoint::{Endpoint, EndpointError};
pub use proxy::{Proxy, ProxyError, ProxySettings};
pub use tls::{Tls, TlsError};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A hub that does not answer in this time is tried again later: long enough for a satellite link with
/// lost packets, short against the patience of who watches.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a hub was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection.
    #[error("cannot connect to {to}")]
    Connect {
        /// `host:port` of hub or proxy.
        to: String,
        /// What the system says.
        source: io::Error,
    },
    /// The proxy does not let us through.
    #[error("cannot reach {to} through the proxy")]
    Proxy {
        /// `host:port` of the hub.
        to: String,
        /// What the proxy says.
        source: ProxyError,
    },
    /// TLS fails: mostly a certificate that is not of our cluster.
    #[error("no trusted TLS with {to}")]
    Tls {
        /// `host:port` of the hub.
        to: String,
        /// What TLS says.
        source: io::Error,
    },
    /// Nothing in time.
    #[error("{to} did not answer in {} s", DIAL_TIMEOUT.as_secs())]
    Timeout {
        /// `host:port` of the hub.
        to: String,
    },
}

/// Dials a hub, within a deadline, through the proxy that the environment names.
///
/// # Errors
/// [`DialError`].
pub async fn dial(endpoint: &Endpoint, tls: &Tls) -> Result<TlsStream<TcpStream>, DialError> {
    dial_through(&ProxySettings::from_env(), endpoint, tls).await
}

async fn dial_through(
    proxies: &ProxySettings,
    endpoint: &Endpoint,
    tls: &Tls,
) -> Result<TlsStream<TcpStream>, DialError> {
    let to = endpoint.authority();
    timeout(DIAL_TIMEOUT, connect(proxies, endpoint, tls)).await.unwrap_or(Err(DialError::Timeout { to }))
}

async fn connect(
    proxies: &ProxySettings,
    endpoint: &Endpoint,
    tls: &Tls,
) -> Result<TlsStream<TcpStream>, DialError> {
    let to = endpoint.authority();
    let through = |source| DialError::Proxy { to: to.clone(), source };
    let proxy = proxies.proxy_for(&endpoint.host).map_err(through)?;
    let first = proxy.as_ref().map_or(&to, |proxy| &proxy.authority);
    let tcp = TcpStream::connect(first).await;
    let mut tcp = tcp.map_err(|source| DialError::Connect { to: first.clone(), source })?;
    // A desired value is one small frame: it must not wait for a second one.
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "cannot turn Nagle's algorithm off");
    }
    if let Some(proxy) = &proxy {
        proxy.connect(&mut tcp, &to).await.map_err(through)?;
    }
    TlsConnector::from(tls.config.clone())
        .connect(endpoint.name.clone(), tcp)
        .await
        .map_err(|source| DialError::Tls { to, source })
}
