//! Reads CRDs when removals wait for it: one request a CRD for all that wait (sync rule 2). And the record of those
//! that were read before this process began.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use selvedge_model::crds::CrdRecord;
use selvedge_operator::BoxError;
use selvedge_operator::backoff::Backoff;
use selvedge_operator::telemetry::chain;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::hub::Hub;
use crate::removals::{Crd, CrdState, Removals};

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Deletions that come together are one read.
const GATHER: Duration = Duration::from_millis(20);
/// A CRD that is going is looked at again: it may come back.
const AGAIN: Duration = Duration::from_secs(5);

/// Reads all CRDs once, so that their uids are known before anything is deleted, then on demand.
///
/// # Errors
/// Never; what fails is tried again.
pub async fn follow(client: Client, hub: Arc<Hub>, token: CancellationToken) -> Result<(), BoxError> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let mut wanted = Crd::ALL.to_vec();
    let mut backoff = Backoff::of_loops();
    loop {
        let mut again = Vec::new();
        let mut failed = false;
        for crd in std::mem::take(&mut wanted) {
            match read(&api, &hub, crd).await {
                Some(CrdState::Stands { .. }) => {}
                Some(CrdState::Going) => again.push(crd),
                None => {
                    again.push(crd);
                    failed = true;
                }
            }
        }
        hub.sessions.wake_waiting();
        if !failed {
            backoff.succeeded();
        }
        let wait = match (failed, again.is_empty()) {
            (true, _) => backoff.failed(),
            (false, false) => AGAIN,
            (false, true) => Duration::MAX,
        };
        tokio::select! {
            () = sleep(wait) => wanted = again,
            () = hub.removals.wanted.notified() => {
                sleep(GATHER).await;
                wanted = again;
                wanted.extend(hub.removals.take_wanted());
                wanted.sort_unstable();
                wanted.dedup();
            }
            () = token.cancelled() => return Ok(()),
        }
    }
}

/// Takes in under which CRDs nodes have learned what they hold, as the EdgeNode controller records it. Without a
/// record (an older controller, or none yet) this process knows what it has seen itself.
///
/// # Errors
/// When what stands there is no record.
pub fn remember(removals: &Removals, cluster: &ConfigMap) -> Result<(), serde_json::Error> {
    let Some(text) = cluster.data.as_ref().and_then(|data| data.get("crds")) else { return Ok(()) };
    removals.recall(&serde_json::from_str::<CrdRecord>(text)?);
    Ok(())
}

async fn read(api: &Api<CustomResourceDefinition>, hub: &Hub, crd: Crd) -> Option<CrdState> {
    let asked = clock::now();
    let state = match timeout(ANSWER, api.get_opt(crd.name())).await {
        Ok(Ok(Some(found))) if found.metadata.deletion_timestamp.is_none() => {
            CrdState::Stands { uid: found.metadata.uid.unwrap_or_default() }
        }
        Ok(Ok(_)) => CrdState::Going,
        Ok(Err(error)) => {
            tracing::warn!(
                crd = crd.name(),
                error = chain(&error),
                "cannot read a CRD; removals of its kind wait"
            );
            return None;
        }
        Err(_) => {
            tracing::warn!(crd = crd.name(), "cannot read a CRD: no answer; removals of its kind wait");
            return None;
        }
    };
    if state == CrdState::Going {
        tracing::warn!(crd = crd.name(), "the CRD is deleted: nothing of its kind is removed from nodes");
    }
    hub.removals.read(crd, state.clone(), asked);
    Some(state)
}
