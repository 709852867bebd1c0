//! Puts the Device controller together and runs it while this replica leads.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use selvedge_crds::{Device, DeviceModel};
use selvedge_operator::BoxError;
use selvedge_operator::controller::{Controller, Metrics, Watched};
use selvedge_operator::lease::{Election, lead};
use selvedge_operator::process::Process;
use tokio_util::sync::CancellationToken;

use super::Devices;
use super::observe::{NodeView, connected, model_name, node_name};
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

    let controller = Controller::new(watched, metrics);
    let devices = controller.store();
    let (controller, models) = controller.caches(models, move |model: &Raw<DeviceModel>| {
        let uses = |device: &Arc<Raw<Device>>| {
            device.namespace() == model.namespace() && model_name(&device.spec) == model.name()
        };
        references(&devices, uses)
    });
    let known = Arc::new(OnceLock::new());
    let touched = Touched { devices: controller.store(), nodes: known.clone(), last: Mutex::default() };
    let (controller, nodes) = controller.caches(nodes, move |node: &NodeView| touched.by(node));
    // Set once, before the watch of nodes runs.
    let _ = known.set(nodes.clone());
    let reconciler = Devices { client, models, nodes, pace: Mutex::new(Pace::default()) };
    controller.run(Arc::new(reconciler), token).await;
    Ok(())
}

/// Which devices a change of a node touches: all of its own when it comes, goes, or changes between
/// connected and not; none for its many other changes.
struct Touched {
    devices: Store<Raw<Device>>,
    nodes: Arc<OnceLock<Store<NodeView>>>,
    last: Mutex<HashMap<String, Option<bool>>>,
}

impl Touched {
    fn by(&self, node: &NodeView) -> Vec<ObjectRef<Raw<Device>>> {
        let exists = self.nodes.get().is_some_and(|nodes| nodes.get(&ObjectRef::from_obj(node)).is_some());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = if exists {
            let now = connected(node);
            last.insert(node.name().to_owned(), now) == Some(now)
        } else {
            last.remove(node.name());
            false
        };
        if unchanged {
            return Vec::new();
        }
        references(&self.devices, |device| node_name(&device.spec) == node.name())
    }
}

fn references(
    devices: &Store<Raw<Device>>,
    select: impl Fn(&Arc<Raw<Device>>) -> bool,
) -> Vec<ObjectRef<Raw<Device>>> {
    devices
        .state()
        .iter()
        .filter(|device| select(device))
        .map(|device| ObjectRef::from_obj(&**device))
        .collect()
}
