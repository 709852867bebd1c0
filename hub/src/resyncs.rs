//! Turns of full comparisons: so many bytes of sets at once in this replica, first come first served (sync rule
//! 5). A difference that the whole fleet has becomes a trickle, and changes of live sessions keep flowing.
//!
//! In: sessions whose digests differ, with about how many bytes their sets have. Out: turns, given back when
//! dropped. A wait has no deadline of its own: who waits is live, reports, and keeps what it has; who has a turn
//! must answer each question in time, or its session ends and the turn with it.

use std::pin::Pin;
use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Bytes of sets that are compared at once: 640 nodes of 100 KB, or 26 with 10,000 devices. Beside the bodies,
/// which are shared, that is about what their inventories and deltas may take of memory, and a second of a
/// gigabit link.
const BUDGET: u64 = 64 * 1024 * 1024;
/// The unit of the budget, so that a turn fits into the semaphore's `u32`.
const UNIT: u64 = 1024;

/// See the module.
#[derive(Debug)]
pub struct Resyncs {
    budget: Arc<Semaphore>,
    waiting: IntGauge,
    admitted: IntCounter,
}

/// A turn, or the wait for one.
#[derive(Default)]
pub enum Turn {
    /// Not wanted.
    #[default]
    None,
    /// In the queue.
    Waiting(Pin<Box<dyn Future<Output = Held> + Send>>),
    /// It is this session's turn.
    Held(Held),
}

/// Gives its bytes back when dropped.
pub struct Held(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// Counts one that waits.
struct Waits(IntGauge);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Resyncs {
    /// All of the budget is free.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self::with(BUDGET, metrics.comparisons_waiting.clone(), metrics.comparisons.clone())
    }

    fn with(budget: u64, waiting: IntGauge, admitted: IntCounter) -> Self {
        let units = usize::try_from(budget / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Self { budget: Arc::new(Semaphore::new(units)), waiting, admitted }
    }

    /// Joins the queue, for about so many bytes. A set above the whole budget takes all of it.
    #[must_use]
    pub fn queue(&self, bytes: u64) -> Turn {
        let units = u32::try_from(bytes.min(BUDGET).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let (budget, admitted) = (self.budget.clone(), self.admitted.clone());
        self.waiting.inc();
        let waits = Waits(self.waiting.clone());
        Turn::Waiting(Box::pin(async move {
            // An error would mean that the semaphore was closed, which nobody does.
            let permit = budget.acquire_many_owned(units).await.ok();
            drop(waits);
            admitted.inc();
            Held(permit)
        }))
    }
}

impl Turn {
    /// Waits until the turn has come, if one is wanted. May be dropped and called again.
    pub async fn come(&mut self) {
        match self {
            Self::Waiting(wait) => *self = Self::Held(wait.as_mut().await),
            Self::None | Self::Held(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use prometheus::{IntCounter, IntGauge};

    use super::{Resyncs, Turn, UNIT};

    fn has_come(turn: &mut Turn) -> bool {
        turn.come().now_or_never().is_some()
    }

    #[test]
    fn turns_come_in_order_within_the_budget_and_who_leaves_the_queue_holds_nobody_up() {
        let waiting = IntGauge::new("waiting", "x").unwrap();
        let admitted = IntCounter::new("admitted", "x").unwrap();
        let resyncs = Resyncs::with(10 * UNIT, waiting.clone(), admitted.clone());
        let (mut first, mut large, mut small) =
            (resyncs.queue(6 * UNIT), resyncs.queue(8 * UNIT), resyncs.queue(UNIT));
        assert!(has_come(&mut first));
        assert!(!has_come(&mut large) && !has_come(&mut small), "a small one passed a large one");
        assert_eq!((waiting.get(), admitted.get()), (2, 1));
        drop(large);
        assert!(has_come(&mut small), "one that left holds up who came after it");
        let mut last = resyncs.queue(9 * UNIT);
        assert!(!has_come(&mut last));
        drop(first);
        assert!(has_come(&mut last));
        assert_eq!((waiting.get(), admitted.get()), (0, 3));
    }
}
