//! The programs of the control plane: with which words each is started and how one sees that it works.
//! Pure: paths and addresses in, a list in starting order out.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::pki::Pki;

/// Pods of the control host; the edge hosts have subnets of their own.
pub const POD_CIDR: &str = "10.244.0.0/16";
pub const NODE_POD_CIDR: &str = "10.244.0.0/24";
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The first address of the service range is always the API server.
pub const KUBERNETES_SERVICE_IP: &str = "10.96.0.1";
/// The tenth is cluster DNS by convention.
pub const DNS_SERVICE_IP: &str = "10.96.0.10";
/// The control host has a network of its own, so the well-known port is always free there.
pub const API_PORT: u16 = 6443;
/// The node that the control host is in its own cluster.
pub const NODE: &str = "control";

/// One program of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    pub name: &'static str,
    pub words: Vec<String>,
    /// Asked on the control host; answers 200 when the program works.
    pub ready: &'static str,
}

/// Everything that the words depend on.
pub struct Inputs<'a> {
    /// The built tools.
    pub bin: &'a dyn Fn(&str) -> PathBuf,
    pub pki: &'a Pki,
    /// Configuration files and kubeconfigs, written by [`crate::cluster`].
    pub config: &'a Path,
    pub etcd_data: PathBuf,
    pub control: Ipv4Addr,
    /// Whether etcd waits for the disk. A development cluster is made anew, so by default it does not.
    pub durable: bool,
}

impl Inputs<'_> {
    fn component(&self, name: &'static str, ready: &'static str, flags: &[&str]) -> Component {
        let mut words = vec![(self.bin)(name).display().to_string()];
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Component { name, words, ready }
    }

    fn kubeconfig(&self, subject: &str) -> String {
        self.config.join(format!("{subject}.kubeconfig")).display().to_string()
    }

    fn pem(&self, file: &str) -> String {
        self.pki.certificate(file).display().to_string()
    }

    fn key(&self, file: &str) -> String {
        self.pki.key(file).display().to_string()
    }
}

/// Who etcd is among its peers, of which there are none. A restored one must be the same.
pub const ETCD_MEMBER: [&str; 3] = [
    "--name=control",
    "--initial-advertise-peer-urls=http://127.0.0.1:2380",
    "--initial-cluster=control=http://127.0.0.1:2380",
];

/// Where etcd's data are, on the disk of the control host.
pub fn etcd_data(disk: &Path) -> PathBuf {
    disk.join("etcd")
}

pub fn etcd(inputs: &Inputs<'_>) -> Component {
    let data = format!("--data-dir={}", inputs.etcd_data.display());
    let [name, peer, peers] = ETCD_MEMBER;
    let mut flags = vec![
        name,
        &data,
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        peer,
        peers,
    ];
    if !inputs.durable {
        flags.push("--unsafe-no-fsync");
    }
    inputs.component("etcd", "http://127.0.0.1:2379/readyz", &flags)
}

pub fn apiserver(inputs: &Inputs<'_>) -> Component {
    let flags = [
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--advertise-address={}", inputs.control),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        format!("--tls-cert-file={}", inputs.pem("apiserver")),
        format!("--tls-private-key-file={}", inputs.key("apiserver")),
        format!("--client-ca-file={}", inputs.pem("ca")),
        format!("--kubelet-client-certificate={}", inputs.pem("admin")),
        format!("--kubelet-client-key={}", inputs.key("admin")),
        format!("--kubelet-certificate-authority={}", inputs.pem("ca")),
        // The control host's name resolves nowhere.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", inputs.pem("service-accounts")),
        format!("--service-account-signing-key-file={}", inputs.key("service-accounts")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--proxy-client-cert-file={}", inputs.pem("front-proxy")),
        format!("--proxy-client-key-file={}", inputs.key("front-proxy")),
        format!("--requestheader-client-ca-file={}", inputs.pem("ca")),
        "--requestheader-allowed-names=front-proxy".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    inputs.component("kube-apiserver", "https://127.0.0.1:6443/readyz", &flags)
}

pub fn controller_manager(inputs: &Inputs<'_>) -> Component {
    let kubeconfig = inputs.kubeconfig("controller-manager");
    let flags = [
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        format!("--root-ca-file={}", inputs.pem("ca")),
        format!("--service-account-private-key-file={}", inputs.key("service-accounts")),
        "--use-service-account-credentials=true".to_owned(),
        format!("--cluster-signing-cert-file={}", inputs.pem("ca")),
        format!("--cluster-signing-key-file={}", inputs.key("ca")),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={POD_CIDR}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        // The only one there is: waiting for a dead predecessor's lease would cost 15 s at every start.
        "--leader-elect=false".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    inputs.component("kube-controller-manager", "https://127.0.0.1:10257/healthz", &flags)
}

pub fn scheduler(inputs: &Inputs<'_>) -> Component {
    let kubeconfig = inputs.kubeconfig("scheduler");
    let flags = [
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    inputs.component("kube-scheduler", "https://127.0.0.1:10259/healthz", &flags)
}

pub fn kubelet(inputs: &Inputs<'_>) -> Component {
    let flags = [
        format!("--kubeconfig={}", inputs.kubeconfig("kubelet")),
        format!("--config={}", inputs.config.join("kubelet.yaml").display()),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={}", inputs.control),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    inputs.component("kubelet", "http://127.0.0.1:10248/healthz", &flags)
}

pub fn proxy(inputs: &Inputs<'_>) -> Component {
    let flags = [
        format!("--kubeconfig={}", inputs.kubeconfig("proxy")),
        format!("--hostname-override={NODE}"),
        "--proxy-mode=iptables".to_owned(),
        format!("--cluster-cidr={POD_CIDR}"),
        // These would write the machine's own limits, which a network namespace may not change.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    inputs.component("kube-proxy", "http://127.0.0.1:10256/healthz", &flags)
}

pub fn dns(inputs: &Inputs<'_>) -> Component {
    let corefile = inputs.config.join("Corefile").display().to_string();
    inputs.component("coredns", "http://127.0.0.1:8181/ready", &["-conf", &corefile])
}

/// The kubelet's configuration file.
pub fn kubelet_config(pki: &Pki, cgroup: &str, resolv_conf: &Path) -> String {
    let (ca, certificate, key) = (pki.certificate("ca"), pki.certificate("kubelet"), pki.key("kubelet"));
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  x509: {{clientCAFile: {ca}}}
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
authorization: {{mode: Webhook}}
tlsCertFile: {certificate}
tlsPrivateKeyFile: {key}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
# Its own place: a kubelet removes the groups of pods that it does not know, and there may be another.
cgroupRoot: {cgroup}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
clusterDNS: ["{DNS_SERVICE_IP}"]
clusterDomain: cluster.local
resolvConf: {resolv_conf}
podCIDR: {NODE_POD_CIDR}
# The disk is this machine's; how full it is says nothing about the cluster.
evictionHard: {{nodefs.available: "1%", imagefs.available: "1%", memory.available: "100Mi"}}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
"#,
        ca = ca.display(),
        certificate = certificate.display(),
        key = key.display(),
        resolv_conf = resolv_conf.display(),
    )
}

#[cfg(test)]
mod tests;
