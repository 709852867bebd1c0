//! The loop of a controller: triggers in, reconciles out, with retries by class of error.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{BoxStream, select_all};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use kube::ResourceExt as _;
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config, Error, ReconcileRequest};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::watch::Watched;
use super::{Change, Class, Classified, Next, Object, Reconciler};
use crate::backoff::Backoffs;
use crate::telemetry::chain;

/// Reconciles at once. Enough to hide the API server's latency, few enough to leave it room.
const CONCURRENCY: u16 = 16;

/// Every object is looked at again within this, against changes that were missed.
const RESYNC: Duration = Duration::from_secs(3600);

/// One kind with all that triggers its reconciles.
pub struct Controller<K: Object> {
    metrics: Metrics,
    store: Store<K>,
    triggers: Vec<BoxStream<'static, ObjectRef<K>>>,
    filled: Vec<BoxFuture<'static, ()>>,
}

impl<K: Object> Controller<K> {
    /// A controller of the objects in `watched`. Each of their changes is a trigger, deletion included.
    #[must_use]
    pub fn new(watched: Watched<K>, metrics: Metrics) -> Self {
        let (store, events) = watched.stored(metrics.clone());
        let filled = vec![filled(store.clone()).boxed()];
        Self { metrics, store, triggers: vec![changes(events).map(Change::into_ref).boxed()], filled }
    }

    /// The cache of the controlled objects; filled once [`run`](Self::run) runs.
    #[must_use]
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Objects of `Other` trigger what `map` returns for them; for a deleted one too.
    #[must_use]
    pub fn watches<Other: Object, I>(
        mut self,
        watched: Watched<Other>,
        map: impl Fn(&Other) -> I + Send + 'static,
    ) -> Self
    where
        I: IntoIterator<Item = ObjectRef<K>> + 'static,
        I::IntoIter: Send,
    {
        let events = watched.events(self.metrics.clone());
        self.triggers.push(mapped(events, map).boxed());
        self
    }

    /// As [`watches`](Self::watches), with a cache. When `map` sees a change, the cache has it. The cache
    /// is filled before the first reconcile.
    #[must_use]
    pub fn caches<Other: Object, I>(
        mut self,
        watched: Watched<Other>,
        map: impl Fn(&Other) -> I + Send + 'static,
    ) -> (Self, Store<Other>)
    where
        I: IntoIterator<Item = ObjectRef<K>> + 'static,
        I::IntoIter: Send,
    {
        let (store, events) = watched.stored(self.metrics.clone());
        self.triggers.push(mapped(events, map).boxed());
        self.filled.push(filled(store.clone()).boxed());
        (self, store)
    }

    /// Every change of an object of `Other` goes through `fold`, in order, which remembers what it needs of it
    /// and returns what that triggers. Also what a relist no longer has is a change. The first list has gone
    /// through before the first reconcile. For kinds with many objects or changes: no cache holds them whole.
    #[must_use]
    pub fn folds<Other: Object, I>(
        mut self,
        watched: Watched<Other>,
        mut fold: impl FnMut(Change<Other>) -> I + Send + 'static,
    ) -> Self
    where
        I: IntoIterator<Item = ObjectRef<K>> + 'static,
        I::IntoIter: Send,
    {
        let listed = Arc::new(Notify::new());
        let done = listed.clone();
        let events = watched.events(self.metrics.clone()).inspect(move |event| {
            if matches!(event, Event::InitDone) {
                done.notify_one();
            }
        });
        self.triggers.push(changes(events).flat_map(move |change| stream::iter(fold(change))).boxed());
        self.filled.push(async move { listed.notified().await }.boxed());
        self
    }

    /// What `stream` yields is triggered.
    #[must_use]
    pub fn triggered_by(mut self, stream: impl Stream<Item = ObjectRef<K>> + Send + 'static) -> Self {
        self.triggers.push(stream.boxed());
        self
    }

    /// Reconciles until `token` is cancelled and the reconciles that run then have ended.
    pub async fn run<R: Reconciler<Object = K>>(self, reconciler: Arc<R>, token: CancellationToken) {
        let mut triggers = select_all(self.triggers);
        let early = tokio::select! {
            early = until_filled(&mut triggers, self.filled) => early,
            () = token.cancelled() => return,
        };
        let backoffs = Arc::new(Backoffs::<ObjectRef<K>>::default());
        let queue = stream::iter(early)
            .chain(triggers)
            .map(|object| Ok::<_, Infallible>(ReconcileRequest::from(object)))
            .take_until(token.cancelled_owned());
        let reconcile = {
            let (metrics, backoffs) = (self.metrics, backoffs.clone());
            move |object: Arc<K>, reconciler: Arc<R>| {
                let (metrics, backoffs) = (metrics.clone(), backoffs.clone());
                Box::pin(async move {
                    let start = Instant::now();
                    let result = reconciler.reconcile(&object).await;
                    metrics.reconciled(&result, start.elapsed());
                    let next = result?;
                    backoffs.forget(&ObjectRef::from_obj(&*object));
                    Ok(Action::requeue(match next {
                        Next::Change => resync(),
                        Next::After(delay) => delay,
                    }))
                })
            }
        };
        let retry = {
            let backoffs = backoffs.clone();
            move |object: Arc<K>, error: &R::Error, _: Arc<R>| retry(&*object, error, &backoffs)
        };
        let config = Config::default().concurrency(CONCURRENCY);
        let mut results =
            std::pin::pin!(applier(reconcile, retry, reconciler.clone(), self.store, queue, config));
        while let Some(result) = results.next().await {
            match result {
                // A failed reconcile was logged and counted where its retry was decided.
                Ok(_) | Err(Error::ReconcilerFailed(..)) => {}
                Err(Error::ObjectNotFound(object)) => {
                    let object = object.into_kind_unchecked::<K>(());
                    backoffs.forget(&object);
                    reconciler.gone(&object).await;
                }
                Err(error) => {
                    tracing::error!(kind = %K::kind(&()), error = chain(&error), "the queue failed")
                }
            }
        }
    }
}

fn retry<K: Object>(object: &K, error: &impl Classified, backoffs: &Backoffs<ObjectRef<K>>) -> Action {
    let (kind, namespace, name) = (K::kind(&()), object.namespace(), object.name_any());
    match error.class() {
        Class::Transient => {
            let delay = backoffs.failed(ObjectRef::from_obj(object));
            tracing::warn!(%kind, namespace, name, ?delay, error = chain(error), "reconcile failed; tries again");
            Action::requeue(delay)
        }
        class => {
            let class = class.label();
            tracing::warn!(%kind, namespace, name, class, error = chain(error), "reconcile waits for a change");
            Action::requeue(resync())
        }
    }
}

/// Spread over half the time, so that objects listed together do not come back together.
fn resync() -> Duration {
    rand::rng().random_range(RESYNC / 2..=RESYNC)
}

/// Polls the triggers, which fill the caches, until every cache is filled; returns what was triggered.
async fn until_filled<K: Object>(
    triggers: &mut (impl Stream<Item = ObjectRef<K>> + Unpin),
    filled: Vec<BoxFuture<'static, ()>>,
) -> HashSet<ObjectRef<K>> {
    let mut early = HashSet::new();
    let mut filled = join_all(filled);
    loop {
        tokio::select! {
            _ = &mut filled => return early,
            Some(object) = triggers.next() => { early.insert(object); }
        }
    }
}

async fn filled<K: Object>(store: Store<K>) {
    // It can only fail when the stream that fills the store is gone, and then nobody polls this either.
    let _ = store.wait_until_ready().await;
}

/// Every object that an event touches, and those that a relist no longer has.
fn changes<K: Object>(events: impl Stream<Item = Event<K>> + Send) -> impl Stream<Item = Change<K>> + Send {
    let mut known = HashSet::new();
    let mut listed = HashSet::new();
    events.flat_map(move |event| {
        stream::iter(match event {
            Event::Init => {
                listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                listed.insert(ObjectRef::from_obj(&object));
                vec![Change::Is(object)]
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut listed);
                let before = std::mem::replace(&mut known, listed);
                before.difference(&known).cloned().map(Change::Gone).collect()
            }
            Event::Apply(object) => {
                known.insert(ObjectRef::from_obj(&object));
                vec![Change::Is(object)]
            }
            Event::Delete(object) => {
                let object = ObjectRef::from_obj(&object);
                known.remove(&object);
                vec![Change::Gone(object)]
            }
        })
    })
}

fn mapped<K: Object, Other: Object, I>(
    events: impl Stream<Item = Event<Other>> + Send,
    map: impl Fn(&Other) -> I + Send,
) -> impl Stream<Item = ObjectRef<K>> + Send
where
    I: IntoIterator<Item = ObjectRef<K>>,
    I::IntoIter: Send,
{
    events
        .filter_map(|event| {
            std::future::ready(match event {
                Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => Some(object),
                Event::Init | Event::InitDone => None,
            })
        })
        .flat_map(move |object| stream::iter(map(&object)))
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt as _;
    use kube::api::ObjectMeta;
    use kube::runtime::watcher::Event;

    use super::Change;

    fn named(name: &str) -> ConfigMap {
        let metadata =
            ObjectMeta { name: Some(name.into()), namespace: Some("n".into()), ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    #[tokio::test]
    async fn an_object_that_a_relist_no_longer_has_is_gone() {
        let events = stream::iter([
            Event::Init,
            Event::InitApply(named("a")),
            Event::InitApply(named("b")),
            Event::InitDone,
            Event::Apply(named("c")),
            Event::Delete(named("a")),
            // Meanwhile the watch was away, and b was deleted.
            Event::Init,
            Event::InitApply(named("c")),
            Event::InitDone,
        ]);
        let said = |change: Change<ConfigMap>| match change {
            Change::Is(object) => object.name_any(),
            Change::Gone(object) => format!("-{}", object.name),
        };
        let said: Vec<_> = super::changes(events).map(said).collect().await;
        assert_eq!(said, ["a", "b", "c", "-a", "c", "-b"]);
    }
}
