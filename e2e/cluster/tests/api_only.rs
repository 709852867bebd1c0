//! The smallest real cluster, from nothing to gone: it comes up, it answers, it heals, and when it is
//! taken down nothing of it is left on the machine. Needs root, as everything here does.

#![allow(clippy::expect_used)] // a test ends at the first thing that is not as it should be

use std::collections::BTreeSet;
use std::path::Path;

use selvedge_cluster::host::Host;
use selvedge_cluster::{Cluster, Layout, UpOptions, command, process};

#[test]
fn comes_up_heals_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout::at(dir.path()).expect("a path");
    let cluster = Cluster::new(layout.clone());
    let options = UpOptions { api_only: true, ..UpOptions::default() };
    // Taken down also when an assertion fails.
    let taken_down = TakeDown(&cluster);

    cluster.up(&options).expect("it comes up");
    kubectl(&cluster, &["create", "configmap", "kept", "--from-literal=a=b"]).expect("it stores objects");

    cluster.kill("kube-apiserver").expect("the API server is killed");
    kubectl(&cluster, &["get", "configmap", "kept"]).expect_err("nobody answers");
    cluster.up(&options).expect("it is repaired");
    kubectl(&cluster, &["get", "configmap", "kept"]).expect("what was stored is there");

    // A host that died altogether, network and all.
    Host::new(&layout, "fabric").power_off().expect("the fabric dies");
    cluster.up(&options).expect("it is repaired");
    kubectl(&cluster, &["get", "configmap", "kept"]).expect("what was stored is there");

    let edge = cluster.create_edge("edge-1").expect("an edge host");
    let reaches_control = || {
        let url = format!("https://{}:6443/readyz", edge.control_address());
        let mut get = edge.command("kubectl").expect("it is on");
        get.args([
            "--server",
            &url.replace("/readyz", ""),
            "--insecure-skip-tls-verify",
            "--request-timeout=2s",
        ]);
        get.arg("--kubeconfig").arg(layout.kubeconfig());
        command::succeeds(get.args(["get", "--raw", "/readyz"]))
    };
    assert!(reaches_control());
    edge.cut().expect("the cable is cut");
    assert!(!reaches_control());
    edge.mend().expect("the cable is mended");
    assert!(reaches_control());

    let words = ["sleep", "1000"].map(str::to_owned);
    let running = edge.spawn("agent", &words, &[]).expect("a process starts");
    edge.power_off().expect("the power goes");
    assert!(!running.alive() && edge.process("agent").is_none());
    edge.power_on().expect("the power is back");
    assert!(edge.process("agent").is_none(), "nothing starts by itself but containerd");

    drop(taken_down);
    assert_eq!(left_of(&layout), BTreeSet::new());
}

struct TakeDown<'a>(&'a Cluster);

impl Drop for TakeDown<'_> {
    fn drop(&mut self) {
        self.0.down().expect("it goes down");
    }
}

fn kubectl(cluster: &Cluster, args: &[&str]) -> Result<String, command::CommandError> {
    command::run(cluster.kubectl().args(args).arg("--request-timeout=5s"))
}

/// Every trace that a cluster could leave, in words.
fn left_of(layout: &Layout) -> BTreeSet<String> {
    let id = layout.id();
    let mut left = BTreeSet::new();
    for (pid, host) in process::values("SELVEDGE_HOST") {
        if host.starts_with(&id) {
            left.insert(format!("process {pid} of {host}: {:?}", process::words(pid)));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let root = layout.root().display().to_string();
    left.extend(mounts.lines().filter(|line| line.contains(&root)).map(|line| format!("mount {line}")));
    let links = command::run(&mut command::command("ip", ["-brief", "link"])).expect("links");
    left.extend(links.lines().filter(|line| line.contains(&id)).map(|line| format!("interface {line}")));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let group = hierarchy.path().join(layout.cgroup().trim_start_matches('/'));
        if group.exists() {
            left.insert(format!("cgroup {}", group.display()));
        }
    }
    for path in [layout.kubeconfig(), layout.cluster()] {
        if Path::exists(&path) {
            left.insert(format!("file {}", path.display()));
        }
    }
    left
}
