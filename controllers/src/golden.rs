//! Golden files of the pure parts: cases in YAML, what was decided in text, both in `testdata/`.
//!
//! `UPDATE_GOLDENS=1 cargo test -p selvedge-controllers` writes the texts anew; the diff is then what
//! a reviewer reads.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The documents of `testdata/<name>.yaml`.
pub fn cases<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(path(name, "yaml")).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents.map(|document| T::deserialize(document).unwrap()).collect()
}

/// Compares with `testdata/<name>.txt`.
pub fn check(name: &str, text: &str) {
    let path = path(name, "txt");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{} differs; UPDATE_GOLDENS=1 accepts", path.display());
}

/// A status in lines: conditions first, then the other fields.
pub fn rendered(status: &Value) -> String {
    let mut lines = String::new();
    for condition in status["conditions"].as_array().unwrap() {
        let part = |field: &str| condition[field].as_str().unwrap().to_owned();
        let (type_, status, reason, message) =
            (part("type"), part("status"), part("reason"), part("message"));
        lines += &format!("  {type_}={status} {reason}");
        lines += &if message.is_empty() { "\n".into() } else { format!(": {message}\n") };
    }
    for (field, value) in status.as_object().unwrap() {
        if field != "conditions" && field != "observedGeneration" && !value.is_null() {
            lines += &format!("  {field}: {value}\n");
        }
    }
    lines
}

fn path(name: &str, extension: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.{extension}"))
}
