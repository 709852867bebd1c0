//! The feed: list-watch loops in, events of the index out.
//!
//! Core resources are followed for the life of the process, ConfigMaps and Secrets only in enabled namespaces
//! (there alone does RBAC allow it, identity rule 12), Secrets only where something names one. After a list, what
//! the index holds and the list does not is gone, but not by a watched deletion.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use selvedge_crds::{Device, DeviceModel, EdgeApplication, EdgeNode};
use selvedge_model::ReferenceKind;
use selvedge_operator::BoxError;
use selvedge_operator::admin::Gate;
use selvedge_operator::backoff::Backoff;
use selvedge_operator::listwatch::{self, ListWatch, Poke, Target};
use selvedge_operator::telemetry::chain;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::hub::Hub;
use crate::index::{Event, ObjectKey, Resource};
use crate::removals::Crd;

/// Events between a loop and the index: the index is quick, so a few are enough; more would only be memory.
const BETWEEN: usize = 64;
/// How often ConfigMaps and Secrets that nothing on a served node names are forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// Longest wait for one ConfigMap or Secret.
const FETCH: Duration = Duration::from_secs(10);

/// Handles to poke the loops of resources.
#[derive(Debug, Default)]
pub struct Pokes(Mutex<HashMap<Resource, Poke>>);

impl Pokes {
    /// Somebody waits for the present state of these.
    pub fn poke(&self, resources: &[Resource]) {
        let pokes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        resources.iter().filter_map(|resource| pokes.get(resource)).for_each(Poke::poke);
    }

    /// What is followed, but for one resource, is listed anew: its loops are told, and it is named.
    pub fn outdated(&self, but: Option<&Resource>) -> Vec<Resource> {
        let pokes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = pokes.iter().filter(|(resource, _)| Some(*resource) != but);
        others.map(|(resource, poke)| (resource.clone(), poke.outdated()).0).collect()
    }

    /// The loop of a resource is followed by this handle, or not any more.
    pub fn set(&self, resource: &Resource, poke: Option<Poke>) {
        let mut pokes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match poke {
            Some(poke) => pokes.insert(resource.clone(), poke),
            None => pokes.remove(resource),
        };
    }
}

/// Follows every resource until `token` is cancelled. `synced` opens when all core resources were listed.
///
/// # Errors
/// When a loop panicked.
pub async fn follow(
    client: Client,
    hub: Arc<Hub>,
    synced: Gate,
    token: CancellationToken,
) -> Result<(), BoxError> {
    let mut loops = JoinSet::new();
    for resource in Resource::CORE {
        let synced = synced.clone();
        loops.spawn(resource_loop(client.clone(), hub.clone(), resource, Some(synced), token.clone()));
    }
    loops.spawn(forget(hub.clone(), token.clone()));
    loops.spawn(references(client, hub, token));
    while let Some(ended) = loops.join_next().await {
        ended?;
    }
    Ok(())
}

async fn resource_loop(
    client: Client,
    hub: Arc<Hub>,
    resource: Resource,
    synced: Option<Gate>,
    token: CancellationToken,
) {
    let loop_ = ListWatch::new(client, target(&resource), Ok::<Value, Infallible>);
    hub.pokes.set(&resource, Some(loop_.poke()));
    let (sender, mut events) = mpsc::channel(BETWEEN);
    let watch = loop_.run(sender, token);
    let take = async {
        let mut behind = false;
        let mut absence = Absence::default();
        while let Some(event) = events.recv().await {
            let now = clock::now();
            absence.look(&hub, &resource, &event, now);
            take_event(&hub, &resource, event, now);
            if let Some(gate) = &synced
                && hub.index().is_synced()
            {
                gate.ready();
            }
            // Sessions may wait for just this revision.
            behind |= !events.is_empty();
            if events.is_empty() && std::mem::take(&mut behind) {
                hub.sessions.wake_waiting();
            }
        }
    };
    tokio::join!(watch, take);
    hub.pokes.set(&resource, None);
}

/// A kind that the API server does not serve, as its loop hears it.
#[derive(Debug, Default)]
pub struct Absence {
    /// Since when, without an answer in between.
    since: Option<Instant>,
}

impl Absence {
    /// Looks at what a loop says, before [`take_event`] does. A watch that broke while its CRD was deleted says
    /// nothing of the objects that went with it. They are gone when the CRD was read after the kind was not served
    /// any more, and was not there.
    pub fn look(&mut self, hub: &Hub, resource: &Resource, event: &listwatch::Event<Value>, now: Instant) {
        let listwatch::Event::Failed { error } = event else {
            self.since = None;
            return;
        };
        let Some(crd) = Crd::of_resource(resource).filter(|_| error.is_not_served()) else { return };
        let since = *self.since.get_or_insert(now);
        if !hub.removals.is_going(crd, since) {
            return hub.removals.want(crd);
        }
        let revision = hub.index().reached().revision(&resource.to_string());
        sweep(hub, resource, &BTreeSet::new(), revision, now);
    }
}

/// What the caches hold of a resource and is not among `there` is gone, though no watch has said so.
fn sweep(hub: &Hub, resource: &Resource, there: &BTreeSet<ObjectKey>, revision: u64, now: Instant) {
    let missing = hub.index().keys(resource).into_iter().filter(|key| !there.contains(key));
    for key in missing.collect::<Vec<_>>() {
        hub.apply(Event::Gone { resource: resource.clone(), key, revision, watched: false }, now);
    }
}

/// Takes in what a loop learned at `now`.
pub fn take_event(hub: &Hub, resource: &Resource, event: listwatch::Event<Value>, now: Instant) {
    if !matches!(event, listwatch::Event::Failed { .. }) {
        hub.hearing.heard(resource, now);
    }
    let apply = |event| hub.apply(event, now);
    match event {
        listwatch::Event::Listed { revision, asked, objects, undecodable } => {
            let listed: BTreeSet<ObjectKey> = objects
                .iter()
                .filter_map(key)
                .chain(undecodable.iter().map(|o| ObjectKey::new(&o.namespace, &o.name)))
                .collect();
            if resource.references().is_none() {
                // While a list goes in, the cache is of no one revision: sessions send nothing.
                apply(Event::Dropped(resource.clone()));
            }
            sweep(hub, resource, &listed, revision, now);
            for object in objects {
                apply(Event::Applied(resource.clone(), object));
            }
            apply(Event::Listed(resource.clone(), revision));
            hub.list_complete(resource, asked, now);
            // Also those that wait for nothing: after a restore they must be compared.
            hub.sessions.wake_all();
        }
        listwatch::Event::Applied { object, .. } => apply(Event::Applied(resource.clone(), object)),
        listwatch::Event::Deleted { revision, object } => {
            if let Some(key) = key(&object) {
                apply(Event::Gone { resource: resource.clone(), key, revision, watched: true });
            }
        }
        // Raw JSON always decodes; what the index cannot use it holds by itself.
        listwatch::Event::Undecodable { .. } | listwatch::Event::Alive => {}
        listwatch::Event::Bookmark { revision } => {
            apply(Event::Reached(resource.clone(), revision));
            hub.sessions.wake_waiting();
        }
        listwatch::Event::WentBack { seen, now: recent } => {
            tracing::error!(%resource, seen, recent, "the API server's state is older than one seen before: it was \
                restored; nodes that have seen more of it are paused");
            hub.went_back(resource, now);
        }
        listwatch::Event::Recent { revision, asked } => {
            apply(Event::Recent { resource: resource.clone(), revision, asked });
            hub.sessions.wake_waiting();
        }
        listwatch::Event::Failed { error } => {
            tracing::warn!(%resource, error = chain(&error), "list-watch failed; it is tried again");
        }
    }
}

fn key(object: &Value) -> Option<ObjectKey> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    Some(ObjectKey::new(text("/metadata/namespace").unwrap_or(""), text("/metadata/name")?))
}

fn core(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: String::new(),
        version: "v1".into(),
        api_version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
    }
}

fn of_kind(kind: ReferenceKind) -> ApiResource {
    match kind {
        ReferenceKind::ConfigMap => core(kind.name(), "configmaps"),
        ReferenceKind::Secret => core(kind.name(), "secrets"),
    }
}

fn target(resource: &Resource) -> Target {
    match resource {
        Resource::EdgeNodes => Target::new(&ApiResource::erase::<EdgeNode>(&()), None),
        Resource::EdgeApplications => Target::new(&ApiResource::erase::<EdgeApplication>(&()), None),
        Resource::DeviceModels => Target::new(&ApiResource::erase::<DeviceModel>(&()), None),
        Resource::Devices => Target::new(&ApiResource::erase::<Device>(&()), None),
        Resource::ControllerRevisions => {
            Target::new(&ApiResource::erase::<k8s_openapi::api::apps::v1::ControllerRevision>(&()), None)
        }
        Resource::Namespaces => Target::new(&core("Namespace", "namespaces"), None),
        Resource::ConfigMaps(namespace) => Target::new(&of_kind(ReferenceKind::ConfigMap), Some(namespace)),
        Resource::Secrets(namespace) => Target::new(&of_kind(ReferenceKind::Secret), Some(namespace)),
    }
}

/// ConfigMaps and Secrets of enabled namespaces: one loop each, started and ended with what is to be followed;
/// and fetches of those whose data was dropped before a workload was resolved with them.
async fn references(client: Client, hub: Arc<Hub>, token: CancellationToken) {
    let mut loops: HashMap<Resource, CancellationToken> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut fetches = BTreeSet::new();
    let mut backoff = Backoff::of_loops();
    let mut fetch_at = clock::now();
    loop {
        let wanted = hub.index().to_follow();
        loops.iter().filter(|(resource, _)| !wanted.contains(resource)).for_each(|(_, stop)| stop.cancel());
        // One that has still to end is started anew when it has: its last word is that nothing is known.
        for resource in wanted {
            loops.entry(resource.clone()).or_insert_with(|| {
                let stop = token.child_token();
                tasks.spawn(reference_loop(client.clone(), hub.clone(), resource, stop.clone()));
                stop
            });
        }
        fetches.extend(hub.take_unfetched());
        // However many sessions ask meanwhile.
        if fetch_at <= clock::now() {
            if fetch(&client, &hub, &mut fetches).await {
                fetch_at = clock::now() + backoff.failed();
            } else {
                backoff.succeeded();
            }
        }
        tokio::select! {
            () = hub.references.notified() => {}
            () = sleep_until(fetch_at.into()), if !fetches.is_empty() => {}
            Some(ended) = tasks.join_next() => {
                if let Ok(resource) = ended {
                    loops.remove(&resource);
                }
            }
            () = token.cancelled() => break,
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Drops what no served node's workloads name any more, every now and then.
async fn forget(hub: Arc<Hub>, token: CancellationToken) {
    while token.run_until_cancelled(sleep(FORGET)).await.is_some() {
        let hub = hub.clone();
        // A look at every node: nothing for a thread that serves sessions.
        let _ = spawn_blocking(move || hub.forget_references()).await;
    }
}

async fn reference_loop(
    client: Client,
    hub: Arc<Hub>,
    resource: Resource,
    stop: CancellationToken,
) -> Resource {
    resource_loop(client, hub.clone(), resource.clone(), None, stop).await;
    hub.apply(Event::Dropped(resource.clone()), clock::now());
    resource
}

/// Fetches what is asked for; true when some of it failed, or came too early, and stays asked for.
async fn fetch(client: &Client, hub: &Hub, keys: &mut BTreeSet<(Resource, ObjectKey)>) -> bool {
    let mut failed = BTreeSet::new();
    while let Some((resource, key)) = keys.pop_first() {
        let Some((kind, namespace)) = resource.references() else { continue };
        let Some(known) = hub.index().dropped(&resource, &key) else { continue };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &of_kind(kind));
        match timeout(FETCH, api.get_opt(&key.name)).await {
            Ok(Ok(Some(object))) => {
                if let Ok(object) = serde_json::to_value(object)
                    && !hub.apply_fetched(&resource, &key, object, known, clock::now())
                {
                    failed.insert((resource, key));
                }
            }
            // Its deletion comes by the watch.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%resource, %key, error = chain(&error), "cannot read an object; it is tried again");
                failed.insert((resource, key));
            }
            Err(_) => {
                failed.insert((resource, key));
            }
        }
    }
    *keys = failed;
    !keys.is_empty()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use prometheus::Registry;
    use selvedge_model::EntryKind;
    use selvedge_operator::listwatch::{Event as Said, ListWatchError};
    use serde_json::{Value, json};
    use tokio::sync::watch;

    use super::{Absence, take_event};
    use crate::cluster::{Cluster, released};
    use crate::hub::Hub;
    use crate::index::{ObjectKey, Resource};
    use crate::metrics::Metrics;
    use crate::removals::{Crd, CrdState};

    fn hub() -> Hub {
        let (_, cluster) = watch::channel(None);
        Hub::new(None, cluster, Metrics::new(&Registry::new()).unwrap())
    }

    fn listed(revision: u64, names: &[&str], asked: Instant) -> Said<Value> {
        let device = |name: &&str| {
            let metadata = json!({"namespace": "shop", "name": name, "uid": name, "resourceVersion": "7"});
            json!({"metadata": metadata, "spec": {"nodeName": "n1"}})
        };
        let objects = names.iter().map(device).collect();
        Said::Listed { revision, asked, objects, undecodable: Vec::new() }
    }

    #[test]
    fn a_restore_is_listed_anew_and_takes_nothing_away_until_it_is_accepted() {
        let hub = hub();
        let now = crate::clock::now();
        for resource in Resource::CORE {
            take_event(&hub, &resource, listed(10, &[], now), now);
        }
        take_event(&hub, &Resource::Devices, listed(20, &["a", "b"], now), now);
        assert!(hub.index().is_synced() && hub.removals.tripped().is_empty());

        take_event(&hub, &Resource::Devices, Said::WentBack { seen: 20, now: 15 }, now);
        assert!(!hub.index().is_synced(), "sessions go on with what is over");
        assert_eq!(hub.metrics.restores.get(), 1);
        take_event(&hub, &Resource::Devices, listed(15, &["a"], now), now);
        take_event(&hub, &Resource::Devices, Said::Recent { revision: 15, asked: now }, now);
        assert!(hub.index().is_synced());
        assert_eq!(hub.index().reached().revision("devices"), 15);
        assert_eq!(hub.index().recent(&Resource::Devices, now), Some(15));
        assert_eq!(hub.index().keys(&Resource::Devices), [ObjectKey::new("shop", "a")]);
        let held = hub.removals.tripped();
        assert!(held.contains(&EntryKind::Device) && held.contains(&EntryKind::Workload), "{held:?}");

        let cluster =
            |epoch| Cluster { id: "c".into(), epoch, ca_pem: String::new(), release: String::new() };
        released(&hub, &cluster(0), &cluster(1));
        assert!(hub.removals.tripped().is_empty(), "a new epoch accepts what is gone, too");
    }

    #[test]
    fn what_was_asked_for_before_a_restore_was_accepted_proves_none_after() {
        let hub = hub();
        let (asked, devices) = (crate::clock::now(), Resource::Devices);
        let at = |seconds| asked + Duration::from_secs(seconds);
        let cluster = Cluster { id: "c".into(), epoch: 1, ca_pem: String::new(), release: String::new() };
        hub.set_cluster(&cluster, at(1));
        // The answer of before the restore comes late; the list that a new epoch asks for is lower.
        take_event(&hub, &devices, listed(20, &["a"], asked), at(2));
        take_event(&hub, &devices, Said::WentBack { seen: 20, now: 15 }, at(3));
        assert_eq!(*hub.proof.borrow(), None);
        take_event(&hub, &devices, listed(15, &["a"], at(2)), at(3));
        take_event(&hub, &devices, Said::WentBack { seen: 15, now: 12 }, at(4));
        assert_eq!(*hub.proof.borrow(), Some(1), "restored once more");
    }

    #[test]
    fn what_went_with_its_crd_unseen_is_gone_once_the_crd_was_not_found() {
        let hub = hub();
        let now = crate::clock::now();
        take_event(&hub, &Resource::Devices, listed(20, &["a"], now), now);
        let not_served = || {
            let status =
                kube::core::Status::failure("the server could not find it", "NotFound").with_code(404);
            let source = kube::Error::Api(status.boxed());
            Said::Failed { error: ListWatchError::List { kind: "Device".into(), source } }
        };
        let mut absence = Absence::default();
        let mut look = |event: &Said<Value>, second| {
            absence.look(&hub, &Resource::Devices, event, now + Duration::from_secs(second));
            hub.index().keys(&Resource::Devices).len()
        };
        // What was read before says nothing of now.
        hub.removals.read(Crd::Devices, CrdState::Going, now);
        assert_eq!(look(&not_served(), 1), 1);
        assert_eq!(hub.removals.take_wanted(), [Crd::Devices]);
        let stands = CrdState::Stands { uid: "u".into() };
        hub.removals.read(Crd::Devices, stands, now + Duration::from_secs(2));
        assert_eq!(look(&not_served(), 3), 1, "the API server does not serve yet what stands");
        assert_eq!(look(&Said::Alive, 4), 1);
        assert_eq!(look(&not_served(), 5), 1);
        hub.removals.read(Crd::Devices, CrdState::Going, now + Duration::from_secs(6));
        assert_eq!(look(&not_served(), 7), 0);
    }

    #[test]
    fn a_config_map_that_was_read_before_its_watch_came_so_far_waits_for_it() {
        let hub = hub();
        let (now, maps, key) =
            (crate::clock::now(), Resource::ConfigMaps("shop".into()), ObjectKey::new("shop", "a"));
        take_event(&hub, &maps, listed(10, &["a"], now), now);
        let read =
            json!({"metadata": {"namespace": "shop", "name": "a", "uid": "a", "resourceVersion": "12"}});
        assert!(
            !hub.apply_fetched(&maps, &key, read.clone(), 10, now),
            "others in its namespace pass for known up to 12"
        );
        assert_eq!(hub.index().reached().revision("configmaps/shop"), 10);
        take_event(&hub, &maps, Said::Bookmark { revision: 12 }, now);
        assert!(hub.apply_fetched(&maps, &key, read, 10, now));
    }

    #[test]
    fn a_config_map_that_is_older_than_it_was_proves_a_restore() {
        let hub = hub();
        let (now, maps, key) =
            (crate::clock::now(), Resource::ConfigMaps("shop".into()), ObjectKey::new("shop", "a"));
        let read =
            json!({"metadata": {"namespace": "shop", "name": "a", "uid": "a", "resourceVersion": "5"}});
        take_event(&hub, &maps, listed(8, &["a"], now), now);
        assert_eq!(hub.index().dropped(&maps, &key), Some(7));
        // It was at 12 when the request was sent. The list came after that: a restore was accepted meanwhile.
        assert!(hub.apply_fetched(&maps, &key, read.clone(), 12, now));
        assert_eq!(*hub.proof.borrow(), None);
        take_event(&hub, &maps, listed(9, &["a"], now), now);
        assert!(!hub.apply_fetched(&maps, &key, read, 7, now));
        assert_eq!(*hub.proof.borrow(), Some(0), "in the first epoch");
    }
}
