//! Debian's Prometheus, configured from the scrape annotations that users get.
//!
//! Debian builds it without Kubernetes discovery, so the pods' annotations are read here and handed over as a
//! file of targets: same annotations, same meaning.

use std::path::PathBuf;
use std::time::Duration;

use selvedge_cluster::{cluster::CONTROL, debian};
use serde_json::{Value, json};

use crate::{Outcome, World, eventually, world::io};

/// On the control host's loopback: a port of its own network, so it cannot be taken.
const LISTEN: &str = "127.0.0.1:9090";

/// A Prometheus that scrapes every annotated pod of the cluster.
pub struct Prometheus<'a> {
    world: &'a World,
    directory: PathBuf,
}

/// A pod that asks to be scraped, as a target.
fn target(pod: &Value) -> Option<Value> {
    let annotations = &pod["metadata"]["annotations"];
    let asks = annotations["prometheus.io/scrape"] == "true" && pod["status"]["phase"] == "Running";
    let stays = pod["metadata"]["deletionTimestamp"].is_null();
    let address = pod["status"]["podIP"].as_str().filter(|_| asks && stays)?;
    let port = annotations["prometheus.io/port"].as_str()?;
    let path = annotations["prometheus.io/path"].as_str().unwrap_or("/metrics");
    Some(json!({
        "targets": [format!("{address}:{port}")],
        "labels": {"__metrics_path__": path, "pod": pod["metadata"]["name"]},
    }))
}

impl<'a> Prometheus<'a> {
    /// Starts it on the control host, where pods have routes, and waits until it answers.
    ///
    /// # Errors
    /// [`crate::StoryError`] when it does not answer in time.
    pub fn start(world: &'a World) -> Outcome<Self> {
        let directory = world.layout().root().join("prometheus");
        std::fs::create_dir_all(&directory).map_err(io("make Prometheus's directory"))?;
        let config = directory.join("prometheus.yml");
        std::fs::write(&config, CONFIG).map_err(io("write Prometheus's configuration"))?;
        let program = debian::program(world.cluster.cache(), "prometheus")?;
        world.cluster.spawn(
            "prometheus",
            &[
                program.display().to_string(),
                format!("--config.file={}", config.display()),
                // With the host, so that a cluster that is new has no series of an older one.
                format!("--storage.tsdb.path={}", world.layout().host(CONTROL).join("prometheus").display()),
                format!("--web.listen-address={LISTEN}"),
            ],
        )?;
        let prometheus = Self { world, directory };
        eventually("Prometheus answers", Duration::from_secs(30), || {
            prometheus.query("vector(1)").map(|_| ())
        })?;
        Ok(prometheus)
    }

    /// Hands over every annotated pod that runs now; the answer is how many.
    ///
    /// # Errors
    /// [`crate::StoryError`] when the pods cannot be listed or the file not be written.
    pub fn discover(&self) -> Outcome<usize> {
        let list = self.world.tools.kubectl(&["get", "pods", "-A", "-o", "json"])?;
        let list: Value = serde_json::from_str(&list).unwrap_or_default();
        let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let targets: Vec<Value> = pods.iter().filter_map(target).collect();
        let count = targets.len();
        let (part, file) = (self.directory.join("targets.part"), self.directory.join("targets.json"));
        std::fs::write(&part, Value::from(targets).to_string())
            .and_then(|()| std::fs::rename(&part, &file))
            .map_err(io("write Prometheus's targets"))?;
        Ok(count)
    }

    /// The result vector of an instant query, or why there is none.
    ///
    /// # Errors
    /// What curl or Prometheus said.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let mut curl = self.world.cluster.command("curl").map_err(|error| error.to_string())?;
        let url = format!("http://{LISTEN}/api/v1/query");
        let output = curl
            .args(["--silent", "--show-error", "--max-time", "5", "--get", &url, "--data-urlencode"])
            .arg(format!("query={expression}"))
            .output()
            .map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        answer["data"]["result"].as_array().cloned().ok_or_else(|| answer.to_string())
    }

    /// The single number that an expression gives.
    ///
    /// # Errors
    /// As [`Prometheus::query`], and when it gives another number of results than one.
    pub fn number(&self, expression: &str) -> Result<f64, String> {
        match self.query(expression)?.as_slice() {
            [one] => one["value"][1].as_str().and_then(|n| n.parse().ok()).ok_or_else(|| one.to_string()),
            other => Err(format!("{expression} gives {} results", other.len())),
        }
    }
}

const CONFIG: &str = r#"global: {scrape_interval: 2s, scrape_timeout: 2s}
scrape_configs:
  - job_name: pods
    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]
"#;
