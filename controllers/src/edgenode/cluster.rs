//! What is made once for an installation: the CA Secret, the ConfigMap that tells hubs of it, and the key with
//! which hubs name versions of Secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use selvedge_operator::client::refused_with;
use serde_json::json;

use super::authority::{Authority, AuthorityError, AuthorityFiles};

/// The CA: only the EdgeNode controller reads it.
const CA_SECRET: &str = "selvedge-ca";
/// What hubs need to know of the cluster.
pub(super) const CLUSTER_CONFIG: &str = "selvedge-cluster";
/// With what hubs hash Secrets: they alone read it.
const VERSION_KEY: &str = "selvedge-secret-versions";

/// The CA is not there.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refused or did not answer.
    #[error("cannot {doing} in namespace {namespace}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// Namespace of the installation.
        namespace: String,
        /// What it said.
        #[source]
        source: kube::Error,
    },
    /// Somebody damaged the Secret. It is never overwritten: a new CA would lock out every node.
    #[error("Secret {namespace}/{CA_SECRET} has no {key}: restore it from a backup")]
    Damaged {
        /// Namespace of the installation.
        namespace: String,
        /// Which key is missing.
        key: &'static str,
    },
    /// The CA cannot be made or read.
    #[error("the certificate authority of namespace {namespace} is of no use")]
    Authority {
        /// Namespace of the installation.
        namespace: String,
        /// Why.
        #[source]
        source: AuthorityError,
    },
}

/// Reads the CA, or makes it on the first start. Creation is refused if another was quicker; then that
/// one's is taken. Its certificates for agents live for `agent_life`.
///
/// # Errors
/// [`ClusterError`].
pub async fn ensure(
    client: &Client,
    namespace: &str,
    agent_life: Duration,
    now: Timestamp,
) -> Result<Authority, ClusterError> {
    let unusable = |source| ClusterError::Authority { namespace: namespace.into(), source };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match secrets.get_opt(CA_SECRET).await.map_err(failed("read the CA Secret", namespace))? {
        Some(secret) => secret,
        None => {
            let files = AuthorityFiles::make(rand::random(), now).map_err(unusable)?;
            match secrets.create(&PostParams::default(), &ca_secret(files)).await {
                Ok(secret) => {
                    tracing::info!(namespace, secret = CA_SECRET, "made the CA: back this Secret up");
                    secret
                }
                Err(error) if refused_with(&error) == Some(409) => {
                    secrets.get(CA_SECRET).await.map_err(failed("read the CA Secret", namespace))?
                }
                Err(error) => return Err(failed("create the CA Secret", namespace)(error)),
            }
        }
    };
    let authority = Authority::load(files(&secret, namespace)?, agent_life).map_err(unusable)?;
    tell(client, namespace, &authority).await?;
    make_version_key(&secrets, namespace).await?;
    Ok(authority)
}

/// Writes the ConfigMap for hubs. The epoch is people's: it is set once and never touched again. Marks are the
/// affair of [`super::history`].
async fn tell(client: &Client, namespace: &str, authority: &Authority) -> Result<(), ClusterError> {
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let wanted: BTreeMap<String, String> = [
        ("clusterId".to_owned(), authority.cluster_id.clone()),
        ("ca.crt".to_owned(), authority.certificate_pem.clone()),
    ]
    .into();
    let Some(config) = configs
        .get_opt(CLUSTER_CONFIG)
        .await
        .map_err(failed("read ConfigMap selvedge-cluster", namespace))?
    else {
        let mut data = wanted;
        data.insert("epoch".to_owned(), "0".to_owned());
        let metadata = ObjectMeta { name: Some(CLUSTER_CONFIG.into()), ..ObjectMeta::default() };
        let config = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        configs
            .create(&PostParams::default(), &config)
            .await
            .map_err(failed("create ConfigMap selvedge-cluster", namespace))?;
        return Ok(());
    };
    let data = config.data.clone().unwrap_or_default();
    if wanted.iter().any(|(key, value)| data.get(key) != Some(value)) {
        let patch = json!({"metadata": {"resourceVersion": config.resource_version()}, "data": wanted});
        configs
            .patch(CLUSTER_CONFIG, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(failed("write ConfigMap selvedge-cluster", namespace))?;
    }
    Ok(())
}

/// Made once, and never read or written here again. If it is lost another one is made: then every Secret has
/// another version, and comes to its nodes once more.
async fn make_version_key(secrets: &Api<Secret>, namespace: &str) -> Result<(), ClusterError> {
    let key: [u8; 32] = rand::random();
    let secret = Secret {
        metadata: ObjectMeta { name: Some(VERSION_KEY.into()), ..ObjectMeta::default() },
        data: Some([("key".to_owned(), ByteString(key.to_vec()))].into()),
        immutable: Some(true),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(()),
        Err(error) if refused_with(&error) == Some(409) => Ok(()),
        Err(error) => Err(failed("create the key for versions of Secrets", namespace)(error)),
    }
}

fn ca_secret(files: AuthorityFiles) -> Secret {
    let data =
        [("tls.crt", files.certificate_pem), ("tls.key", files.key_pem), ("cluster-id", files.cluster_id)];
    Secret {
        metadata: ObjectMeta { name: Some(CA_SECRET.into()), ..ObjectMeta::default() },
        string_data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
        ..Secret::default()
    }
}

fn files(secret: &Secret, namespace: &str) -> Result<AuthorityFiles, ClusterError> {
    let text = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.ok_or(ClusterError::Damaged { namespace: namespace.into(), key })
    };
    Ok(AuthorityFiles {
        cluster_id: text("cluster-id")?,
        certificate_pem: text("tls.crt")?,
        key_pem: text("tls.key")?,
    })
}

fn failed(doing: &'static str, namespace: &str) -> impl FnOnce(kube::Error) -> ClusterError {
    move |source| ClusterError::Api { doing, namespace: namespace.to_owned(), source }
}
