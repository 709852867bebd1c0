//! The four kinds of `selvedge.dev/v1alpha1`: schema, CEL rules and printer columns, one file a kind.
//!
//! Types here decode leniently (an enum member of a newer version becomes `Unknown`, and is never
//! written) and hold raw JSON where meaning must not pass through types: the pod template and values of
//! properties. `crdgen` writes the CRDs into the chart.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn has a type of its own; clippy takes them for one attribute"
)]

pub mod device;
pub mod devicemodel;
pub mod edgeapplication;
pub mod edgenode;
pub mod manifest;
mod pod_template;
pub mod schema;

pub use device::{Device, DeviceSpec, DeviceStatus};
pub use devicemodel::{DeviceModel, DeviceModelSpec, DeviceModelStatus};
pub use edgeapplication::{EdgeApplication, EdgeApplicationSpec, EdgeApplicationStatus};
pub use edgenode::{EdgeNode, EdgeNodeSpec, EdgeNodeStatus};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// API group of all kinds.
pub const GROUP: &str = "selvedge.dev";
/// Version of all kinds.
pub const VERSION: &str = "v1alpha1";
/// A namespace takes part once it carries this label with the value "enabled".
pub const EDGE_LABEL: &str = "selvedge.dev/edge";
/// On EdgeNode: public half of the join key, its expiry, and the uid that it was made for (JSON). Written
/// by the EdgeNode controller alone.
pub const JOIN_ANNOTATION: &str = "selvedge.dev/join";
/// On EdgeNode: the record of its certificates (JSON). Written by the EdgeNode controller alone.
pub const IDENTITY_ANNOTATION: &str = "selvedge.dev/identity";

/// The fence of a status: no report of an older session overwrites one of a newer (sync rule 9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub struct Fence {
    /// Session that reported, as `<counter>.<nonce in hex>`.
    #[schemars(length(max = 40))]
    pub session: String,
    /// Sequence number of the report.
    pub seq: u64,
}

/// The four CRDs as they are installed, in the order of the alphabet.
#[must_use]
pub fn crds() -> Vec<serde_json::Value> {
    use kube::CustomResourceExt as _;
    [Device::crd(), DeviceModel::crd(), EdgeApplication::crd(), EdgeNode::crd()]
        .into_iter()
        .map(schema::finish)
        .collect()
}
