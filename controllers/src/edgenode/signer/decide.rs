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
/// On an agent's request for its first certificate: the join key's signature, base64.
pub const PROOF_ANNOTATION: &str = "selvedge.dev/join-proof";
/// On an agent's request for a further one: the certificate that it has, DER in base64.
pub const OLD_ANNOTATION: &str = "selvedge.dev/old-certificate";
/// On the same: the signature by that certificate's key, base64.
pub const RENEWAL_ANNOTATION: &str = "selvedge.dev/renewal-proof";

/// A finished request stays this long, so that whoever filed it reads the answer (a hub asks for 15 s).
pub const KEEP_FINISHED: Duration = Duration::from_secs(60);
/// A machine that has asked with one key may lose it, and ask with another one after this. Until then whoever comes
/// with another one is another machine.
const RETAKE: Duration = Duration::from_secs(3600);

/// What the decision stands on, besides the request.
pub struct Facts<'a> {
    /// The EdgeNode that the request names, if it exists.
    pub node: Option<Node<'a>>,
    /// Signs, and knows its own certificates; its cluster id is part of what proofs sign.
    pub authority: &'a Authority,
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
    /// `spec.join.adopt` is SameName.
    pub adopts: bool,
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
        /// There is no record of the certificate that was shown: it is made from it.
        rebuilt: Option<Rebuilt>,
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

/// A record that is made from the certificate that was shown.
#[derive(Debug)]
pub struct Rebuilt {
    /// That certificate.
    pub from: CertificateRecord,
    /// Uid of the EdgeNode that it was issued to, if that is one before the present one.
    pub adopted: Option<String>,
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
    #[error(
        "EdgeNode {0} was created again since: use the join command of the new one, or set its spec.join.adopt to \
         SameName"
    )]
    NodeReplaced(String),
    /// Of an EdgeNode before this one, under which a machine has joined since.
    #[error(
        "a machine has joined as the present EdgeNode {0} already: one of an EdgeNode before it is not taken in"
    )]
    JoinedSince(String),
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
    /// Not made by this authority, or for another node or EdgeNode.
    #[error("the certificate that is to be renewed is none of EdgeNode {0}")]
    NotItsCertificate(String),
    /// Renewed already, and used since.
    #[error(
        "certificate {1} of EdgeNode {0} was renewed already and is asked to be renewed again: somebody may have copied \
         the node's disk. If so, deny the node, and set spec.join.request to a new value for a new identity"
    )]
    OldCertificate(String, String),
    /// Another machine with the same certificate was first.
    #[error(
        "certificate {1} of EdgeNode {0} is being renewed by another machine: somebody may have copied the node's disk"
    )]
    RenewedElsewhere(String, String),
    /// Too late, also for a re-join.
    #[error(
        "the certificate of EdgeNode {0} ended at {1}, too long ago: set spec.join.request to a new value"
    )]
    EndedLongAgo(String, Timestamp),
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
            Self::JoinedSince(_) => "JoinedSince",
            Self::NodeDenied(_) => "NodeDenied",
            Self::NoJoinKey(_) => "NoJoinKey",
            Self::JoinKeyExpired(..) => "JoinKeyExpired",
            Self::Proof(_) => "BadProof",
            Self::JoinKeyUsed(_) => "JoinKeyUsed",
            Self::NotItsCertificate(_) => "NotItsCertificate",
            Self::OldCertificate(..) => "OldCertificate",
            Self::RenewedElsewhere(..) => "RenewedElsewhere",
            Self::EndedLongAgo(..) => "EndedLongAgo",
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
    let node = facts.node.as_ref().ok_or_else(|| Refusal::NodeUnknown(name.into()))?;
    if node.uid != asked_uid {
        return Err(Refusal::NodeReplaced(name.into()));
    }
    if node.denied {
        return Err(Refusal::NodeDenied(name.into()));
    }
    let proved = match annotation(csr, OLD_ANNOTATION) {
        Ok(old) => renewal(csr, facts, name, node, old)?,
        Err(_) => join(csr, facts, name, node)?,
    };
    let Proved { request: Request { key, fingerprint, .. }, rebuilt } = proved;
    // The same key may ask again: its answer may have been lost on the way.
    let pending = node.records.identity.pending.as_ref().filter(|pending| pending.public_key == fingerprint);
    let recorded = pending.filter(|pending| pending.not_after > facts.now + facts.authority.agent_life / 2);
    Ok(Decision::Agent {
        node: name.to_owned(),
        uid: asked_uid.to_owned(),
        key,
        recorded: recorded.is_some(),
        pending: recorded.cloned().unwrap_or_else(|| CertificateRecord {
            public_key: fingerprint,
            serial: hex(&facts.serial),
            not_after: facts.authority.agent_not_after(facts.now),
        }),
        rebuilt,
    })
}

/// A request whose proof holds.
struct Proved {
    request: Request,
    rebuilt: Option<Rebuilt>,
}

/// By the join key. The first key that is recorded has it for itself.
fn join(
    csr: &CertificateSigningRequest,
    facts: &Facts<'_>,
    name: &str,
    node: &Node<'_>,
) -> Result<Proved, Refusal> {
    let signature = decoded(csr, PROOF_ANNOTATION)?;
    let join = node.records.join.as_ref().ok_or_else(|| Refusal::NoJoinKey(name.into()))?;
    if !join.is_live(facts.now) {
        return Err(Refusal::JoinKeyExpired(name.into(), join.expires));
    }
    let request = request::read(&csr.spec.request.0)?;
    let public_key = STANDARD.decode(&join.public_key).map_err(|_| Refusal::NoJoinKey(name.into()))?;
    proof::verify_join(
        &public_key,
        &proof::join(&facts.authority.cluster_id, name, &request.der),
        &signature,
    )
    .map_err(|_| Refusal::Proof(name.into()))?;
    let pending = node.records.identity.pending.as_ref();
    if pending.is_some_and(|pending| pending.public_key != request.fingerprint) {
        return Err(Refusal::JoinKeyUsed(name.into()));
    }
    Ok(Proved { request, rebuilt: None })
}

/// By the key of the newest certificate, or of the one that was issued last and not seen yet (identity rule 6).
fn renewal(
    csr: &CertificateSigningRequest,
    facts: &Facts<'_>,
    name: &str,
    node: &Node<'_>,
    old: &str,
) -> Result<Proved, Refusal> {
    let signature = decoded(csr, RENEWAL_ANNOTATION)?;
    let old = STANDARD.decode(old).map_err(|_| Refusal::Annotation(OLD_ANNOTATION))?;
    let old = facts.authority.read_agent(&old).filter(|old| old.node == name);
    let old = old.ok_or_else(|| Refusal::NotItsCertificate(name.into()))?;
    let adopted = (old.uid != node.uid).then(|| old.uid.clone());
    if adopted.is_some() && !node.adopts {
        return Err(Refusal::NodeReplaced(name.into()));
    }
    let request = request::read(&csr.spec.request.0)?;
    let serial = &old.record.serial;
    let message = proof::renew(&facts.authority.cluster_id, name, &old.uid, serial, &request.der);
    proof::verify_renewal(&old.public_key, &message, &signature).map_err(|_| Refusal::Proof(name.into()))?;
    if old.record.not_after + proof::REJOIN <= facts.now {
        return Err(Refusal::EndedLongAgo(name.into(), old.record.not_after));
    }
    let identity = &node.records.identity;
    let is =
        |record: &Option<CertificateRecord>| record.as_ref().is_some_and(|record| record.serial == *serial);
    if !is(&identity.current) && !is(&identity.pending) {
        if adopted.is_some() && (identity.current.is_some() || identity.pending.is_some()) {
            return Err(Refusal::JoinedSince(name.into()));
        }
        if identity.current.as_ref().is_some_and(|current| old.record.not_after <= current.not_after) {
            return Err(Refusal::OldCertificate(name.into(), serial.clone()));
        }
        // The record was lost with its annotation, or the cluster was restored to before this certificate, or lost and
        // made anew: it is rebuilt (identity rules 3 and 9).
        return Ok(Proved { request, rebuilt: Some(Rebuilt { from: old.record, adopted }) });
    }
    let taken = identity.pending.as_ref().filter(|pending| {
        let issued = pending.not_after - facts.authority.agent_life;
        pending.serial != *serial && pending.public_key != request.fingerprint && facts.now < issued + RETAKE
    });
    if taken.is_some() {
        return Err(Refusal::RenewedElsewhere(name.into(), serial.clone()));
    }
    Ok(Proved { request, rebuilt: None })
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

fn decoded(csr: &CertificateSigningRequest, key: &'static str) -> Result<Vec<u8>, Refusal> {
    STANDARD.decode(annotation(csr, key)?).map_err(|_| Refusal::Annotation(key))
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
