//! The one table of the pod fields that agents support.
//!
//! Three readers must agree on it, and do so by reading it: the schema of EdgeApplication (`crds`, which
//! types the fields), the support check ([`super::support`], which walks the raw JSON beside the table
//! and refuses by path what does not stand here), and the agent's types ([`super::PodTemplate`]; the test
//! below fails when a field of the table has no place in them, or the reverse). A field enters the table
//! with the commit that makes the agent obey it.
//!
//! Names and meanings are those of `core/v1 PodTemplateSpec`; list keys are upstream's merge keys, so that
//! server-side apply merges as it does for a Deployment.

use serde_json::Value;

/// A member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// What `kubectl explain` says: meaning, unit, default.
    pub about: &'static str,
}

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text of at most `max` characters.
    Text {
        /// Most characters.
        max: u32,
    },
    /// One of these words.
    Choice {
        /// The words.
        of: &'static [&'static str],
        /// What the API server fills in. Only for keys of lists, which must have a value.
        default: Option<&'static str>,
    },
    /// true or false.
    Bool,
    /// A whole number.
    Integer {
        /// Lowest.
        min: i64,
        /// Highest.
        max: i64,
    },
    /// Text by name; any name is supported.
    TextMap {
        /// Most members.
        entries: u32,
        /// Most characters of a value.
        max: u32,
    },
    /// An object with these members and no others.
    Object(&'static [Field]),
    /// A list of objects. `keys` tell its items apart; without keys the list is one value.
    List {
        /// Members of an item.
        of: &'static [Field],
        /// Upstream's merge keys.
        keys: &'static [&'static str],
        /// Fewest items.
        min: u32,
        /// Most items.
        max: u32,
    },
    /// A list of texts, replaced as a whole.
    TextList {
        /// Most items.
        items: u32,
        /// Most characters of one.
        max: u32,
    },
    /// Not supported, but the API server writes it into every Deployment: passes with Kubernetes' own
    /// default, which is what agents do anyway, and is refused with any other value.
    Only(Constant),
}

/// Kubernetes' default of a field that agents do not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Text.
    Text(&'static str),
    /// `{}`
    EmptyObject,
}

impl Constant {
    /// Whether `value` is this.
    #[must_use]
    pub fn is(self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Bool(expected) => value.as_bool() == Some(expected),
            Self::Text(expected) => value.as_str() == Some(expected),
            Self::EmptyObject => value.as_object().is_some_and(serde_json::Map::is_empty),
        }
    }
}

const fn field(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, required: false, about }
}

const fn required(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, required: true, about }
}

const fn only(name: &'static str, constant: Constant) -> Field {
    Field { name, kind: Kind::Only(constant), required: false, about: "" }
}

const fn choice(of: &'static [&'static str]) -> Kind {
    Kind::Choice { of, default: None }
}

/// DNS label.
const LABEL: Kind = Kind::Text { max: 63 };
/// DNS subdomain; also the longest key of a ConfigMap or Secret.
const NAME: Kind = Kind::Text { max: 253 };
/// Host, repository, tag and digest together; registries take no longer ones.
const IMAGE: Kind = Kind::Text { max: 1024 };
/// What Linux takes as a path (PATH_MAX).
const PATH: Kind = Kind::Text { max: 4096 };
/// A variable or an argument: room for a script, and a quarter of what Linux takes for one (128 KiB).
const LONG_TEXT: u32 = 32 * 1024;
const PORT: Kind = Kind::Integer { min: 1, max: 65_535 };

/// `spec.template`: the root of the table.
pub const TEMPLATE: &[Field] = &[
    field("metadata", Kind::Object(METADATA), "Labels and annotations of the pod."),
    required("spec", Kind::Object(SPEC), "What runs."),
];

const METADATA: &[Field] = &[
    field("labels", Kind::TextMap { entries: 64, max: 63 }, "Labels of the pod. At most 64."),
    field(
        "annotations",
        Kind::TextMap { entries: 64, max: 16 * 1024 },
        "Annotations of the pod. At most 64.",
    ),
    only("creationTimestamp", Constant::Null),
];

const SPEC: &[Field] = &[
    required(
        "containers",
        Kind::List { of: CONTAINER, keys: &["name"], min: 1, max: 16 },
        "Containers of the pod, 1 to 16; they share one network. Names are unique.",
    ),
    field(
        "restartPolicy",
        choice(&["Always", "OnFailure", "Never"]),
        "When an ended container starts again, with a growing delay: Always; OnFailure, when it ended with \
         another code than 0; Never. Default: Always.",
    ),
    field(
        "terminationGracePeriodSeconds",
        Kind::Integer { min: 0, max: 86_400 },
        "Seconds between SIGTERM and SIGKILL when a container is stopped, 0 to 86400. Default: 30.",
    ),
    field(
        "volumes",
        Kind::List { of: VOLUME, keys: &["name"], min: 0, max: 32 },
        "What containers can mount. At most 32; names are unique.",
    ),
    only("dnsPolicy", Constant::Text("ClusterFirst")),
    only("enableServiceLinks", Constant::Bool(true)),
    only("hostIPC", Constant::Bool(false)),
    only("hostNetwork", Constant::Bool(false)),
    only("hostPID", Constant::Bool(false)),
    only("schedulerName", Constant::Text("default-scheduler")),
    only("securityContext", Constant::EmptyObject),
];

const CONTAINER: &[Field] = &[
    required("name", LABEL, "Name, a DNS label of at most 63 characters, unique in the pod."),
    required("image", IMAGE, "Image, such as registry.example/shop/web:1.4. At most 1024 characters."),
    field(
        "imagePullPolicy",
        choice(&["Always", "IfNotPresent", "Never"]),
        "When the image is pulled. Default: Always for the tag latest or none, otherwise IfNotPresent.",
    ),
    field(
        "command",
        Kind::TextList { items: 64, max: LONG_TEXT },
        "Replaces the entry point of the image; no shell is involved. At most 64 words. Default: the image's.",
    ),
    field(
        "args",
        Kind::TextList { items: 64, max: LONG_TEXT },
        "Arguments of the entry point. At most 64. Default: the image's, unless command is set.",
    ),
    field("workingDir", PATH, "Working directory, an absolute path. Default: the image's."),
    field(
        "env",
        Kind::List { of: ENV, keys: &["name"], min: 0, max: 256 },
        "Environment variables, read when the container starts. At most 256; names are unique.",
    ),
    field(
        "envFrom",
        Kind::List { of: ENV_FROM, keys: &[], min: 0, max: 32 },
        "Sources whose keys all become environment variables; env wins over them, later ones over earlier \
         ones. At most 32.",
    ),
    field(
        "ports",
        Kind::List { of: PORTS, keys: &["containerPort", "protocol"], min: 0, max: 32 },
        "Ports on which the container listens. At most 32.",
    ),
    field(
        "volumeMounts",
        Kind::List { of: MOUNT, keys: &["mountPath"], min: 0, max: 32 },
        "Where volumes of the pod appear in the container. At most 32; paths are unique.",
    ),
    only("resources", Constant::EmptyObject),
    only("stdin", Constant::Bool(false)),
    only("stdinOnce", Constant::Bool(false)),
    only("terminationMessagePath", Constant::Text("/dev/termination-log")),
    only("terminationMessagePolicy", Constant::Text("File")),
    only("tty", Constant::Bool(false)),
];

const ENV: &[Field] = &[
    required("name", NAME, "Name of the variable. At most 253 characters."),
    field(
        "value",
        Kind::Text { max: LONG_TEXT },
        "Plain value, at most 32768 characters. Default: empty. Not together with valueFrom.",
    ),
    field("valueFrom", Kind::Object(VALUE_FROM), "Value from elsewhere. Not together with value."),
];

const VALUE_FROM: &[Field] = &[
    field(
        "configMapKeyRef",
        Kind::Object(CONFIG_MAP_KEY),
        "One key of a ConfigMap in the namespace. Not together with secretKeyRef.",
    ),
    field(
        "secretKeyRef",
        Kind::Object(SECRET_KEY),
        "One key of a Secret in the namespace; its value must be UTF-8. Not together with configMapKeyRef.",
    ),
];

const CONFIG_MAP_KEY: &[Field] = &[
    required("name", NAME, "Name of the ConfigMap."),
    required("key", NAME, "Key in it."),
    field("optional", Kind::Bool, "Whether the ConfigMap or the key may be missing. Default: false."),
];

const SECRET_KEY: &[Field] = &[
    required("name", NAME, "Name of the Secret."),
    required("key", NAME, "Key in it."),
    field("optional", Kind::Bool, "Whether the Secret or the key may be missing. Default: false."),
];

const ENV_FROM: &[Field] = &[
    field("prefix", NAME, "Put before each name. Default: empty."),
    field(
        "configMapRef",
        Kind::Object(CONFIG_MAP),
        "All keys of a ConfigMap in the namespace. Not together with secretRef.",
    ),
    field(
        "secretRef",
        Kind::Object(SECRET),
        "All keys of a Secret in the namespace whose values are UTF-8. Not together with configMapRef.",
    ),
];

const CONFIG_MAP: &[Field] = &[
    required("name", NAME, "Name of the ConfigMap."),
    field("optional", Kind::Bool, "Whether the ConfigMap may be missing. Default: false."),
];

const SECRET: &[Field] = &[
    required("name", NAME, "Name of the Secret."),
    field("optional", Kind::Bool, "Whether the Secret may be missing. Default: false."),
];

const PORTS: &[Field] = &[
    field("name", Kind::Text { max: 15 }, "Name of the port, at most 15 characters."),
    required("containerPort", PORT, "Port in the pod, 1 to 65535."),
    field("hostPort", PORT, "Port of the edge node that leads to it, 1 to 65535. Default: none."),
    field(
        "protocol",
        Kind::Choice { of: &["TCP", "UDP"], default: Some("TCP") },
        "Protocol of the port: TCP or UDP. Default: TCP.",
    ),
];

const MOUNT: &[Field] = &[
    required("name", LABEL, "Name of a volume of the pod."),
    required("mountPath", PATH, "Absolute path in the container, without a colon."),
    field(
        "readOnly",
        Kind::Bool,
        "Whether the container is kept from writing. Default: false; files of ConfigMaps and \
         Secrets are never writable.",
    ),
    only("mountPropagation", Constant::Text("None")),
    only("recursiveReadOnly", Constant::Text("Disabled")),
];

const VOLUME: &[Field] = &[
    required("name", LABEL, "Name, a DNS label of at most 63 characters, unique in the pod."),
    field(
        "configMap",
        Kind::Object(CONFIG_MAP_VOLUME),
        "Files from a ConfigMap in the namespace. Not together with secret.",
    ),
    field(
        "secret",
        Kind::Object(SECRET_VOLUME),
        "Files from a Secret in the namespace, kept in the node's memory. Not together with configMap.",
    ),
];

const CONFIG_MAP_VOLUME: &[Field] = &[
    required("name", NAME, "Name of the ConfigMap."),
    field("optional", Kind::Bool, "Whether ConfigMap and keys may be missing. Default: false."),
    field("defaultMode", MODE, MODE_ABOUT),
    field("items", ITEMS, ITEMS_ABOUT),
];

const SECRET_VOLUME: &[Field] = &[
    required("secretName", NAME, "Name of the Secret."),
    field("optional", Kind::Bool, "Whether Secret and keys may be missing. Default: false."),
    field("defaultMode", MODE, MODE_ABOUT),
    field("items", ITEMS, ITEMS_ABOUT),
];

const MODE: Kind = Kind::Integer { min: 0, max: 0o777 };
const MODE_ABOUT: &str =
    "Mode bits of the files, 0 to 511: YAML also takes octal, such as 0440. Default: 0644.";
const ITEMS: Kind = Kind::List { of: ITEM, keys: &[], min: 0, max: 64 };
const ITEMS_ABOUT: &str =
    "Which keys become files, and where. At most 64. Default: every key, as a file of its name.";

const ITEM: &[Field] = &[
    required("key", NAME, "Key in the object."),
    required("path", PATH, "Path of its file under the mount, relative, without \"..\"."),
];

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{Field, Kind, TEMPLATE};
    use crate::pod::PodTemplate;

    /// An object in which every supported field is set.
    fn sample(fields: &[Field]) -> Value {
        let mut object = Map::new();
        for field in fields {
            let value = match field.kind {
                Kind::Text { .. } => json!("text"),
                Kind::Choice { of, .. } => json!(of[of.len() - 1]),
                Kind::Bool => json!(true),
                Kind::Integer { max, .. } => json!(max),
                Kind::TextMap { .. } => json!({"any": "text"}),
                Kind::Object(fields) => sample(fields),
                Kind::List { of, .. } => json!([sample(of)]),
                Kind::TextList { .. } => json!(["text"]),
                Kind::Only(_) => continue,
            };
            object.insert(field.name.into(), value);
        }
        Value::Object(object)
    }

    #[test]
    fn the_types_of_the_agent_hold_each_field_and_no_other() {
        let sample = sample(TEMPLATE);
        let typed: PodTemplate = serde_json::from_value(sample.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), sample);
    }

    #[test]
    fn keys_of_lists_always_have_a_value() {
        fn walk(fields: &[Field]) {
            for field in fields {
                match field.kind {
                    Kind::Object(fields) => walk(fields),
                    Kind::List { of, keys, .. } => {
                        for key in keys {
                            let key = of.iter().find(|f| f.name == *key).unwrap();
                            let defaulted = matches!(key.kind, Kind::Choice { default: Some(_), .. });
                            assert!(key.required || defaulted, "{}[].{}", field.name, key.name);
                        }
                        walk(of);
                    }
                    _ => {}
                }
            }
        }
        walk(TEMPLATE);
    }
}
