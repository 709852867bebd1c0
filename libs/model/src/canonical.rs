//! Canonical JSON: the one byte string that stands for a meaning (sync rule 4).

use serde_json::Value;

/// Renders `value` with sorted keys, no white space, and without members that are null.
///
/// Nulls inside arrays stay: there they hold a place. Numbers are rendered as serde_json reads them.
#[must_use]
pub fn canonical_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            // Sorted here rather than trusting the map: serde_json keeps insertion order when any crate
            // of the build turns its `preserve_order` feature on.
            let mut members: Vec<_> = members.iter().filter(|(_, member)| !member.is_null()).collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
                out.push(b':');
                write(member, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::canonical_json;

    #[test]
    fn sorts_keys_and_drops_null_members() {
        let value = serde_json::json!({"b": {"z": null, "y": [null, 1.5, "é\n"]}, "a": true});
        assert_eq!(canonical_json(&value), r#"{"a":true,"b":{"y":[null,1.5,"é\n"]}}"#.as_bytes());
    }
}
