//! Joining a cluster: from a join token to an identity (identity rule 1).
//!
//! In: a [`JoinToken`]. Out: an [`Identity`] in the state directory. The key is made first and stays, so
//! the same command may be run again after any interruption; the hub answers the same key with a
//! certificate until the join key expires.

pub(crate) mod ask;
pub mod http;

#[cfg(test)]
mod tests;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use rcgen::KeyPair;
use selvedge_protocol::{
    JOIN_PATH, JoinToken, TokenError,
    join::JoinRequest,
    proof::{self, ProofError},
};
use tokio::time::{sleep, timeout};

use self::ask::{Tried, ask, csr};
use crate::{
    backoff::{Backoff, directed},
    chain::chain,
    dial::{Endpoint, EndpointError, Tls, TlsError},
    identity::{self, Identity, IdentityError},
};

/// Someone watches: quick at first, and never far from the next try.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const SLOWEST_RETRY: Duration = Duration::from_secs(15);
/// What a hub may ask us to wait at most; a person waits with us.
const LONGEST_DIRECTED: Duration = Duration::from_secs(60);

/// Why a join ended without an identity.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The machine is another node already.
    #[error(
        "this machine is node {node} of cluster {cluster} already: run `selvedge-agent leave` first if it \
         shall become another"
    )]
    OtherIdentity {
        /// Its node.
        node: String,
        /// Its cluster.
        cluster: String,
    },
    /// The hub refuses this token for good.
    #[error(
        "the hub refused the join of node {node}: the join command has expired or was used by another key. \
         For a new one: kubectl patch edgenode {node} --type merge -p \
         '{{\"spec\":{{\"join\":{{\"request\":\"again-1\"}}}}}}' (any new text)"
    )]
    Refused {
        /// The node.
        node: String,
    },
    /// No hub answered in time.
    #[error("node {node} has not joined in {} s; the last try: {last}. The same command goes on", waited.as_secs())]
    GaveUp {
        /// The node.
        node: String,
        /// How long was tried.
        waited: Duration,
        /// Why the last try failed.
        last: String,
    },
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Its hub addresses.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Key or identity on disk.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The request cannot be signed.
    #[error("the certificate request cannot be made")]
    Csr(#[from] rcgen::Error),
    /// The request cannot be proved.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// Joins, and goes on trying for at most `patience`. The same token again on a node that joined with it
/// does nothing.
///
/// # Errors
/// [`JoinError`], each with what to do.
pub async fn join(token: &JoinToken, state_dir: &Path, patience: Duration) -> Result<Identity, JoinError> {
    let joined_with = hex(&proof::join_public_key(&token.seed()?)?);
    match Identity::load(state_dir) {
        Ok(known) if known.cluster != token.cluster || known.node != token.node => {
            return Err(JoinError::OtherIdentity { node: known.node, cluster: known.cluster });
        }
        Ok(known) if known.joined_with == joined_with => return Ok(known),
        Ok(_) | Err(IdentityError::NotJoined(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let identity = obtain(token, &identity::key(state_dir)?, patience).await?;
    identity.store(state_dir)?;
    Ok(identity)
}

/// Joins with a key that the caller keeps, and keeps nothing itself: for those who hold many identities.
/// The key must be kept before this is called, because the join key is used up by the first that asks.
///
/// # Errors
/// [`JoinError`], each with what to do.
pub async fn obtain(token: &JoinToken, key: &KeyPair, patience: Duration) -> Result<Identity, JoinError> {
    let joined_with = hex(&proof::join_public_key(&token.seed()?)?);
    let request = request(token, key)?;
    let tls = Tls::pinned(token.ca_pin()?)?;
    let hubs: Vec<Endpoint> = token.hub.iter().map(|hub| hub.parse()).collect::<Result<_, _>>()?;
    let node = token.node.clone();
    let mut last = String::from("none");
    let tries = async {
        let mut backoff = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
        for hub in hubs.iter().cycle() {
            match ask(hub, &tls, JOIN_PATH, &request).await {
                Tried::Joined(response) => return Some(response),
                Tried::Refused => return None,
                Tried::Again { error, after } => {
                    last = chain(&error);
                    let wait = match after {
                        Some(after) => directed(after.min(LONGEST_DIRECTED), rand::random()),
                        None => backoff.next(rand::random()),
                    };
                    tracing::info!(%hub, reason = last, next_try_ms = wait.as_millis(), "not joined yet");
                    sleep(wait).await;
                }
            }
        }
        None
    };
    let answer = timeout(patience, tries).await;
    let Ok(answer) = answer else { return Err(JoinError::GaveUp { node, waited: patience, last }) };
    let response = answer.ok_or(JoinError::Refused { node })?;
    let (cluster, hub) = (token.cluster.clone(), token.hub.clone());
    let identity = Identity { cluster, node: token.node.clone(), hub, joined_with, ..Identity::default() };
    Ok(identity.certified(response))
}

fn request(token: &JoinToken, key: &KeyPair) -> Result<Bytes, JoinError> {
    let csr_der = csr(&token.node, key)?;
    let message = proof::join(&token.cluster, &token.node, &csr_der);
    let signature = proof::sign_join(&token.seed()?, &message)?;
    let request =
        JoinRequest { cluster_id: token.cluster.clone(), node: token.node.clone(), csr_der, signature };
    Ok(selvedge_protocol::encode(&request))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
