//! The Device controller: whether a Device can work, and what is said of it while its node is away.
//!
//! In: Devices, their models, and whether their nodes are connected. Out: `Accepted`, and `Ready=Unknown`
//! at first and while the node is offline. What the device reports is written by the hub alone.

mod neighbours;
mod observe;
mod plan;
mod run;
mod status;

#[cfg(test)]
mod tests;

pub use run::run;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client};
use selvedge_crds::Device;
use selvedge_operator::clock;
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::status::StatusError;

use self::neighbours::{Key, Neighbours};
use self::observe::{Observed, model_name, node_name};
use self::plan::plan;
use crate::pace::Pace;
use crate::raw::Raw;
use crate::{second, written};

/// Devices that are swept to `NodeOffline` in a second; fewer when more than half of all nodes are away
/// (sync: what touches etcd).
const SWEEP_RATE: u32 = 100;
const SWEEP_RATE_WIDE: u32 = 10;

/// Reconciles Devices.
pub struct Devices {
    client: Client,
    /// Those that exist.
    devices: Store<Raw<Device>>,
    /// Shared with the watches of models and nodes, which keep it.
    neighbours: Arc<Mutex<Neighbours>>,
    pace: Mutex<Pace<String>>,
}

/// A reconcile of a Device failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DeviceError(#[from] StatusError);

impl Classified for DeviceError {
    fn class(&self) -> Class {
        Class::Transient
    }

    fn variant(&self) -> &'static str {
        "status"
    }
}

impl Reconciler for Devices {
    type Object = Raw<Device>;
    type Error = DeviceError;

    async fn reconcile(&self, device: &Raw<Device>) -> Result<Next, DeviceError> {
        let observed = self.observe(device);
        let mut plan = plan(&observed);
        let wait = self.pace(device.uid(), plan.swept).err();
        if wait.is_some() {
            plan.ready = None;
        }
        let status = status::status(&plan, device.metadata.generation, second());
        let devices = Api::namespaced(self.client.clone(), device.namespace());
        Ok(written(selvedge_operator::status::write(&devices, device, &status).await, wait)?)
    }

    async fn gone(&self, device: &ObjectRef<Raw<Device>>) {
        // It may have been created anew before this was heard.
        if self.devices.get(device).is_none() {
            let namespace = device.namespace.clone().unwrap_or_default();
            self.neighbours().forget(&(namespace, device.name.clone()));
        }
    }
}

impl Devices {
    fn observe(&self, device: &Raw<Device>) -> Observed {
        let key = |name: &str| -> Key { (device.namespace().to_owned(), name.to_owned()) };
        let (model, node) =
            self.neighbours().of(key(device.name()), key(model_name(&device.spec)), node_name(&device.spec));
        Observed {
            namespace: device.namespace().to_owned(),
            spec: device.spec.clone(),
            status: device.status(),
            model,
            node,
        }
    }

    /// Holds a sweep back until its slot.
    fn pace(&self, uid: &str, sweeps: bool) -> Result<(), Duration> {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let key = uid.to_owned();
        if !sweeps {
            pace.forget(&key);
            return Ok(());
        }
        let rate = if self.neighbours().most_are_away() { SWEEP_RATE_WIDE } else { SWEEP_RATE };
        pace.go(&key, clock::now(), rate)
    }

    fn neighbours(&self) -> MutexGuard<'_, Neighbours> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
