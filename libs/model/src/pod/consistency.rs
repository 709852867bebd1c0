//! What types cannot say of a pod template: syntax of names, duplicates, mounts without volumes.
//!
//! Reads raw JSON and passes over what has the wrong type: [`super::support`] has said that.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fault::Fault;
use crate::names::{
    DNS_LABEL, DNS_SUBDOMAIN, is_config_key, is_dns_label, is_dns_subdomain, is_env_name, is_image,
    is_label_key, is_label_value, is_port_name,
};

/// What is inconsistent in `template`, which stands at `path`.
#[must_use]
pub fn check(path: &str, template: &Value) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    faults.metadata(&format!("{path}.metadata"), &template["metadata"]);
    let volumes = faults.volumes(&format!("{path}.spec.volumes"), &template["spec"]["volumes"]);
    let (mut names, mut ports) = (Unique::default(), Unique::default());
    let mut port_names = Unique::default();
    for (path, container) in items(&format!("{path}.spec.containers"), &template["spec"]["containers"]) {
        faults.unique(&format!("{path}.name"), &mut names, text(&container["name"]), "name of a container");
        faults.container(&path, container, &volumes, &mut ports, &mut port_names);
    }
    faults.0
}

/// Values seen so far, each with its path.
#[derive(Default)]
struct Unique(BTreeMap<String, String>);

struct Faults(Vec<Fault>);

impl Faults {
    fn say(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault::new(path, message));
    }

    /// Says so unless `holds`.
    fn need(&mut self, holds: bool, path: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.say(path, message());
        }
    }

    fn unique(&mut self, path: &str, seen: &mut Unique, value: &str, what: &str) {
        if let Some(first) = seen.0.get(value) {
            let message = format!("{value:?} is the {what} at {first} already: each must be unique");
            self.say(path, message);
        } else if !value.is_empty() {
            seen.0.insert(value.to_owned(), path.to_owned());
        }
    }

    fn metadata(&mut self, path: &str, metadata: &Value) {
        for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
            let at = format!("{path}.labels[{key}]");
            self.need(is_label_key(key), &at, || {
                "is no label key: write name or prefix.example/name".to_owned()
            });
            self.need(is_label_value(text(value)), &at, || {
                format!("{value} is no label value: at most 63 letters, digits, -, _ and .")
            });
        }
        for key in metadata["annotations"].as_object().into_iter().flatten().map(|(key, _)| key) {
            self.need(is_label_key(&key.to_lowercase()), &format!("{path}.annotations[{key}]"), || {
                "is no annotation key: write name or prefix.example/name".to_owned()
            });
        }
    }

    /// Returns the names of the volumes.
    fn volumes<'a>(&mut self, path: &str, volumes: &'a Value) -> BTreeSet<&'a str> {
        let mut names = Unique::default();
        for (path, volume) in items(path, volumes) {
            let name = text(&volume["name"]);
            self.need(is_dns_label(name), &format!("{path}.name"), || format!("{name:?} is not {DNS_LABEL}"));
            self.unique(&format!("{path}.name"), &mut names, name, "name of a volume");
            self.one_source(&path, volume, &["configMap", "secret"]);
            self.object_name(&format!("{path}.configMap.name"), &volume["configMap"]["name"]);
            self.object_name(&format!("{path}.secret.secretName"), &volume["secret"]["secretName"]);
            for kind in ["configMap", "secret"] {
                self.items(&format!("{path}.{kind}.items"), &volume[kind]["items"]);
            }
        }
        volumes.as_array().into_iter().flatten().map(|volume| text(&volume["name"])).collect()
    }

    fn items(&mut self, path: &str, list: &Value) {
        let mut files = Unique::default();
        for (path, item) in items(path, list) {
            self.config_key(&format!("{path}.key"), &item["key"]);
            let file = text(&item["path"]);
            self.need(is_inner_path(file), &format!("{path}.path"), || {
                format!("{file:?} must be a relative path without \"..\"")
            });
            self.unique(&format!("{path}.path"), &mut files, file, "path of an item");
        }
    }

    /// Exactly one of the members `of` must be there.
    fn one_source(&mut self, path: &str, holder: &Value, of: &[&str]) {
        let there = of.iter().filter(|member| holder[**member].is_object()).count();
        let (needs, most) = (of.join(" or "), of.join(" and "));
        self.need(there > 0, path, || format!("needs a source: {needs}"));
        self.need(there < 2, path, || format!("has both {most}: keep one"));
    }

    fn container(
        &mut self,
        path: &str,
        container: &Value,
        volumes: &BTreeSet<&str>,
        host_ports: &mut Unique,
        port_names: &mut Unique,
    ) {
        let name = text(&container["name"]);
        self.need(is_dns_label(name), &format!("{path}.name"), || format!("{name:?} is not {DNS_LABEL}"));
        self.image(&format!("{path}.image"), &container["image"]);
        if let Some(dir) = container["workingDir"].as_str() {
            self.need(dir.starts_with('/'), &format!("{path}.workingDir"), || {
                format!("{dir:?} must be an absolute path")
            });
        }
        self.env(path, container);
        self.ports(&format!("{path}.ports"), &container["ports"], host_ports, port_names);
        let mut mounts = Unique::default();
        for (path, mount) in items(&format!("{path}.volumeMounts"), &container["volumeMounts"]) {
            let volume = text(&mount["name"]);
            self.need(volumes.contains(volume), &format!("{path}.name"), || {
                format!("{volume:?} is no volume of this pod: name one of spec.volumes, or add it there")
            });
            let at = text(&mount["mountPath"]);
            self.need(at.starts_with('/') && !at.contains(':'), &format!("{path}.mountPath"), || {
                format!("{at:?} must be an absolute path without a colon")
            });
            self.unique(&format!("{path}.mountPath"), &mut mounts, at, "mount");
        }
    }

    /// Also for the image of an override.
    fn image(&mut self, path: &str, image: &Value) {
        let image = text(image);
        self.need(is_image(image), path, || {
            format!("{image:?} is no image reference: write it like registry.example/shop/web:1.4, repository in lower case")
        });
    }

    fn env(&mut self, path: &str, container: &Value) {
        let mut names = Unique::default();
        for (path, variable) in items(&format!("{path}.env"), &container["env"]) {
            let name = text(&variable["name"]);
            self.need(is_env_name(name), &format!("{path}.name"), || {
                format!("{name:?} is no name of a variable: printable ASCII without =")
            });
            self.unique(&format!("{path}.name"), &mut names, name, "name of a variable");
            let source = &variable["valueFrom"];
            if source.is_object() {
                self.need(text(&variable["value"]).is_empty(), &path, || {
                    "has both value and valueFrom: keep one".to_owned()
                });
                let path = format!("{path}.valueFrom");
                self.one_source(&path, source, &["configMapKeyRef", "secretKeyRef"]);
                for kind in ["configMapKeyRef", "secretKeyRef"].into_iter().filter(|k| source[k].is_object())
                {
                    self.object_name(&format!("{path}.{kind}.name"), &source[kind]["name"]);
                    self.config_key(&format!("{path}.{kind}.key"), &source[kind]["key"]);
                }
            }
        }
        for (path, source) in items(&format!("{path}.envFrom"), &container["envFrom"]) {
            let prefix = text(&source["prefix"]);
            self.need(prefix.is_empty() || is_env_name(prefix), &format!("{path}.prefix"), || {
                format!("{prefix:?} begins no name of a variable: printable ASCII without =")
            });
            self.one_source(&path, source, &["configMapRef", "secretRef"]);
            for kind in ["configMapRef", "secretRef"] {
                self.object_name(&format!("{path}.{kind}.name"), &source[kind]["name"]);
            }
        }
    }

    fn ports(&mut self, path: &str, ports: &Value, host_ports: &mut Unique, port_names: &mut Unique) {
        let mut own = Unique::default();
        for (path, port) in items(path, ports) {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            if let Some(name) = port["name"].as_str() {
                self.need(is_port_name(name), &format!("{path}.name"), || {
                    format!("{name:?} is no name of a port: at most 15 of a-z, 0-9 and -, with a letter")
                });
                self.unique(&format!("{path}.name"), port_names, name, "name of a port");
            }
            if let Some(number) = port["containerPort"].as_u64() {
                self.unique(&path, &mut own, &format!("{number}/{protocol}"), "port");
            }
            if let Some(number) = port["hostPort"].as_u64() {
                let at = format!("{path}.hostPort");
                self.unique(&at, host_ports, &format!("{number}/{protocol}"), "port of the node");
            }
        }
    }

    fn object_name(&mut self, path: &str, name: &Value) {
        if let Some(name) = name.as_str() {
            self.need(is_dns_subdomain(name), path, || format!("{name:?} is not {DNS_SUBDOMAIN}"));
        }
    }

    fn config_key(&mut self, path: &str, key: &Value) {
        let key = text(key);
        self.need(is_config_key(key), path, || {
            format!("{key:?} is no key of a ConfigMap or Secret: letters, digits, -, _ and .")
        });
    }
}

/// What is wrong with what an override changes in `containers` of the template.
#[must_use]
pub(crate) fn check_override(path: &str, change: &Value, template: &Value) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    let known: BTreeSet<_> =
        template["spec"]["containers"].as_array().into_iter().flatten().map(|c| text(&c["name"])).collect();
    for (path, container) in items(&format!("{path}.containers"), &change["containers"]) {
        let name = text(&container["name"]);
        faults.need(known.contains(name), &format!("{path}.name"), || {
            let known: Vec<_> = known.iter().copied().collect();
            format!("{name:?} is no container of the template: name one of {}", known.join(", "))
        });
        if !container["image"].is_null() {
            faults.image(&format!("{path}.image"), &container["image"]);
        }
        faults.env(&path, container);
    }
    faults.0
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items<'a>(path: &str, list: &'a Value) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
    let path = path.to_owned();
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().enumerate().map(move |(index, item)| (format!("{path}[{index}]"), item))
}

fn is_inner_path(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !part.is_empty() && part != "..")
}
