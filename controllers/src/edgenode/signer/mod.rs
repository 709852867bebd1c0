//! Certificates: what agents and hubs ask for by CertificateSigningRequest is signed, or denied with the
//! reason (identity rules 1 and 2).
//!
//! In: CSR objects, and the EdgeNode that each names, read from the API server so that its annotations are
//! the newest. Out: the record on the EdgeNode, approval, certificate; finished requests are removed.

mod decide;
mod request;

#[cfg(test)]
mod tests;

pub use decide::{AGENT_SIGNER, HUB_SIGNER};

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use selvedge_crds::edgenode::Join;
use selvedge_crds::{EdgeNode, EdgeNodeSpec};
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::{client::refused_with, events::Events};
use serde_json::{Value, json};

use self::decide::{Decision, Facts, Node, Refusal, decide, has, node_of};
use super::authority::{self, Authority, AuthorityError};
use super::record::Records;
use crate::raw::Raw;
use crate::second;

/// Signs.
pub struct Signer {
    client: Client,
    events: Arc<Events>,
    authority: Arc<Authority>,
    namespace: String,
    hub_names: Vec<String>,
}

/// A request could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The API server refused or did not answer.
    #[error("cannot {doing} certificate request {name}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// Name of the CSR.
        name: String,
        /// What it said.
        #[source]
        source: kube::Error,
    },
    /// The EdgeNode was changed between read and write.
    #[error("EdgeNode {node} was changed while its certificate was recorded")]
    Conflict {
        /// Name of the EdgeNode.
        node: String,
    },
    /// The certificate cannot be made.
    #[error("cannot issue a certificate for request {name}")]
    Issue {
        /// Name of the CSR.
        name: String,
        /// Why.
        #[source]
        source: AuthorityError,
    },
}

impl Classified for SignerError {
    fn class(&self) -> Class {
        Class::Transient
    }

    fn variant(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Conflict { .. } => "conflict",
            Self::Issue { .. } => "issue",
        }
    }
}

impl Reconciler for Signer {
    type Object = CertificateSigningRequest;
    type Error = SignerError;

    async fn reconcile(&self, csr: &CertificateSigningRequest) -> Result<Next, SignerError> {
        let node = self.observe(csr).await?;
        let records = node.as_ref().map(|node| Records::read(node.annotations(), node.uid()));
        let now = second();
        let spec = node.as_ref().map(|node| node.spec::<EdgeNodeSpec>());
        let (denied, adopts) = match &spec {
            Some(Ok(spec)) => (spec.denied, spec.join.as_ref().is_some_and(Join::adopts)),
            _ => (true, false),
        };
        let facts = Facts {
            node: node.as_ref().zip(records.as_ref()).map(|(node, records)| Node {
                uid: node.uid(),
                denied,
                adopts,
                records,
            }),
            authority: &self.authority,
            namespace: &self.namespace,
            hub_names: &self.hub_names,
            serial: authority::serial(rand::random()),
            now,
        };
        match decide(csr, &facts) {
            Decision::Ignore => Ok(Next::Change),
            Decision::Keep(rest) => Ok(Next::After(rest)),
            Decision::Remove => self.remove(csr).await,
            Decision::Refuse(refusal) => self.refuse(csr, node.as_ref(), &refusal, now).await,
            Decision::Hub { key } => {
                let issued = self.authority.issue_hub(&self.hub_names, &facts.serial, now, &key);
                self.sign(csr, issued, now).await
            }
            Decision::Agent { node: name, uid, key, pending, recorded, rebuilt } => {
                let write = !recorded || rebuilt.is_some();
                if let (true, Some(node), Some(mut records)) = (write, &node, records) {
                    records.identity.pending = Some(pending.clone());
                    if let Some(rebuilt) = rebuilt {
                        let (serial, about) = (&rebuilt.from.serial, node.object_ref(&()));
                        match rebuilt.adopted {
                            Some(uid) => {
                                let note = format!(
                                    "took in the machine that joined as the EdgeNode of uid {uid}, by its certificate \
                                     {serial}"
                                );
                                self.events.normal(&about, "Adopted", "Sign", note).await;
                            }
                            None => {
                                let note =
                                    format!("the record of its identity was lost: rebuilt from {serial}");
                                self.events.warning(&about, "IdentityRebuilt", "Sign", note).await;
                            }
                        }
                        records.identity.current = Some(rebuilt.from);
                    }
                    self.record(node, &records).await?;
                }
                let serial: Vec<u8> = unhex(&pending.serial);
                let issued = self.authority.issue_agent(&name, &uid, &serial, pending.not_after, &key);
                let next = self.sign(csr, issued, now).await?;
                if let Some(node) = &node {
                    let note = format!("issued certificate {} until {}", pending.serial, pending.not_after);
                    self.events.normal(&node.object_ref(&()), "CertificateIssued", "Sign", note).await;
                }
                Ok(next)
            }
        }
    }
}

impl Signer {
    /// Signs with `authority`, in the installation's `namespace`, hubs under `hub_names`.
    #[must_use]
    pub fn new(
        client: Client,
        events: Arc<Events>,
        authority: Arc<Authority>,
        namespace: String,
        hub_names: Vec<String>,
    ) -> Self {
        Self { client, events, authority, namespace, hub_names }
    }

    /// The EdgeNode that an agent's request names, as it is now.
    async fn observe(&self, csr: &CertificateSigningRequest) -> Result<Option<Raw<EdgeNode>>, SignerError> {
        let Some(node) = node_of(csr).filter(|_| csr.spec.signer_name == AGENT_SIGNER) else {
            return Ok(None);
        };
        let nodes: Api<Raw<EdgeNode>> = Api::all(self.client.clone());
        nodes.get_opt(node).await.map_err(failed("read the EdgeNode of", csr))
    }

    /// Records the pending certificate; the precondition lets exactly one key win.
    async fn record(&self, node: &Raw<EdgeNode>, records: &Records) -> Result<(), SignerError> {
        let nodes: Api<Raw<EdgeNode>> = Api::all(self.client.clone());
        let patch = json!({"metadata": {
            "resourceVersion": node.metadata.resource_version,
            "annotations": records.annotations(),
        }});
        let name = node.name();
        match nodes.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if refused_with(&error) == Some(409) => {
                Err(SignerError::Conflict { node: name.into() })
            }
            Err(source) => {
                Err(SignerError::Api { doing: "record the certificate of", name: name.into(), source })
            }
        }
    }

    async fn sign(
        &self,
        csr: &CertificateSigningRequest,
        issued: Result<authority::Issued, AuthorityError>,
        now: Timestamp,
    ) -> Result<Next, SignerError> {
        let issued = issued.map_err(|source| SignerError::Issue { name: csr.name_any(), source })?;
        let csrs = self.csrs();
        if !has(csr, "Approved") {
            let patch = conditions(csr, "Approved", "Approved", "the request keeps every rule", now);
            csrs.patch_approval(&csr.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(failed("approve", csr))?;
        }
        let patch = json!({"status": {"certificate": STANDARD.encode(issued.pem)}});
        csrs.patch_status(&csr.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(failed("sign", csr))?;
        tracing::info!(csr = csr.name_any(), signer = csr.spec.signer_name, "signed");
        Ok(Next::After(decide::KEEP_FINISHED))
    }

    async fn refuse(
        &self,
        csr: &CertificateSigningRequest,
        node: Option<&Raw<EdgeNode>>,
        refusal: &Refusal,
        now: Timestamp,
    ) -> Result<Next, SignerError> {
        let (csrs, name, params) = (self.csrs(), csr.name_any(), PatchParams::default());
        let message = refusal.to_string();
        // An approved request can no longer be denied: it fails instead.
        if has(csr, "Approved") {
            let patch = Patch::Merge(conditions(csr, "Failed", refusal.reason(), &message, now));
            csrs.patch_status(&name, &params, &patch).await.map_err(failed("fail", csr))?;
        } else {
            let patch = Patch::Merge(conditions(csr, "Denied", refusal.reason(), &message, now));
            csrs.patch_approval(&name, &params, &patch).await.map_err(failed("deny", csr))?;
        }
        tracing::warn!(
            csr = name,
            signer = csr.spec.signer_name,
            reason = refusal.reason(),
            message,
            "denied"
        );
        let about: ObjectReference = match node {
            Some(node) => node.object_ref(&()),
            None => csr.object_ref(&()),
        };
        self.events
            .warning(&about, refusal.reason(), "Sign", format!("refused a certificate: {message}"))
            .await;
        Ok(Next::After(decide::KEEP_FINISHED))
    }

    async fn remove(&self, csr: &CertificateSigningRequest) -> Result<Next, SignerError> {
        let this = Preconditions { uid: csr.uid(), resource_version: None };
        match self.csrs().delete(&csr.name_any(), &DeleteParams::default().preconditions(this)).await {
            Err(error) if !matches!(refused_with(&error), Some(404 | 409)) => {
                Err(failed("remove", csr)(error))
            }
            _ => Ok(Next::Change),
        }
    }

    fn csrs(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }
}

fn failed(doing: &'static str, csr: &CertificateSigningRequest) -> impl FnOnce(kube::Error) -> SignerError {
    let name = csr.name_any();
    move |source| SignerError::Api { doing, name, source }
}

/// The conditions of `csr` and one more, as a merge patch of the version that was read.
fn conditions(
    csr: &CertificateSigningRequest,
    type_: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Value {
    let present = csr.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut all = present.map_or_else(Vec::new, |all| all.iter().map(|condition| json!(condition)).collect());
    all.push(json!({
        "type": type_, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now,
    }));
    json!({"metadata": {"resourceVersion": csr.resource_version()}, "status": {"conditions": all}})
}

/// Bytes of lower-case hex that we wrote.
fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).filter_map(digits).collect()
}
