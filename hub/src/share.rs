//! What one session adds to the gauges of its hub, taken back when it ends.

use prometheus::IntGauge;
use selvedge_model::EntryKind;

use crate::metrics::Metrics;

/// Kinds whose removals may be held.
const HELD: [EntryKind; 2] = [EntryKind::Workload, EntryKind::Device];

/// A gauge and how much of it is ours.
#[derive(Debug)]
struct Part(IntGauge, i64);

impl Part {
    fn set(&mut self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.0.add(count - self.1);
        self.1 = count;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Share {
    sessions: Part,
    dirty: Part,
    held: [Part; 2],
}

impl Share {
    /// One more session.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let held = HELD.map(|kind| Part(metrics.removals_held.with_label_values(&[kind.name()]), 0));
        let mut share =
            Self { sessions: Part(metrics.sessions.clone(), 0), dirty: Part(metrics.dirty.clone(), 0), held };
        share.sessions.set(1);
        share
    }

    /// So many parts are dirty, and so many removals of a kind wait.
    pub fn set(&mut self, dirty: usize, held: impl Fn(EntryKind) -> usize) {
        self.dirty.set(dirty);
        for (part, kind) in self.held.iter_mut().zip(HELD) {
            part.set(held(kind));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, |_| 0);
        self.sessions.set(0);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::Share;
    use crate::metrics::Metrics;

    #[test]
    fn a_session_leaves_the_gauges_as_it_found_them() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (mut one, mut other) = (Share::new(&metrics), Share::new(&metrics));
        one.set(3, |_| 1);
        other.set(2, |_| 0);
        one.set(1, |_| 1);
        let held = metrics.removals_held.with_label_values(&["Device"]);
        assert_eq!((metrics.sessions.get(), metrics.dirty.get(), held.get()), (2, 3, 1));
        drop(one);
        assert_eq!((metrics.sessions.get(), metrics.dirty.get(), held.get()), (1, 2, 0));
    }
}
