//! Watches that neither wedge nor spin: each has its own backoff and holds aside what does not decode.

use std::future::ready;

use futures::{Stream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use tokio::time::sleep;

use super::Object;
use super::metrics::Metrics;
use crate::backoff::Backoff;
use crate::telemetry::chain;

/// A watch ends after this and is started again: a dead connection is noticed 5 s later.
const WATCH_SECONDS: u32 = 45;

/// The annotation in which `kubectl apply` keeps a copy of the whole object.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One watched kind: where, and which objects of it.
pub struct Watched<K> {
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
}

impl<K: Object> Watched<K> {
    /// Objects of all namespaces, or of a cluster-scoped kind.
    #[must_use]
    pub fn all(client: Client) -> Self {
        Self { api: Api::all(client), config: watcher::Config::default().timeout(WATCH_SECONDS) }
    }

    /// Objects of one namespace.
    #[must_use]
    pub fn within(client: Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        let api = Api::namespaced(client, namespace);
        Self { api, config: watcher::Config::default().timeout(WATCH_SECONDS) }
    }

    /// Only objects that `selector` selects by label.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.config = self.config.labels(selector);
        self
    }

    /// Only objects that `selector` selects by field.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.config = self.config.fields(selector);
        self
    }

    /// Waits until the API server serves the kind to us: its CRD may not be established yet, or our rights
    /// not be granted. A reason is logged once, until it changes.
    pub async fn served(&self) {
        let mut backoff = Backoff::of_loops();
        let mut said = String::new();
        while let Err(error) = self.api.list(&ListParams::default().limit(1)).await {
            let why = chain(&error);
            if why != said {
                tracing::warn!(kind = %K::kind(&()), error = why, "waits until the kind is served");
                said = why;
            }
            sleep(backoff.failed()).await;
        }
    }

    /// The events of the watch, for ever: pruned of managedFields and the last-applied annotation; errors
    /// are logged, counted and backed off.
    ///
    /// An object that does not decode is left out, counted and logged: who holds an older version of it
    /// keeps that until the watch lists anew.
    pub(super) fn events(self, metrics: Metrics) -> impl Stream<Item = Event<K>> + Send + 'static {
        let kind = K::kind(&()).into_owned();
        watcher(self.api, self.config).default_backoff().filter_map(move |event| {
            ready(match event {
                Ok(event) => decoded(event, &kind, &metrics),
                Err(error) => {
                    metrics.watch_error(&kind, "watch");
                    tracing::warn!(kind, error = chain(&error), "a watch failed; starts it again");
                    None
                }
            })
        })
    }

    /// The events of the watch, kept in a store on the way.
    pub(super) fn stored(
        self,
        metrics: Metrics,
    ) -> (Store<K>, impl Stream<Item = Event<K>> + Send + 'static) {
        let (store, mut writer): (_, Writer<K>) = reflector::store();
        let events = self.events(metrics).inspect(move |event| writer.apply_watcher_event(event));
        (store, events)
    }
}

fn decoded<K: Object>(event: Event<DeserializeGuard<K>>, kind: &str, metrics: &Metrics) -> Option<Event<K>> {
    let open = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            object.managed_fields_mut().clear();
            if let Some(annotations) = &mut object.meta_mut().annotations {
                annotations.remove(LAST_APPLIED);
            }
            Some(object)
        }
        Err(invalid) => {
            metrics.watch_error(kind, "undecodable");
            let (namespace, name) = (invalid.metadata.namespace, invalid.metadata.name);
            let error = invalid.error;
            tracing::warn!(kind, namespace, name, error, "holds aside an object that does not decode");
            None
        }
    };
    Some(match event {
        Event::Apply(object) => Event::Apply(open(object)?),
        Event::Delete(object) => Event::Delete(open(object)?),
        Event::InitApply(object) => Event::InitApply(open(object)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}
