//! Puts the Device controller together and runs it while this replica leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use selvedge_crds::{Device, DeviceModel};
use selvedge_operator::BoxError;
use selvedge_operator::controller::{Change, Controller, Metrics, Watched};
use selvedge_operator::lease::{Election, lead};
use selvedge_operator::process::Process;
use tokio_util::sync::CancellationToken;

use super::Devices;
use super::neighbours::{Key, Neighbours};
use super::observe::NodeView;
use crate::metrics::prefix;
use crate::pace::Pace;
use crate::raw::Raw;

/// Adds the controller to `process`.
///
/// # Errors
/// When the metrics cannot be registered.
pub fn run(process: &mut Process) -> Result<(), BoxError> {
    let election = Election {
        namespace: process.namespace.clone(),
        name: "device-controller".to_owned(),
        identity: process.identity.clone(),
        annotations: BTreeMap::new(),
    };
    let metrics = Metrics::new(prefix::DEVICE, &process.registry)?;
    let (client, token) = (process.client.clone(), process.tasks.token());
    process.tasks.spawn("Device controller", async move {
        Ok(lead(client.clone(), election, token.clone(), || work(client, metrics, token)).await?)
    });
    Ok(())
}

async fn work(client: Client, metrics: Metrics, token: CancellationToken) -> Result<(), BoxError> {
    let watched = Watched::<Raw<Device>>::all(client.clone());
    watched.served().await;
    let models = Watched::<Raw<DeviceModel>>::all(client.clone());
    models.served().await;
    let nodes = Watched::<NodeView>::all(client.clone());
    nodes.served().await;
    let namespaces = Watched::<PartialObjectMeta<Namespace>>::all(client.clone());

    let neighbours = Arc::new(Mutex::new(Neighbours::default()));
    let (by_model, by_node, by_namespace) = (neighbours.clone(), neighbours.clone(), neighbours.clone());
    let controller = Controller::new(watched, metrics)
        .folds(models, move |change: Change<Raw<DeviceModel>>| {
            let (model, spec) = match change {
                Change::Is(model) => {
                    ((model.namespace().to_owned(), model.name().to_owned()), Some(model.spec))
                }
                Change::Gone(model) => ((model.namespace.unwrap_or_default(), model.name), None),
            };
            references(by_model.lock().unwrap_or_else(PoisonError::into_inner).model(&model, spec))
        })
        .folds(nodes, move |change: Change<NodeView>| {
            let mut neighbours = by_node.lock().unwrap_or_else(PoisonError::into_inner);
            references(match change {
                Change::Is(node) => {
                    let name = node.name().to_owned();
                    neighbours.node(&name, Some(node.into()))
                }
                Change::Gone(node) => neighbours.node(&node.name, None),
            })
        })
        .folds(namespaces, move |change: Change<PartialObjectMeta<Namespace>>| {
            let mut neighbours = by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
            references(match change {
                Change::Is(namespace) => {
                    neighbours.namespace(&namespace.name_any(), Some(namespace.labels().clone()))
                }
                Change::Gone(namespace) => neighbours.namespace(&namespace.name, None),
            })
        });
    let devices = controller.store();
    let reconciler = Devices { client, devices, neighbours, pace: Mutex::new(Pace::default()) };
    controller.run(Arc::new(reconciler), token).await;
    Ok(())
}

fn references(devices: Vec<Key>) -> impl Iterator<Item = ObjectRef<Raw<Device>>> + Send {
    devices.into_iter().map(|(namespace, name)| ObjectRef::new(&name).within(&namespace))
}
