//! Whole passes over a runtime in memory: what is true of the world after them.

use std::{sync::Arc, time::Duration};

use selvedge_protocol::agent::Phase;

use super::{fake::Fake, golden::Wanted};
use crate::runtime::{DesiredWorkload, Runtime, WorkloadReport};

struct Node {
    runtime: Runtime<Arc<Fake>>,
    fake: Arc<Fake>,
    dir: tempfile::TempDir,
    memory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let fake = Arc::new(Fake::default());
        let dir = tempfile::tempdir().unwrap();
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        Self { runtime: Runtime::over(Arc::clone(&fake), dir.path(), memory.path()), fake, dir, memory }
    }

    /// Passes until no job runs any more.
    async fn settle(&mut self, desired: &[DesiredWorkload]) -> Vec<WorkloadReport> {
        for _ in 0..20 {
            let reports = self.runtime.reconcile(desired).await;
            if self.runtime.running.is_empty() {
                return reports;
            }
            self.runtime.job_ended().await;
        }
        panic!("20 passes settled nothing: {:?}", self.runtime.reconcile(desired).await);
    }
}

fn wanted(yaml: &str) -> DesiredWorkload {
    serde_yaml::from_str::<Wanted>(yaml).unwrap().entry()
}

const TILL: &str = r#"{key: shop/till, uid: u1, spec: {containers: [{name: web, image: "till:1"}]}}"#;

fn said(report: &WorkloadReport) -> (Phase, &str) {
    (report.state.phase.try_into().unwrap(), report.state.reason.as_str())
}

#[tokio::test(start_paused = true)]
async fn delivered_is_not_applied_until_it_runs() {
    let mut node = Node::new();
    let till = wanted(TILL);
    let first = node.runtime.reconcile(std::slice::from_ref(&till)).await;
    assert_eq!((said(&first[0]), first[0].content_hash), ((Phase::Pending, "Starting"), None));
    let reports = node.settle(std::slice::from_ref(&till)).await;
    assert_eq!(said(&reports[0]), (Phase::Failed, "ImagePullFailed"));
    assert_eq!(reports[0].content_hash, None);

    // By other hands, between two tries: seen at the next pass.
    node.fake.world().images.insert("till:1".into());
    let reports = node.settle(std::slice::from_ref(&till)).await;
    assert_eq!(said(&reports[0]), (Phase::Running, ""));
    assert_eq!(reports[0].content_hash, Some(till.content_hash));
    assert_eq!(reports[0].state.revision, "r1");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_leaves_running_what_runs() {
    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    let till = wanted(TILL);
    node.settle(std::slice::from_ref(&till)).await;
    let next = wanted(&TILL.replace("till:1", "till:2"));
    let reports = node.settle(&[next]).await;
    assert_eq!(said(&reports[0]), (Phase::Failed, "ImagePullFailed"));
    assert_eq!(reports[0].content_hash, Some(till.content_hash), "what is in force is the old one");
    assert_eq!(node.fake.world().running(), ["web 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_and_a_new_uid_adopt_what_runs() {
    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    node.settle(&[wanted(TILL)]).await;
    let before: Vec<_> = node.fake.world().containers.keys().cloned().collect();
    node.runtime = Runtime::over(Arc::clone(&node.fake), node.dir.path(), node.memory.path());
    let again = wanted(&TILL.replace("u1", "u2"));
    let reports = node.runtime.reconcile(std::slice::from_ref(&again)).await;
    assert_eq!(reports[0].content_hash, Some(again.content_hash), "applied at the first look");
    assert_eq!(node.fake.world().containers.keys().cloned().collect::<Vec<_>>(), before);
}

#[tokio::test(start_paused = true)]
async fn a_slow_registry_holds_up_one_workload_until_it_wants_something_else() {
    let mut node = Node::new();
    node.fake.world().slow_registry = true;
    node.fake.world().images.insert("log:1".into());
    let log = wanted(r#"{key: shop/log, spec: {containers: [{name: log, image: "log:1"}]}}"#);
    let desired = [log, wanted(TILL)];
    while node.fake.world().running().is_empty() {
        node.runtime.reconcile(&desired).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(node.fake.world().running(), ["log 0"]);
    let [log, till] = desired;
    let desired = [log, wanted(&TILL.replace("till:1", "log:1"))];
    node.settle(&desired).await;
    assert_eq!(till.name, "till");
    assert_eq!(node.fake.world().running(), ["log 0", "web 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_config_map_swaps_the_volume_and_restarts_nothing() {
    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    let yaml = r#"{key: shop/till, configMaps: {settings: {data: {mode: fast, "a.b": x}, binaryData: {raw: AAE=}}},
        spec: {containers: [{name: web, image: "till:1", command: ["run", "$(MODE)"],
            env: [{name: MODE, valueFrom: {configMapKeyRef: {name: settings, key: mode}}}],
            volumeMounts: [{name: conf, mountPath: /conf}]}],
          volumes: [{name: conf, configMap: {name: settings}}]}}"#;
    node.settle(&[wanted(yaml)]).await;
    let conf = node.dir.path().join("volumes/shop/till/conf");
    assert_eq!(std::fs::read_to_string(conf.join("mode")).unwrap(), "fast");
    assert_eq!(std::fs::read(conf.join("raw")).unwrap(), [0, 1]);
    let before: Vec<_> = node.fake.world().containers.keys().cloned().collect();
    assert_eq!(node.fake.world().env[&before[0]], [("MODE".to_owned(), "fast".to_owned())]);

    let changed = wanted(&yaml.replace("mode: fast, \"a.b\": x", "mode: slow"));
    let reports = node.settle(std::slice::from_ref(&changed)).await;
    assert_eq!(reports[0].content_hash, Some(changed.content_hash));
    assert_eq!(std::fs::read_to_string(conf.join("mode")).unwrap(), "slow");
    assert!(!conf.join("a.b").exists() && conf.join("a.b").symlink_metadata().is_err());
    assert_eq!(node.fake.world().containers.keys().cloned().collect::<Vec<_>>(), before, "nothing restarts");

    // The environment follows at the next start.
    node.fake.world().exit_all(1);
    node.settle(&[changed]).await;
    let world = node.fake.world();
    assert_eq!(world.running(), ["web 1"]);
    let id = world.containers.keys().next().unwrap();
    assert_eq!(world.env[id], [("MODE".to_owned(), "slow".to_owned())]);
}

const PINNED: &str = r#"{key: shop/till, secrets: {pins: {data: {pin: aHVudGVyMg==, raw: /w==}}},
    spec: {containers: [{name: web, image: "till:1", envFrom: [{prefix: P_, secretRef: {name: pins}}],
        env: [{name: PIN, valueFrom: {secretKeyRef: {name: pins, key: pin}}}],
        volumeMounts: [{name: pins, mountPath: /pins}]}],
      volumes: [{name: pins, secret: {secretName: pins, defaultMode: 256}}]}}"#;

/// Every file below `dir` that holds `text`.
fn holding(dir: &std::path::Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(holding(&path, text));
        } else if std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
        {
            found.push(path);
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_in_memory_alone_and_swaps_without_a_restart() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    let first = wanted(PINNED);
    node.settle(std::slice::from_ref(&first)).await;
    let pins = node.memory.path().join("secrets/shop/till/pins");
    assert_eq!(std::fs::read_to_string(pins.join("pin")).unwrap(), "hunter2");
    assert_eq!(std::fs::read(pins.join("raw")).unwrap(), [255]);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&pins.join("pin")), mode(&node.memory.path().join("secrets"))), (0o400, 0o700));
    let before: Vec<_> = node.fake.world().containers.keys().cloned().collect();
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = [variable("P_pin", "hunter2"), variable("PIN", "hunter2")];
    assert_eq!(node.fake.world().env[&before[0]], env);
    assert_eq!(
        holding(node.dir.path(), "hunter2"),
        Vec::<std::path::PathBuf>::new(),
        "nothing is on the disk"
    );

    let changed = wanted(&PINNED.replace("aHVudGVyMg==", "c3Vubnk="));
    let reports = node.settle(std::slice::from_ref(&changed)).await;
    assert_eq!(reports[0].content_hash, Some(changed.content_hash));
    assert_eq!(std::fs::read_to_string(pins.join("pin")).unwrap(), "sunny");
    assert_eq!(holding(node.memory.path(), "hunter2"), Vec::<std::path::PathBuf>::new());
    assert_eq!(node.fake.world().containers.keys().cloned().collect::<Vec<_>>(), before, "nothing restarts");
    assert!(!format!("{changed:?} {reports:?}").contains("c3Vubnk"));

    node.settle(&[]).await;
    assert!(!node.memory.path().join("secrets/shop").exists(), "it goes with its workload");
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_never_written_to_a_disk() {
    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    // procfs stands for any file system that is no tmpfs, whatever this machine has.
    node.runtime = Runtime::over(Arc::clone(&node.fake), node.dir.path(), std::path::Path::new("/proc"));
    let reports = node.settle(&[wanted(PINNED)]).await;
    assert_eq!(said(&reports[0]), (Phase::Failed, "DiskFailed"));
    assert!(node.fake.world().containers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_desired_goes_with_its_files_unless_that_is_not_certain() {
    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    node.settle(&[wanted(TILL)]).await;
    assert!(node.dir.path().join("logs/shop/till").exists());
    node.runtime.keep_unknown(true);
    node.settle(&[]).await;
    assert_eq!(node.fake.world().running(), ["web 0"]);
    node.runtime.keep_unknown(false);
    node.settle(&[]).await;
    assert!(node.fake.world().sandboxes.is_empty());
    assert!(!node.dir.path().join("logs/shop").exists());
}

#[tokio::test(start_paused = true)]
async fn a_port_that_a_process_of_the_node_has_is_told_and_healed() {
    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let till = wanted(&format!(
        r#"{{key: shop/till, spec: {{containers: [{{name: web, image: "till:1",
            ports: [{{containerPort: 80, hostPort: {port}}}]}}]}}}}"#
    ));
    let reports = node.settle(std::slice::from_ref(&till)).await;
    assert_eq!(said(&reports[0]), (Phase::Failed, "PortTaken"));
    drop(listener);
    tokio::time::advance(Duration::from_secs(10)).await;
    let reports = node.settle(&[till]).await;
    assert_eq!(said(&reports[0]), (Phase::Running, ""));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_for_a_moment_changes_no_state() {
    let mut node = Node::new();
    node.fake.world().images.insert("till:1".into());
    let till = wanted(TILL);
    let before = node.settle(std::slice::from_ref(&till)).await;
    node.fake.world().away = true;
    assert_eq!(node.runtime.reconcile(std::slice::from_ref(&till)).await, before);
    tokio::time::advance(Duration::from_secs(9)).await;
    let reports = node.runtime.reconcile(std::slice::from_ref(&till)).await;
    assert_eq!(said(&reports[0]), (Phase::Failed, "RuntimeUnavailable"));
    assert_eq!(reports[0].content_hash, Some(till.content_hash));
    assert!(node.runtime.info().error.is_some());
    node.fake.world().away = false;
    assert_eq!(node.runtime.reconcile(&[till]).await, before);
    assert_eq!(node.runtime.info().error, None);
}
