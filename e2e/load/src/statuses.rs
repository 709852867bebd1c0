//! Follows what the API server says of the simulated nodes and devices.
//!
//! In: watches. Out: every status, in the order of its writes, told to the record by the mirror.

use std::sync::Arc;

use futures::TryStreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::task::JoinSet;

use crate::mirror::Mirror;
use crate::objects::{Cluster, Kind, ObjectsError};

/// Kinds that bear statuses of nodes.
const KINDS: [Kind; 2] = [Kind::EdgeNode, Kind::Device];

/// Follows until the set is dropped.
#[must_use]
pub fn follow(cluster: &Cluster, mirror: &Arc<Mirror>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for kind in KINDS {
        let (api, mirror) = (cluster.api(kind), mirror.clone());
        let config = watcher::Config::default().labels(&cluster.selector());
        tasks.spawn(async move {
            let mut events = std::pin::pin!(watcher(api, config).default_backoff());
            loop {
                match events.try_next().await {
                    Ok(Some(Event::Apply(object) | Event::InitApply(object))) => mirror.status(kind, &object),
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(error) => tracing::warn!(%error, kind = kind.name(), "the watch of statuses broke"),
                }
            }
        });
    }
    tasks
}

/// Reads every status as it is now.
///
/// # Errors
/// [`ObjectsError`].
pub async fn read(cluster: &Cluster, mirror: &Mirror) -> Result<(), ObjectsError> {
    for kind in KINDS {
        for object in cluster.list(kind).await? {
            mirror.status(kind, &object);
        }
    }
    Ok(())
}
