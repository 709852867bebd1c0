//! The examples, and how users look at them.

use std::time::Duration;

use selvedge_stories::{Outcome, eventually, expect};

use crate::Stage;

/// Applied again, nothing changes and nothing differs: the API server fills in nothing that a second apply
/// would take away.
pub fn apply_twice_and_differ_not(stage: &Stage) -> Outcome {
    let examples = stage.path("examples");
    let said = stage.tools.kubectl(&["apply", "-f", &examples])?;
    expect("there are ten examples", said.lines().count() == 10, &said)?;
    expect("all are unchanged", said.lines().all(|line| line.ends_with("unchanged")), &said)?;
    // Exit code 1 is a difference.
    stage.tools.kubectl(&["diff", "-f", &examples])?;
    let said = stage.tools.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &examples])?;
    expect("server-side apply takes them too", said.lines().count() == 10, said)
}

pub fn are_shown_in_columns(stage: &Stage) -> Outcome {
    let tables: [(&str, &[&str]); 4] = [
        ("edgenodes", &["NAME", "READY", "CONNECTED", "SYNCED", "APPS", "DEVICES", "VERSION", "AGE"]),
        (
            "edgeapplications",
            &["NAME", "READY", "DESIRED", "UPDATED", "READY-NODES", "FAILED", "OFFLINE", "AGE"],
        ),
        ("devicemodels", &["NAME", "READY", "DEVICES", "AGE"]),
        ("devices", &["NAME", "MODEL", "NODE", "READY", "SYNCED", "VALUES", "AGE"]),
    ];
    for (kind, columns) in tables {
        let said = stage.tools.kubectl(&["get", kind, "-n", "shop"])?;
        let found: Vec<&str> = said.lines().next().unwrap_or_default().split_whitespace().collect();
        expect(&format!("columns of {kind}"), found == columns, &said)?;
    }
    for (short, name) in [("en", "shop-0042"), ("ea", "hello"), ("dm", "boiler"), ("dev", "boiler-1")] {
        stage.tools.kubectl(&["get", short, name, "-n", "shop"])?;
    }
    let said = stage.tools.kubectl(&["get", "selvedge", "-n", "shop", "-o", "name"])?;
    expect("the category holds every kind", said.lines().count() == 8, said)
}

/// `kubectl explain` says enough to write the field: what it means, its unit, bounds and default.
pub fn are_explained(stage: &Stage) -> Outcome {
    let texts: [(&str, &[&str]); 5] = [
        (
            "device.spec.properties.source.modbus",
            &[
                "Protocol address, 0 to 65535",
                "enum: Coil, DiscreteInput",
                "IEEE",
                "Default: Uint16",
                "Default: 1",
            ],
        ),
        ("device.spec.protocol.modbus.tcp", &["as the edge node sees it", "1 to 65535. Default: 502"]),
        ("devicemodel.spec.properties", &["Default: 1s", "at least 10ms", "Default: ReadOnly"]),
        (
            "edgeapplication.spec.template.spec.containers",
            &["no shell is involved", "names are unique", "Default: Always for the tag latest"],
        ),
        ("edgenode.spec.join.ttl", &["at most 2160h", "Default: 1h"]),
    ];
    for (field, words) in texts {
        // The schema that explain reads is published after the CRD is established.
        let said = eventually(&format!("explain {field}"), Duration::from_secs(30), || {
            stage.tools.kubectl(&["explain", field]).map_err(|error| error.to_string())
        })?;
        let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            expect(&format!("explain {field} says {word:?}"), line.contains(word), &said)?;
        }
    }
    Ok(())
}

pub fn are_found_by_fields(stage: &Stage) -> Outcome {
    let found = |selector: &str| -> Outcome<String> {
        Ok(stage.tools.kubectl(&["get", "devices", "-A", "-o", "name", "--field-selector", selector])?)
    };
    let one = found("spec.nodeName=shop-0042,spec.modelRef.name=boiler")?;
    expect("node and model select one", one.trim() == "device.selvedge.dev/boiler-1", &one)?;
    let both = found("spec.nodeName=shop-0042")?;
    expect("the node selects both", both.lines().count() == 2, &both)?;
    let none = found("spec.nodeName=shop-0043")?;
    expect("another node selects none", none.is_empty(), none)
}

/// Status is a subresource: it wakes waiters, and is no new generation.
pub fn are_waited_for(stage: &Stage) -> Outcome {
    let generation = || -> Outcome<String> {
        let path = "jsonpath={.metadata.generation}";
        Ok(stage.tools.kubectl(&["get", "device", "room-1", "-n", "shop", "-o", path])?)
    };
    let before = generation()?;
    let wait = ["wait", "--for=condition=Ready", "device/room-1", "-n", "shop", "--timeout=1s"];
    let (early, _, said) = stage.attempt("kubectl", &wait, "")?;
    expect("nothing is ready before anyone said so", !early, said)?;
    let status = r#"{"status":{"summary":"temperature=20.1 °C","conditions":[{"type":"Ready","status":"True",
        "reason":"Answers","message":"","lastTransitionTime":"2026-01-01T00:00:00Z","observedGeneration":1}]}}"#;
    let patch =
        ["patch", "device", "room-1", "-n", "shop", "--subresource=status", "--type=merge", "-p", status];
    stage.tools.kubectl(&patch)?;
    stage.tools.kubectl(&wait)?;
    let after = generation()?;
    expect("a status is no new generation", before == after, format!("{before} became {after}"))?;
    let ignored = [
        "patch",
        "device",
        "room-1",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        r#"{"status":{"summary":"forged"}}"#,
    ];
    stage.tools.kubectl(&ignored)?;
    let said = stage.tools.kubectl(&["get", "device", "room-1", "-n", "shop"])?;
    expect("status is written through its subresource alone", said.contains("20.1 °C"), said)
}
