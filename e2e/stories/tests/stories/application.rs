//! An application at the edge: it runs, follows its ConfigMap without a restart, and says why it does not.

use std::time::Duration;

use selvedge_cluster::EdgeHost;
use selvedge_stories::{Outcome, World, eventually, expect};

use crate::NODE;

/// What users are promised: visible within 15 s.
const VISIBLE: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(30);

pub fn runs_and_follows_its_config_map(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    world.wait_condition(&["edgeapplication", "hello", "-n", "shop"], "Ready", "True", PATIENCE)?;
    let started = page(&host, "started", |_| true)?;
    page(&host, "greeting", |text| text.contains("Hello from the edge"))?;
    page(&host, "index.html", |text| text.contains("Open from 8 to 20"))?;

    let patch = r#"{"data":{"page.html":"<h1>Closed today</h1>"}}"#;
    world.tools.kubectl(&["-n", "shop", "patch", "configmap", "hello", "--type", "merge", "-p", patch])?;
    page(&host, "index.html", |text| text.contains("Closed today"))?;
    expect("the container was not restarted", page(&host, "started", |_| true)? == started, started)
}

pub fn says_why_it_does_not_run(world: &World) -> Outcome {
    let application = |name: &str, container: &str| {
        format!(
            r#"{{"apiVersion":"selvedge.dev/v1alpha1","kind":"EdgeApplication","metadata":{{"name":"{name}","namespace":"shop"}},
            "spec":{{"selector":{{"matchLabels":{{"tier":"shop"}}}},"template":{{"spec":{{"containers":[{container}]}}}}}}}}"#
        )
    };
    let missing = application("missing", r#"{"name":"a","image":"selvedge.dev/no-such-image:1"}"#);
    let ending = application(
        "ending",
        r#"{"name":"a","image":"selvedge.dev/busybox:1","command":["sh","-c","exit 3"]}"#,
    );
    world.tools.kubectl_with(&["apply", "-f", "-"], &missing)?;
    world.tools.kubectl_with(&["apply", "-f", "-"], &ending)?;
    for (name, words) in [("missing", "image"), ("ending", "3")] {
        world.wait_object(
            &["edgeapplication", name, "-n", "shop"],
            &format!("saying {words:?}"),
            VISIBLE,
            |found| {
                let conditions = found["status"]["conditions"].to_string().to_lowercase();
                found["status"]["failed"] == 1 && conditions.contains(words)
            },
        )?;
    }
    // The cause goes, and so does the failure.
    let healed = application(
        "missing",
        r#"{"name":"a","image":"selvedge.dev/busybox:1","command":["sleep","100000"]}"#,
    );
    world.tools.kubectl_with(&["apply", "-f", "-"], &healed)?;
    world.wait_condition(&["edgeapplication", "missing", "-n", "shop"], "Ready", "True", PATIENCE)?;
    world.tools.kubectl(&["-n", "shop", "delete", "edgeapplication", "missing", "ending"])?;
    world.wait_object(&["edgenode", NODE], "rid of both", PATIENCE, |node| {
        let names = node["status"]["applications"].to_string();
        !names.contains("missing") && !names.contains("ending")
    })?;
    Ok(())
}

/// A page of the example's web server, asked for on the edge host, once it is as it should be.
pub fn page(host: &EdgeHost, name: &str, holds: impl Fn(&str) -> bool) -> Outcome<String> {
    page_at(host, 8080, name, holds)
}

/// A page of a web server on a port of the edge host, once it is as it should be.
pub fn page_at(host: &EdgeHost, port: u16, name: &str, holds: impl Fn(&str) -> bool) -> Outcome<String> {
    eventually(&format!("the page {name}"), PATIENCE, || {
        let url = format!("http://127.0.0.1:{port}/{name}");
        // Bounded from outside: Debian's busybox crashes on wget's own -T.
        let mut wget = host.command("timeout").map_err(|error| error.to_string())?;
        let words = ["2", "busybox", "wget", "-q", "-O", "-", &url];
        let output = wget.args(words).output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && holds(&text) {
            Ok(text)
        } else {
            Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
        }
    })
}
