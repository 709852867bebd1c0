//! The first word: whether a Hello begins a session (sync rules 5 and 9).

use std::collections::BTreeMap;

use selvedge_model::{Digest, SessionId, Watermark};
use selvedge_protocol::agent::{self as wire, refused::Code};
use selvedge_protocol::{HEARTBEAT, HELLO_REFUSALS, MAX_FRAME_BYTES, convert, negotiate};

use super::limit::Limits;
use crate::index::Node;

/// What is known about who speaks, from its certificate and the caches.
pub struct Admission<'a> {
    /// The EdgeNode of the certificate's name.
    pub node: Option<&'a Node>,
    /// The caches are filled: who is not in them has no EdgeNode.
    pub synced: bool,
    /// Uid in the certificate.
    pub uid: &'a str,
    /// Newest session of this node known here.
    pub newest: Option<SessionId>,
    /// Shut out by the controller's word, which may be ahead of the watch.
    pub denied: bool,
    /// Its certificate was renewed since, and the one after it was used (identity rule 6).
    pub outdated: bool,
    /// Nothing is heard of EdgeNodes here, so who was shut out is not known (identity rule 7).
    pub deaf: bool,
    /// This cluster and its epoch.
    pub cluster_id: &'a str,
    /// Of the cluster; the node's annotation may name a higher one.
    pub epoch: u64,
    /// Unix milliseconds.
    pub unix_ms: i64,
}

/// A Hello, checked.
#[derive(Clone, Debug)]
pub struct Greeted {
    /// The session.
    pub session: SessionId,
    /// Digest of the answered set.
    pub digest: Digest,
    /// How new that is: empty when the agent comes from an older epoch.
    pub watermark: Watermark,
    /// In which epoch it is welcomed.
    pub epoch: u64,
    /// So often it was sent on in a row.
    pub redirects: u32,
    /// Whether it reads deflated bodies.
    pub inflates: bool,
    /// What it can hold.
    pub limits: Limits,
    /// What it has answered by a refusal.
    pub refused: Vec<wire::Refusal>,
}

/// How long an unknown node waits before it tries again: its EdgeNode may be on the way here.
const TRY_LATER_MS: u64 = 5_000;
/// A hub that has just begun knows its nodes in a moment.
const NOT_READ_MS: u64 = 1_000;
/// Who may be adopted asks for a certificate, and comes back with it.
const ADOPTED_MS: u64 = 5_000;
/// A denied node asks rarely, and one that somebody must decide about.
const DENIED_MS: u64 = 60_000;

/// Decides on a Hello.
///
/// # Errors
/// What the agent is told instead of Welcome. Nothing in it makes an agent stop or delete anything.
pub fn greet(hello: wire::Hello, who: &Admission<'_>) -> Result<(Greeted, wire::Welcome), wire::Refused> {
    let refuse = |code: Code, message: String, retry_after_ms| wire::Refused {
        code: code.into(),
        message,
        newest: None,
        retry_after_ms,
    };
    let Some(protocol) = negotiate(hello.protocol_min, hello.protocol_max) else {
        let message = format!(
            "this hub speaks protocol {} to {}",
            selvedge_protocol::PROTOCOL_MIN,
            selvedge_protocol::PROTOCOL_MAX
        );
        return Err(refuse(Code::Protocol, message, DENIED_MS));
    };
    if hello.cluster_id != who.cluster_id {
        return Err(refuse(
            Code::OtherCluster,
            format!("this hub is of cluster {}", who.cluster_id),
            DENIED_MS,
        ));
    }
    if who.deaf {
        let message = "this replica hears nothing of EdgeNodes, another may".into();
        return Err(refuse(Code::TryLater, message, TRY_LATER_MS));
    }
    let node = match who.node {
        Some(node) if *node.uid == *who.uid => node,
        Some(node) => {
            let retry_after_ms = if node.adopts { ADOPTED_MS } else { DENIED_MS };
            let message = "the certificate is of an EdgeNode before the one that has this name now".into();
            return Err(refuse(Code::OtherUid, message, retry_after_ms));
        }
        None => {
            return Err(refuse(
                Code::TryLater,
                "no EdgeNode with this name and uid is known yet".into(),
                if who.synced { TRY_LATER_MS } else { NOT_READ_MS },
            ));
        }
    };
    if node.denied || who.denied {
        return Err(refuse(Code::Denied, "the EdgeNode has spec.denied".into(), DENIED_MS));
    }
    if who.outdated {
        let message = "this certificate was renewed, and the one after it was used".into();
        return Err(refuse(Code::Denied, message, DENIED_MS));
    }
    let malformed = |what: &str| refuse(Code::Protocol, format!("the Hello has no valid {what}"), DENIED_MS);
    let session: SessionId = hello.session.ok_or_else(|| malformed("session"))?.into();
    if let Some(newest) = who.newest.max(node.fence).filter(|newest| session <= *newest) {
        let message = "a newer session of this node is known".into();
        return Err(wire::Refused { newest: Some(newest.into()), ..refuse(Code::Stale, message, 0) });
    }
    let inflates = hello.encodings().any(|encoding| encoding == wire::Encoding::JsonDeflate);
    let digest = convert::digest("digest", &hello.digest).map_err(|_| malformed("digest"))?;
    let mut watermark: Watermark = hello.watermark.map(Into::into).unwrap_or_default();
    let epoch = who.epoch.max(node.accepts);
    if watermark.epoch < epoch {
        // As the agent does on this Welcome: revisions of two epochs are not compared.
        watermark = Watermark { epoch, revisions: BTreeMap::new(), ..watermark };
    }
    let welcome = wire::Welcome {
        protocol,
        cluster_id: who.cluster_id.to_owned(),
        epoch,
        unix_ms: who.unix_ms,
        heartbeat_ms: HEARTBEAT.as_millis() as u64,
        max_frame_bytes: MAX_FRAME_BYTES as u64,
    };
    let limits = Limits::of(hello.max_entries, hello.max_bytes);
    let (redirects, mut refused) = (hello.redirects, hello.refused);
    refused.truncate(HELLO_REFUSALS);
    Ok((Greeted { session, digest, watermark, epoch, redirects, inflates, limits, refused }, welcome))
}
