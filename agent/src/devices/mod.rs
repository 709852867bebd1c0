//! Devices: makes the devices of this node as desired, and tells what they show.
//!
//! In: the devices that the ledger has in force. Out: reports, on a board that keeps the latest of each.
//! Every device is a task of its own; a driver that hangs or panics takes nothing with it but its own
//! connection.

mod board;
mod clock;
mod driver;
mod limiter;
mod modbus;
mod simulated;
mod task;
mod twin;
mod value;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use selvedge_model::{ContentHash, DeviceEntry, PropertyEntry};
use selvedge_protocol::agent::DeviceState;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

pub use board::ReportBoard;
use task::Target;

/// Names a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeviceKey {
    namespace: String,
    name: String,
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A device that the ledger has in force.
#[derive(Clone, Debug)]
pub struct DesiredDevice {
    /// Namespace of the Device.
    pub namespace: String,
    /// Name of the Device.
    pub name: String,
    /// Uid of the Device.
    pub uid: String,
    /// Content hash of `entry`.
    pub content_hash: ContentHash,
    /// The entry.
    pub entry: Arc<DeviceEntry>,
}

/// What is true of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceReport {
    /// Namespace of the Device.
    pub namespace: String,
    /// Name of the Device.
    pub name: String,
    /// Uid of the Device.
    pub uid: String,
    /// The entry whose desired values were last all in the device: written, if they were not there
    /// already, and read. None: none, as far as this agent knows, or not any more.
    pub content_hash: Option<ContentHash>,
    /// Connection and properties.
    pub state: DeviceState,
}

/// The devices of this node.
#[derive(Default)]
pub struct Devices {
    board: Arc<ReportBoard>,
    running: BTreeMap<DeviceKey, Running>,
    tasks: JoinSet<()>,
}

struct Running {
    target: watch::Sender<Target>,
    abort: AbortHandle,
}

impl Devices {
    /// No devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes these the devices: starts and stops tasks, and hands new desired values to those that run.
    /// A device whose entry is as before is not touched; one whose wiring changed connects anew.
    ///
    /// Call it inside a Tokio runtime.
    pub fn apply(&mut self, desired: Vec<DesiredDevice>) {
        while self.tasks.try_join_next().is_some() {}
        let mut keep = HashSet::with_capacity(desired.len());
        for DesiredDevice { namespace, name, uid, content_hash, entry } in desired {
            let key = DeviceKey { namespace, name };
            keep.insert(key.clone());
            let target = Target { uid, content_hash, entry };
            if let Some(running) = self.running.get(&key) {
                let same_wiring = same_wiring(&running.target.borrow().entry, &target.entry);
                if same_wiring {
                    running.target.send_if_modified(|old| {
                        let other = old.content_hash != target.content_hash || old.uid != target.uid;
                        if other {
                            *old = target;
                        }
                        other
                    });
                    continue;
                }
                running.abort.abort();
            }
            let (sender, receiver) = watch::channel(target);
            let abort = self.tasks.spawn(task::run(key.clone(), receiver, Arc::clone(&self.board)));
            self.running.insert(key, Running { target: sender, abort });
        }
        self.running.retain(|key, running| {
            let stays = keep.contains(key);
            if !stays {
                running.abort.abort();
                self.board.forget(key);
            }
            stays
        });
    }

    /// What the devices report. Shared, so that waiting for a report does not hold up [`Self::apply`].
    #[must_use]
    pub fn reports(&self) -> Arc<ReportBoard> {
        Arc::clone(&self.board)
    }
}

/// Whether two entries differ in desired values alone.
fn same_wiring(a: &DeviceEntry, b: &DeviceEntry) -> bool {
    let wiring = |property: &PropertyEntry| PropertyEntry { desired: None, ..property.clone() };
    a.protocol == b.protocol
        && a.properties.len() == b.properties.len()
        && a.properties.iter().zip(&b.properties).all(|(a, b)| wiring(a) == wiring(b))
}
