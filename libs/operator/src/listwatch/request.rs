//! Requests of the loop: pages of a list, and a watch, as raw JSON.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::Client;
use kube::api::{ListParams, Request, WatchEvent, WatchParams};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::Target;
use super::machine::Revision;
use crate::client::refused_with;
use crate::controller::LAST_APPLIED;

/// Objects a page, as client-go's pager has it.
const PAGE: u32 = 500;

/// Longest wait for a page, or for a watch to start.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ListWatchError {
    /// The list was refused or broke off.
    #[error("cannot list {kind}")]
    List {
        /// The kind.
        kind: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The watch was refused or broke off.
    #[error("cannot watch {kind}")]
    Watch {
        /// The kind.
        kind: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The revision to go on from has been compacted; a list follows.
    #[error("the revision of the {kind} that were read has expired")]
    Expired {
        /// The kind.
        kind: String,
    },
    /// The API server did not answer.
    #[error("no answer about {kind} in time")]
    Timeout {
        /// The kind.
        kind: String,
    },
    /// A resourceVersion is no number (KEP-5504 says that it is).
    #[error("the API server named {revision:?} as the resourceVersion of {kind}")]
    Revision {
        /// The kind.
        kind: String,
        /// As it stands.
        revision: String,
    },
}

impl ListWatchError {
    /// Whether the API server does not know the kind: its CRD is gone, or is not served yet.
    #[must_use]
    pub fn is_not_served(&self) -> bool {
        let (Self::List { source, .. } | Self::Watch { source, .. }) = self else { return false };
        refused_with(source) == Some(404)
    }
}

/// One page of a list.
#[derive(Deserialize)]
pub struct Page {
    metadata: PageMeta,
    #[serde(default)]
    pub items: Vec<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    r#continue: String,
}

impl Page {
    /// The token of the next page.
    pub fn next(&self) -> Option<String> {
        (!self.metadata.r#continue.is_empty()).then(|| self.metadata.r#continue.clone())
    }

    /// Revision of the whole list: the same on all its pages.
    pub fn revision(&self, target: &Target) -> Result<Revision, ListWatchError> {
        number(&self.metadata.resource_version, target)
    }
}

/// A page from the most recent state, or the one that `token` continues.
pub async fn page(client: &Client, target: &Target, token: Option<&str>) -> Result<Page, ListWatchError> {
    list(
        client,
        target,
        ListParams { continue_token: token.map(str::to_owned), ..ListParams::default().limit(PAGE) },
    )
    .await
}

/// The most recent revision.
pub async fn probe(client: &Client, target: &Target) -> Result<Revision, ListWatchError> {
    list(client, target, ListParams::default().limit(1)).await?.revision(target)
}

async fn list(client: &Client, target: &Target, params: ListParams) -> Result<Page, ListWatchError> {
    let fail = |source| ListWatchError::List { kind: target.kind.clone(), source };
    let params = ListParams { field_selector: target.fields.clone(), ..params };
    let request =
        Request::new(&target.path).list(&params).map_err(|source| fail(kube::Error::BuildRequest(source)))?;
    match timeout(ANSWER, client.request(request)).await {
        Err(_) => Err(ListWatchError::Timeout { kind: target.kind.clone() }),
        Ok(Err(source)) => Err(expired_or(target, source, fail)),
        Ok(Ok(page)) => Ok(page),
    }
}

/// Starts a watch.
pub async fn watch(
    client: &Client,
    target: &Target,
    from: Revision,
    seconds: u32,
) -> Result<impl Stream<Item = Result<WatchEvent<Value>, ListWatchError>> + use<>, ListWatchError> {
    let kind = target.kind.clone();
    let fail = move |source| ListWatchError::Watch { kind: kind.clone(), source };
    let params =
        WatchParams { field_selector: target.fields.clone(), ..WatchParams::default().timeout(seconds) };
    let request = Request::new(&target.path)
        .watch(&params, &from.to_string())
        .map_err(|source| fail(kube::Error::BuildRequest(source)))?;
    let events = match timeout(ANSWER, client.request_events::<Value>(request)).await {
        Err(_) => return Err(ListWatchError::Timeout { kind: target.kind.clone() }),
        Ok(Err(source)) => return Err(expired_or(target, source, fail)),
        Ok(Ok(events)) => events,
    };
    let target = target.clone();
    Ok(events.map(move |event| match event {
        Ok(WatchEvent::Error(status)) => Err(expired_or(&target, kube::Error::Api(status), &fail)),
        Ok(event) => Ok(event),
        Err(source) => Err(expired_or(&target, source, &fail)),
    }))
}

fn expired_or(
    target: &Target,
    error: kube::Error,
    fail: impl Fn(kube::Error) -> ListWatchError,
) -> ListWatchError {
    match error {
        kube::Error::Api(status) if status.code == 410 => {
            ListWatchError::Expired { kind: target.kind.clone() }
        }
        error => fail(error),
    }
}

/// The revision of an object.
pub fn revision(object: &Value, target: &Target) -> Result<Revision, ListWatchError> {
    number(object["metadata"]["resourceVersion"].as_str().unwrap_or_default(), target)
}

/// A resourceVersion as a number.
pub fn number(text: &str, target: &Target) -> Result<Revision, ListWatchError> {
    text.parse()
        .map_err(|_| ListWatchError::Revision { kind: target.kind.clone(), revision: text.to_owned() })
}

/// Removes what is large and means nothing to readers.
pub fn prune(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}
