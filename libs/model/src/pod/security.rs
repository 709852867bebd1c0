//! Pod Security: a namespace gets no more at the edge than in the cluster.
//!
//! Levels and names of checks are those of Kubernetes' Pod Security Standards. A check whose fields agents
//! do not support yet is one of two things: what it forbids cannot be written (host namespaces,
//! privileged), or what it demands cannot be (the `restricted` ones), and then nothing runs in such a
//! namespace.

use serde_json::Value;

use crate::fault::Fault;

/// What a pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything.
    Privileged,
    /// Nothing that is known to lead out of the container.
    Baseline,
    /// What is best practice.
    Restricted,
}

/// The label of a namespace that names its level.
pub const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";

impl Level {
    /// From the value of the namespace's `enforce` label; an unknown value is `Restricted`, as upstream.
    #[must_use]
    pub fn of(label: Option<&str>) -> Self {
        match label {
            None | Some("privileged") => Self::Privileged,
            Some("baseline") => Self::Baseline,
            Some(_) => Self::Restricted,
        }
    }

    /// As the label has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// What `restricted` demands of every container.
const DEMANDED: [(&str, &str); 4] = [
    ("allowPrivilegeEscalation", "securityContext.allowPrivilegeEscalation=false"),
    ("capabilities_restricted", "securityContext.capabilities.drop=[\"ALL\"]"),
    ("runAsNonRoot", "securityContext.runAsNonRoot=true"),
    ("seccompProfile_restricted", "securityContext.seccompProfile.type=RuntimeDefault"),
];

/// What in `template`, which stands at `path`, violates `level`, by upstream's name of the check.
#[must_use]
pub fn check(path: &str, template: &Value, level: Level) -> Vec<Fault> {
    let mut faults = Vec::new();
    if level == Level::Privileged {
        return faults;
    }
    let violates = format!("violates PodSecurity {:?}", level.name());
    let containers = template["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, container) in containers.iter().enumerate() {
        let ports = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (port, spec) in ports.iter().enumerate() {
            if let Some(number) = spec["hostPort"].as_u64().filter(|number| *number != 0) {
                let path = format!("{path}.spec.containers[{index}].ports[{port}].hostPort");
                let how = format!(
                    "{violates}: hostPorts ({number}): remove it, or label the namespace {ENFORCE_LABEL}=privileged"
                );
                faults.push(Fault::new(path, how));
            }
        }
    }
    if level == Level::Restricted {
        for (name, demand) in DEMANDED {
            faults.push(Fault::new(
                format!("{path}.spec"),
                format!(
                    "{violates}: {name} (needs {demand}, which agents do not support yet): run it in a namespace of \
                     level baseline"
                ),
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Level, check};

    fn faults(level: Option<&str>) -> Vec<String> {
        let template = json!({"spec": {"containers": [{"name": "web"}, {"ports": [{"hostPort": 80}]}]}});
        check("t", &template, Level::of(level)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_level_forbids_by_upstreams_names() {
        assert!(faults(None).is_empty());
        assert!(faults(Some("privileged")).is_empty());
        let baseline = faults(Some("baseline"));
        assert_eq!(baseline.len(), 1);
        assert!(
            baseline[0].starts_with(
                r#"t.spec.containers[1].ports[0].hostPort: violates PodSecurity "baseline": hostPorts (80)"#
            ),
            "{}",
            baseline[0]
        );
        for level in ["restricted", "a level that upstream does not know"] {
            let restricted = faults(Some(level)).join("\n");
            for name in ["hostPorts", "allowPrivilegeEscalation", "capabilities_restricted", "runAsNonRoot"] {
                assert!(restricted.contains(&format!(r#""restricted": {name} "#)), "{name} in {restricted}");
            }
        }
    }
}
