//! A whole cluster: up, down, status, and its edge hosts.
//!
//! `up` looks at each part and starts what is missing, in order; so it is also how a cluster is repaired
//! of which something was killed. A first `up` that fails takes back what it started.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::Cache;
use crate::cgroup;
use crate::clock::{Deadline, wait_for};
use crate::command::{CommandError, command, run, succeeds};
use crate::component::{self, Component, Inputs};
use crate::containerd::{Containerd, ContainerdError};
use crate::dns;
use crate::edge_host::{EdgeError, EdgeHost};
use crate::external::{self, ExternalError};
use crate::fabric::{FABRIC, Fabric, FabricError, INTERFACE, Subnet};
use crate::host::{Host, HostError};
use crate::images::{self, ImagesError};
use crate::kubeconfig;
use crate::layout::Layout;
use crate::pki::{Pki, PkiError};
use crate::preflight::{self, PreflightError};
use crate::progress::say;
use crate::snapshot::SnapshotError;
use crate::state::{State, StateError};
use crate::teardown::{self, Step, TeardownError};
use crate::tools::{Tools, ToolsError};

pub use crate::state::Mode;

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Fabric(#[from] FabricError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    #[error(transparent)]
    Images(#[from] ImagesError),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    External(#[from] ExternalError),
    #[error(transparent)]
    Teardown(#[from] TeardownError),
    #[error("cannot read this machine's routes")]
    Routes(#[source] CommandError),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{component} does not work after {} s: {url} gives no answer of 200; {} ends with:\n{tail}", within.as_secs(), log.display())]
    NotReady { component: &'static str, url: &'static str, within: Duration, log: PathBuf, tail: String },
    #[error("{component} ended while starting; {} ends with:\n{tail}", log.display())]
    Ended { component: &'static str, log: PathBuf, tail: String },
    #[error("{what} after {} s", within.as_secs())]
    NotThere { what: &'static str, within: Duration },
    #[error("cannot set up cluster DNS")]
    Dns(#[source] CommandError),
    #[error("{} holds a cluster of another kind ({there:?}, asked for {asked:?}): `down` first, or another --dir", dir.display())]
    OtherKind { dir: PathBuf, there: Mode, asked: Mode },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("no cluster in {}: `selvedge-cluster up` makes one", dir.display())]
    None { dir: PathBuf },
    #[error("no edge host {name}; there are: {there}")]
    NoEdge { name: String, there: String },
    #[error("an edge host cannot be named {0:?}: a DNS label is needed, and not control or fabric")]
    BadName(String),
}

/// How a cluster comes up.
#[derive(Clone, Debug, Default)]
pub struct UpOptions {
    /// Without node and containers: up in seconds, for tests of the API alone.
    pub api_only: bool,
    /// etcd waits for the disk. Needed where power loss or speed is the question.
    pub durable: bool,
    /// Archives to import into the node, besides those in [`Layout::images`].
    pub images: Vec<PathBuf>,
}

/// The control host, and the node that it is.
pub const CONTROL: &str = component::NODE;
const CONTROL_MEMBER: u8 = 2;

/// Everything starts within seconds on two idle cores; the rest is for a machine that also compiles.
const PATIENCE: Duration = Duration::from_secs(120);

/// A wait that a person notices is explained.
const WORTH_SAYING: Duration = Duration::from_secs(5);

/// One cluster, known by its directory.
#[derive(Clone, Debug)]
pub struct Cluster {
    layout: Layout,
    cache: Cache,
}

impl Cluster {
    pub fn new(layout: Layout) -> Self {
        Self { layout, cache: Cache::from_environment() }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Brings up what is missing. Answers when pods can be scheduled (or, API only, objects created).
    pub fn up(&self, options: &UpOptions) -> Result<(), ClusterError> {
        preflight::cluster(self.layout.root(), self.cache.root())?;
        let _lock = self.lock()?;
        let tools = Tools::build(&self.cache)?;
        tools.link(&self.layout.bin())?;
        let named = external::named();
        let asked = match (&named, options.api_only) {
            (Some(_), _) => Mode::External,
            (None, true) => Mode::ApiOnly,
            (None, false) => Mode::Full,
        };
        let (state, first) = self.load_or_make(asked)?;
        let result = match named {
            Some(kubeconfig) => self.adopt(&kubeconfig, &tools, &state),
            None => self.start(options, &tools, &state),
        };
        if result.is_err() && first {
            say("taking back what was started");
            self.tear_down()?;
        }
        result
    }

    /// Takes everything away but logs, built tools and image archives. Fine when there is nothing.
    pub fn down(&self) -> Result<(), ClusterError> {
        preflight::as_root("end the cluster's processes")?;
        let _lock = self.lock()?;
        self.tear_down()
    }

    fn tear_down(&self) -> Result<(), ClusterError> {
        // A state that cannot be read must not keep the cluster from going.
        if let Ok(Some(state)) = State::load(&self.layout)
            && state.mode == Mode::External
        {
            Fabric::new(&self.layout, state.subnet).close();
        }
        for step in teardown::plan(&self.layout, &teardown::hosts(&self.layout)) {
            teardown::execute(&self.layout, &step)?;
        }
        Ok(())
    }

    /// One line a host and process: is it there, does it work.
    pub fn status(&self) -> Result<Vec<String>, ClusterError> {
        let state = self.state()?;
        let mut lines = vec![format!("{:?} cluster in {}", state.mode, self.layout.root().display())];
        for name in teardown::hosts(&self.layout) {
            let host = Host::new(&self.layout, &name);
            let address = match name.as_str() {
                FABRIC => state.subnet.to_string(),
                CONTROL => state.subnet.address(CONTROL_MEMBER).to_string(),
                _ => state.edges.get(&name).map(|m| state.subnet.address(*m).to_string()).unwrap_or_default(),
            };
            lines.push(format!("{name:<12} {:<4} {address}", if host.is_on() { "on" } else { "off" }));
            for process in host.processes() {
                let pid = host.process(&process).map(|identity| format!("pid {}", identity.pid));
                lines.push(format!("  {process:<24} {}", pid.unwrap_or_else(|| "not running".into())));
            }
        }
        Ok(lines)
    }

    /// The control host's address, on which its NodePorts and hostPorts answer, also from this machine.
    pub fn control_address(&self) -> Result<Ipv4Addr, ClusterError> {
        Ok(self.state()?.subnet.address(CONTROL_MEMBER))
    }

    /// An address on which the cluster's NodePorts answer, as edge hosts reach it.
    pub fn node_address(&self) -> Result<String, ClusterError> {
        match self.state()?.mode {
            Mode::External => Ok(external::node_address(&mut self.kubectl())?),
            Mode::Full | Mode::ApiOnly => Ok(self.control_address()?.to_string()),
        }
    }

    /// Whether the cluster is one that was there already and is only used.
    pub fn is_external(&self) -> bool {
        self.state().is_ok_and(|state| state.mode == Mode::External)
    }

    /// This machine's address as hosts and the API server see it: where a test serves a webhook.
    pub fn outside_address(&self) -> Result<Ipv4Addr, ClusterError> {
        Ok(self.state()?.subnet.address(1))
    }

    /// A command that will run on the control host, for what should see Services and pods.
    pub fn command(&self, program: &str) -> Result<Command, ClusterError> {
        self.state()?;
        let mut command = self.control().enter(program)?;
        command.env("PATH", self.layout.path_with_tools());
        Ok(command)
    }

    /// Starts a long-running process on the control host, its output appended to `logs/control-<name>.log`.
    pub fn spawn(&self, name: &str, words: &[String]) -> Result<(), ClusterError> {
        self.state()?;
        self.control().spawn(name, words, &[])?;
        Ok(())
    }

    /// `kubectl` as administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(self.layout.bin().join("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.layout.kubeconfig());
        kubectl
    }

    /// Imports an image archive into the node; `false` when it was there.
    pub fn import(&self, archive: &Path) -> Result<bool, ClusterError> {
        self.state()?;
        let tools = Tools::build(&self.cache)?;
        Ok(self.containerd(&self.control(), &tools).import(archive)?)
    }

    /// Whether there is a node that images can be imported into.
    pub fn has_node(&self) -> bool {
        self.state().is_ok_and(|state| state.mode == Mode::Full) && self.control().is_on()
    }

    /// Makes an edge host and switches it on, with the test images in its containerd. One that exists is
    /// switched on.
    pub fn create_edge(&self, name: &str) -> Result<EdgeHost, ClusterError> {
        let _lock = self.lock()?;
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        // 32 is short of a DNS label's 63, and it becomes part of file names.
        if name.is_empty() || name.len() > 32 || !name.chars().all(label) || [CONTROL, FABRIC].contains(&name)
        {
            return Err(ClusterError::BadName(name.to_owned()));
        }
        let mut state = self.state()?;
        let member = state.member(name)?;
        state.save(&self.layout)?;
        let tools = Tools::build(&self.cache)?;
        let edge = EdgeHost::new(&self.layout, &tools, &state, name, member);
        edge.power_on()?;
        for archive in images::for_tests(&self.cache, &tools)? {
            edge.import(&archive)?;
        }
        Ok(edge)
    }

    /// An edge host that was created before, on or off.
    pub fn edge(&self, name: &str) -> Result<EdgeHost, ClusterError> {
        let state = self.state()?;
        let there = || state.edges.keys().cloned().collect::<Vec<_>>().join(", ");
        let member = *state
            .edges
            .get(name)
            .ok_or_else(|| ClusterError::NoEdge { name: name.to_owned(), there: there() })?;
        let tools = Tools::build(&self.cache)?;
        Ok(EdgeHost::new(&self.layout, &tools, &state, name, member))
    }

    /// Names of the edge hosts.
    pub fn edges(&self) -> Result<Vec<String>, ClusterError> {
        Ok(self.state()?.edges.into_keys().collect())
    }

    /// Takes an edge host away with its disk; its logs stay.
    pub fn destroy_edge(&self, name: &str) -> Result<(), ClusterError> {
        let _lock = self.lock()?;
        let mut state = self.state()?;
        teardown::execute(&self.layout, &Step::PowerOff(name.to_owned()))?;
        teardown::execute(&self.layout, &Step::Directory(self.layout.host(name)))?;
        state.edges.remove(name);
        Ok(state.save(&self.layout)?)
    }

    /// `SIGKILL` to one program of the control plane, by its name (`etcd`, `kube-apiserver`, ...). The next
    /// [`Cluster::up`] starts it again.
    pub fn kill(&self, component: &str) -> Result<(), ClusterError> {
        Ok(self.control().kill(component)?)
    }

    fn control(&self) -> Host {
        Host::new(&self.layout, CONTROL)
    }

    fn containerd<'a>(&self, host: &'a Host, tools: &'a Tools) -> Containerd<'a> {
        Containerd { host, bin: tools.containerd_dir(), pods: component::NODE_POD_CIDR }
    }

    fn state(&self) -> Result<State, ClusterError> {
        let none = || ClusterError::None { dir: self.layout.root().to_owned() };
        State::load(&self.layout)?.ok_or_else(none)
    }

    fn lock(&self) -> Result<File, ClusterError> {
        let path = self.layout.lock();
        let lock = || {
            fs::create_dir_all(self.layout.root())?;
            let file = File::create(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|source| ClusterError::Write { path: path.clone(), source })
    }

    /// The state, and whether it is new.
    fn load_or_make(&self, asked: Mode) -> Result<(State, bool), ClusterError> {
        if let Some(state) = State::load(&self.layout)? {
            if state.mode != asked {
                let dir = self.layout.root().to_owned();
                return Err(ClusterError::OtherKind { dir, there: state.mode, asked });
            }
            return Ok((state, false));
        }
        let routes = run(&mut command("ip", ["route"])).map_err(ClusterError::Routes)?;
        let subnet = Subnet::choose(&self.layout.id(), &routes).ok_or(FabricError::NoSubnet)?;
        let state = State::new(subnet, asked);
        state.save(&self.layout)?;
        Ok((state, true))
    }

    fn adopt(&self, kubeconfig: &Path, tools: &Tools, state: &State) -> Result<(), ClusterError> {
        external::adopt(kubeconfig, &self.layout, tools)?;
        let fabric = Fabric::new(&self.layout, state.subnet);
        fabric.ensure(&tools.path("pause"))?;
        Ok(fabric.open()?)
    }

    fn start(&self, options: &UpOptions, tools: &Tools, state: &State) -> Result<(), ClusterError> {
        let address = state.subnet.address(CONTROL_MEMBER);
        let (fabric, control) = (Fabric::new(&self.layout, state.subnet), self.control());
        fabric.ensure(&tools.path("pause"))?;
        if control.power_on(&tools.path("pause"))? {
            // Of pods that died with the host, when it was not this program that took its power.
            cgroup::remove(&self.layout.cgroup());
        }
        fabric.attach(&control, CONTROL_MEMBER)?;
        // The API server calls webhooks by their Service. Without any route to its address the kernel refuses
        // before kube-proxy's rules can translate it.
        control.run("ip", ["route", "replace", component::SERVICE_CIDR, "dev", INTERFACE])?;
        for (name, member) in &state.edges {
            let edge = Host::new(&self.layout, name);
            if edge.is_on() {
                fabric.attach(&edge, *member)?;
            }
        }
        let pki = Pki::ensure(&self.layout.pki(), address)?;
        let config = self.layout.cluster().join("config");
        self.write_configuration(&config, &pki, address)?;
        let bin = |program: &str| tools.path(program);
        let etcd_data = component::etcd_data(&control.disk());
        let inputs = Inputs {
            bin: &bin,
            pki: &pki,
            config: &config,
            etcd_data,
            control: address,
            durable: options.durable,
        };

        self.run_until_ready(&[component::etcd(&inputs)])?;
        self.run_until_ready(&[component::apiserver(&inputs)])?;
        kubeconfig::write(&self.layout.kubeconfig(), &api_url(address), &pki, "admin")
            .map_err(|source| ClusterError::Write { path: self.layout.kubeconfig(), source })?;
        let mut rest = vec![component::controller_manager(&inputs)];
        if !options.api_only {
            let containerd = self.containerd(&control, tools);
            containerd.start()?;
            let archives = images::for_tests(&self.cache, tools)?;
            let own = images::in_directory(&self.layout.images());
            for archive in archives.iter().chain(&own).chain(&options.images) {
                containerd.import(archive)?;
            }
            let cgroup = self.layout.cgroup();
            cgroup::make(&cgroup).map_err(|source| ClusterError::Write {
                path: format!("/sys/fs/cgroup{cgroup}").into(),
                source,
            })?;
            rest.push(component::scheduler(&inputs));
            rest.push(component::kubelet(&inputs));
            rest.push(component::proxy(&inputs));
            self.apply(&dns::service(address))?;
            rest.push(component::dns(&inputs));
        }
        self.run_until_ready(&rest)?;
        let account = ["get", "serviceaccount", "default", "--namespace", "default"];
        self.until("the default ServiceAccount is not there", &account)?;
        if !options.api_only {
            let ready = ["wait", "--for=condition=Ready", "node/control", "--timeout=1s"];
            self.until("the node is not Ready", &ready)?;
        }
        Ok(())
    }

    fn write_configuration(&self, config: &Path, pki: &Pki, address: Ipv4Addr) -> Result<(), ClusterError> {
        let write = || {
            fs::create_dir_all(config)?;
            for subject in ["controller-manager", "scheduler", "kubelet", "proxy", "dns"] {
                let path = config.join(format!("{subject}.kubeconfig"));
                kubeconfig::write(&path, &api_url(address), pki, subject)?;
            }
            // Pods that ask for the node's resolver get one that knows nothing, and at once.
            let resolv_conf = config.join("resolv.conf");
            fs::write(&resolv_conf, "")?;
            let kubelet = component::kubelet_config(pki, &self.layout.cgroup(), &resolv_conf);
            fs::write(config.join("kubelet.yaml"), kubelet)?;
            fs::write(config.join("Corefile"), dns::corefile(&config.join("dns.kubeconfig")))
        };
        write().map_err(|source| ClusterError::Write { path: config.to_owned(), source })
    }

    /// Starts those that do not run, all at once, then waits for each.
    fn run_until_ready(&self, components: &[Component]) -> Result<(), ClusterError> {
        let control = self.control();
        for component in components {
            control.spawn(component.name, &component.words, &[])?;
        }
        components.iter().try_for_each(|component| self.until_ready(&control, component))
    }

    fn until_ready(&self, control: &Host, component: &Component) -> Result<(), ClusterError> {
        let (component, url) = (component.name, component.ready);
        let log = self.layout.log(control.name(), component);
        let tail = || control.log_tail(component);
        let probe = || {
            if control.process(component).is_none() {
                return Some(Err(ClusterError::Ended { component, log: log.clone(), tail: tail() }));
            }
            // On the host, because most of them answer on its loopback only. kubectl asks any server.
            let (server, path) = url.rsplit_once('/')?;
            let mut get = control.enter(self.layout.bin().join("kubectl")).ok()?;
            get.args(["--server", server, "--insecure-skip-tls-verify", "--request-timeout", "2s"]);
            let admin = self.layout.pki().join("admin");
            get.arg("--client-certificate").arg(admin.with_extension("pem"));
            get.arg("--client-key").arg(admin.with_extension("key"));
            get.args(["get", "--raw", &format!("/{path}")]).env("KUBECONFIG", "/dev/null");
            succeeds(&mut get).then_some(Ok(()))
        };
        let late =
            || ClusterError::NotReady { component, url, within: PATIENCE, log: log.clone(), tail: tail() };
        let started = Deadline::after(PATIENCE);
        let result = wait_for(started, probe).unwrap_or_else(|| Err(late()));
        if started.elapsed() > WORTH_SAYING {
            say(format!("{component}: {} s", started.elapsed().as_secs()));
        }
        result
    }

    fn until(&self, what: &'static str, kubectl: &[&str]) -> Result<(), ClusterError> {
        let there = || succeeds(self.kubectl().args(kubectl)).then_some(());
        wait_for(Deadline::after(PATIENCE), there).ok_or(ClusterError::NotThere { what, within: PATIENCE })
    }

    fn apply(&self, yaml: &str) -> Result<(), ClusterError> {
        let path = self.layout.cluster().join("config/dns.yaml");
        fs::write(&path, yaml).map_err(|source| ClusterError::Write { path: path.clone(), source })?;
        let mut kubectl = self.kubectl();
        kubectl.args(["apply", "--server-side", "--force-conflicts", "--filename"]).arg(path);
        run(&mut kubectl).map(drop).map_err(ClusterError::Dns)
    }
}

fn api_url(control: Ipv4Addr) -> String {
    format!("https://{control}:{}", component::API_PORT)
}
