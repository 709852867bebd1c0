//! What is known about one EdgeNode before anything is decided.
//!
//! In: the object from the cache, its join Secret's metadata, the sessions. Out: [`Observed`].

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use selvedge_crds::{EdgeNode, EdgeNodeStatus};
use selvedge_operator::status::find;

use super::record::Records;
use super::sessions::Presence;
use super::validate::{Wanted, validate};
use crate::raw::Raw;

/// On a join Secret: the public half of the join key that it holds, as in `selvedge.dev/join`.
pub const SECRET_KEY_ANNOTATION: &str = "selvedge.dev/public-key";
/// On a join Secret: the hub addresses in its token.
pub const SECRET_HUBS_ANNOTATION: &str = "selvedge.dev/hub-endpoints";

/// What a join Secret says about itself, without the secret.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SecretMark {
    /// Public half of its join key.
    pub public_key: String,
    /// Hub addresses in its token, separated by spaces.
    pub hubs: String,
}

/// A machine that waits outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Uid of the EdgeNode that it joined as.
    pub uid: String,
    /// When to look whether it still waits.
    pub look: Duration,
}

/// One EdgeNode with all that its plan depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Its name.
    pub name: String,
    /// Its spec, or what is wrong with it.
    pub wanted: Result<Wanted, String>,
    /// Its annotations.
    pub records: Records,
    /// Its join Secret; looked at only while there is a join record.
    pub secret: Option<SecretMark>,
    /// Whether it has a session.
    pub presence: Presence,
    /// A machine of an EdgeNode before this one asks to come in.
    pub waiting: Option<Waiting>,
    /// Its status as it stands.
    pub status: EdgeNodeStatus,
    /// Hub addresses for tokens, separated by spaces; empty: none is configured.
    pub hubs: String,
    /// Now.
    pub now: Timestamp,
}

impl Observed {
    /// Puts together what was read.
    #[must_use]
    pub fn new(
        node: &Raw<EdgeNode>,
        secret: Option<SecretMark>,
        presence: Presence,
        waiting: Option<Waiting>,
        hubs: &str,
        now: Timestamp,
    ) -> Self {
        Self {
            name: node.name().to_owned(),
            wanted: validate(node),
            records: Records::read(node.annotations(), node.uid()),
            secret,
            presence,
            waiting,
            status: node.status(),
            hubs: hubs.to_owned(),
            now,
        }
    }

    /// Whether the API says that the node is connected.
    #[must_use]
    pub fn shown_connected(&self) -> bool {
        find(&self.status.conditions, "Connected").is_some_and(|condition| condition.status == "True")
    }
}

/// Reads the mark of the join Secret of a node, from the API server: a cache could miss the Secret that
/// was made a moment ago, and a second join key would be made.
///
/// # Errors
/// What the API server said.
pub async fn secret_mark(secrets: &Api<Secret>, node: &str) -> Result<Option<SecretMark>, kube::Error> {
    let secret = secrets.get_metadata_opt(&super::secret_name(node)).await?;
    Ok(secret.map(|secret| {
        let annotation = |key: &str| secret.annotations().get(key).cloned().unwrap_or_default();
        SecretMark { public_key: annotation(SECRET_KEY_ANNOTATION), hubs: annotation(SECRET_HUBS_ANNOTATION) }
    }))
}
