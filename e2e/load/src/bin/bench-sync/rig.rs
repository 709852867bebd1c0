//! A real control plane and real processes of Selvedge beside it, on this machine's own loopback.
//!
//! In: a directory, and where the binaries are. Out: hubs that agents can dial at 127.0.0.1, and what their
//! processes cost. The chart's CRDs and rights are in force, each process has the token of its own
//! ServiceAccount; only pods and the webhook are missing, because there is no node to run them on.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use selvedge_agent::identity::Identity;
use selvedge_cluster::clock::{Deadline, wait_for};
use selvedge_cluster::{Cluster, Layout, UpOptions};
use selvedge_stories::{Outcome, StoryError, Tools};
use serde::Deserialize as _;
use serde_json::{Value, json};

const NAMESPACE: &str = "selvedge-system";
/// A process is ready within this, also while others start.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lines of a log that are shown, of warnings and of all.
const LAST_LINES: usize = 8;
/// Kinds that would need a node, or the webhook.
const LEFT_OUT: [&str; 7] = [
    "Deployment",
    "PodDisruptionBudget",
    "Service",
    "ServiceMonitor",
    "NetworkPolicy",
    "ValidatingWebhookConfiguration",
    "Pod",
];

/// See the module.
pub struct Rig {
    cluster: Cluster,
    pub tools: Tools,
    layout: Layout,
    binaries: PathBuf,
    controllers: Vec<Process>,
    /// Where each process writes that was ever started.
    logs: Mutex<Vec<PathBuf>>,
}

/// One process of Selvedge; ends with this value.
pub struct Process {
    name: String,
    child: Child,
    admin: u16,
    log: PathBuf,
}

/// A hub and where agents dial it.
pub struct Hub {
    pub process: Process,
    pub port: u16,
    pub endpoint: String,
}

impl Rig {
    /// Brings it up, controllers included. Join tokens name a hub at `port`.
    pub fn up(directory: &Path, repository: &Path, binaries: &Path, port: u16) -> Outcome<Self> {
        let layout = Layout::at(directory).map_err(io("name the directory"))?;
        let cluster = Cluster::new(layout.clone());
        // What a run that was killed has left would be measured with this one.
        cluster.down()?;
        // etcd waits for the disk, as it should.
        cluster.up(&UpOptions { api_only: true, durable: true, ..UpOptions::default() })?;
        let tools = Tools::new(&layout.bin(), &layout.kubeconfig());
        let mut rig = Self {
            cluster,
            tools,
            layout,
            binaries: binaries.to_owned(),
            controllers: Vec::new(),
            logs: Mutex::default(),
        };
        match rig.fill(repository, port) {
            Ok(()) => Ok(rig),
            Err(error) => {
                eprintln!("{}", rig.explain());
                rig.down()?;
                Err(error)
            }
        }
    }

    fn fill(&mut self, repository: &Path, port: u16) -> Outcome {
        self.install(repository)?;
        self.certificate_authority()?;
        let endpoint = format!("https://127.0.0.1:{port}");
        let names = ["--hub-name", "127.0.0.1", "--hub-endpoint", &endpoint];
        let streams = format!("127.0.0.1:{}", free_port()?);
        let words = [&names[..], &["--replica-address", &streams]].concat();
        let edgenode = self.start("edgenode-controller", "edgenode-controller", &words)?;
        self.controllers = vec![edgenode];
        for name in ["edgeapplication-controller", "devicemodel-controller", "device-controller"] {
            let controller = self.start(name, name, &[])?;
            self.controllers.push(controller);
        }
        Ok(())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// Certificate and key of the CA.
    pub fn ca(&self) -> (PathBuf, PathBuf) {
        (self.file("ca.crt"), self.file("ca.key"))
    }

    /// Starts a hub and waits until it is ready; `name` is that of its pod.
    pub fn hub(&self, name: &str, port: u16) -> Outcome<Hub> {
        self.hub_with(name, port, &[])
    }

    /// The same with further arguments.
    pub fn hub_with(&self, name: &str, port: u16, more: &[&str]) -> Outcome<Hub> {
        self.pod(name)?;
        let token = self.file(&format!("{name}.token"));
        let bound =
            ["--audience", "selvedge-controller", "--bound-object-kind", "Pod", "--bound-object-name"];
        let words = ["-n", NAMESPACE, "create", "token", "selvedge-hub", "--duration", "6h"];
        let text = self.tools.kubectl(&[&words[..], &bound, &[name]].concat())?;
        write(&token, &text)?;
        let listen = format!("127.0.0.1:{port}");
        let token = token.display().to_string();
        let words = ["--listen", &listen, "--token-file", &token, "--pod-name", name];
        let process = self.start(name, "selvedge-hub", &[&words[..], more].concat())?;
        Ok(Hub { process, port, endpoint: format!("https://{listen}") })
    }

    /// Ends the controllers: what they have rolled out stands.
    pub fn stop_controllers(&mut self) {
        self.controllers.clear();
    }

    /// An agent of the product itself, as a process with a disk; ready when it is in sync.
    pub fn agent(&self, identity: &Identity, key: &str, hub: &str) -> Outcome<Process> {
        let state = self.file(&identity.node);
        std::fs::create_dir_all(&state).map_err(io("make a state directory"))?;
        write(&state.join("key.pem"), key)?;
        let stored = identity.store(&state);
        stored.map_err(|error| StoryError::Unexpected {
            what: "an identity can be stored".into(),
            found: error.to_string(),
        })?;
        let (admin, state) = (free_port()?, state.display().to_string());
        let mut command = Command::new(self.binaries.join("selvedge-agent"));
        command.args(["run", "--state-dir", &state, "--hub", hub, "--config", "/dev/null"]);
        command.args(["--runtime-endpoint", &format!("unix://{state}/no-runtime.sock")]);
        command.args(["--metrics-address", &format!("127.0.0.1:{admin}")]);
        self.spawn(&identity.node, admin, &mut command)
    }

    /// What the processes said last that somebody should read: what explains a failure is here, or nowhere.
    pub fn explain(&self) -> String {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.iter().map(|log| format!("--- {}\n{}\n", log.display(), tail(log))).collect()
    }

    /// Which controllers still run, and how much CPU each has used.
    pub fn controllers_cpu(&self) -> Vec<(String, f64)> {
        self.controllers.iter().map(|process| (process.name.clone(), process.cpu_s())).collect()
    }

    /// All of it gone.
    pub fn down(self) -> Outcome {
        drop(self.controllers);
        Ok(self.cluster.down()?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.layout.cluster().join(name)
    }

    fn install(&self, repository: &Path) -> Outcome {
        let chart = repository.join("charts/selvedge").display().to_string();
        let words = ["template", "selvedge", &chart, "--namespace", NAMESPACE, "--kube-version", "1.36.0"];
        let rendered = self.tools.helm(&words)?;
        let mut kept = json!({"apiVersion": "v1", "kind": "List", "items": []});
        let mut namespaces = vec![namespace(NAMESPACE)];
        for document in serde_yaml::Deserializer::from_str(&rendered) {
            let object = Value::deserialize(document).unwrap_or_default();
            let kind = object["kind"].as_str().unwrap_or_default();
            let list = match kind {
                "Namespace" => Some(&mut namespaces),
                "" => None,
                kind if LEFT_OUT.contains(&kind) => None,
                // Objects of ours in the chart are its tests.
                _ if object["apiVersion"].as_str().is_some_and(|v| v.starts_with("selvedge.dev/")) => None,
                _ => kept["items"].as_array_mut(),
            };
            if let Some(list) = list {
                list.push(object);
            }
        }
        let namespaces = json!({"apiVersion": "v1", "kind": "List", "items": namespaces});
        for list in [namespaces, kept] {
            let words = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
            self.tools.kubectl_with(&words, &list.to_string())?;
        }
        let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
        self.tools.kubectl(&established)?;
        Ok(())
    }

    /// A CA of our own, by value: the EdgeNode controller takes it as the installation's.
    fn certificate_authority(&self) -> Outcome {
        let (certificate, key) = self.ca();
        if !certificate.exists() {
            let made = make_ca().map_err(|error| StoryError::Unexpected {
                what: "a CA can be made".into(),
                found: error.to_string(),
            })?;
            write(&certificate, &made.0)?;
            write(&key, &made.1)?;
        }
        let read = |path: &Path| std::fs::read_to_string(path).map_err(io("read the CA"));
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "selvedge-ca", "namespace": NAMESPACE},
            "stringData": {"tls.crt": read(&certificate)?, "tls.key": read(&key)?, "cluster-id": "bench"},
        });
        self.tools.kubectl_with(&["apply", "--server-side", "-f", "-"], &secret.to_string())?;
        Ok(())
    }

    /// A pod that runs nowhere: what a hub's token is bound to.
    fn pod(&self, name: &str) -> Outcome {
        let security = json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        let container = json!({"name": "hub", "image": "none", "securityContext": security});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"serviceAccountName": "selvedge-hub", "containers": [container]},
        });
        self.tools.kubectl_with(&["apply", "--server-side", "-f", "-"], &pod.to_string())?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
        let words = ["-n", NAMESPACE, "patch", "pod", name, "--subresource", "status", "--type", "merge"];
        self.tools.kubectl(&[&words[..], &["-p", &ready]].concat())?;
        Ok(())
    }

    /// Starts a binary as its ServiceAccount, which is named as the binary, and waits until it is ready.
    fn start(&self, name: &str, binary: &str, words: &[&str]) -> Outcome<Process> {
        let kubeconfig = self.kubeconfig_of(binary)?;
        let admin = free_port()?;
        let mut command = Command::new(self.binaries.join(binary));
        command
            .args(words)
            .args(["--admin-address", &format!("127.0.0.1:{admin}"), "--namespace", NAMESPACE])
            .env("KUBECONFIG", kubeconfig)
            .env("POD_IP", "127.0.0.1");
        let process = self.spawn(name, admin, &mut command)?;
        let ready = || process.metrics("/readyz").map(drop);
        wait_for(Deadline::after(PATIENCE), ready).ok_or_else(|| StoryError::NotInTime {
            what: format!("{name} is ready"),
            within: PATIENCE,
            last: tail(&process.log),
        })?;
        Ok(process)
    }

    fn spawn(&self, name: &str, admin: u16, command: &mut Command) -> Outcome<Process> {
        let log = self.layout.log("bench", name);
        let output = File::create(&log).map_err(io("make a log file"))?;
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).push(log.clone());
        let child = command
            .env("SELVEDGE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(io("share a log file"))?)
            .stderr(output)
            .spawn()
            .map_err(io(&format!("start {name}")))?;
        Ok(Process { name: name.to_owned(), child, admin, log })
    }

    fn kubeconfig_of(&self, account: &str) -> Outcome<PathBuf> {
        let words = ["-n", NAMESPACE, "create", "token", account, "--duration", "6h"];
        let token = self.tools.kubectl(&words)?;
        let text = std::fs::read_to_string(self.kubeconfig()).map_err(io("read the kubeconfig"))?;
        let mut config: Value = serde_yaml::from_str(&text).unwrap_or_default();
        config["users"][0]["user"] = json!({"token": token.trim()});
        let path = self.file(&format!("{account}.kubeconfig"));
        write(&path, &config.to_string())?;
        Ok(path)
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its admin server answers; none unless with 200.
    pub fn metrics(&self, path: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let address = (std::net::Ipv4Addr::LOCALHOST, self.admin).into();
        let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(answer)
    }

    /// One number of its metrics: the sum over all labels; NaN when it cannot be had.
    pub fn metric(&self, name: &str) -> f64 {
        let Some(text) = self.metrics("/metrics") else { return f64::NAN };
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Anonymous memory of its own, KiB: what it has written to and shares with nobody.
    pub fn memory_kb(&self) -> f64 {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let rollup = std::fs::read_to_string(path).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or(f64::NAN)
    }

    /// CPU that it has used, seconds.
    pub fn cpu_s(&self) -> f64 {
        cpu_s(self.pid())
    }

    /// As a crash.
    pub fn kill(mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// CPU of a process, user and system, seconds.
pub fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; what follows it is numbers.
    let numbers = stat.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| numbers.split_whitespace().nth(n).and_then(|text| text.parse::<f64>().ok());
    // Fields 14 and 15 of proc(5), in ticks of a hundredth of a second.
    (field(11).unwrap_or(f64::NAN) + field(12).unwrap_or(f64::NAN)) / 100.0
}

/// A port that is free now.
pub fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(io("find a free port"))?;
    Ok(listener.local_addr().map_err(io("find a free port"))?.port())
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn make_ca() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Selvedge CA bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// The last warnings and errors, and the last lines of all.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let (before, end) = lines.split_at(lines.len().saturating_sub(LAST_LINES));
    let loud = before.iter().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let mut loud: Vec<&str> = loud.rev().take(LAST_LINES).copied().collect();
    loud.reverse();
    [&loud[..], end].concat().join("\n")
}

fn write(path: &Path, text: &str) -> Outcome {
    selvedge_cluster::kubeconfig::replace(path, text.as_bytes()).map_err(io("write a file of the rig"))
}

pub fn io(what: &str) -> impl FnOnce(std::io::Error) -> StoryError + '_ {
    move |source| StoryError::Io { what: what.to_owned(), source }
}
