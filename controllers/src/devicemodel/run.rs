//! Puts the DeviceModel controller together and runs it while this replica leads.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use kube::runtime::reflector::ObjectRef;
use selvedge_crds::DeviceModel;
use selvedge_operator::BoxError;
use selvedge_operator::controller::{Controller, Metrics, Watched};
use selvedge_operator::lease::{Election, lead};
use selvedge_operator::process::Process;
use tokio_util::sync::CancellationToken;

use super::{DeviceModels, DeviceView};
use crate::metrics::prefix;
use crate::raw::Raw;

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
    let (controller, devices) = Controller::new(watched, metrics).caches(devices, |device: &DeviceView| {
        [ObjectRef::new(&device.spec.model_ref.name).within(device.namespace())]
    });
    controller.run(Arc::new(DeviceModels { client, devices }), token).await;
    Ok(())
}
