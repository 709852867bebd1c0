//! What to do about one CertificateSigningRequest: pure, every rule a line that can refuse by name
//! (identity rules 1 and 2).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::SubjectPublicKeyInfo;
use selvedge_protocol::proof;

use super::request::{self, Request, RequestError};
use crate::edgenode::authority::{Authority, hex};
use crate::edgenode::record::{CertificateRecord, Records};

/// Signer of agents' certificates.
pub const AGENT_SIGNER: &str = "selvedge.dev/agent";
/// Signer of hubs' certificates.
pub const HUB_SIGNER: &str = "selvedge.dev/hub";
/// On an agent's request: the node that asks.
pub const NODE_ANNOTATION: &str = "selvedge.dev/node";
/// On an agent's request: the uid of its EdgeNode.
pub const UID_ANNOTATION: &str = "selvedge.dev/node-uid";
/// On an agent's request: the join key's signature, base64.
pub const PROOF_ANNOTATION: &str = "selvedge.dev/join-proof";

/// A finished request stays this long, so that whoever filed it reads the answer (a hub asks for 15 s).
pub const KEEP_FINISHED: Duration = Duration::from_secs(60);
/// A pending certificate is handed out again while it has at least this long to live: half of a
/// certificate's life.
const REUSE: Duration = Duration::from_secs(45 * 24 * 3600);

/// What the decision stands on, besides the request.
pub struct Facts<'a> {
    /// The EdgeNode that the request names, if it exists.
    pub node: Option<Node<'a>>,
    /// Id of the cluster: part of what a join proof signs.
    pub cluster_id: &'a str,
    /// Namespace of the installation.
    pub namespace: &'a str,
    /// Names that hubs' certificates bear.
    pub hub_names: &'a [String],
    /// The serial number of a certificate that is issued now.
    pub serial: [u8; 16],
    /// Now.
    pub now: Timestamp,
}

/// The EdgeNode that a request names.
pub struct Node<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// `spec.denied`; an EdgeNode whose spec does not decode counts as denied.
    pub denied: bool,
    /// Its annotations.
    pub records: &'a Records,
}

/// What to do.
#[derive(Debug)]
pub enum Decision {
    /// Record `pending` (if it is not recorded yet), approve, and sign for an agent.
    Agent {
        /// Name of the node.
        node: String,
        /// Uid of its EdgeNode.
        uid: String,
        /// Key to certify.
        key: SubjectPublicKeyInfo,
        /// The certificate as it is recorded.
        pending: CertificateRecord,
        /// Whether the EdgeNode's annotation says so already.
        recorded: bool,
    },
    /// Approve, and sign for a hub.
    Hub {
        /// Key to certify.
        key: SubjectPublicKeyInfo,
    },
    /// Deny, with the reason.
    Refuse(Refusal),
    /// Finished: look again after this.
    Keep(Duration),
    /// Finished long enough ago: delete.
    Remove,
    /// Of another signer.
    Ignore,
}

/// Why a request is denied. The text is for the people who own the node; it holds no secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request is not well made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It asks for other uses than its signer grants.
    #[error("usages must be exactly {0}")]
    Usages(&'static str),
    /// An annotation of the hub is missing.
    #[error("annotation {0} is missing or damaged")]
    Annotation(&'static str),
    /// No EdgeNode of this name.
    #[error("EdgeNode {0} does not exist")]
    NodeUnknown(String),
    /// The EdgeNode was deleted and created again.
    #[error("EdgeNode {0} was created again since: use the join command of the new one")]
    NodeReplaced(String),
    /// `spec.denied`.
    #[error("EdgeNode {0} is denied")]
    NodeDenied(String),
    /// There is no join key, or it was used up.
    #[error("EdgeNode {0} has no join key: set spec.join.request to a new value for one")]
    NoJoinKey(String),
    /// Too late.
    #[error("the join key of EdgeNode {0} expired at {1}: set spec.join.request to a new value for another")]
    JoinKeyExpired(String, Timestamp),
    /// Signed by another key, or over another node, cluster or request.
    #[error("the join proof does not hold for EdgeNode {0}")]
    Proof(String),
    /// Another machine was first.
    #[error("the join key of EdgeNode {0} was used by another machine: if that was not you, deny the node")]
    JoinKeyUsed(String),
    /// Asked for by somebody else than the hub.
    #[error("only {0} may ask for a hub's certificate")]
    NotTheHub(String),
    /// No name to put into it.
    #[error("hubs have no names: start the EdgeNode controller with --hub-name")]
    NoHubName,
}

impl Refusal {
    /// As reason of a condition and an Event.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Request(RequestError::Malformed) => "Malformed",
            Self::Request(RequestError::Signature) => "BadSignature",
            Self::Request(RequestError::KeyType) => "KeyType",
            Self::Usages(_) => "Usages",
            Self::Annotation(_) => "Annotation",
            Self::NodeUnknown(_) => "NodeUnknown",
            Self::NodeReplaced(_) => "NodeReplaced",
            Self::NodeDenied(_) => "NodeDenied",
            Self::NoJoinKey(_) => "NoJoinKey",
            Self::JoinKeyExpired(..) => "JoinKeyExpired",
            Self::Proof(_) => "BadProof",
            Self::JoinKeyUsed(_) => "JoinKeyUsed",
            Self::NotTheHub(_) => "NotTheHub",
            Self::NoHubName => "NoHubName",
        }
    }
}

/// The node that a request names.
#[must_use]
pub fn node_of(csr: &CertificateSigningRequest) -> Option<&str> {
    annotation(csr, NODE_ANNOTATION).ok()
}

/// Decides.
#[must_use]
pub fn decide(csr: &CertificateSigningRequest, facts: &Facts<'_>) -> Decision {
    let signer = csr.spec.signer_name.as_str();
    if signer != AGENT_SIGNER && signer != HUB_SIGNER {
        return Decision::Ignore;
    }
    if is_finished(csr) {
        let created = csr.metadata.creation_timestamp.as_ref().map_or(facts.now, |time| time.0);
        let age = facts.now.duration_since(created).unsigned_abs();
        return match KEEP_FINISHED.checked_sub(age) {
            Some(rest) if !rest.is_zero() => Decision::Keep(rest),
            _ => Decision::Remove,
        };
    }
    let decided = if signer == AGENT_SIGNER { agent(csr, facts) } else { hub(csr, facts) };
    decided.unwrap_or_else(Decision::Refuse)
}

fn agent(csr: &CertificateSigningRequest, facts: &Facts<'_>) -> Result<Decision, Refusal> {
    usages(csr, &["digital signature", "client auth"], "[digital signature, client auth]")?;
    let name = annotation(csr, NODE_ANNOTATION)?;
    let asked_uid = annotation(csr, UID_ANNOTATION)?;
    let signature = STANDARD
        .decode(annotation(csr, PROOF_ANNOTATION)?)
        .map_err(|_| Refusal::Annotation(PROOF_ANNOTATION))?;

    let node = facts.node.as_ref().ok_or_else(|| Refusal::NodeUnknown(name.into()))?;
    if node.uid != asked_uid {
        return Err(Refusal::NodeReplaced(name.into()));
    }
    if node.denied {
        return Err(Refusal::NodeDenied(name.into()));
    }
    let join = node.records.join.as_ref().ok_or_else(|| Refusal::NoJoinKey(name.into()))?;
    if !join.is_live(facts.now) {
        return Err(Refusal::JoinKeyExpired(name.into(), join.expires));
    }
    let Request { der, key, fingerprint } = request::read(&csr.spec.request.0)?;
    let public_key = STANDARD.decode(&join.public_key).map_err(|_| Refusal::NoJoinKey(name.into()))?;
    proof::verify_join(&public_key, &proof::join(facts.cluster_id, name, &der), &signature)
        .map_err(|_| Refusal::Proof(name.into()))?;

    // The first key that is recorded has the join key for itself. The same key may ask again: its answer
    // may have been lost on the way.
    let pending = node.records.identity.pending.as_ref();
    if pending.is_some_and(|pending| pending.public_key != fingerprint) {
        return Err(Refusal::JoinKeyUsed(name.into()));
    }
    let recorded = pending.filter(|pending| pending.not_after > facts.now + REUSE);
    Ok(Decision::Agent {
        node: name.to_owned(),
        uid: asked_uid.to_owned(),
        key,
        recorded: recorded.is_some(),
        pending: recorded.cloned().unwrap_or_else(|| CertificateRecord {
            public_key: fingerprint,
            serial: hex(&facts.serial),
            not_after: Authority::agent_not_after(facts.now),
        }),
    })
}

fn hub(csr: &CertificateSigningRequest, facts: &Facts<'_>) -> Result<Decision, Refusal> {
    usages(csr, &["digital signature", "server auth"], "[digital signature, server auth]")?;
    // The API server sets the user: it cannot be forged.
    let hub = format!("system:serviceaccount:{}:selvedge-hub", facts.namespace);
    if csr.spec.username.as_deref() != Some(&hub) {
        return Err(Refusal::NotTheHub(hub));
    }
    if facts.hub_names.is_empty() {
        return Err(Refusal::NoHubName);
    }
    Ok(Decision::Hub { key: request::read(&csr.spec.request.0)?.key })
}

fn annotation<'a>(csr: &'a CertificateSigningRequest, key: &'static str) -> Result<&'a str, Refusal> {
    let value = csr.metadata.annotations.as_ref().and_then(|all| all.get(key));
    value.map(String::as_str).ok_or(Refusal::Annotation(key))
}

fn usages(csr: &CertificateSigningRequest, wanted: &[&str], text: &'static str) -> Result<(), Refusal> {
    let asked = csr.spec.usages.as_deref().unwrap_or_default();
    let exact = asked.len() == wanted.len() && wanted.iter().all(|usage| asked.iter().any(|a| a == usage));
    exact.then_some(()).ok_or(Refusal::Usages(text))
}

fn is_finished(csr: &CertificateSigningRequest) -> bool {
    let Some(status) = &csr.status else { return false };
    status.certificate.is_some() || has(csr, "Denied") || has(csr, "Failed")
}

/// Whether the request has a condition of a type.
#[must_use]
pub fn has(csr: &CertificateSigningRequest, type_: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == type_))
}
