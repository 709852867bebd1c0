//! Server-side apply of objects that several writers share. It costs about three times a merge patch:
//! where one writer owns an object's status, [`crate::status`] is the way.

use std::fmt::Debug;

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An object could not be applied.
#[derive(Debug, thiserror::Error)]
#[error("cannot apply {kind} {name} as {manager}")]
pub struct ApplyError {
    kind: String,
    name: String,
    manager: String,
    /// What the API server said.
    #[source]
    pub source: kube::Error,
}

/// Applies `object` as the field manager `manager`, taking over fields that others own. `object` holds the
/// fields that we own and nothing else; a field left out of the next apply is removed.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply<K>(api: &Api<K>, manager: &str, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    // Typed objects of k8s-openapi and kube-derive carry apiVersion and kind in their JSON.
    let params = PatchParams::apply(manager).force();
    api.patch(&name, &params, &Patch::Apply(object)).await.map_err(|source| ApplyError {
        kind: K::kind(&()).into_owned(),
        name,
        manager: manager.to_owned(),
        source,
    })
}
