//! Objects of our kinds as the API server holds them: metadata typed, spec and status raw JSON.
//!
//! A controller watches `Raw<K>` and decodes the spec in its `validate`. So an object of a newer schema is
//! a condition on that object and never a hole in a cache, and a revision is made from what the user
//! wrote, not from what our types kept of it.

use std::borrow::Cow;
use std::marker::PhantomData;

use kube::Resource;
use kube::api::ObjectMeta;
use selvedge_model::node::Allowed;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// One object of kind `K`. `Spec` and `Status` may name only what a cache needs to hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(bound(serialize = "Spec: Serialize, Status: Serialize"))]
#[serde(bound(deserialize = "Spec: Deserialize<'de> + Default, Status: Deserialize<'de> + Default"))]
pub struct Raw<K, Spec = Value, Status = Value> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: Spec,
    /// What is.
    #[serde(default)]
    pub status: Status,
    #[serde(skip)]
    of: PhantomData<fn() -> K>,
}

/// What the controllers of applications and devices read of an EdgeNode's spec: whom it lets in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeViewSpec {
    /// Which namespaces.
    pub allowed_namespaces: Allowed,
}

impl<K> Raw<K> {
    /// The spec, typed.
    ///
    /// # Errors
    /// What does not decode, for people.
    pub fn spec<S: DeserializeOwned>(&self) -> Result<S, serde_json::Error> {
        Deserialize::deserialize(&self.spec)
    }

    /// The status, typed; one that does not decode is read as empty.
    #[must_use]
    pub fn status<S: DeserializeOwned + Default>(&self) -> S {
        Deserialize::deserialize(&self.status).unwrap_or_default()
    }
}

impl<K, Spec, Status> Raw<K, Spec, Status> {
    /// The uid; empty only for objects that no API server has seen.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The namespace; empty for cluster-scoped kinds.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
}

impl<K: Resource<DynamicType = ()>, Spec, Status> Resource for Raw<K, Spec, Status> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
