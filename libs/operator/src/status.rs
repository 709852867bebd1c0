//! Status writes: one merge patch on `/status`, only when something differs, with a resourceVersion
//! precondition.
//!
//! Each writer owns some fields and some types of conditions, and says only those. `plan` compares them
//! with the object that was read; times of conditions are not compared, so that a status that says the
//! same again is no write.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Longest reason that the API takes; message likewise.
const MESSAGE_CHARS: usize = 1024;

/// A status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Somebody wrote between the read and this write: read again, decide again.
    #[error("{kind} {name} was changed meanwhile")]
    Conflict {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The object is gone.
    #[error("{kind} {name} is gone")]
    Gone {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API server refused otherwise or did not answer.
    #[error("cannot write the status of {kind} {name}")]
    Api {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What it said.
        #[source]
        source: kube::Error,
    },
    /// The status is no JSON object.
    #[error("the status of {kind} {name} does not encode")]
    Encode {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A condition that holds from `now` on; [`plan`] keeps the older time when the status is unchanged.
///
/// `status` is `Some(true)` for True, `Some(false)` for False, `None` for Unknown. `reason` is one
/// CamelCase word; a message beyond 1024 characters is cut.
#[must_use]
pub fn condition(
    type_: &str,
    status: Option<bool>,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let mut message: String = message.into();
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS) {
        message.truncate(end);
    }
    Condition {
        type_: type_.to_owned(),
        status: match status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
        .to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: Time(now),
    }
}

/// The condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The merge patch that brings `current` (an object's status) to say what `mine` says, or none if it does.
///
/// `mine` holds the top-level fields of its writer: each is replaced as a whole, null removes it, and a
/// field that is not in `mine` is left alone. `mine.conditions` holds the writer's types only; other
/// types stay.
#[must_use]
pub fn plan(current: &Value, mine: &Value) -> Option<Value> {
    let mut patch = Map::new();
    for (field, wanted) in mine.as_object()? {
        let present = &current[field];
        let wanted = match (field.as_str(), wanted.as_array()) {
            ("conditions", Some(wanted)) => merged(present.as_array().map_or(&[][..], Vec::as_slice), wanted),
            _ => wanted.clone(),
        };
        if let Some(difference) = difference(present, &wanted) {
            patch.insert(field.clone(), difference);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// `present` with each of `wanted` in place of the one of its type.
fn merged(present: &[Value], wanted: &[Value]) -> Value {
    let mut all = present.to_vec();
    for condition in wanted {
        match all.iter_mut().find(|other| other["type"] == condition["type"]) {
            None => all.push(condition.clone()),
            Some(other) => {
                let mut new = condition.clone();
                if other["status"] == new["status"] {
                    new["lastTransitionTime"] = other["lastTransitionTime"].clone();
                }
                *other = new;
            }
        }
    }
    Value::Array(all)
}

/// The merge patch from `present` to exactly `wanted`; none if they are equal.
fn difference(present: &Value, wanted: &Value) -> Option<Value> {
    match (present, wanted) {
        (Value::Object(present), Value::Object(wanted)) => {
            let gone =
                present.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let changed = wanted.iter().filter_map(|(key, value)| {
                Some((key.clone(), difference(present.get(key).unwrap_or(&Value::Null), value)?))
            });
            let patch: Map<_, _> = gone.chain(changed).collect();
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        // A new object goes whole: its own nulls say nothing.
        _ => (present != wanted).then(|| wanted.clone()),
    }
}

/// Brings the status of `object`, as it was read, to say what `mine` says; true if that took a write. See
/// [`plan`] for `mine`, which may be a typed struct or `json!`.
///
/// # Errors
/// [`StatusError`]. After `Conflict` the caller reads and decides anew: its reconcile is triggered by the
/// change that it ran into.
pub async fn write<K>(api: &Api<K>, object: &K, mine: &impl Serialize) -> Result<bool, StatusError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let (kind, name) = (K::kind(&()).into_owned(), object.name_any());
    let encode = |source| StatusError::Encode { kind: kind.clone(), name: name.clone(), source };
    let current = serde_json::to_value(object).map_err(encode)?;
    let mine = serde_json::to_value(mine).map_err(encode)?;
    let Some(status) = plan(&current["status"], &mine) else { return Ok(false) };
    let patch = json!({"metadata": {"resourceVersion": object.resource_version()}, "status": status});
    match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Err(StatusError::Conflict { kind, name }),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(StatusError::Gone { kind, name }),
        Err(source) => Err(StatusError::Api { kind, name, source }),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::{condition, plan};

    fn ready(status: bool, reason: &str, second: i64) -> Value {
        let now = Timestamp::from_second(second).unwrap();
        json!(condition("Ready", Some(status), reason, "", Some(1), now))
    }

    #[test]
    fn saying_the_same_again_is_no_write() {
        let current = json!({"devices": 3, "conditions": [ready(true, "Fine", 10)], "other": 1});
        let mine = json!({"devices": 3, "conditions": [ready(true, "Fine", 99)]});
        assert_eq!(plan(&current, &mine), None);
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes_and_others_stay() {
        let other = json!({"type": "Other", "status": "True"});
        let current = json!({"conditions": [other, ready(true, "Fine", 10)]});
        let patch = plan(&current, &json!({"conditions": [ready(true, "Better", 99)]})).unwrap();
        assert_eq!(patch["conditions"], json!([other, ready(true, "Better", 10)]));
        let patch = plan(&current, &json!({"conditions": [ready(false, "Bad", 99)]})).unwrap();
        assert_eq!(patch["conditions"], json!([other, ready(false, "Bad", 99)]));
    }

    #[test]
    fn a_field_becomes_exactly_what_it_should_be() {
        let current = json!({"capacity": {"cpu": "2", "old": "1"}, "theirs": 1, "gone": 1});
        let mine = json!({"capacity": {"cpu": "4", "memory": "1Gi"}, "gone": null});
        let patch = plan(&current, &mine).unwrap();
        assert_eq!(patch, json!({"capacity": {"cpu": "4", "memory": "1Gi", "old": null}, "gone": null}));
        let mut status = current;
        json_merge(&mut status, &patch);
        assert_eq!(status, json!({"capacity": {"cpu": "4", "memory": "1Gi"}, "theirs": 1}));
        assert_eq!(plan(&status, &mine), None, "a second pass still differs");
    }

    /// RFC 7396.
    fn json_merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(key);
            } else {
                json_merge(&mut target[key], value);
            }
        }
    }
}
