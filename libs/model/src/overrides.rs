//! Overrides: what differs on some nodes of an application.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::selector::Selector;

/// One override: on nodes that `selector` selects, containers get another image or more environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Override {
    /// Names the override in messages; unique. At most 63 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub name: String,
    /// Over the labels of EdgeNodes.
    pub selector: Selector,
    /// What changes, by container. At most 16; names are unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "containers"))]
    pub containers: Vec<ContainerOverride>,
}

/// What changes in one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ContainerOverride {
    /// Name of the container in the template.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 63)))]
    pub name: String,
    /// Replaces the image. At most 1024 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 1024)))]
    pub image: Option<String>,
    /// Environment by name: replaces a variable's value or adds one. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "variables"))]
    pub env: Vec<EnvOverride>,
}

/// One environment variable of an override.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EnvOverride {
    /// Name of the variable.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub name: String,
    /// Its value. Default: empty. At most 32768 characters.
    #[cfg_attr(feature = "schema", schemars(length(max = 32768)))]
    #[serde(default)]
    pub value: String,
}

#[cfg(feature = "schema")]
fn containers(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::schema::by_name::<ContainerOverride>(generator, 16)
}

#[cfg(feature = "schema")]
fn variables(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::schema::by_name::<EnvOverride>(generator, 64)
}

/// Applies every override that selects `labels`, in order, to the raw pod template. A container that the
/// template does not have is left out: the webhook refuses it by name.
pub fn apply(template: &mut Value, overrides: &[Override], labels: &BTreeMap<String, String>) {
    let Some(containers) = template.pointer_mut("/spec/containers").and_then(Value::as_array_mut) else {
        return;
    };
    for change in overrides.iter().filter(|o| o.selector.matches(labels)).flat_map(|o| &o.containers) {
        let named = |c: &&mut Value| c.get("name").and_then(Value::as_str) == Some(&change.name);
        if let Some(container) = containers.iter_mut().find(named).and_then(Value::as_object_mut) {
            if let Some(image) = &change.image {
                container.insert("image".into(), image.as_str().into());
            }
            for variable in &change.env {
                set_env(container, variable);
            }
        }
    }
}

fn set_env(container: &mut serde_json::Map<String, Value>, variable: &EnvOverride) {
    let value = serde_json::json!({"name": variable.name, "value": variable.value});
    let env = container.entry("env").or_insert_with(|| Value::Array(Vec::new()));
    let Some(env) = env.as_array_mut() else { return };
    match env.iter_mut().find(|e| e.get("name").and_then(Value::as_str) == Some(&variable.name)) {
        Some(existing) => *existing = value,
        None => env.push(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn changes_one_container_on_selected_nodes() {
        let overrides = serde_json::from_value::<Vec<super::Override>>(json!([
            {"name": "beta", "selector": {"matchLabels": {"ring": "beta"}}, "containers": [
                {"name": "web", "image": "web:2", "env": [{"name": "MODE", "value": "b"}, {"name": "NEW", "value": "1"}]}]},
        ]))
        .unwrap();
        let template = json!({"spec": {"containers": [
            {"name": "web", "image": "web:1", "env": [{"name": "MODE", "value": "a"}]}, {"name": "log", "image": "log:1"}]}});
        let mut stable = template.clone();
        super::apply(&mut stable, &overrides, &[("ring".into(), "stable".into())].into());
        assert_eq!(stable, template);
        let mut beta = template;
        super::apply(&mut beta, &overrides, &[("ring".into(), "beta".into())].into());
        assert_eq!(
            beta,
            json!({"spec": {"containers": [
            {"name": "web", "image": "web:2", "env": [{"name": "MODE", "value": "b"}, {"name": "NEW", "value": "1"}]},
            {"name": "log", "image": "log:1"}]}})
        );
    }
}
