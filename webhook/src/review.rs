//! `admission.k8s.io/v1` AdmissionReview, over raw JSON: no typed object stands between what a user wrote
//! and its judgement.

use serde::Deserialize;
use serde_json::{Value, json};

/// What the API server asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// One request to judge.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Returned in the answer.
    pub uid: String,
    /// Of the object.
    pub kind: Kind,
    /// Name; empty for `generateName`.
    #[serde(default)]
    pub name: String,
    /// Namespace; empty for cluster-scoped kinds.
    #[serde(default)]
    pub namespace: String,
    /// CREATE, UPDATE or DELETE.
    pub operation: String,
    /// The object as it would be; null when it is deleted.
    #[serde(default)]
    pub object: Value,
    /// The object as it is; null when it is created.
    #[serde(default)]
    pub old_object: Value,
}

/// Kind of an object.
#[derive(Clone, Debug, Deserialize)]
pub struct Kind {
    /// Such as `Device`.
    pub kind: String,
}

/// The body is no review of version v1.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or not the shape of a review.
    #[error("the body is no AdmissionReview")]
    Decode(#[from] serde_json::Error),
    /// Another kind or version.
    #[error(
        "the body is a {kind} of {api_version}: this webhook answers AdmissionReviews of admission.k8s.io/v1"
    )]
    Version {
        /// As it says.
        api_version: String,
        /// As it says.
        kind: String,
    },
    /// A review without a request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// Reads the body of a review.
///
/// # Errors
/// [`ReviewError`].
pub fn read(body: &[u8]) -> Result<Request, ReviewError> {
    let review: Review = serde_json::from_slice(body)?;
    if review.api_version != "admission.k8s.io/v1" || review.kind != "AdmissionReview" {
        return Err(ReviewError::Version { api_version: review.api_version, kind: review.kind });
    }
    review.request.ok_or(ReviewError::NoRequest)
}

/// What is said to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be.
    Allowed {
        /// Shown to the user, one a line.
        warnings: Vec<String>,
    },
    /// It may not.
    Refused {
        /// HTTP status of the answer to the user.
        code: u16,
        /// Word for machines, as in `metav1.Status`.
        reason: &'static str,
        /// Shown to the user.
        message: String,
    },
}

impl Verdict {
    /// The whole AdmissionReview in answer to the request `uid`.
    #[must_use]
    pub fn into_review(self, uid: &str) -> Value {
        let response = match self {
            Self::Allowed { warnings } if warnings.is_empty() => json!({"uid": uid, "allowed": true}),
            Self::Allowed { warnings } => json!({"uid": uid, "allowed": true, "warnings": warnings}),
            Self::Refused { code, reason, message } => json!({
                "uid": uid, "allowed": false,
                "status": {"status": "Failure", "code": code, "reason": reason, "message": message},
            }),
        };
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }
}
