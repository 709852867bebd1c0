//! A kube client whose waits end.

use std::time::Duration;

use kube::{Client, Config};

/// The API server answers a connect within this or another try is due.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No byte for this long ends a response. kube's default of 295 s hides a dead connection for five
/// minutes; every watch of ours ends before this by its own timeout.
const READ_TIMEOUT: Duration = Duration::from_secs(75);

/// A request is sent within this.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// No client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no Kubernetes configuration: set KUBECONFIG, or run in a pod with a service account")]
    Config(#[source] kube::config::InferConfigError),
    /// The configuration does not make a client.
    #[error("cannot make a client for {url}")]
    Client {
        /// The API server.
        url: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// A client from `KUBECONFIG`, `~/.kube/config` or the pod's service account. It does not connect yet.
///
/// # Errors
/// [`ClientError`].
pub async fn connect() -> Result<Client, ClientError> {
    client(true).await
}

/// The same without kube's own retries after 429, 503 and 504: for who paces all its requests together, and must
/// see that the API server has too much to do.
///
/// # Errors
/// [`ClientError`].
pub async fn connect_without_retries() -> Result<Client, ClientError> {
    client(false).await
}

async fn client(retries: bool) -> Result<Client, ClientError> {
    let mut config = Config::infer().await.map_err(ClientError::Config)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    config.default_retry = retries;
    let url = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| ClientError::Client { url, source })
}

/// The HTTP status with which the API server refused, if it answered at all.
#[must_use]
pub fn refused_with(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
