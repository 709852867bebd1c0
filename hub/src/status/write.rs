//! One status write: read if nothing is known, compose, compare, patch with a precondition; on a conflict
//! read again, on "too many requests" and without an answer slow all writes of this replica.

use std::time::Duration;

use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use bytes::Bytes;
use kube::Client;
use kube::Resource as _;
use kube::client::Body;
use rand::RngExt as _;
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
/// After a conflict whose successor was a conflict again, and after other failures.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MOST_WAIT: Duration = Duration::from_secs(30);
/// A "too many requests" without Retry-After, where the API server says one second; and no answer at all.
const HELD: Duration = Duration::from_secs(1);
/// A replica waits up to this part longer than it was told.
const SPREAD: f64 = 0.25;
/// No proxy on the way may hold us longer.
const MOST_HELD: Duration = Duration::from_secs(60);

/// An object as it was last seen: as bytes, because a replica keeps many.
#[derive(Clone, Debug)]
pub struct Known {
    revision: u64,
    object: Bytes,
}

/// What came of a write.
#[derive(Debug)]
pub struct Written {
    /// For the reports in it; none: no object of that uid bears the name now. Whether it is gone for good only caches
    /// can say that have read as far: a restore takes objects away, too.
    pub code: Option<Code>,
    /// Why it was refused.
    pub reason: &'static str,
    /// The object as it is now.
    pub known: Option<Known>,
    /// The newer session that has written already; nothing that this one reports will be written.
    pub newer: Option<SessionId>,
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

impl Written {
    /// There was nothing to write to.
    #[must_use]
    pub fn missing() -> Self {
        Self { code: None, reason: "", known: None, newer: None }
    }
}

impl Known {
    /// What is kept of an object.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let version = &object["metadata"]["resourceVersion"];
        let kept = json!({"resourceVersion": version, "status": object["status"]});
        let revision = version.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        // Without the room to grow that the text was left with.
        Self { revision, object: kept.to_string().into_bytes().into_boxed_slice().into() }
    }

    /// Its resourceVersion.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.object.len()
    }
}

/// What a write comes to, over the object as it was last seen.
#[derive(Debug)]
pub enum Decision {
    /// This newer session has written: the fence (sync rule 9).
    Superseded(SessionId),
    /// The status says it already.
    Unchanged,
    /// This merge patch, with its precondition.
    Patch(Value),
}

/// Decides on a write.
#[must_use]
pub fn decide(work: &Work, current: &Known) -> Decision {
    let object: Value = serde_json::from_slice(&current.object).unwrap_or_default();
    let status = &object["status"];
    if let Some(newer) = fenced_by(status).filter(|newest| *newest > work.session) {
        return Decision::Superseded(newer);
    }
    let Some(mut patch) = plan(status, &(work.compose)(status)) else { return Decision::Unchanged };
    patch["fence"] = fence(work.session, work.seq);
    Decision::Patch(json!({"metadata": {"resourceVersion": object["resourceVersion"]}, "status": patch}))
}

enum Failed {
    Conflict,
    Refused(&'static str),
    /// No object has its name, or another one.
    Missing,
    /// The API server has too much to do: nothing was done.
    Busy(Duration),
    /// It gave no answer in time, or none at all, which is as good as too much to do.
    Unanswered(String),
    /// To be tried again.
    Transient(String),
}

/// Writes until it is written or refused; a session that ends drops it, and the agent keeps the reports.
///
/// `client` must not repeat requests by itself: a busy API server would be asked past the bucket.
pub async fn write(hub: &Hub, client: &Client, work: &Work) -> Written {
    let count = |result: &str| hub.metrics.status_writes.with_label_values(&[result]).inc();
    let mut backoff = Backoff::new(FIRST_WAIT, MOST_WAIT);
    let (mut known, mut conflicts, mut failures) = (work.known.clone(), 0_u32, 0_u32);
    loop {
        let result = attempt(hub, client, work, &mut known).await;
        match result {
            Ok(written) => {
                if let Some(known) = &written.known {
                    hub.recall.keep(&work.target, known, hub.index().term());
                }
                return written;
            }
            Err(Failed::Missing) => {
                count("missing");
                return Written::missing();
            }
            Err(Failed::Refused(reason)) => {
                count("refused");
                tracing::warn!(object = %work.target, reason, "a status was refused; its report is dropped");
                return Written { code: Some(Code::Refused), reason, known: None, newer: None };
            }
            Err(Failed::Conflict) => {
                count("conflict");
                (known, conflicts) = (None, conflicts + 1);
                // One other writer is the usual case, and answered by reading again at once.
                if conflicts > 1 {
                    sleep(backoff.failed()).await;
                }
            }
            // What is known still holds, and the bucket knows when the next turn is.
            Err(Failed::Busy(_)) => count("busy"),
            Err(Failed::Unanswered(error) | Failed::Transient(error)) => {
                count("failed");
                // It may have been done all the same.
                (known, failures) = (None, failures + 1);
                // Once: an API server that is away fails the writes of all sessions, again and again.
                if failures == 1 {
                    tracing::warn!(object = %work.target, error, "cannot write a status; it is tried again");
                }
                sleep(backoff.failed()).await;
            }
        }
    }
}

async fn attempt(
    hub: &Hub,
    client: &Client,
    work: &Work,
    known: &mut Option<Known>,
) -> Result<Written, Failed> {
    let current = match known {
        Some(known) => known.clone(),
        None => known.insert(read(hub, client, work).await?).clone(),
    };
    let count = |result: &str| hub.metrics.status_writes.with_label_values(&[result]).inc();
    let patch = match decide(work, &current) {
        Decision::Superseded(newer) => {
            count("superseded");
            let (known, newer) = (Some(current), Some(newer));
            return Ok(Written { code: Some(Code::Superseded), reason: "", known, newer });
        }
        Decision::Unchanged => {
            count("unchanged");
            return Ok(Written { code: Some(Code::Written), reason: "", known: Some(current), newer: None });
        }
        Decision::Patch(patch) => patch,
    };
    let path = format!("{}/status", path(&work.target));
    let written = call(hub, client, Method::PATCH, &path, Some(&patch)).await?;
    count("written");
    Ok(Written { code: Some(Code::Written), reason: "", known: Some(Known::of(&written)), newer: None })
}

async fn read(hub: &Hub, client: &Client, work: &Work) -> Result<Known, Failed> {
    let object = call(hub, client, Method::GET, &path(&work.target), None).await?;
    if object.pointer("/metadata/uid").and_then(Value::as_str) != Some(&work.uid) {
        return Err(Failed::Missing);
    }
    Ok(Known::of(&object))
}

/// One request and its answer, when it is its turn. Not through `Api`: that hides the headers.
async fn call(
    hub: &Hub,
    client: &Client,
    method: Method,
    path: &str,
    patch: Option<&Value>,
) -> Result<Value, Failed> {
    let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
    if patch.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/merge-patch+json");
    }
    let body = patch.map(|patch| patch.to_string().into_bytes()).unwrap_or_default();
    let request = request.body(Body::from(body)).map_err(|_| Failed::Refused("NoSuchName"))?;
    let turn = hub.writes.turn().await;
    let exchange = async {
        let answer = client.send(request).await?;
        let (head, body) = answer.into_parts();
        Ok::<_, kube::Error>((head, body.collect_bytes().await?))
    };
    let result = match timeout(ANSWER, exchange).await {
        Err(_) => Err(Failed::Unanswered("no answer".into())),
        Ok(Err(error)) => Err(Failed::Unanswered(chain(&error))),
        Ok(Ok((head, body))) if head.status.is_success() => {
            serde_json::from_slice(&body).map_err(|error| Failed::Transient(chain(&error)))
        }
        Ok(Ok((head, body))) => Err(judge(head.status, &head.headers, &body)),
    };
    let wait = match &result {
        Err(Failed::Busy(wait)) => Some(*wait),
        Err(Failed::Unanswered(_)) => Some(HELD),
        _ => None,
    };
    if let Some(wait) = wait {
        // Replicas that were told the same must not come back together.
        let spread = rand::rng().random_range(0.0..=SPREAD);
        hub.writes.congested(turn.sent(), wait.mul_f64(1.0 + spread), clock::now());
    }
    result
}

fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failed {
    match status {
        StatusCode::CONFLICT => Failed::Conflict,
        StatusCode::NOT_FOUND => Failed::Missing,
        StatusCode::PAYLOAD_TOO_LARGE => Failed::Refused("TooLarge"),
        StatusCode::UNPROCESSABLE_ENTITY => Failed::Refused("Invalid"),
        StatusCode::TOO_MANY_REQUESTS => {
            let after = headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            Failed::Busy(after.map_or(HELD, Duration::from_secs).min(MOST_HELD))
        }
        status => {
            let said: Value = serde_json::from_slice(body).unwrap_or_default();
            let why = format!("{status}: {}", said["message"].as_str().unwrap_or("no reason given"));
            match status {
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Failed::Unanswered(why),
                _ => Failed::Transient(why),
            }
        }
    }
}

fn path(target: &Target) -> String {
    let collection = match target {
        Target::Node(_) => EdgeNode::url_path(&(), None),
        Target::Device(key) => Device::url_path(&(), Some(&key.namespace)),
    };
    format!("{collection}/{}", target.name())
}
