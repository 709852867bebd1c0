//! The stage: one cluster with Selvedge installed, and its edge hosts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use selvedge_cluster::{Cluster, EdgeHost, Layout, Release, UpOptions, images, tools::Tools as Built};

use crate::{Outcome, StoryError, Tools, condition, eventually, expect};

/// Where agents reach the hub: this port of every node of the cluster.
pub const NODE_PORT: u16 = 30443;
/// Of `timeout`. A join takes a second or two.
const JOIN_PATIENCE: &str = "120s";
/// The namespace that Selvedge lives in.
const NAMESPACE: &str = "selvedge-system";
/// The agent's process name on an edge host.
const AGENT: &str = "agent";
/// Images are in the node already: what is waited for is pods starting, and the first certificates.
const INSTALL_PATIENCE: &str = "180s";

/// One cluster, its tools, and the releases of chart and agent that are used on it.
#[derive(Clone)]
pub struct World {
    /// The control plane and the edge hosts.
    pub cluster: Cluster,
    /// kubectl and helm.
    pub tools: Tools,
    layout: Layout,
    repository: PathBuf,
    agent: PathBuf,
    /// A value of this world's own chart that takes images of another release.
    image: Option<String>,
}

/// What [`World::install`] puts in.
#[derive(Clone, Copy, Debug)]
pub struct Installed<'a> {
    /// Directory of the chart.
    pub chart: &'a Path,
    /// Further words for `helm upgrade`.
    pub words: &'a [&'a str],
}

impl World {
    /// Brings up a cluster in `directory`, with Selvedge's images in it. `repository` is the checkout;
    /// `durable` makes etcd wait for the disk, for what is measured or has its power taken.
    ///
    /// # Errors
    /// [`StoryError`] when the cluster does not come up or the images cannot be built.
    pub fn up(directory: &Path, repository: &Path, durable: bool) -> Outcome<Self> {
        let layout = Layout::at(directory).map_err(io("name the cluster's directory"))?;
        let cluster = Cluster::new(layout.clone());
        let built = Built::build(cluster.cache()).map_err(selvedge_cluster::ClusterError::from)?;
        let archives = images::build(&layout, &built)?;
        images::build_agent(&layout, cluster.cache(), &[std::env::consts::ARCH])?;
        cluster.up(&UpOptions { images: archives, durable, ..UpOptions::default() })?;
        let tools = Tools::new(&layout.bin(), &layout.kubeconfig());
        let agent = layout.bin().join("selvedge-agent");
        Ok(Self { cluster, tools, layout, repository: repository.to_owned(), agent, image: None })
    }

    /// Builds the release before the checkout in `repository`, or takes it from the cache. Before
    /// [`World::up`], which would wait for it with a running cluster.
    ///
    /// # Errors
    /// [`StoryError`] when there is none, or it cannot be built.
    pub fn previous_release(directory: &Path, repository: &Path) -> Outcome<Release> {
        let layout = Layout::at(directory).map_err(io("name the cluster's directory"))?;
        let cluster = Cluster::new(layout);
        let built = Built::build(cluster.cache()).map_err(selvedge_cluster::ClusterError::from)?;
        Ok(Release::previous(repository, cluster.cache(), &built)?)
    }

    /// Puts a release's images into the node, beside those of this checkout.
    ///
    /// # Errors
    /// [`StoryError`] when one cannot be imported.
    pub fn import(&self, release: &Release) -> Outcome {
        for archive in release.images() {
            self.cluster.import(&archive)?;
        }
        Ok(())
    }

    /// The same world, whose edge hosts run the agent of another release.
    #[must_use]
    pub fn with_agent(&self, release: &Release) -> Self {
        Self { agent: release.agent(), ..self.clone() }
    }

    /// The same world, whose hub alone is of another release, as in an upgrade by stages.
    #[must_use]
    pub fn with_hub(&self, release: &Release) -> Self {
        Self { image: Some(format!("hub.image.tag={}", release.image_tag())), ..self.clone() }
    }

    /// The same world as another release has it: its chart and examples, its images, its agent.
    #[must_use]
    pub fn of(&self, release: &Release) -> Self {
        let image = Some(format!("image.tag={}", release.image_tag()));
        Self { repository: release.root().to_owned(), agent: release.agent(), image, ..self.clone() }
    }

    /// A directory or file of the checkout.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        self.repository.join(path)
    }

    /// Logs, kubeconfig and binaries of the cluster.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The hub's address for agents.
    ///
    /// # Errors
    /// [`StoryError`] when there is no cluster.
    pub fn hub(&self) -> Outcome<String> {
        Ok(format!("https://{}:{NODE_PORT}", self.cluster.node_address()?))
    }

    /// Installs or upgrades Selvedge with helm, and waits until everything is up.
    ///
    /// # Errors
    /// [`StoryError`] with helm's words when it fails.
    pub fn install(&self, what: Installed<'_>) -> Outcome<String> {
        let waiting = ["--wait", "--timeout", INSTALL_PATIENCE];
        let said = self.put(Installed { words: &[&waiting, what.words].concat(), ..what })?;
        // Helm waits for pods; the Service's address follows within a second or two.
        let example = self.file("examples/1-shop.yaml").display().to_string();
        eventually("the webhook answers", Duration::from_secs(15), || {
            let dry = ["apply", "--dry-run=server", "-f", &example];
            self.tools.kubectl(&dry).map_err(|error| error.to_string())
        })?;
        Ok(said)
    }

    /// Installs or upgrades Selvedge with helm, and waits for nothing.
    ///
    /// # Errors
    /// [`StoryError`] with helm's words when it fails.
    pub fn put(&self, what: Installed<'_>) -> Outcome<String> {
        let endpoint = format!("hub.endpoints={{{}}}", self.hub()?);
        let port = format!("hub.service.nodePort={NODE_PORT}");
        let chart = what.chart.display().to_string();
        let mut words = vec!["upgrade", "--install", "selvedge", &chart, "--namespace", NAMESPACE];
        words.extend(["--create-namespace", "--set", &endpoint]);
        words.extend(["--set", "hub.service.type=NodePort", "--set", &port]);
        // Of this world's chart alone: one from elsewhere may not know the value.
        if let Some(image) = self.image.as_deref().filter(|_| what.chart == self.file("charts/selvedge")) {
            words.extend(["--set", image]);
        }
        words.extend(what.words);
        Ok(self.tools.helm(&words)?)
    }

    /// The chart as the previous commit has it, put beside the cluster; none where the checkout has no
    /// previous commit (a shallow clone, an unpacked archive), with git's words.
    ///
    /// # Errors
    /// [`StoryError`] when there is one and it cannot be unpacked.
    pub fn previous_chart(&self) -> Outcome<Result<PathBuf, String>> {
        let directory = self.layout.root().join("previous");
        let archive = directory.join("chart.tar");
        std::fs::create_dir_all(&directory).map_err(io("make a directory for the previous chart"))?;
        let git = Command::new("git")
            .current_dir(&self.repository)
            .args(["-c", "safe.directory=*", "archive", "--format=tar", "--output"])
            .arg(&archive)
            .args(["HEAD~1", "charts/selvedge"])
            .stdin(Stdio::null())
            .output()
            .map_err(io("run git"))?;
        if !git.status.success() {
            return Ok(Err(String::from_utf8_lossy(&git.stderr).trim().to_owned()));
        }
        let tar = Command::new("tar")
            .args(["--extract", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&directory)
            .stdin(Stdio::null())
            .output()
            .map_err(io("run tar"))?;
        let said = String::from_utf8_lossy(&tar.stderr).into_owned();
        expect("the previous commit's chart is unpacked", tar.status.success(), said)?;
        Ok(Ok(directory.join("charts/selvedge")))
    }

    /// Applies files of the checkout.
    ///
    /// # Errors
    /// [`StoryError`] with kubectl's words when it fails.
    pub fn apply(&self, path: &str) -> Outcome<String> {
        let file = self.file(path).display().to_string();
        Ok(self.tools.kubectl(&["apply", "-f", &file])?)
    }

    /// Joins an edge host as `node`, with the command from its join Secret, and starts the agent.
    ///
    /// # Errors
    /// [`StoryError`] when there is no join command in time, or joining fails.
    pub fn join(&self, host: &EdgeHost, node: &str) -> Outcome {
        let secret = format!("{node}-join");
        let command = eventually(&format!("a join command for {node}"), Duration::from_secs(30), || {
            let object = self.tools.object(&["secret", &secret, "-n", "selvedge-join"]);
            let text = object.as_ref().and_then(|o| o["data"]["command"].as_str()).ok_or("no Secret")?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| e.to_string())?;
            String::from_utf8(bytes).map_err(|error| error.to_string())
        })?;
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        let agent = self.agent.display().to_string();
        // The agent goes on for ever when nobody answers: here somebody should.
        let mut join = host.command("timeout")?;
        let output = join
            .args([JOIN_PATIENCE, &agent])
            .args(&words)
            .stdin(Stdio::null())
            .output()
            .map_err(io("run selvedge-agent join on the edge host"))?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        expect(&format!("{node} joins"), output.status.success(), said)?;
        self.start_agent(host)
    }

    /// Starts the agent on a host that has joined.
    ///
    /// # Errors
    /// [`StoryError`] when it ends at once.
    pub fn start_agent(&self, host: &EdgeHost) -> Outcome {
        host.spawn(AGENT, &[self.agent.display().to_string(), "run".into()], &[])?;
        Ok(())
    }

    /// Ends the agent as a crash would.
    ///
    /// # Errors
    /// [`StoryError`] when it survives.
    pub fn kill_agent(&self, host: &EdgeHost) -> Outcome {
        Ok(host.kill(AGENT)?)
    }

    /// Ends the agent as a service manager does.
    ///
    /// # Errors
    /// [`StoryError`] when it does not end when it is asked to.
    pub fn stop_agent(&self, host: &EdgeHost) -> Outcome {
        let within = Duration::from_secs(30);
        expect("the agent ends when it is asked to", host.terminate(AGENT, within), host.name())
    }

    /// Runs one of the agent's own commands on the host; the answer is what it printed.
    ///
    /// # Errors
    /// [`StoryError`] when it exits with another code than 0.
    pub fn agent_says(&self, host: &EdgeHost, words: &[&str]) -> Outcome<String> {
        let agent = self.agent.display().to_string();
        let output = host
            .command(&agent)?
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(io("run selvedge-agent on the edge host"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        expect(&format!("selvedge-agent {} answers", words.join(" ")), output.status.success(), complaint)?;
        Ok(said)
    }

    /// Waits until a condition of an object has a status.
    ///
    /// # Errors
    /// [`StoryError::NotInTime`] with the object's status.
    pub fn wait_condition(
        &self,
        object: &[&str],
        kind: &str,
        status: &str,
        within: Duration,
    ) -> Outcome<Value> {
        self.wait_object(object, &format!("{kind}={status}"), within, |found| {
            condition(found, kind) == status
        })
    }

    /// Waits until an object is as it should be.
    ///
    /// # Errors
    /// [`StoryError::NotInTime`] with the object's status.
    pub fn wait_object(
        &self,
        object: &[&str],
        what: &str,
        within: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Outcome<Value> {
        eventually(&format!("{} is {what}", object.join(" ")), within, || {
            let found = self.tools.object(object).ok_or("it does not exist")?;
            if holds(&found) { Ok(found) } else { Err(format!("{:#}", found["status"])) }
        })
    }

    /// The Deployments of Selvedge that should run, scaled.
    ///
    /// # Errors
    /// [`StoryError`] with kubectl's words when it fails.
    pub fn scale(&self, deployment: &str, replicas: u32) -> Outcome {
        let (name, replicas) = (format!("deployment/{deployment}"), format!("--replicas={replicas}"));
        self.tools.kubectl(&["-n", NAMESPACE, "scale", &name, &replicas])?;
        self.tools.kubectl(&["-n", NAMESPACE, "rollout", "status", &name, "--timeout=120s"])?;
        Ok(())
    }
}

/// Names what was tried when the machine refuses it.
pub(crate) fn io(what: &str) -> impl FnOnce(std::io::Error) -> StoryError + '_ {
    move |source| StoryError::Io { what: what.to_owned(), source }
}
