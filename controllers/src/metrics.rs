//! What the controllers count, all of it in one place for the reference page.

use std::sync::Weak;

use prometheus::Registry;
use prometheus::core::Collector;
use selvedge_operator::controller::Metrics;

use crate::edgenode;

/// Prefixes of what each stream of reconciles counts.
pub mod prefix {
    /// EdgeNodes.
    pub const EDGENODE: &str = "selvedge_edgenode_controller";
    /// Certificate requests of agents.
    pub const SIGNER: &str = "selvedge_edgenode_controller_signer";
    /// Certificate requests of hubs.
    pub const HUB_SIGNER: &str = "selvedge_edgenode_controller_hub_signer";
    /// EdgeApplications.
    pub const EDGEAPPLICATION: &str = "selvedge_edgeapplication_controller";
    /// Namespaces that take part.
    pub const NAMESPACE: &str = "selvedge_edgeapplication_controller_namespace";
    /// DeviceModels.
    pub const DEVICEMODEL: &str = "selvedge_devicemodel_controller";
    /// Devices.
    pub const DEVICE: &str = "selvedge_device_controller";
}

/// All metrics of the controllers.
///
/// # Errors
/// When two have one name.
pub fn collectors() -> Result<Vec<Box<dyn Collector>>, prometheus::Error> {
    let registry = Registry::new();
    let mut all = vec![edgenode::metrics::collector(Weak::new())?];
    for prefix in [
        prefix::EDGENODE,
        prefix::SIGNER,
        prefix::HUB_SIGNER,
        prefix::EDGEAPPLICATION,
        prefix::NAMESPACE,
        prefix::DEVICEMODEL,
        prefix::DEVICE,
    ] {
        all.extend(Metrics::new(prefix, &registry)?.collectors());
    }
    Ok(all)
}
