//! The Device controller: whether a Device can work, and what is said of it while its node is away.
//!
//! In: Devices, their models, and whether their nodes are connected. Out: `Accepted`, and `Ready=Unknown`
//! at first and while the node is offline. What the device reports is written by the hub alone.

mod observe;
mod plan;
mod run;
mod status;

#[cfg(test)]
mod tests;

pub use run::run;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client};
use selvedge_crds::{Device, DeviceModel};
use selvedge_operator::clock;
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::status::StatusError;

use self::observe::{NodeView, Observed, connected, model_name, node_name};
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
    models: Store<Raw<DeviceModel>>,
    nodes: Store<NodeView>,
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
}

impl Devices {
    fn observe(&self, device: &Raw<Device>) -> Observed {
        let namespace = device.namespace();
        let model = ObjectRef::new(model_name(&device.spec)).within(namespace);
        let node = self.nodes.get(&ObjectRef::new(node_name(&device.spec)));
        Observed {
            namespace: namespace.to_owned(),
            spec: device.spec.clone(),
            status: device.status(),
            model: self.models.get(&model).map(|model| model.spec.clone()),
            node: node.map(|node| connected(&node)),
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
        let nodes = self.nodes.state();
        let away = nodes.iter().filter(|node| connected(node) == Some(false)).count();
        let rate = if away * 2 > nodes.len() { SWEEP_RATE_WIDE } else { SWEEP_RATE };
        pace.go(&key, clock::now(), rate)
    }
}
