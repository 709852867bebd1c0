//! The DeviceModel controller: how many devices use a model, and whether it keeps every rule.
//!
//! In: DeviceModels, and the model that each Device names. Out: the status of DeviceModels.

mod run;
mod status;
mod uses;

#[cfg(test)]
mod tests;

pub use run::run;

use std::sync::{Arc, Mutex, PoisonError};

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client};
use selvedge_crds::{Device, DeviceModel};
use selvedge_operator::clock;
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};
use selvedge_operator::status::StatusError;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use self::uses::{Key, Uses};
use crate::raw::Raw;
use crate::spacing::Spacing;
use crate::{rules, second, written};

/// A Device as this controller reads it.
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
    /// Those that exist.
    models: Store<Raw<DeviceModel>>,
    /// Shared with the watch of devices, which keeps it.
    uses: Arc<Mutex<Uses>>,
    spacing: Spacing<Key>,
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
        let key = (model.namespace().to_owned(), model.name().to_owned());
        let generation = model.metadata.generation;
        if let Some(wait) = self.spacing.wait(&key, generation, clock::now()) {
            return Ok(Next::After(wait));
        }
        let devices = self.uses.lock().unwrap_or_else(PoisonError::into_inner).count(&key);
        let faults = rules::model(&model.spec);
        let status = status::status(&faults, devices, generation, second());
        let models = Api::namespaced(self.client.clone(), model.namespace());
        let result = selvedge_operator::status::write(&models, model, &status).await;
        if matches!(result, Ok(true)) {
            self.spacing.wrote(key, generation, clock::now(), rand::random());
        }
        Ok(written(result, None)?)
    }

    async fn gone(&self, model: &ObjectRef<Raw<DeviceModel>>) {
        // It may have been created anew before this was heard.
        if self.models.get(model).is_none() {
            self.spacing.forget(&(model.namespace.clone().unwrap_or_default(), model.name.clone()));
        }
    }
}
