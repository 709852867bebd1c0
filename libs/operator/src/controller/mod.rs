//! Controllers: streams of objects in, one reconcile at a time per object out.
//!
//! Built on kube's `applier`, which schedules, and on its `watcher` and `reflector`, which feed it. Not on
//! `kube::runtime::Controller` itself: there an error in one watch holds back all triggers, and one object
//! that does not decode wedges the watch that it came by. Here each watch backs off by itself and holds
//! aside what does not decode, with a count and a warning.
//!
//! A reconcile goes observe → validate → plan → apply → status. Waiting is a value ([`Next`]), never an
//! error; errors have a [`Class`] that decides about the retry.
//!
//! ```ignore
//! let metrics = Metrics::new("selvedge_device_controller", &process.registry)?;
//! let devices = Watched::all(client.clone());
//! devices.served().await;
//! let (controller, nodes) = Controller::new(devices, metrics)
//!     .caches(Watched::<EdgeNode>::all(client.clone()), devices_of_node);
//! controller.run(Arc::new(DeviceReconciler { client, nodes }), token).await;
//! ```
//!
//! `caches` keeps whole objects, and its map sees each of their changes alike. Where there are many of either,
//! `folds` keeps only what the controller makes of them.

mod metrics;
mod run;
mod watch;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use serde::de::DeserializeOwned;

pub use metrics::Metrics;
pub use run::Controller;
pub(crate) use watch::LAST_APPLIED;
pub use watch::Watched;

/// A kind that can be controlled or watched.
pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// What became of an object.
#[derive(Clone, Debug)]
pub enum Change<K: Object> {
    /// It is like this now; it may have been before.
    Is(K),
    /// It is no longer there.
    Gone(ObjectRef<K>),
}

impl<K: Object> Change<K> {
    /// Which object.
    #[must_use]
    pub fn into_ref(self) -> ObjectRef<K> {
        match self {
            Self::Is(object) => ObjectRef::from_obj(&object),
            Self::Gone(object) => object,
        }
    }
}

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may go away by itself: try again after this object's backoff (1 s to 5 min, jittered).
    Transient,
    /// Something that is watched has to change first: wait for that.
    Blocked,
    /// Nothing helps but another spec: wait for that.
    Terminal,
}

impl Class {
    /// As a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Blocked => "blocked",
            Self::Terminal => "terminal",
        }
    }
}

/// An error of a reconcile.
pub trait Classified: std::error::Error + Send + Sync + 'static {
    /// What it asks for.
    fn class(&self) -> Class;
    /// The name of its variant, as a metric label.
    fn variant(&self) -> &'static str;
}

/// What follows a reconcile that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for a change. A slow look follows anyway, within an hour.
    Change,
    /// Look again after this time, or at a change.
    After(Duration),
}

/// What is done about one object.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind.
    type Object: Object;
    /// What can go wrong.
    type Error: Classified;

    /// Brings the world nearer to what `object` says. Never runs twice at once for one object. `object` is
    /// from the cache: it may be older than the last write.
    fn reconcile(&self, object: &Self::Object) -> impl Future<Output = Result<Next, Self::Error>> + Send;

    /// The object is no longer there. Nothing needs to be done in the cluster for that, owner references
    /// do it; this is for what is remembered or pushed. `object.extra.uid` says which one it was, if that
    /// is known.
    fn gone(&self, _object: &ObjectRef<Self::Object>) -> impl Future<Output = ()> + Send {
        async {}
    }
}
