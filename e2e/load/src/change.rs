//! Changes that users would make: a value of one device, a label of one node, a ConfigMap or a template of all.
//!
//! In: rates. Out: writes to the API server, and for each its revision and when it was asked for, so that its
//! way to the agents can be timed. The mirror is told before the write, because nothing can be in force
//! before that.

use std::collections::HashMap;
use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use selvedge_model::rollout::Rollout;
use selvedge_model::{ContentHash, canonical_json};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::fleet::Fleet;
use crate::mirror::Mirror;
use crate::objects::{Cluster, Kind, page};
use crate::options::Options;

/// A write that is not answered in this time is not timed.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(30);

/// How often a write is tried: a user who finds the API server away tries again, and the same write twice is one.
const TRIES: u32 = 60;
/// How long until it is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// One change that was made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// When it was asked for, microseconds since the start.
    pub asked: u64,
    /// To every node.
    pub fanout: bool,
}

/// Makes changes.
pub struct Changes {
    /// The cluster.
    pub cluster: Cluster,
    /// What is expected of them.
    pub mirror: Arc<Mirror>,
    /// Clock and failures.
    pub fleet: Arc<Fleet>,
    /// Rates and names.
    pub options: Options,
    /// Choices.
    pub random: SmallRng,
    /// By revision.
    pub made: HashMap<u64, Made>,
}

impl Changes {
    /// No changes yet.
    #[must_use]
    pub fn new(cluster: &Cluster, mirror: &Arc<Mirror>, fleet: &Arc<Fleet>, options: &Options) -> Self {
        Self {
            cluster: cluster.clone(),
            mirror: mirror.clone(),
            fleet: fleet.clone(),
            options: options.clone(),
            random: SmallRng::seed_from_u64(options.seed),
            made: HashMap::new(),
        }
    }

    /// Makes other choices from now on.
    pub fn reseed(&mut self, seed: u64) {
        self.random = SmallRng::seed_from_u64(seed);
    }

    /// Changes until `end`.
    pub async fn run(&mut self, end: Instant) {
        let mut next_one = Instant::now();
        let fanout = (!self.options.fanout_every.is_zero() && self.options.applications > 0)
            .then_some(self.options.fanout_every);
        let mut next_fanout = fanout.map(|every| Instant::now() + every);
        let mean = (self.options.change_rate > 0.0).then(|| 1.0 / self.options.change_rate);
        loop {
            let one = mean.map(|_| next_one);
            let Some(next) = one.into_iter().chain(next_fanout).min() else { return sleep_until(end).await };
            sleep_until(next.min(end)).await;
            let now = Instant::now();
            if now >= end {
                return;
            }
            if let (Some(every), Some(at)) = (fanout, next_fanout)
                && at <= now
            {
                next_fanout = Some(now + every);
                self.to_all().await;
            } else if let Some(mean) = mean {
                // Late writes are not made up for: the rate is a wish, not a debt.
                next_one = now + std::time::Duration::from_secs_f64(mean);
                self.to_one().await;
            }
        }
    }

    /// One value of one device, or one label of one node.
    pub async fn to_one(&mut self) {
        let numbers = self.options.numbers();
        let number =
            self.options.first + self.random.random_range(0..u32::try_from(numbers.len()).unwrap_or(1));
        let turn: u32 = self.random.random_range(1..1_000_000_000);
        if self.options.devices > 0 {
            let device = self.random.random_range(1..=self.options.devices);
            let name = self.options.device(number, device);
            self.change(Kind::Device, &name, json!({"spec": {"desired": {"setpoint": turn}}}), true, false)
                .await;
        } else {
            let name = self.options.node(number);
            let patch = json!({"metadata": {"labels": {"selvedge.dev/load-turn": turn.to_string()}}});
            self.change(Kind::EdgeNode, &name, patch, false, false).await;
        }
    }

    /// 2 KB to all nodes.
    pub async fn to_all(&mut self) -> Option<u64> {
        let application = self.random.random_range(1..=self.options.applications);
        let name = self.options.application(application);
        let patch = json!({"data": {"page": page(self.random.random())}});
        self.change(Kind::ConfigMap, &name, patch, false, true).await
    }

    /// Another template for all nodes.
    pub async fn to_template(&mut self) -> Option<u64> {
        let name = self.options.application(self.random.random_range(1..=self.options.applications));
        let application = self.mirror.object(Kind::EdgeApplication, &name)?;
        let mut containers = application.pointer("/spec/template/spec/containers")?.clone();
        let turn: u32 = self.random.random();
        containers[0]["env"] = json!([{"name": "TURN", "value": turn.to_string()}]);
        let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        // What the controller makes of it, and names by its content.
        let mut expected = application.clone();
        merge(&mut expected, &patch);
        let part = |name: &str| Some((name.to_owned(), expected["spec"].get(name)?.clone()));
        let data =
            Value::Object(["template", "overrides", "selector"].into_iter().filter_map(part).collect());
        let hash = ContentHash::of_canonical(&canonical_json(&data)).to_string();
        let revision = format!("{name}-{}", &hash[..10]);
        self.mirror.expect(
            Kind::ControllerRevision,
            json!({
                "metadata": {"name": revision, "namespace": self.options.namespace,
                    "labels": {"selvedge.dev/application": name}},
                "data": data,
            }),
        );
        expected["status"]["rollout"] = serde_json::to_value(Rollout::all(revision)).ok()?;
        self.mirror.expect(Kind::EdgeApplication, expected);
        self.change(Kind::EdgeApplication, &name, patch, true, true).await
    }

    /// A text of the caller's to all nodes.
    pub async fn to_all_with(&mut self, text: &str) -> Option<u64> {
        let name = self.options.application(1);
        self.change(Kind::ConfigMap, &name, json!({"data": {"page": text}}), false, true).await
    }

    async fn change(
        &mut self,
        kind: Kind,
        name: &str,
        patch: Value,
        generation: bool,
        fanout: bool,
    ) -> Option<u64> {
        let mut object = self.mirror.object(kind, name)?;
        merge(&mut object, &patch);
        if generation {
            let next = object["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
            object["metadata"]["generation"] = next.into();
        }
        self.mirror.expect(kind, object);
        let asked = self.fleet.clock.micros();
        let api = self.cluster.api(kind);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let mut tries = 0;
        let why = loop {
            let why = match timeout(ANSWER, api.patch(name, &params, &patch)).await {
                Ok(Ok(object)) => {
                    let revision = object.metadata.resource_version.and_then(|text| text.parse().ok())?;
                    self.made.insert(revision, Made { asked, fanout });
                    return Some(revision);
                }
                Ok(Err(error)) if is_final(&error) => break error.to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            tries += 1;
            if tries == TRIES {
                break why;
            }
            sleep(AGAIN).await;
        };
        self.fleet.failed(format!("{}: {why}", kind.name()));
        // It may have been taken all the same: what stands now is where the next change begins.
        if let Ok(Ok(object)) = timeout(ANSWER, api.get(name)).await
            && let Ok(object) = serde_json::to_value(object)
        {
            self.mirror.expect(kind, object);
        }
        None
    }
}

/// An answer that is the same the next time; what an API server says that is coming up or going down is not.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 404 | 405 | 409 | 413 | 415 | 422))
}

/// JSON merge patch (RFC 7396) without deletions, which no change here makes.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}
