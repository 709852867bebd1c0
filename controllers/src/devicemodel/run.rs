//! Puts the DeviceModel controller together and runs it while this replica leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use kube::runtime::reflector::ObjectRef;
use selvedge_crds::DeviceModel;
use selvedge_operator::BoxError;
use selvedge_operator::controller::{Change, Controller, Metrics, Watched};
use selvedge_operator::lease::{Election, lead};
use selvedge_operator::process::Process;
use tokio_util::sync::CancellationToken;

use super::uses::Uses;
use super::{DeviceModels, DeviceView};
use crate::metrics::prefix;
use crate::raw::Raw;
use crate::spacing::Spacing;

/// Adds the controller to `process`.
///
/// # Errors
/// When the metrics cannot be registered.
pub fn run(process: &mut Process) -> Result<(), BoxError> {
    let election = Election {
        namespace: process.namespace.clone(),
        name: "devicemodel-controller".to_owned(),
        identity: process.identity.clone(),
        annotations: BTreeMap::new(),
    };
    let metrics = Metrics::new(prefix::DEVICEMODEL, &process.registry)?;
    let (client, token) = (process.client.clone(), process.tasks.token());
    process.tasks.spawn("DeviceModel controller", async move {
        Ok(lead(client.clone(), election, token.clone(), || work(client, metrics, token)).await?)
    });
    Ok(())
}

async fn work(client: Client, metrics: Metrics, token: CancellationToken) -> Result<(), BoxError> {
    let watched = Watched::<Raw<DeviceModel>>::all(client.clone());
    watched.served().await;
    let devices = Watched::<DeviceView>::all(client.clone());
    devices.served().await;
    let uses = Arc::new(Mutex::new(Uses::default()));
    let counted = uses.clone();
    let controller = Controller::new(watched, metrics).folds(devices, move |change: Change<DeviceView>| {
        let (device, model) = match change {
            Change::Is(device) => {
                let namespace = device.namespace().to_owned();
                let model = (namespace.clone(), device.spec.model_ref.name.clone());
                ((namespace, device.name().to_owned()), Some(model))
            }
            Change::Gone(device) => ((device.namespace.unwrap_or_default(), device.name), None),
        };
        let touched = counted.lock().unwrap_or_else(PoisonError::into_inner).set(&device, model);
        touched.into_iter().map(|(namespace, name)| ObjectRef::new(&name).within(&namespace))
    });
    let models = controller.store();
    let reconciler = DeviceModels { client, models, uses, spacing: Spacing::default() };
    controller.run(Arc::new(reconciler), token).await;
    Ok(())
}
