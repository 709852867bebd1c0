//! Namespaces that take part: in each, the hub may read what pod templates name (identity rule 12: a
//! RoleBinding there, and no right anywhere else).
//!
//! In: namespaces and our RoleBindings. Out: one RoleBinding in each namespace labelled
//! `selvedge.dev/edge=enabled`, none in others. Selvedge's own, where the CA and join commands are, never take part.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::api::{DeleteParams, ObjectMeta};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt as _};
use selvedge_operator::apply::{ApplyError, apply};
use selvedge_operator::client::refused_with;
use selvedge_operator::controller::{Class, Classified, Next, Reconciler};

use super::MANAGER;
use super::observe;
use crate::JOIN_NAMESPACE;

/// Name of the RoleBinding, and of the ClusterRole that it binds.
pub const REFERENCES: &str = "selvedge-hub-references";

/// Keeps the RoleBindings.
pub struct Namespaces {
    /// Client.
    pub client: Client,
    /// Namespace of the hub.
    pub hub_namespace: String,
    /// The RoleBindings that exist.
    pub bindings: Store<PartialObjectMeta<RoleBinding>>,
}

/// A RoleBinding could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// It cannot be applied.
    #[error("the hub cannot be let into namespace {namespace}")]
    Apply {
        /// The namespace.
        namespace: String,
        /// Why.
        #[source]
        source: ApplyError,
    },
    /// It cannot be removed.
    #[error("the hub cannot be shut out of namespace {namespace}")]
    Delete {
        /// The namespace.
        namespace: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
}

impl Classified for NamespaceError {
    fn class(&self) -> Class {
        Class::Transient
    }

    fn variant(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
        }
    }
}

impl Reconciler for Namespaces {
    type Object = PartialObjectMeta<Namespace>;
    type Error = NamespaceError;

    async fn reconcile(&self, namespace: &PartialObjectMeta<Namespace>) -> Result<Next, NamespaceError> {
        let name = namespace.name_any();
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), &name);
        let exists = self.bindings.get(&ObjectRef::new(REFERENCES).within(&name)).is_some();
        // In a namespace that goes nothing can be made, and all goes with it.
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Change);
        }
        let own = name == self.hub_namespace || name == JOIN_NAMESPACE;
        let enabled = observe::Namespace::of(namespace.labels()).enabled;
        if enabled && own {
            tracing::warn!(namespace = name, "is Selvedge's own: its label selvedge.dev/edge lets nobody in");
        }
        if enabled && !own {
            apply(&bindings, MANAGER, &binding(&name, &self.hub_namespace))
                .await
                .map_err(|source| NamespaceError::Apply { namespace: name, source })?;
        } else if exists {
            match bindings.delete(REFERENCES, &DeleteParams::default()).await {
                Err(error) if refused_with(&error) != Some(404) => {
                    return Err(NamespaceError::Delete { namespace: name, source: error });
                }
                _ => tracing::info!(namespace = name, "takes no longer part: the hub is shut out"),
            }
        }
        Ok(Next::Change)
    }
}

fn binding(namespace: &str, hub_namespace: &str) -> RoleBinding {
    RoleBinding {
        metadata: ObjectMeta {
            name: Some(REFERENCES.into()),
            namespace: Some(namespace.into()),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: REFERENCES.into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: "selvedge-hub".into(),
            namespace: Some(hub_namespace.into()),
            ..Subject::default()
        }]),
    }
}
