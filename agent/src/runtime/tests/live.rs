//! A real container runtime, when `SELVEDGE_TEST_CRI` names its socket and `SELVEDGE_TEST_IMAGE` an
//! image that it has, that runs on without arguments and has /bin/sh. Without them there is nothing to test against,
//! and the stories on the whole cluster do it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use selvedge_protocol::agent::Phase;
use tokio::time::timeout;

use super::golden::Wanted;
use crate::runtime::{DesiredWorkload, Runtime, WorkloadReport};

/// Socket and image, if there is something to test against.
fn given() -> Option<(PathBuf, String)> {
    Some((std::env::var_os("SELVEDGE_TEST_CRI")?.into(), std::env::var("SELVEDGE_TEST_IMAGE").ok()?))
}

/// Passes until the one workload's report fits.
async fn until(
    runtime: &mut Runtime,
    desired: &DesiredWorkload,
    fits: impl Fn(&WorkloadReport) -> bool,
) -> WorkloadReport {
    let mut last = None;
    let found = timeout(Duration::from_secs(30), async {
        loop {
            let report = runtime.reconcile(std::slice::from_ref(desired)).await.remove(0);
            if fits(&report) {
                return report;
            }
            last = Some(report);
            let _ = timeout(Duration::from_millis(200), runtime.job_ended()).await;
        }
    });
    match found.await {
        Ok(report) => report,
        Err(_) => panic!("not so within 30 s; the last report was {last:?}"),
    }
}

async fn until_gone(runtime: &mut Runtime, logs: &Path) {
    let gone = timeout(Duration::from_secs(30), async {
        while !runtime.reconcile(&[]).await.is_empty() || logs.exists() {
            let _ = timeout(Duration::from_millis(200), runtime.job_ended()).await;
        }
    });
    gone.await.expect("is gone within 30 s");
}

fn wanted(yaml: &str) -> DesiredWorkload {
    serde_yaml::from_str::<Wanted>(yaml).unwrap().entry()
}

#[tokio::test]
async fn a_container_comes_is_adopted_and_goes() {
    let Some((socket, image)) = given() else { return };
    let dir = tempfile::tempdir().unwrap();
    let till = wanted(&format!(
        r#"{{key: live/till, uid: u1, configMaps: {{settings: {{data: {{mode: fast}}}}}},
            spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: web, image: "{image}",
                imagePullPolicy: Never, volumeMounts: [{{name: conf, mountPath: /conf}}]}}],
              volumes: [{{name: conf, configMap: {{name: settings}}}}]}}}}"#
    ));
    let runs = |report: &WorkloadReport| {
        report.state.phase == i32::from(Phase::Running) && report.content_hash.is_some()
    };
    let mut runtime = Runtime::connect(&socket, dir.path(), dir.path());
    let first = until(&mut runtime, &till, runs).await;
    let mut another = Runtime::connect(&socket, dir.path(), dir.path());
    let second = until(&mut another, &till, runs).await;
    assert_eq!(first.state, second.state, "another agent restarts nothing");
    until_gone(&mut another, &dir.path().join("logs/live")).await;
}

#[tokio::test]
async fn how_a_container_ends_is_told() {
    let Some((socket, image)) = given() else { return };
    for (command, reason, words) in [
        (
            "echo no such till; exit 3",
            "CrashLoop",
            "ended with code 3, saying \"no such till\"; restarted 1 times",
        ),
        ("", "StartFailed", "/bin/none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let program = if command.is_empty() { "/bin/none" } else { "/bin/sh" };
        let end = wanted(&format!(
            r#"{{key: live/end-{}, spec: {{containers: [{{name: web, image: "{image}", imagePullPolicy: Never,
                command: ["{program}", "-c", "{command}"]}}]}}}}"#,
            reason.to_lowercase()
        ));
        let mut runtime = Runtime::connect(&socket, dir.path(), dir.path());
        let told = |report: &WorkloadReport| {
            report.state.reason == reason
                && report.state.restarts == 1
                && report.state.message.contains(words)
        };
        let report = until(&mut runtime, &end, told).await;
        assert_eq!(report.content_hash.is_some(), reason == "CrashLoop", "what never started is not applied");
        until_gone(&mut runtime, &dir.path().join("logs/live")).await;
    }
}
