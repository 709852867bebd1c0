//! The state with its outlets: a queue to each replica, and the triggers of node reconciles.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures::SinkExt as _;
use futures::channel::mpsc::Sender as Trigger;
use kube::runtime::reflector::ObjectRef;
use selvedge_crds::EdgeNode;
use selvedge_protocol::controller::ToReplica;
use tokio::sync::{mpsc, watch};

use super::state::{Effects, Sessions};
use crate::raw::Raw;

/// Orders that wait for one replica. A replica that falls behind by so many is cut off: it dials again,
/// and its snapshot makes the orders that still matter.
pub const QUEUE: usize = 1024;

/// Shared by the streams and the reconciler.
pub struct Switchboard {
    inner: Mutex<Inner>,
    trigger: Trigger<ObjectRef<Raw<EdgeNode>>>,
    /// The epoch in which a replica proved a restore.
    pub restored: watch::Sender<Option<u64>>,
}

struct Inner {
    sessions: Sessions,
    queues: HashMap<String, (u64, mpsc::Sender<ToReplica>)>,
    last_stream: u64,
}

impl Switchboard {
    /// Nodes to reconcile go to `trigger`.
    #[must_use]
    pub fn new(sessions: Sessions, trigger: Trigger<ObjectRef<Raw<EdgeNode>>>) -> Self {
        let inner = Inner { sessions, queues: HashMap::new(), last_stream: 0 };
        Self { inner: Mutex::new(inner), trigger, restored: watch::Sender::new(None) }
    }

    /// A new stream of a replica, which replaces its older one: (number, orders to send).
    pub fn connect(&self, replica: &str) -> (u64, mpsc::Receiver<ToReplica>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut inner = self.lock();
        inner.last_stream += 1;
        let stream = inner.last_stream;
        inner.sessions.connect(replica, stream);
        // The older stream's queue is dropped here, which ends that stream.
        inner.queues.insert(replica.to_owned(), (stream, sender));
        (stream, receiver)
    }

    /// Forgets the queue of a stream that has ended.
    pub fn hang_up(&self, replica: &str, stream: u64) {
        let mut inner = self.lock();
        if inner.queues.get(replica).is_some_and(|(current, _)| *current == stream) {
            inner.queues.remove(replica);
        }
    }

    /// Looks at the state.
    pub fn look<T>(&self, look: impl FnOnce(&Sessions) -> T) -> T {
        look(&self.lock().sessions)
    }

    /// Changes the state, queues the orders that follow, and triggers the nodes touched.
    pub async fn change(&self, change: impl FnOnce(&mut Sessions) -> Effects) {
        let touched = {
            let mut inner = self.lock();
            let Effects { orders, touched } = change(&mut inner.sessions);
            for (replica, order) in orders {
                let full =
                    inner.queues.get(&replica).is_some_and(|(_, queue)| queue.try_send(order).is_err());
                if full {
                    tracing::warn!(replica, "does not take orders: cut off");
                    inner.queues.remove(&replica);
                }
            }
            touched
        };
        let mut trigger = self.trigger.clone();
        for name in touched {
            // Closed only when the controller ends.
            if trigger.send(ObjectRef::new(&name)).await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
