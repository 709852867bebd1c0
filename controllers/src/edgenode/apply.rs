//! Carries out a [`Step`]: records on the EdgeNode, and the join Secret.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams};
use kube::{Api, Resource as _};
use selvedge_crds::EdgeNode;
use selvedge_operator::apply::{ApplyError, apply};
use selvedge_operator::client::refused_with;
use selvedge_protocol::{JoinToken, proof};
use serde_json::json;

use super::authority::Authority;
use super::observe::{Observed, SECRET_HUBS_ANNOTATION, SECRET_KEY_ANNOTATION};
use super::plan::Step;
use super::record::{IdentityRecord, JoinRecord, Records};
use crate::raw::Raw;

/// On a join Secret: the node that it is for.
pub const NODE_LABEL: &str = "selvedge.dev/node";

/// A step was not carried out; what was done of it is found and finished by the next reconcile.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Somebody wrote the EdgeNode meanwhile.
    #[error("EdgeNode {node} was changed meanwhile")]
    Conflict {
        /// Its name.
        node: String,
    },
    /// The records cannot be written.
    #[error("cannot write the records of EdgeNode {node}")]
    Records {
        /// Its name.
        node: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// The join Secret cannot be written.
    #[error("cannot write the join Secret of EdgeNode {node}")]
    Secret {
        /// Its name.
        node: String,
        /// Why.
        #[source]
        source: ApplyError,
    },
    /// The join Secret cannot be removed.
    #[error("cannot remove the join Secret of EdgeNode {node}")]
    Remove {
        /// Its name.
        node: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// No key.
    #[error("cannot make a join key for EdgeNode {node}")]
    Key {
        /// Its name.
        node: String,
        /// Why.
        #[source]
        source: proof::ProofError,
    },
}

/// Where steps are carried out.
pub struct Targets<'a> {
    /// EdgeNodes.
    pub nodes: &'a Api<Raw<EdgeNode>>,
    /// Secrets of the join namespace.
    pub secrets: &'a Api<Secret>,
    /// Pin and cluster id for tokens.
    pub authority: &'a Authority,
}

/// Carries out `step`. `seed` is used for a new join key and goes nowhere but into the Secret. True when
/// the EdgeNode was written: its change triggers the next reconcile.
///
/// # Errors
/// [`StepError`].
pub async fn carry_out(
    targets: &Targets<'_>,
    node: &Raw<EdgeNode>,
    observed: &Observed,
    step: &Step,
    seed: [u8; 32],
) -> Result<bool, StepError> {
    match step {
        Step::RemoveSecret => {
            remove_secret(targets, &observed.name).await?;
            Ok(false)
        }
        // The Secret goes first: with the records gone, nobody would look for it again.
        Step::Promote(records) | Step::Close(records) => {
            // A renewal has none.
            if observed.records.join.is_some() || observed.secret.is_some() {
                remove_secret(targets, &observed.name).await?;
            }
            write_records(targets, node, records).await?;
            Ok(true)
        }
        Step::MakeKey { expires, request } => {
            let public_key = proof::join_public_key(&seed)
                .map_err(|source| StepError::Key { node: observed.name.clone(), source })?;
            let public_key = STANDARD.encode(public_key);
            // A certificate issued to an earlier key and never seen is void from now on.
            let identity = IdentityRecord { pending: None, ..observed.records.identity.clone() };
            let join = JoinRecord {
                public_key: public_key.clone(),
                expires: *expires,
                uid: node.uid().to_owned(),
                request: request.clone(),
            };
            write_records(targets, node, &Records { join: Some(join), identity }).await?;
            let secret = join_secret(targets, node, observed, &public_key, &seed);
            apply(targets.secrets, super::MANAGER, &secret)
                .await
                .map_err(|source| StepError::Secret { node: observed.name.clone(), source })?;
            Ok(true)
        }
    }
}

async fn write_records(
    targets: &Targets<'_>,
    node: &Raw<EdgeNode>,
    records: &Records,
) -> Result<(), StepError> {
    let name = node.name();
    let patch = json!({"metadata": {
        "resourceVersion": node.metadata.resource_version,
        "annotations": records.annotations(),
    }});
    match targets.nodes.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if refused_with(&error) == Some(409) => Err(StepError::Conflict { node: name.into() }),
        Err(source) => Err(StepError::Records { node: name.into(), source }),
    }
}

async fn remove_secret(targets: &Targets<'_>, node: &str) -> Result<(), StepError> {
    let deleted = targets.secrets.delete(&super::secret_name(node), &DeleteParams::default()).await;
    match deleted {
        Ok(_) => Ok(()),
        Err(error) if refused_with(&error) == Some(404) => Ok(()),
        Err(source) => Err(StepError::Remove { node: node.into(), source }),
    }
}

fn join_secret(
    targets: &Targets<'_>,
    node: &Raw<EdgeNode>,
    observed: &Observed,
    public_key: &str,
    seed: &[u8; 32],
) -> Secret {
    let hubs = observed.hubs.split(' ').map(str::to_owned).collect();
    let Authority { cluster_id, pin, .. } = targets.authority;
    let token = JoinToken::new(cluster_id, &observed.name, hubs, pin, seed).encode();
    let command = format!("selvedge-agent join --token {token}");
    let owner: Option<OwnerReference> = node.owner_ref(&());
    let annotations = [(SECRET_KEY_ANNOTATION, public_key), (SECRET_HUBS_ANNOTATION, &observed.hubs)];
    Secret {
        metadata: ObjectMeta {
            name: Some(super::secret_name(&observed.name)),
            namespace: targets.secrets.namespace().map(str::to_owned),
            labels: Some([(NODE_LABEL.to_owned(), observed.name.clone())].into()),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        // Not stringData: server-side apply does not see that it becomes data.
        data: Some(
            [("token", token), ("command", command)]
                .map(|(k, v)| (k.to_owned(), ByteString(v.into())))
                .into(),
        ),
        ..Secret::default()
    }
}
