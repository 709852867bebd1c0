//! An EdgeNode's spec, decoded and checked.

use std::time::Duration;

use selvedge_crds::{EdgeNode, EdgeNodeSpec};
use selvedge_model::{device::parse_duration, fault::Fault};

use crate::raw::Raw;

/// Life of a join key when `spec.join.ttl` says nothing.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// What the user wants of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Shut out.
    pub denied: bool,
    /// Life of a join key.
    pub ttl: Duration,
    /// `spec.join.request`; empty when there is none.
    pub request: String,
    /// `spec.join.adopt` is SameName.
    pub adopts: bool,
}

/// Checks the spec.
///
/// # Errors
/// What is wrong, for people.
pub fn validate(node: &Raw<EdgeNode>) -> Result<Wanted, String> {
    let faults = selvedge_model::node::check(&node.spec);
    if !faults.is_empty() {
        return Err(faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; "));
    }
    let spec: EdgeNodeSpec =
        node.spec().map_err(|error| Fault::new("spec", error.to_string()).to_string())?;
    let join = spec.join.unwrap_or_default();
    let ttl = join.ttl.as_deref().and_then(|ttl| parse_duration(ttl).ok()).unwrap_or(DEFAULT_TTL);
    let adopts = join.adopts();
    Ok(Wanted { denied: spec.denied, ttl, request: join.request.unwrap_or_default(), adopts })
}
