//! The CRDs as files: plain YAML, and templates of the chart.

use serde_json::{Value, json};

/// First line of every generated file.
const HEADER: &str = "# Made from the types in crds/ by `make generate`. Do not edit.\n";

/// One file.
pub struct Manifest {
    /// Its name, such as `devices.yaml`.
    pub file: String,
    /// Its whole text.
    pub text: String,
}

/// Plain YAML, as `kubectl apply -f` takes it.
///
/// # Errors
/// When YAML cannot say a CRD, which no CRD of ours provokes.
pub fn plain() -> Result<Vec<Manifest>, serde_yaml::Error> {
    crate::crds()
        .iter()
        .map(|crd| Ok(Manifest { file: file(crd), text: format!("{HEADER}{}", serde_yaml::to_string(crd)?) }))
        .collect()
}

/// Templates of the chart: rendered unless `crds.install` is false, and kept by `helm uninstall`, because
/// deleting a CRD deletes every object of its kind.
///
/// # Errors
/// As [`plain`].
pub fn chart() -> Result<Vec<Manifest>, serde_yaml::Error> {
    crate::crds()
        .into_iter()
        .map(|mut crd| {
            crd["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
            crd["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "selvedge"});
            let body = serde_yaml::to_string(&crd)?.replace("{{", "{{ \"{{\" }}");
            let text = format!("{HEADER}{{{{- if .Values.crds.install }}}}\n{body}{{{{- end }}}}\n");
            Ok(Manifest { file: file(&crd), text })
        })
        .collect()
}

fn file(crd: &Value) -> String {
    let plural = crd.pointer("/spec/names/plural").and_then(Value::as_str).unwrap_or_default();
    format!("{plural}.yaml")
}
