//! The key for versions of Secrets: the Secret `selvedge-secret-versions` that the EdgeNode controller makes.
//!
//! Read once. All replicas read the same, now and after a restart, so a Secret has one version everywhere (sync rule
//! 3). Until it is there no Secret is followed, and what names one is held.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use selvedge_model::VersionKey;
use selvedge_operator::BoxError;
use selvedge_operator::telemetry::chain;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;

/// Name of the Secret.
pub const NAME: &str = "selvedge-secret-versions";
/// The member of its data.
const MEMBER: &str = "key";
/// The controller makes it within seconds of its first start.
const EVERY: Duration = Duration::from_secs(2);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Reads the key into the hub, then waits for `token`.
///
/// # Errors
/// Never; what fails is tried again.
pub async fn read(
    client: Client,
    namespace: String,
    hub: Arc<Hub>,
    token: CancellationToken,
) -> Result<(), BoxError> {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let mut said = String::new();
    loop {
        let trouble = match timeout(ANSWER, api.get_opt(NAME)).await {
            Ok(Ok(Some(secret))) => match key(&secret) {
                Some(key) => {
                    hub.set_version_key(key);
                    break token.cancelled().await;
                }
                None => format!(
                    "its {MEMBER} is not {} bytes: delete it, and restart edgenode-controller",
                    VersionKey::LENGTH
                ),
            },
            Ok(Ok(None)) => "the edgenode-controller has not made it yet".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(_) => "no answer".to_owned(),
        };
        if trouble != said {
            tracing::warn!(
                trouble,
                "waits for Secret {namespace}/{NAME}; what names Secrets is held until it is read"
            );
            said = trouble;
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            () = token.cancelled() => break,
        }
    }
    Ok(())
}

fn key(secret: &Secret) -> Option<VersionKey> {
    VersionKey::new(&secret.data.as_ref()?.get(MEMBER)?.0)
}
