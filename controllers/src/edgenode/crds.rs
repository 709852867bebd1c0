//! Keeps the record of the CRDs under which nodes have learned what they hold, for hubs that start (sync rule 2).
//!
//! In: uids of our CRDs, and what people released, looked at every few seconds. Out: `data.crds` of the ConfigMap
//! `selvedge-cluster`, written only when it changes. What the record is to be is decided by
//! [`CrdRecord::settled`].

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use selvedge_model::crds::{CRDS, CrdRecord};
use selvedge_operator::BoxError;
use selvedge_operator::backoff::Backoff;
use selvedge_operator::telemetry::chain;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::cluster::CLUSTER_CONFIG;

/// As often as a release is looked for. A hub that starts within this after one holds removals for that long.
const EVERY: Duration = Duration::from_secs(10);

/// The record was not brought up to date.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("cannot read CustomResourceDefinition {crd}")]
    Crd {
        crd: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("cannot read or write ConfigMap {CLUSTER_CONFIG}")]
    Config(#[source] kube::Error),
    #[error("ConfigMap {CLUSTER_CONFIG} has no data.epoch that is a number")]
    Epoch,
    #[error(
        "data.crds of ConfigMap {CLUSTER_CONFIG} is no record: remove it, and the CRDs count as they are now"
    )]
    Damaged(#[source] serde_json::Error),
}

/// Keeps the record until `token` is cancelled.
///
/// # Errors
/// Never; what fails is tried again.
pub async fn keep(client: Client, namespace: &str, token: CancellationToken) -> Result<(), BoxError> {
    let mut backoff = Backoff::of_loops();
    loop {
        let wait = match look(&client, namespace).await {
            Ok(()) => {
                backoff.succeeded();
                EVERY
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "a hub that starts now may not know that a CRD was created anew; tries again"
                );
                backoff.failed()
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = token.cancelled() => return Ok(()),
        }
    }
}

async fn look(client: &Client, namespace: &str) -> Result<(), RecordError> {
    // Before what people said: a release must not be taken for one of a CRD that came while this was asked.
    let present = present(client).await?;
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config = configs.get(CLUSTER_CONFIG).await.map_err(RecordError::Config)?;
    let data = config.data.unwrap_or_default();
    let text = |key| data.get(key).map_or("", String::as_str);
    let epoch = text("epoch").trim().parse().map_err(|_| RecordError::Epoch)?;
    let before = match text("crds") {
        "" => CrdRecord::default(),
        record => serde_json::from_str(record).map_err(RecordError::Damaged)?,
    };
    let now = before.settled(epoch, text("release"), &present);
    if now == before {
        return Ok(());
    }
    for (crd, uid) in now.uids.iter().filter(|(crd, uid)| before.uids.get(*crd) != Some(uid)) {
        tracing::info!(crd, uid, "nodes learn under this CRD from now on");
    }
    let patch = json!({"data": {"crds": json!(now).to_string()}});
    let written = configs.patch(CLUSTER_CONFIG, &PatchParams::default(), &Patch::Merge(patch)).await;
    written.map(drop).map_err(RecordError::Config)
}

/// CRDs that stand, with their uids.
async fn present(client: &Client) -> Result<BTreeMap<String, String>, RecordError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut present = BTreeMap::new();
    for (_, crd) in CRDS {
        let found = api.get_metadata_opt(crd).await.map_err(|source| RecordError::Crd { crd, source })?;
        if let Some(metadata) = found.map(|found| found.metadata)
            && metadata.deletion_timestamp.is_none()
        {
            present.insert(crd.to_owned(), metadata.uid.unwrap_or_default());
        }
    }
    Ok(present)
}
