//! What cannot work is refused, with the path, the value, the limit and the way out.

use selvedge_stories::{Outcome, World, expect};

use crate::NODE;

pub fn what_cannot_work_is_refused(world: &World) -> Outcome {
    let desired = |text: &str| format!(r#"{{"spec":{{"desired":{text}}}}}"#);
    for (what, patch, words) in [
        ("a setpoint out of range", desired(r#"{"setpoint":500}"#), ["setpoint", "500", "90"]),
        ("a setpoint of another type", desired(r#"{"setpoint":"warm"}"#), ["setpoint", "warm", "int"]),
        ("a read-only property", desired(r#"{"temperature":20}"#), ["temperature", "read", "desired"]),
    ] {
        let words_of_patch = ["-n", "shop", "patch", "device", "boiler-1", "--type", "merge", "-p", &patch];
        refused(what, world.tools.kubectl(&words_of_patch), &words)?;
    }
    let privileged = r#"{"apiVersion":"selvedge.dev/v1alpha1","kind":"EdgeApplication",
        "metadata":{"name":"bad","namespace":"shop"},"spec":{"selector":{"matchLabels":{"tier":"shop"}},
        "template":{"spec":{"containers":[{"name":"a","image":"a:1","securityContext":{"privileged":true}}]}}}}"#;
    let apply = world.tools.kubectl_with(&["apply", "-f", "-"], privileged);
    refused("an unsupported pod field", apply, &["spec.template.spec.containers[0].securityContext"])?;
    // A model that is not there yet is no reason to refuse: files come in any order.
    let early = r#"{"apiVersion":"selvedge.dev/v1alpha1","kind":"Device","metadata":{"name":"early","namespace":"shop"},
        "spec":{"modelRef":{"name":"not-yet"},"nodeName":"shop-0042","protocol":{"simulated":{}}}}"#;
    world.tools.kubectl_with(&["apply", "-f", "-"], early)?;
    world.wait_object(
        &["device", "early", "-n", "shop"],
        "saying which model is missing",
        std::time::Duration::from_secs(15),
        |device| device["status"]["conditions"].to_string().contains("not-yet"),
    )?;
    world.tools.kubectl(&["-n", "shop", "delete", "device", "early"])?;
    Ok(())
}

pub fn a_model_in_use_stays(world: &World) -> Outcome {
    let delete = world.tools.kubectl(&["-n", "shop", "delete", "devicemodel", "boiler"]);
    refused("the deletion of a model in use", delete, &["boiler-1"])
}

pub fn unknown_agent_settings_are_named(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    let file = host.disk().join("var-lib/bad-agent.yaml");
    std::fs::write(&file, "stateDir: /var/lib/selvedge\ncolour: blue\n").map_err(|source| {
        selvedge_stories::StoryError::Io { what: "write an agent configuration".into(), source }
    })?;
    let answer = world.agent_says(&host, &["run", "--config", "/var/lib/bad-agent.yaml"]);
    match answer {
        Ok(said) => expect("an unknown setting is refused", false, said),
        Err(error) => expect("the refusal names the setting", error.to_string().contains("colour"), error),
    }
}

/// Holds a refusal against the words that it must have.
fn refused<E: std::fmt::Display>(what: &str, answer: Result<String, E>, words: &[&str]) -> Outcome {
    match answer {
        Ok(said) => expect(&format!("{what} is refused"), false, said),
        Err(refusal) => {
            let text = refusal.to_string();
            let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
            expect(&format!("the refusal of {what} says {missing:?}"), missing.is_empty(), text)
        }
    }
}
