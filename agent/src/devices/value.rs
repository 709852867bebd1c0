//! Values of properties: typed by the model, written as JSON scalars.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use selvedge_model::device::{PropertyType, Scalar};

/// Integers beyond this are strings in JSON: readers keep numbers as doubles.
const EXACT_IN_JSON: i128 = 1 << 53;
/// What 64 bits can hold, signed or not.
const INT_RANGE: std::ops::RangeInclusive<i128> = -(1 << 63)..=(1 << 64) - 1;
/// Two floats that differ by less are one value: beyond what the 24 bits of a register pair carry.
const FLOAT_TOLERANCE: f64 = 1e-6;

/// A value of a property.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Of up to 64 bits, signed or not.
    Int(i128),
    /// Finite.
    Float(f64),
    Bool(bool),
    Text(String),
    /// In standard base64.
    Bytes(String),
}

impl Value {
    /// Reads a scalar of the API as a value of this type.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn of(value_type: PropertyType, scalar: &Scalar) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{scalar} is not {what}"));
        match (value_type, scalar) {
            (PropertyType::Int, Scalar::Number(number)) => {
                let whole = number.as_i128().or_else(|| whole(number.as_f64()?));
                whole.map_or_else(|| wrong("a whole number"), int)
            }
            (PropertyType::Int, Scalar::Text(text)) => {
                text.parse().map_or_else(|_| wrong("a whole number of up to 64 bits"), int)
            }
            (PropertyType::Float, Scalar::Number(number)) => {
                let finite = number.as_f64().filter(|float| float.is_finite());
                finite.map_or_else(|| wrong("a finite number"), |float| Ok(Self::Float(float)))
            }
            (PropertyType::Bool, Scalar::Bool(value)) => Ok(Self::Bool(*value)),
            (PropertyType::String, Scalar::Text(text)) => Ok(Self::Text(text.clone())),
            (PropertyType::Bytes, Scalar::Text(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Self::Bytes(STANDARD.encode(bytes))),
                Err(error) => Err(format!("{text:?} is not base64: {error}")),
            },
            (PropertyType::Int, _) => wrong("a whole number"),
            (PropertyType::Float, _) => wrong("a number"),
            (PropertyType::Bool, _) => wrong("true or false"),
            (PropertyType::String | PropertyType::Bytes, _) => wrong("a text: put it in quotes"),
            (PropertyType::Unknown, _) => Err("the property's type is none that this agent knows".to_owned()),
        }
    }

    /// As a JSON scalar.
    pub(super) fn json(&self) -> String {
        match self {
            Self::Int(int) if int.abs() <= EXACT_IN_JSON => int.to_string(),
            Self::Int(int) => format!("\"{int}\""),
            Self::Float(float) => serde_json::json!(float).to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) | Self::Bytes(text) => serde_json::json!(text).to_string(),
        }
    }

    /// The number that it is, for bounds and deadbands; none for what is no number.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Int(int) => Some(*int as f64),
            Self::Float(float) => Some(*float),
            Self::Bool(_) | Self::Text(_) | Self::Bytes(_) => None,
        }
    }

    /// Whether a device that shows `self` has what was written as `wanted`. Exact but for floats.
    pub(super) fn shows(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Float(a), Self::Float(b)) => (a - b).abs() <= FLOAT_TOLERANCE * a.abs().max(b.abs()),
            _ => self == wanted,
        }
    }
}

fn int(int: i128) -> Result<Value, String> {
    if INT_RANGE.contains(&int) {
        Ok(Value::Int(int))
    } else {
        Err(format!("{int} does not fit into 64 bits"))
    }
}

/// 60.0 is 60: JSON and YAML tools write either. Past 2^53 a double names no whole number for certain.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn whole(float: f64) -> Option<i128> {
    (float.fract() == 0.0 && float.abs() <= EXACT_IN_JSON as f64).then_some(float as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value_type: PropertyType, json: &str) -> Result<String, String> {
        Value::of(value_type, &serde_json::from_str(json).unwrap()).map(|value| value.json())
    }

    #[test]
    fn scalars_are_typed_by_the_model() {
        use PropertyType::{Bool, Bytes, Float, Int, String};
        for (value_type, json, expected) in [
            (Int, "60", Some("60")),
            (Int, "60.0", Some("60")),
            (Int, "-9223372036854775808", Some("\"-9223372036854775808\"")),
            (Int, "\"18446744073709551615\"", Some("\"18446744073709551615\"")),
            (Int, "\"9007199254740993\"", Some("\"9007199254740993\"")),
            (Int, "\"18446744073709551616\"", None),
            (Int, "60.5", None),
            (Int, "1e300", None),
            (Int, "true", None),
            (Float, "60", Some("60.0")),
            (Float, "0.1", Some("0.1")),
            (Float, "\"0.1\"", None),
            (Bool, "true", Some("true")),
            (Bool, "\"on\"", None),
            (String, "\"on\"", Some("\"on\"")),
            (String, "true", None),
            (Bytes, "\"AAE=\"", Some("\"AAE=\"")),
            (Bytes, "\"not base64\"", None),
        ] {
            assert_eq!(read(value_type, json).ok().as_deref(), expected, "{value_type:?} {json}");
        }
    }
}
