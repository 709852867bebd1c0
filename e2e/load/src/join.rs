//! Identities for all agents: those that are kept, and new ones by joining as any agent does, or from an own
//! CA.
//!
//! In: EdgeNodes that exist, the file of identities. Out: one identity a node. What was got is kept at once,
//! so that an interrupted run goes on where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt as _, stream};
use rcgen::KeyPair;
use selvedge_agent::identity::Identity;
use selvedge_agent::join::{JoinError, obtain};
use selvedge_protocol::{JoinToken, TokenError};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::authority::{Authority, AuthorityError, new_key};
use crate::identities::{Identities, IdentitiesError, Kept};
use crate::objects::{Cluster, Kind, ObjectsError, failed};
use crate::options::Options;

/// Where join Secrets are.
const JOIN_NAMESPACE: &str = "selvedge-join";
/// Joins at once: each waits for a certificate to be signed.
const AT_ONCE: usize = 32;
/// A join Secret follows its EdgeNode in moments; behind thousands of others it takes minutes.
const SECRET: Duration = Duration::from_secs(600);
/// A hub that cannot be reached in this time will not be.
const PATIENCE: Duration = Duration::from_secs(300);

/// No identity for a node.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file.
    #[error(transparent)]
    Identities(#[from] IdentitiesError),
    /// The own CA, or a key.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The API server.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The hub.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The join Secret does not come.
    #[error(
        "there is no Secret {JOIN_NAMESPACE}/{0}-join after {within} s: the EdgeNode says why (kubectl get \
         edgenode {0} -o yaml); if it joined before with another file, name that with --identities",
        within = SECRET.as_secs()
    )]
    NoSecret(String),
    /// It holds no join token.
    #[error("the Secret {JOIN_NAMESPACE}/{node}-join holds no join token")]
    Token {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// There is no EdgeNode.
    #[error("EdgeNode {0} is gone")]
    NoNode(String),
}

/// Gets an identity for every agent of the run; `uids` are those of the EdgeNodes.
///
/// # Errors
/// [`IdentityError`] of the first that cannot get one.
pub async fn identities(
    options: &Options,
    cluster: &Cluster,
    cluster_id: &str,
    uids: &BTreeMap<String, String>,
    authority: Option<&Authority>,
) -> Result<Vec<(u32, Kept)>, IdentityError> {
    let mut identities = Identities::open(&options.identities)?;
    let mut missing = Vec::new();
    for number in options.numbers() {
        let node = options.node(number);
        let uid = uids.get(&node).ok_or_else(|| IdentityError::NoNode(node.clone()))?;
        let kept = identities.get(&node);
        let fits = |identity: &Identity| identity.node_uid == *uid && identity.cluster == cluster_id;
        if kept.and_then(|kept| kept.identity.as_ref()).is_some_and(fits) {
            continue;
        }
        // A key that was made for another cluster or EdgeNode may be used again: nobody has seen it there.
        let key = match kept {
            Some(kept) if kept.identity.is_none() => kept.key.clone(),
            _ => new_key()?.serialize_pem(),
        };
        if let Some(authority) = authority {
            let pair = key_pair(&key)?;
            let identity = authority.issue(cluster_id, &node, uid, &pair)?;
            identities.keep(Kept { node, key, identity: Some(identity) })?;
        } else {
            let kept = Kept { node, key, identity: None };
            identities.keep(kept.clone())?;
            missing.push(kept);
        }
    }
    if !missing.is_empty() {
        println!("joins {} nodes", missing.len());
    }
    let mut joins = stream::iter(missing).map(|kept| join(cluster, kept)).buffer_unordered(AT_ONCE);
    let mut joined = 0;
    while let Some(kept) = joins.next().await {
        identities.keep(kept?)?;
        joined += 1;
        if joined % 100 == 0 {
            println!("{joined} nodes have joined");
        }
    }
    let kept =
        options.numbers().filter_map(|number| Some((number, identities.get(&options.node(number))?.clone())));
    Ok(kept.collect())
}

async fn join(cluster: &Cluster, kept: Kept) -> Result<Kept, IdentityError> {
    let token = token(cluster, &kept.node).await?;
    let identity = obtain(&token, &key_pair(&kept.key)?, PATIENCE).await?;
    Ok(Kept { identity: Some(identity), ..kept })
}

async fn token(cluster: &Cluster, node: &str) -> Result<JoinToken, IdentityError> {
    let (secrets, name) = (cluster.api_in(Kind::Secret, JOIN_NAMESPACE), format!("{node}-join"));
    let deadline = Instant::now() + SECRET;
    while Instant::now() < deadline {
        let secret = secrets.get_opt(&name).await.map_err(failed("read", Kind::Secret, &name))?;
        let data = secret.and_then(|secret| {
            let text = secret.data.pointer("/data/token").and_then(Value::as_str)?.to_owned();
            String::from_utf8(STANDARD.decode(text).ok()?).ok()
        });
        if let Some(data) = data {
            return JoinToken::decode(&data)
                .map_err(|source| IdentityError::Token { node: node.to_owned(), source });
        }
        sleep(Duration::from_millis(500)).await;
    }
    Err(IdentityError::NoSecret(node.to_owned()))
}

fn key_pair(pem: &str) -> Result<KeyPair, AuthorityError> {
    KeyPair::from_pem(pem)
        .map_err(|source| AuthorityError::Certificate { doing: "read a key of the identities", source })
}
