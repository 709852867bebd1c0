//! Who dials: a hub pod, by its projected token (identity rule 4).

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};

/// Audience of the tokens: one that opens nothing but this door.
pub const AUDIENCE: &str = "selvedge-controller";
/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Why a stream is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The API server cannot be asked.
    #[error("cannot review the token of a hub")]
    Review(#[source] kube::Error),
    /// The token is not good.
    #[error("the token is not valid for audience {AUDIENCE}: {0}")]
    Invalid(String),
    /// A good token of somebody else.
    #[error("{0} is not the hub")]
    NotTheHub(String),
    /// Not bound to a pod.
    #[error("the token is bound to no pod")]
    NoPod,
}

/// The pod name of the hub replica that holds `token`.
///
/// # Errors
/// [`AuthError`]; none holds the token.
pub async fn replica(client: &Client, namespace: &str, token: String) -> Result<String, AuthError> {
    let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec![AUDIENCE.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.map_err(AuthError::Review)?;
    judge(review.status.unwrap_or_default(), namespace)
}

fn judge(status: TokenReviewStatus, namespace: &str) -> Result<String, AuthError> {
    let audience = status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || !audience {
        return Err(AuthError::Invalid(status.error.unwrap_or_default()));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if name != format!("system:serviceaccount:{namespace}:selvedge-hub") {
        return Err(AuthError::NotTheHub(name));
    }
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    extra.get(POD_NAME).and_then(|names| names.first()).cloned().ok_or(AuthError::NoPod)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::TokenReviewStatus;
    use serde_json::json;

    fn judged(status: serde_json::Value) -> Result<String, String> {
        let status: TokenReviewStatus = serde_json::from_value(status).unwrap();
        super::judge(status, "selvedge-system").map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_hub_pod_with_our_audience_is_let_in() {
        let good = json!({"authenticated": true, "audiences": ["selvedge-controller"], "user": {
            "username": "system:serviceaccount:selvedge-system:selvedge-hub",
            "extra": {"authentication.kubernetes.io/pod-name": ["hub-a"]}}});
        assert_eq!(judged(good.clone()), Ok("hub-a".into()));
        let changed = |path: &str, value: serde_json::Value| {
            let mut status = good.clone();
            *status.pointer_mut(path).unwrap() = value;
            judged(status).unwrap_err()
        };
        assert!(changed("/authenticated", json!(false)).contains("not valid"));
        assert!(changed("/audiences", json!(["https://kubernetes.default.svc"])).contains("not valid"));
        let other = json!("system:serviceaccount:shop:selvedge-hub");
        assert!(changed("/user/username", other).contains("is not the hub"));
        assert!(changed("/user/extra", json!({})).contains("no pod"));
    }
}
