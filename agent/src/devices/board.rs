//! What devices report, until somebody takes it: the latest of each, so that it holds as many reports
//! as there are devices and no more.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{DeviceKey, DeviceReport};

/// Reports that nobody has taken yet.
#[derive(Debug, Default)]
pub struct ReportBoard {
    changed: Mutex<BTreeMap<DeviceKey, DeviceReport>>,
    notify: Notify,
}

impl ReportBoard {
    /// Waits until there is a report. May be dropped at any time; a report that came before the call
    /// ends it at once.
    pub async fn changed(&self) {
        loop {
            let notified = self.notify.notified();
            if !self.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// Takes what has changed since the last call, in order of namespace and name.
    #[must_use]
    pub fn take_changed(&self) -> Vec<DeviceReport> {
        std::mem::take(&mut *self.lock()).into_values().collect()
    }

    pub(super) fn put(&self, key: &DeviceKey, report: DeviceReport) {
        self.lock().insert(key.clone(), report);
        self.notify.notify_one();
    }

    pub(super) fn forget(&self, key: &DeviceKey) {
        self.lock().remove(key);
    }

    /// No holder of the lock can panic between two changes, so what is in it is whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceKey, DeviceReport>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
