//! A life of certificates, in minutes instead of months: renewed while a session lives, after its end, and never by
//! whoever holds a copy of an older one.

use std::path::Path;
use std::time::Duration;

use selvedge_cluster::EdgeHost;
use selvedge_stories::{Installed, Outcome, StoryError, World, eventually, expect};
use serde_json::Value;

const CELLAR: &str = "shop-cellar";
const NODE: [&str; 2] = ["edgenode", CELLAR];
const PATIENCE: Duration = Duration::from_secs(60);
/// Renewed after two thirds of a minute and a half, and at most a tenth more.
const LIFE: &str = "identity.agentCertificateLife=90s";
const A_LIFE: Duration = Duration::from_secs(120);
const FILES: [&str; 2] = ["key.pem", "identity.json"];

pub fn a_certificate_is_renewed_also_late_and_an_old_one_is_refused(world: &World) -> Outcome {
    let chart = world.file("charts/selvedge");
    world.install(Installed { chart: &chart, words: &["--set", LIFE] })?;
    let manifest = format!(
        "{{apiVersion: selvedge.dev/v1alpha1, kind: EdgeNode, metadata: {{name: {CELLAR}}}, spec: {{}}}}"
    );
    world.tools.kubectl_with(&["apply", "-f", "-"], &manifest)?;
    let host = world.cluster.create_edge(CELLAR)?;
    world.join(&host, CELLAR)?;
    let lived = live(world, &host);
    // The node goes, and certificates live as long as they did.
    world.tools.kubectl(&["delete", "edgenode", CELLAR])?;
    world.cluster.destroy_edge(CELLAR)?;
    world.install(Installed { chart: &chart, words: &[] })?;
    lived
}

fn live(world: &World, host: &EdgeHost) -> Outcome {
    let first = newest(world, "", PATIENCE)?;
    let state = host.disk().join("var-lib/selvedge");
    let stolen = copies(&state)?;
    let agent = host.process("agent");
    let second = newest(world, &first, A_LIFE)?;
    world.wait_condition(&NODE, "Connected", "True", PATIENCE)?;
    expect("the agent was not restarted", host.process("agent") == agent, format!("{agent:?}"))?;

    // Somebody has the disk as it was.
    world.stop_agent(host)?;
    let own = copies(&state)?;
    restore(&state, &stolen)?;
    world.start_agent(host)?;
    eventually("an Event says that an old certificate was shown", PATIENCE, || {
        let select = format!("involvedObject.name={CELLAR},reason=OldCertificate");
        let words = ["get", "events", "--all-namespaces", "--field-selector", &select, "-o", "name"];
        let found = world.tools.kubectl(&words).map_err(|error| error.to_string())?;
        if found.trim().is_empty() { Err("there is none".to_owned()) } else { Ok(()) }
    })?;
    let record = world.tools.object(&NODE).map(|node| serial(&node)).unwrap_or_default();
    expect("the copy got no certificate", record == second, record)?;
    world.stop_agent(host)?;

    // The node itself was away past the end of its certificate.
    restore(&state, &own)?;
    eventually("its certificate has ended", A_LIFE, || {
        let node = world.tools.object(&NODE).ok_or("it does not exist")?;
        let ends = record_of(&node)["current"]["notAfter"].as_str().unwrap_or_default().to_owned();
        let ends: jiff::Timestamp = ends.parse().map_err(|_| format!("it ends at {ends:?}"))?;
        if ends < selvedge_operator::clock::now() { Ok(()) } else { Err(format!("it ends at {ends}")) }
    })?;
    world.start_agent(host)?;
    newest(world, &second, PATIENCE)?;
    world.wait_condition(&NODE, "Connected", "True", PATIENCE)?;
    Ok(())
}

/// Waits until the newest certificate that was used is another than `than`; gives its serial number.
fn newest(world: &World, than: &str, within: Duration) -> Outcome<String> {
    let what = format!("with another certificate than {than:?}");
    let holds = |node: &Value| !serial(node).is_empty() && serial(node) != than;
    Ok(serial(&world.wait_object(&NODE, &what, within, holds)?))
}

fn serial(node: &Value) -> String {
    record_of(node)["current"]["serial"].as_str().unwrap_or_default().to_owned()
}

fn record_of(node: &Value) -> Value {
    let text = node["metadata"]["annotations"]["selvedge.dev/identity"].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

fn copies(state: &Path) -> Outcome<Vec<Vec<u8>>> {
    FILES.iter().map(|file| std::fs::read(state.join(file)).map_err(io("copy an identity"))).collect()
}

fn restore(state: &Path, copies: &[Vec<u8>]) -> Outcome {
    let mut files = FILES.iter().zip(copies);
    files
        .try_for_each(|(file, bytes)| std::fs::write(state.join(file), bytes))
        .map_err(io("put an identity back"))
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> StoryError + '_ {
    move |source| StoryError::Io { what: what.to_owned(), source }
}
