//! Builds the hub from its configuration: what is shared first, then one task a room.

use std::sync::Arc;
use std::time::Duration;

use selvedge_model::EntryKind;
use selvedge_operator::BoxError;
use selvedge_operator::client::connect_without_retries;
use selvedge_operator::events::Events;
use selvedge_operator::process::Process;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::replica::Replica;
use crate::status::Bucket;
use crate::transport::{self, Door, tls::Tls};
use crate::{cluster, crd_check, enroll, feed, hearing, version_key};

/// How often sizes are measured: below the usual scrape interval.
const MEASURE: Duration = Duration::from_secs(10);

/// The agents' door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: choose another --listen")]
struct ListenError {
    address: std::net::SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Adds the hub's tasks and gates to a process.
///
/// # Errors
/// When the port is taken.
pub async fn build(config: &Config, process: &mut Process) -> Result<(), BoxError> {
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| ListenError { address, source })?;
    let (cluster_sender, cluster) = watch::channel(None);
    let metrics = Metrics::new(&process.registry)?;
    let client = process.client.clone();
    let writer = connect_without_retries().await?;
    let mut hub = Hub::new(Some(writer), cluster.clone(), metrics);
    hub.writes = Bucket::new(config.status_writes_per_second);
    let hub = Arc::new(hub);
    let tls = Arc::new(Tls::default());
    let token = process.tasks.token();
    let gate = |name| process.gates.gate(name);
    let (caches, certificate, hearing) = (gate("caches"), gate("certificate"), gate("hearing"));
    let door = Door {
        hub: hub.clone(),
        join: Arc::default(),
        renewals: Arc::default(),
        tasks: TaskTracker::new(),
        drain: token.clone(),
    };
    let replica = Replica {
        hub: hub.clone(),
        client: client.clone(),
        namespace: process.namespace.clone(),
        name: process.identity.clone(),
        token_file: config.token_file.clone(),
    };
    let namespace = process.namespace.clone();
    let tasks = &mut process.tasks;
    tasks.spawn(
        "cluster identity",
        cluster::follow(client.clone(), namespace.clone(), hub.clone(), cluster_sender, token.clone()),
    );
    tasks.spawn("version key", version_key::read(client.clone(), namespace, hub.clone(), token.clone()));
    tasks.spawn("caches", feed::follow(client.clone(), hub.clone(), caches, token.clone()));
    let events = Events::new(client.clone(), "selvedge-hub", &process.identity);
    tasks.spawn("hearing", hearing::follow(hub.clone(), hearing, token.clone()));
    tasks.spawn("Events", Notices::publish(hub.clone(), events, token.clone()));
    tasks.spawn("CRD check", crd_check::follow(client.clone(), hub.clone(), token.clone()));
    tasks.spawn(
        "serving certificate",
        enroll::serving::keep(client, cluster, tls.clone(), certificate, token.clone()),
    );
    tasks.spawn("controller stream", replica.keep(token.clone()));
    tasks.spawn("event loop", hub.metrics.clone().measure_loop(token.clone()));
    tasks.spawn("measures", measure(hub, token));
    tasks.spawn("agents' door", transport::serve(listener, tls, door));
    tracing::info!(%address, "listens for agents");
    Ok(())
}

async fn measure(hub: Arc<Hub>, token: CancellationToken) -> Result<(), BoxError> {
    loop {
        for (resource, objects) in hub.index().sizes() {
            let objects = i64::try_from(objects).unwrap_or(i64::MAX);
            hub.metrics.index_objects.with_label_values(&[resource]).set(objects);
        }
        let tripped = hub.removals.tripped();
        for kind in [EntryKind::Workload, EntryKind::Device] {
            let gauge = hub.metrics.removal_guard.with_label_values(&[kind.name()]);
            gauge.set(i64::from(tripped.contains(&kind)));
        }
        tokio::select! {
            () = sleep(MEASURE) => {}
            () = token.cancelled() => return Ok(()),
        }
    }
}
