//! The loop: Secret and configuration are brought to what they should be at the start, when either
//! changes, and now and then.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use rand::RngExt as _;
use selvedge_operator::admin::Gate;
use selvedge_operator::backoff::Backoff;
use selvedge_operator::listwatch::{Event, ListWatch, Target};
use selvedge_operator::{clock, telemetry::chain};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::issue::{self, IssueError};
use super::resolver::{Resolver, ResolverError};
use super::store::{Due, Store};
use crate::metrics::Metrics;

/// Name of the Secret, in the namespace of the installation.
const SECRET: &str = "selvedge-webhook-tls";
/// Name of the configuration whose caBundle is ours.
const CONFIGURATION: &str = "selvedge-webhook";
/// Field manager of the caBundle.
const MANAGER: &str = "selvedge-webhook";
/// Between two looks when nothing changes: certificates live for months.
const LOOK: Duration = Duration::from_secs(600);
/// Longest wait for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(10);

/// The certificate could not be kept this time.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The API server refused.
    #[error("cannot {doing}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// It did not answer.
    #[error("no answer within {ANSWER:?} when trying to {doing}")]
    Timeout {
        /// What was tried.
        doing: &'static str,
    },
    /// Keys or certificates could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// What the Secret holds cannot be served.
    #[error("the Secret {SECRET} holds nothing that can be served: delete it, and a new one is made")]
    Resolver(#[from] ResolverError),
}

/// Keeps Secret, served certificate and configuration together.
pub struct Keeper {
    /// Client of the API server.
    pub client: Client,
    /// Namespace of the Secret and the Service.
    pub namespace: String,
    /// Further names that the certificate bears, for a configuration by URL.
    pub further_names: Vec<String>,
    /// Where the certificate is served from.
    pub resolver: Arc<Resolver>,
    /// Opens when the certificate is served and the API server knows its CA.
    pub gate: Gate,
    /// Shows the certificate's end.
    pub metrics: Metrics,
}

/// Another replica wrote at the same time.
enum Written {
    Yes,
    Raced,
}

impl Keeper {
    /// Keeps them until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let (out, mut changes) = mpsc::channel(16);
        let secret = Target::new(&ApiResource::erase::<Secret>(&()), Some(&self.namespace)).named(SECRET);
        let resource = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
        let configuration = Target::new(&resource, None).named(CONFIGURATION);
        // That something changed is enough; what it is is read anew, because that must be the present.
        let nothing = |_: Value| Ok::<_, Infallible>(());
        let secrets = ListWatch::new(self.client.clone(), secret, nothing);
        let configurations = ListWatch::new(self.client.clone(), configuration, nothing);
        tokio::join!(
            secrets.run(out.clone(), token.clone()),
            configurations.run(out, token.clone()),
            self.keep(&mut changes, &token),
        );
    }

    async fn keep(&self, changes: &mut mpsc::Receiver<Event<()>>, token: &CancellationToken) {
        let mut backoff = Backoff::of_loops();
        loop {
            let pause = match self.look().await {
                Ok(Written::Yes) => {
                    backoff.succeeded();
                    rand::rng().random_range(LOOK / 2..=LOOK)
                }
                Ok(Written::Raced) => backoff.failed(),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot keep the certificate; tries again");
                    backoff.failed()
                }
            };
            let changed = async {
                while let Some(event) = changes.recv().await {
                    if matches!(event, Event::Listed { .. } | Event::Applied { .. } | Event::Deleted { .. }) {
                        return;
                    }
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = changed => {}
                () = token.cancelled() => return,
            }
        }
    }

    async fn look(&self) -> Result<Written, KeepError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = answered("read the Secret", secrets.get_opt(SECRET)).await?;
        let (names, now) = (self.names(), clock::now());
        let store = secret.as_ref().and_then(|secret| Store::of(secret.data.as_ref()?));
        let due = store.as_ref().map_or(Due::Everything, |store| store.due(&names, now));
        let store = match (store, due) {
            (Some(store), Due::Nothing) => store,
            (Some(store), Due::Leaf) => issue::leaf(&store, &names, now)?,
            (Some(store), Due::Ca) => issue::next_ca(store, now)?,
            (_, _) => issue::everything(&names, now)?,
        };
        if due != Due::Nothing {
            tracing::info!(?due, "makes a new certificate");
            if let Written::Raced = write(&secrets, secret, &store).await? {
                return Ok(Written::Raced);
            }
        }
        // The API server learns of a CA before it is shown a certificate of it.
        self.publish(&store.bundle()).await?;
        self.resolver.set(&store.leaf, &store.leaf_key)?;
        if let Some(not_after) = store.not_after() {
            self.metrics.certificate(not_after);
        }
        self.gate.ready();
        Ok(Written::Yes)
    }

    /// Makes `bundle` the caBundle of every webhook of the configuration.
    async fn publish(&self, bundle: &str) -> Result<(), KeepError> {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let found = answered("read the configuration", api.get_opt(CONFIGURATION)).await?;
        let Some(found) = found else {
            tracing::warn!(
                configuration = CONFIGURATION,
                "there is no such configuration: nobody asks this webhook"
            );
            return Ok(());
        };
        let bundle = ByteString(bundle.as_bytes().to_vec());
        let webhooks = found.webhooks.unwrap_or_default();
        if webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(&bundle)) {
            return Ok(());
        }
        tracing::info!(configuration = CONFIGURATION, "publishes the CA");
        let ours: Vec<_> = webhooks
            .iter()
            .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
            .collect();
        let apply = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": CONFIGURATION}, "webhooks": ours,
        });
        let params = PatchParams::apply(MANAGER).force();
        answered("publish the CA", api.patch(CONFIGURATION, &params, &Patch::Apply(apply))).await.map(|_| ())
    }

    fn names(&self) -> Vec<String> {
        let service = format!("selvedge-webhook.{}.svc", self.namespace);
        [service].into_iter().chain(self.further_names.iter().cloned()).collect()
    }
}

/// Writes the Secret as it was read, changed: of several replicas exactly one succeeds.
async fn write(api: &Api<Secret>, read: Option<Secret>, store: &Store) -> Result<Written, KeepError> {
    let params = PostParams::default();
    let written = match read {
        Some(mut secret) => {
            secret.data = Some(store.data());
            answered("renew the certificate in the Secret", api.replace(SECRET, &params, &secret)).await
        }
        None => {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
                type_: Some("kubernetes.io/tls".to_owned()),
                data: Some(store.data()),
                ..Secret::default()
            };
            answered("make the Secret", api.create(&params, &secret)).await
        }
    };
    match written {
        Ok(_) => Ok(Written::Yes),
        Err(KeepError::Api { source: kube::Error::Api(status), .. }) if matches!(status.code, 404 | 409) => {
            Ok(Written::Raced)
        }
        Err(error) => Err(error),
    }
}

async fn answered<T>(
    doing: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, KeepError> {
    match timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(KeepError::Api { doing, source }),
        Err(_) => Err(KeepError::Timeout { doing }),
    }
}
