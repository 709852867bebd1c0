//! One status write: read if nothing is known, compose, compare, patch with a precondition; on a conflict
//! read again.

use std::time::Duration;

use bytes::Bytes;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use selvedge_crds::{Device, EdgeNode};
use selvedge_model::SessionId;
use selvedge_operator::backoff::Backoff;
use selvedge_operator::status::plan;
use selvedge_operator::telemetry::chain;
use selvedge_protocol::agent::verdict::Code;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{Target, fence, fenced_by};
use crate::clock;
use crate::hub::Hub;

/// Longest wait for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(10);

/// An object as it was last seen: kept as bytes, because a session keeps one for each of its objects.
#[derive(Clone, Debug)]
pub struct Known(Bytes);

/// What came of a write.
#[derive(Debug)]
pub struct Written {
    /// For the reports in it.
    pub code: Code,
    /// Why it was refused.
    pub reason: &'static str,
    /// The object as it is now.
    pub known: Option<Known>,
}

/// The fields of a status that are ours, over the status as it is.
pub type Compose = Box<dyn Fn(&Value) -> Value + Send + Sync>;

/// What is to be written.
pub struct Work {
    /// Which object.
    pub target: Target,
    /// Uid that it must have.
    pub uid: String,
    /// Who reports.
    pub session: SessionId,
    /// Highest number of the reports in it.
    pub seq: u64,
    /// The object as last seen.
    pub known: Option<Known>,
    /// The fields of status that are ours, over the status as it is.
    pub compose: Compose,
}

enum Failed {
    Conflict,
    Refused(&'static str),
    /// To be tried again.
    Transient(String),
}

/// Writes until it is written or refused; a session that ends drops it, and the agent keeps the reports.
pub async fn write(hub: &Hub, client: &Client, work: &Work) -> Written {
    let api = api(client, &work.target);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let mut known = work.known.clone();
    loop {
        let result = match known.take() {
            Some(known) => Ok(known),
            None => read(&api, work).await,
        };
        let result = match result {
            Ok(current) => attempt(hub, &api, work, current).await,
            Err(failed) => Err(failed),
        };
        match result {
            Ok(written) => return written,
            Err(Failed::Refused(reason)) => {
                hub.metrics.status_writes.with_label_values(&["refused"]).inc();
                tracing::warn!(object = %work.target, reason, "a status was refused; its report is dropped");
                return Written { code: Code::Refused, reason, known: None };
            }
            Err(Failed::Conflict) => {
                hub.metrics.status_writes.with_label_values(&["conflict"]).inc();
            }
            Err(Failed::Transient(error)) => {
                hub.metrics.status_writes.with_label_values(&["failed"]).inc();
                tracing::warn!(object = %work.target, error, "cannot write a status; it is tried again");
                sleep(backoff.failed()).await;
            }
        }
    }
}

async fn attempt(
    hub: &Hub,
    api: &Api<DynamicObject>,
    work: &Work,
    current: Known,
) -> Result<Written, Failed> {
    let object: Value = serde_json::from_slice(&current.0).unwrap_or_default();
    let status = &object["status"];
    if fenced_by(status).is_some_and(|newest| newest > work.session) {
        hub.metrics.status_writes.with_label_values(&["superseded"]).inc();
        return Ok(Written { code: Code::Superseded, reason: "", known: Some(current) });
    }
    let Some(mut patch) = plan(status, &(work.compose)(status)) else {
        return Ok(Written { code: Code::Written, reason: "", known: Some(current) });
    };
    patch["fence"] = fence(work.session, work.seq);
    let patch = json!({"metadata": {"resourceVersion": object["resourceVersion"]}, "status": patch});
    let wait = hub.writes.take(clock::now());
    if !wait.is_zero() {
        sleep(wait).await;
    }
    let name = work.target.name();
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    match timeout(ANSWER, api.patch_status(name, &params, &patch)).await {
        Err(_) => Err(Failed::Transient("no answer".into())),
        Ok(Err(error)) => Err(judge(&error)),
        Ok(Ok(object)) => {
            hub.metrics.status_writes.with_label_values(&["written"]).inc();
            Ok(Written { code: Code::Written, reason: "", known: Some(keep(&object)) })
        }
    }
}

async fn read(api: &Api<DynamicObject>, work: &Work) -> Result<Known, Failed> {
    let object = match timeout(ANSWER, api.get(work.target.name())).await {
        Err(_) => return Err(Failed::Transient("no answer".into())),
        Ok(Err(error)) => return Err(judge(&error)),
        Ok(Ok(object)) => object,
    };
    if object.metadata.uid.as_deref() != Some(&work.uid) {
        return Err(Failed::Refused("OtherUid"));
    }
    Ok(keep(&object))
}

fn keep(object: &DynamicObject) -> Known {
    let kept = json!({"resourceVersion": object.metadata.resource_version, "status": object.data["status"]});
    Known(kept.to_string().into())
}

fn judge(error: &kube::Error) -> Failed {
    match error {
        kube::Error::Api(status) => match status.code {
            409 => Failed::Conflict,
            404 => Failed::Refused("NotFound"),
            413 => Failed::Refused("TooLarge"),
            422 => Failed::Refused("Invalid"),
            _ => Failed::Transient(chain(error)),
        },
        _ => Failed::Transient(chain(error)),
    }
}

fn api(client: &Client, target: &Target) -> Api<DynamicObject> {
    match target {
        Target::Node(_) => Api::all_with(client.clone(), &resource::<EdgeNode>()),
        Target::Device(key) => Api::namespaced_with(client.clone(), &key.namespace, &resource::<Device>()),
    }
}

fn resource<K: kube::Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}
