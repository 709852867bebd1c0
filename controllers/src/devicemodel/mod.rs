//! The DeviceModel controller: how many devices use a model, and whether it keeps every rule.
//!
//! In: DeviceModels, and the model that each Device names. Out: the status of DeviceModels.

mod run;
mod status;

#[cfg(test)]
mod tests;

pub use run::run;

use kube::runtime::reflector::Store;
use kube::{Api, Client};
use selvedge_crds::{Device, DeviceModel};
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::status::StatusError;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::raw::Raw;
use crate::{rules, second, written};

/// A Device as this controller holds it.
pub type DeviceView = Raw<Device, ModelUse, IgnoredAny>;

/// What this controller reads of a Device's spec.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelUse {
    model_ref: ModelName,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ModelName {
    name: String,
}

/// Reconciles DeviceModels.
pub struct DeviceModels {
    client: Client,
    devices: Store<DeviceView>,
}

/// A reconcile of a DeviceModel failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DeviceModelError(#[from] StatusError);

impl Classified for DeviceModelError {
    fn class(&self) -> Class {
        Class::Transient
    }

    fn variant(&self) -> &'static str {
        "status"
    }
}

impl Reconciler for DeviceModels {
    type Object = Raw<DeviceModel>;
    type Error = DeviceModelError;

    async fn reconcile(&self, model: &Raw<DeviceModel>) -> Result<Next, DeviceModelError> {
        let uses = |device: &DeviceView| {
            device.namespace() == model.namespace() && device.spec.model_ref.name == model.name()
        };
        let devices = self.devices.state().iter().filter(|device| uses(device)).count();
        let faults = rules::model(&model.spec);
        let status = status::status(&faults, devices, model.metadata.generation, second());
        let models = Api::namespaced(self.client.clone(), model.namespace());
        Ok(written(selvedge_operator::status::write(&models, model, &status).await, None)?)
    }
}
