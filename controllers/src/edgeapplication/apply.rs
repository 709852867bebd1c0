//! Carries out a [`Step`] on the revisions of an application.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource as _};
use selvedge_crds::EdgeApplication;
use selvedge_operator::client::refused_with;
use serde_json::json;

use super::plan::Step;
use crate::raw::Raw;

/// On a revision: the application that it is of.
pub const APPLICATION_LABEL: &str = "selvedge.dev/application";

/// A step was not carried out; the next reconcile plans anew.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A revision of this name exists already: our cache is late, or one of a deleted application of the
    /// same name is about to be collected.
    #[error("revision {name} exists already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// The API server refused or did not answer.
    #[error("cannot {doing} revision {name}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        source: kube::Error,
    },
}

/// Carries out `step` for `application`.
///
/// # Errors
/// [`StepError`].
pub async fn carry_out(
    revisions: &Api<ControllerRevision>,
    application: &Raw<EdgeApplication>,
    step: &Step,
) -> Result<(), StepError> {
    let failed = |doing, name: &str, source| StepError::Api { doing, name: name.to_owned(), source };
    match step {
        Step::Create { name, number, data } => {
            let revision = ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    labels: Some([(APPLICATION_LABEL.to_owned(), application.name().to_owned())].into()),
                    owner_references: application.controller_owner_ref(&()).map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                },
                data: Some(RawExtension(data.clone())),
                revision: *number,
            };
            match revisions.create(&PostParams::default(), &revision).await {
                Ok(_) => Ok(()),
                Err(error) if refused_with(&error) == Some(409) => {
                    Err(StepError::Exists { name: name.clone() })
                }
                Err(error) => Err(failed("create", name, error)),
            }
        }
        Step::Renumber { name, number } => {
            let patch = Patch::Merge(json!({"revision": number}));
            let patched = revisions.patch(name, &PatchParams::default(), &patch).await;
            patched.map(drop).map_err(|error| failed("renumber", name, error))
        }
        Step::Delete { name } => match revisions.delete(name, &DeleteParams::default()).await {
            Err(error) if refused_with(&error) != Some(404) => Err(failed("delete", name, error)),
            _ => Ok(()),
        },
    }
}
