//! Marks of the cluster's history, and the lasting word that it was restored (sync rule 8).
//!
//! In: the ConfigMap `selvedge-cluster`, and what hub replicas prove. Out: `data.history`, one mark higher every few
//! seconds, and `data.restored`, the epoch in which a restore was proved: every hub then pauses nodes whose set
//! differs, until a person raises `data.epoch` above it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use selvedge_model::{History, HistoryError};
use selvedge_operator::telemetry::chain;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::cluster::CLUSTER_CONFIG;

/// What a node has seen is marked within two of these: a fifth of a write a second, whatever the size of the fleet.
const EVERY: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Why a mark was not written.
#[derive(Debug, thiserror::Error)]
enum MarkError {
    #[error("cannot read ConfigMap {CLUSTER_CONFIG}")]
    Read(#[source] kube::Error),
    #[error(
        "data.history of ConfigMap {CLUSTER_CONFIG} is {0:?}: remove the key, and accept what hubs then pause"
    )]
    Damaged(String, #[source] HistoryError),
    #[error("cannot write ConfigMap {CLUSTER_CONFIG}")]
    Write(#[source] kube::Error),
    #[error("no answer in time")]
    Silent,
}

/// A mark of this leader's, and the epoch in which it wrote it.
type Own = (u64, u64);

/// What is to be written.
#[derive(Debug, PartialEq)]
struct Plan {
    /// The mark, once it is written, and the epoch that was read with it.
    mark: Own,
    /// Of `data`.
    changes: Value,
}

/// Decides on the next mark. `own` is the one that this leader wrote last, `proved` the epoch in which a replica
/// proved a restore.
fn plan(
    data: &BTreeMap<String, String>,
    own: Option<Own>,
    proved: Option<u64>,
    leap: u32,
) -> Result<Plan, HistoryError> {
    let read: History = data.get("history").map_or("", String::as_str).parse()?;
    let number = |key: &str| data.get(key).and_then(|text| text.trim().parse::<u64>().ok());
    let epoch = number("epoch").unwrap_or(0);
    let next = read.next(own.map(|own| own.0), leap);
    let mut changes = json!({"history": next.history.to_string()});
    // What was proved in an epoch that is over was accepted by the next one.
    let restored = proved.max(own.filter(|_| next.restored).map(|own| own.1));
    if let Some(restored) = restored.filter(|at| *at >= epoch && number("restored") < Some(*at)) {
        changes["restored"] = restored.to_string().into();
    }
    Ok(Plan { mark: (next.history.latest(), epoch), changes })
}

/// Raises marks until `token` is cancelled. Only the leader may.
pub async fn keep(
    client: &Client,
    namespace: &str,
    mut proofs: watch::Receiver<Option<u64>>,
    token: CancellationToken,
) {
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut beat = interval(EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut own = None;
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            Ok(()) = proofs.changed() => {}
            () = token.cancelled() => return,
        }
        let proved = *proofs.borrow_and_update();
        match timeout(ANSWER, mark(&configs, own, proved)).await.unwrap_or(Err(MarkError::Silent)) {
            Ok(mark) => own = Some(mark),
            // Written or not: a mark that goes on from another one than this leader's leaps.
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the mark of the cluster's history stays; it is raised later"
            ),
        }
    }
}

async fn mark(configs: &Api<ConfigMap>, own: Option<Own>, proved: Option<u64>) -> Result<Own, MarkError> {
    let config = configs.get(CLUSTER_CONFIG).await.map_err(MarkError::Read)?;
    let data = config.data.clone().unwrap_or_default();
    let damaged = |error| MarkError::Damaged(data.get("history").cloned().unwrap_or_default(), error);
    let Plan { mark, changes } = plan(&data, own, proved, rand::random()).map_err(damaged)?;
    if changes.get("restored").is_some() {
        tracing::error!(
            "the cluster was restored: nodes whose set differs are paused until data.epoch of ConfigMap \
             {CLUSTER_CONFIG} is raised"
        );
    }
    let patch = json!({"metadata": {"resourceVersion": config.resource_version()}, "data": changes});
    configs
        .patch(CLUSTER_CONFIG, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(MarkError::Write)?;
    Ok(mark)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::plan;

    fn planned(data: &[(&str, &str)], own: Option<super::Own>, proved: Option<u64>) -> serde_json::Value {
        let data: BTreeMap<_, _> =
            data.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        plan(&data, own, proved, 8).unwrap().changes
    }

    #[test]
    fn a_mark_is_raised_and_a_restore_is_said_until_the_next_one() {
        let stands = [("epoch", "1"), ("history", "3-20")];
        assert_eq!(planned(&[], None, None), json!({"history": "10-10"}));
        assert_eq!(planned(&stands, Some((20, 1)), None), json!({"history": "3-21"}));
        // Its own mark is gone.
        assert_eq!(planned(&stands, Some((25, 1)), None), json!({"history": "3-20,35-35", "restored": "1"}));
        let said = [stands[0], stands[1], ("restored", "1")];
        assert_eq!(planned(&said, Some((25, 1)), None), json!({"history": "3-20,35-35"}));
        assert_eq!(
            planned(&stands, Some((25, 0)), None),
            json!({"history": "3-20,35-35"}),
            "accepted already"
        );
        // A replica proves it; of an epoch that is over nobody needs to hear.
        assert_eq!(planned(&stands, Some((20, 1)), Some(1))["restored"], "1");
        assert_eq!(planned(&stands, Some((20, 1)), Some(0)), json!({"history": "3-21"}));
    }
}
