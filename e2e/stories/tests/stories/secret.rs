//! A Secret at the edge: a variable and a file in the container, followed without a restart, kept while it is away,
//! and written down nowhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use selvedge_stories::{Outcome, World, eventually, expect};

use crate::NODE;
use crate::application::page_at;

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 8081;
/// Words that nothing else says.
const FIRST: &str = "quiet-walrus-4711";
const SECOND: &str = "loud-heron-0815";

const DOOR: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: door, namespace: shop}
data: {sign: plain-sign-of-the-door}
---
apiVersion: selvedge.dev/v1alpha1
kind: EdgeApplication
metadata: {name: door, namespace: shop}
spec:
  selector: {matchLabels: {tier: shop}}
  template:
    spec:
      containers:
      - name: door
        image: selvedge.dev/busybox:1
        command: [sh, -c]
        args:
        - |
          mkdir -p /www
          date -u +%s%N > /www/started
          echo "$PIN" | sha256sum > /www/variable
          ln -sf /etc/door/pin /www/file
          exec httpd -f -p 8081 -h /www
        env:
        - {name: PIN, valueFrom: {secretKeyRef: {name: door, key: pin}}}
        ports: [{containerPort: 8081, hostPort: 8081}]
        volumeMounts:
        - {name: pins, mountPath: /etc/door}
        - {name: sign, mountPath: /etc/sign}
      volumes:
      - {name: pins, secret: {secretName: door, defaultMode: 0440}}
      - {name: sign, configMap: {name: door}}
"#;

pub fn arrives_follows_and_is_written_down_nowhere(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    let secret = |pin: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"door","namespace":"shop"}},"stringData":{{"pin":"{pin}"}}}}"#
        )
    };
    let apply = |text: &str| world.tools.kubectl_with(&["apply", "-f", "-"], text);

    // The application first: it waits, and says for what.
    apply(DOOR)?;
    world.wait_object(&["edgenode", NODE], "waiting for the Secret", PATIENCE, |node| {
        let conditions = node["status"]["conditions"].to_string();
        conditions.contains("MissingReference") && conditions.contains("Secret shop/door does not exist")
    })?;
    apply(&secret(FIRST))?;
    world.wait_condition(&["edgeapplication", "door", "-n", "shop"], "Ready", "True", PATIENCE)?;
    page_at(&host, PORT, "file", |text| text == FIRST)?;
    let started = page_at(&host, PORT, "started", |text| !text.is_empty())?;
    let variable = page_at(&host, PORT, "variable", |text| !text.is_empty())?;

    apply(&secret(SECOND))?;
    page_at(&host, PORT, "file", |text| text == SECOND)?;
    expect("nothing was restarted", page_at(&host, PORT, "started", |_| true)? == started, &started)?;
    expect(
        "a variable waits for a start",
        page_at(&host, PORT, "variable", |_| true)? == variable,
        &variable,
    )?;

    is_written_down_nowhere(world, &host.disk().join("var-lib/selvedge"))?;

    // Deleted, it is kept; applied again, it goes on.
    world.tools.kubectl(&["-n", "shop", "delete", "secret", "door"])?;
    world.wait_object(&["edgenode", NODE], "missing the Secret", PATIENCE, |node| {
        node["status"]["conditions"].to_string().contains("MissingReference")
    })?;
    page_at(&host, PORT, "file", |text| text == SECOND)?;
    apply(&secret(FIRST))?;
    page_at(&host, PORT, "file", |text| text == FIRST)?;
    expect("nothing was restarted", page_at(&host, PORT, "started", |_| true)? == started, &started)?;

    world.tools.kubectl(&["-n", "shop", "delete", "edgeapplication,configmap,secret", "door"])?;
    let files = host.path("/run/selvedge/secrets/shop/door")?;
    eventually("its files are gone from the node's memory", PATIENCE, || {
        if files.exists() { Err(files.display().to_string()) } else { Ok(()) }
    })?;
    world.wait_condition(&["edgenode", NODE], "Synced", "True", PATIENCE)?;
    Ok(())
}

/// Both values, plain and as the API has them, are in no file of the agent, no log, no status and no event.
fn is_written_down_nowhere(world: &World, state: &Path) -> Outcome {
    let texts: Vec<String> =
        [FIRST, SECOND].into_iter().flat_map(|pin| [pin.to_owned(), STANDARD.encode(pin)]).collect();
    let control = files_with(state, "plain-sign-of-the-door");
    let in_ledger = control.iter().any(|file| file.to_string_lossy().contains("ledger.db"));
    expect(
        "the search finds a ConfigMap in files and ledger",
        control.len() > 1 && in_ledger,
        format!("{control:?}"),
    )?;
    for text in &texts {
        for folder in [state, &world.layout().logs()] {
            let found = files_with(folder, text);
            expect(
                &format!("no file below {} holds it", folder.display()),
                found.is_empty(),
                format!("{found:?}"),
            )?;
        }
    }
    let host = world.cluster.edge(NODE)?;
    let spoken = [
        ("status of the agent", world.agent_says(&host, &["status"])?),
        ("objects", world.tools.kubectl(&["get", "selvedge", "-A", "-o", "yaml"])?),
        ("events", world.tools.kubectl(&["get", "events", "-A", "-o", "yaml"])?),
        ("hub", logs(world, "selvedge-hub")?),
        ("controller", logs(world, "edgeapplication-controller")?),
    ];
    for (what, said) in &spoken {
        expect(&format!("{what} says something"), !said.is_empty(), what)?;
        let leaked = texts.iter().any(|text| said.contains(text));
        expect(&format!("{what} does not say the value"), !leaked, what)?;
    }
    Ok(())
}

fn logs(world: &World, component: &str) -> Outcome<String> {
    let label = format!("app.kubernetes.io/component={component}");
    Ok(world.tools.kubectl(&["-n", "selvedge-system", "logs", "-l", &label, "--tail=-1"])?)
}

fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(files_with(&path, text));
        } else if kind.is_file()
            && fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
        {
            found.push(path);
        }
    }
    found
}
