//! The cluster's identity: the ConfigMap `selvedge-cluster` that the EdgeNode controller keeps.
//!
//! In: the ConfigMap, looked at every few seconds. Out: [`Cluster`] in a watch channel, [`Marks`] in the index, and
//! releases of held removals and, by a new epoch, of nodes that were paused after a restore.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use selvedge_model::{EntryKind, History};
use selvedge_operator::BoxError;
use selvedge_operator::telemetry::chain;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::crd_check;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::removals::Removals;

/// Name of the ConfigMap.
const NAME: &str = "selvedge-cluster";
/// As often as the controller raises its mark.
const EVERY: Duration = Duration::from_secs(5);
/// However many wait for it: a fleet that comes back asks for it as one.
const MOST_OFTEN: Duration = Duration::from_millis(200);
/// Until it is there for the first time, nothing else can begin.
const EVERY_AT_FIRST: Duration = Duration::from_millis(500);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Who this cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Random, made with the first CA.
    pub id: String,
    /// Raised by hand after a restore.
    pub epoch: u64,
    /// CA certificates, PEM.
    pub ca_pem: String,
    /// Kinds whose held removals go on, as `<kind>=<any text>` separated by commas: a new text is a new
    /// release.
    pub release: String,
}

/// Which history of the cluster this is (sync rule 8): it moves on every few seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Raised by the controller's leader.
    pub history: History,
    /// The epoch in which a restore was proved, until a higher one accepts it.
    pub restored: Option<u64>,
}

impl Marks {
    /// Reads the ConfigMap's data; none when what stands there cannot be read.
    #[must_use]
    pub fn read(map: &ConfigMap) -> Option<Self> {
        let text = |key| map.data.as_ref().and_then(|data| data.get(key));
        let history = text("history").map_or(Some(History::default()), |history| history.parse().ok())?;
        let number = |key| text(key).map(|number| number.trim().parse::<u64>()).transpose().ok();
        let (epoch, restored) = (number("epoch")?, number("restored")?);
        let restored = restored.filter(|restored| *restored >= epoch.unwrap_or(0));
        Some(Self { history, restored })
    }
}

impl Cluster {
    /// Reads the ConfigMap's data; none when something that must be there is not.
    #[must_use]
    pub fn read(map: &ConfigMap) -> Option<Self> {
        let data = map.data.as_ref()?;
        let epoch = data.get("epoch").map_or(Some(0), |epoch| epoch.parse().ok())?;
        let id = data.get("clusterId").filter(|id| !id.is_empty())?.clone();
        let ca_pem = data.get("ca.crt").filter(|pem| pem.contains("BEGIN CERTIFICATE"))?.clone();
        Some(Self { id, epoch, ca_pem, release: data.get("release").cloned().unwrap_or_default() })
    }

    fn releases(&self) -> impl Iterator<Item = EntryKind> {
        selvedge_model::crds::released(&self.release)
    }
}

/// What cannot be read, so that each is said when it begins and when it is over, and not at every look.
#[derive(Debug, Default)]
struct Unreadable(BTreeSet<&'static str>);

impl Unreadable {
    /// Takes in how a part is read now; whether that is news.
    fn note(&mut self, part: &'static str, unreadable: bool, metrics: &Metrics) -> bool {
        metrics.cluster_unreadable.with_label_values(&[part]).set(unreadable.into());
        let news = if unreadable { self.0.insert(part) } else { self.0.remove(part) };
        if news && !unreadable {
            tracing::info!(part, "ConfigMap {NAME} can be read again");
        }
        news && unreadable
    }

    /// Looks at an answer of the API server: the ConfigMap, none when there is none, or why it is not known. What of
    /// it can be read: nothing without an identity.
    fn look(
        &mut self,
        answer: Result<Option<&ConfigMap>, &str>,
        removals: &Removals,
        metrics: &Metrics,
    ) -> Option<(Cluster, Option<Marks>)> {
        if self.note("object", answer.is_err(), metrics) {
            tracing::warn!(error = answer.err(), "cannot read ConfigMap {NAME}: what is known of it holds");
        }
        let map = answer.ok()??;
        let (cluster, marks) = (Cluster::read(map), Marks::read(map));
        if self.note("identity", cluster.is_none(), metrics) {
            tracing::error!(
                "clusterId, ca.crt or epoch of ConfigMap {NAME} is missing or cannot be read: what was read last holds"
            );
        }
        if self.note("history", marks.is_none(), metrics) {
            tracing::error!("data.history or data.restored of ConfigMap {NAME} cannot be read");
        }
        let record = crd_check::remember(removals, map);
        if self.note("crds", record.is_err(), metrics) {
            tracing::warn!(
                error = record.err().map(|error| chain(&error)),
                "data.crds of ConfigMap {NAME} is no record: whether a CRD was created anew before this start is \
                 not known"
            );
        }
        Some((cluster?, marks))
    }
}

/// Lets go on what waited for this change. A new epoch accepts a restore, and with it all that is gone by it.
pub(crate) fn released(hub: &Hub, before: &Cluster, cluster: &Cluster) {
    if cluster.epoch > before.epoch {
        tracing::warn!(epoch = cluster.epoch, "a new epoch: nodes take the cluster as it is now");
        EntryKind::ALL.into_iter().for_each(|kind| hub.removals.release(kind));
    } else if before.release != cluster.release {
        cluster.releases().for_each(|kind| hub.removals.release(kind));
    }
}

/// Follows the ConfigMap.
///
/// # Errors
/// Never; what fails is tried again.
pub async fn follow(
    client: Client,
    namespace: String,
    hub: Arc<Hub>,
    sender: watch::Sender<Option<Arc<Cluster>>>,
    token: CancellationToken,
) -> Result<(), BoxError> {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let (mut said, mut unreadable) = (false, Unreadable::default());
    loop {
        let asked = clock::now();
        let answer = match timeout(ANSWER, api.get_opt(NAME)).await {
            Ok(Ok(map)) => Ok(map),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("no answer".to_owned()),
        };
        if matches!(answer, Ok(None)) && !said {
            said = true;
            tracing::info!("waits for ConfigMap {namespace}/{NAME}, which the edgenode-controller makes");
        }
        let answer = answer.as_ref().map(Option::as_ref).map_err(String::as_str);
        if let Some((cluster, marks)) = unreadable.look(answer, &hub.removals, &hub.metrics) {
            let before = sender.borrow().clone();
            if let Some(marks) = marks {
                hub.read_marks(marks, clock::now());
            }
            hub.set_cluster(&cluster, clock::now());
            hub.epoch_read(asked);
            if before.as_deref() != Some(&cluster) {
                if let Some(before) = before {
                    released(&hub, &before, &cluster);
                }
                tracing::info!(cluster = cluster.id, epoch = cluster.epoch, "cluster identity");
                sender.send_replace(Some(Arc::new(cluster)));
            }
            hub.sessions.wake_waiting();
        }
        let wait = if sender.borrow().is_some() { EVERY } else { EVERY_AT_FIRST };
        tokio::select! {
            () = sleep(wait) => {}
            () = hub.cluster_wanted.notified() => {
                sleep(MOST_OFTEN.saturating_sub(clock::now().saturating_duration_since(asked))).await;
            }
            () = token.cancelled() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use prometheus::Registry;
    use serde_json::json;

    use super::Unreadable;
    use crate::metrics::Metrics;
    use crate::removals::Removals;

    #[test]
    fn what_cannot_be_read_is_news_once_and_counts_while_it_lasts() {
        let (removals, metrics) = (Removals::default(), Metrics::new(&Registry::new()).unwrap());
        let map = |history: &str, crds: &str| -> ConfigMap {
            let data = json!({"clusterId": "c", "ca.crt": "-----BEGIN CERTIFICATE-----", "history": history, "crds": crds});
            serde_json::from_value(json!({"data": data})).unwrap()
        };
        let mut unreadable = Unreadable::default();
        let mut said = |answer: Result<Option<&ConfigMap>, &str>| {
            unreadable.look(answer, &removals, &metrics);
            let gauge = |part: &str| metrics.cluster_unreadable.with_label_values(&[part]).get();
            ["object", "identity", "history", "crds"].map(gauge)
        };
        assert_eq!(said(Err("no answer")), [1, 0, 0, 0]);
        assert_eq!(said(Ok(None)), [0, 0, 0, 0]);
        assert_eq!(said(Ok(Some(&map("?", "?")))), [0, 0, 1, 1]);
        // While nothing is known anew, what was wrong is wrong.
        assert_eq!(said(Err("no answer")), [1, 0, 1, 1]);
        assert_eq!(said(Ok(Some(&ConfigMap::default()))), [0, 1, 0, 0]);
        assert!(!unreadable.note("identity", true, &metrics), "it is said at every look");
        assert!(!unreadable.note("identity", false, &metrics) && unreadable.note("identity", true, &metrics));
    }
}
