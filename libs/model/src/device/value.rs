//! Whether a plain YAML scalar is a value of a property's type, and within its bounds.

use std::cmp::Ordering;
use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::PropertyType;

/// Integers beyond this are strings: the API server keeps numbers as doubles, which would round them.
const EXACT: i128 = 1 << 53;

/// What 64 bits can hold, signed or not.
const INT_RANGE: std::ops::RangeInclusive<i128> = -(1 << 63)..=(1 << 64) - 1;

/// A value that can be compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => int.fmt(f),
            Self::Float(float) => float.fmt(f),
        }
    }
}

impl Number {
    /// By value, whatever the types; doubles of this module are never NaN.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            (Self::Int(a), Self::Float(b)) => (a as f64).total_cmp(&b),
            (Self::Float(a), Self::Int(b)) => a.total_cmp(&(b as f64)),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(&b),
        }
    }
}

/// Reads `value` as one of type `value_type`: the number that it is, or none for what is no number.
///
/// # Errors
/// What is wrong with it and what to write instead.
pub(super) fn read(value: &Value, value_type: PropertyType) -> Result<Option<Number>, String> {
    match (value_type, value) {
        (_, Value::Null) => Err("is null: give a value, or remove it".to_owned()),
        (_, Value::Object(_)) => Err("is an object: a value is a plain scalar".to_owned()),
        (_, Value::Array(_)) => Err("is a list: a value is a plain scalar".to_owned()),
        (PropertyType::Int, value) => int(value).map(|int| Some(Number::Int(int))),
        (PropertyType::Float, Value::Number(number)) => {
            match number.as_f64().filter(|float| float.is_finite()) {
                Some(float) => Ok(Some(Number::Float(float))),
                None => Err(format!("{number} is not finite: a float is a finite number of 64 bits")),
            }
        }
        (PropertyType::Float, Value::String(text)) if text.parse::<f64>().is_ok_and(f64::is_finite) => {
            Err(format!("{value} is text, but the property is a float: write {text} without quotes"))
        }
        (PropertyType::Float, value) => {
            Err(format!("{value} is no float: write a finite number (NaN and infinity are none)"))
        }
        (PropertyType::Bool, Value::Bool(_)) | (PropertyType::String, Value::String(_)) => Ok(None),
        (PropertyType::Bool, value) => {
            Err(format!("{value} is no bool: write true or false, without quotes"))
        }
        (PropertyType::String, Value::Bool(_)) => Err(format!(
            "{value} is a boolean, but the property is a string: YAML reads on, off, yes and no as booleans; put \
             the text in quotes"
        )),
        (PropertyType::String, value) => {
            Err(format!("{value} is a number, but the property is a string: put the text in quotes"))
        }
        (PropertyType::Bytes, Value::String(text)) => match STANDARD.decode(text) {
            Ok(_) => Ok(None),
            Err(error) => {
                Err(format!("{value} is not base64 ({error}): bytes are written in standard base64"))
            }
        },
        (PropertyType::Bytes, value) => {
            Err(format!("{value} is no text: bytes are written in standard base64, in quotes"))
        }
        (PropertyType::Unknown, _) => {
            Err("cannot be judged: the property has a type that this version does not know".to_owned())
        }
    }
}

fn int(value: &Value) -> Result<i128, String> {
    let beyond = |text: &str| {
        format!("{text} is beyond 2^53, where numbers are rounded: put it in quotes, with all its digits")
    };
    match value {
        Value::Number(number) => {
            let whole = number.as_i128().or_else(|| whole(number.as_f64()?));
            match whole {
                Some(int) if int.abs() <= EXACT => Ok(int),
                Some(_) => Err(beyond(&number.to_string())),
                None if number.as_f64().is_some_and(|float| float.fract() == 0.0) => {
                    Err(beyond(&number.to_string()))
                }
                None => {
                    Err(format!("{number} is not whole, but the property is an int: write a whole number"))
                }
            }
        }
        Value::String(text) => match text.parse::<i128>() {
            Ok(int) if !INT_RANGE.contains(&int) => Err(format!("{text:?} does not fit into 64 bits")),
            Ok(int) if int.abs() > EXACT => Ok(int),
            Ok(int) => {
                Err(format!("{text:?} is text, but the property is an int: write {int} without quotes"))
            }
            Err(_) => Err(format!("{text:?} is text, but the property is an int: write a whole number")),
        },
        value => Err(format!("{value} is no int: write a whole number")),
    }
}

/// 60.0 is 60: JSON and YAML tools write either.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn whole(float: f64) -> Option<i128> {
    (float.fract() == 0.0 && float.abs() <= EXACT as f64).then_some(float as i128)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{PropertyType, read};

    #[test]
    fn values_are_typed_by_the_model() {
        use PropertyType::{Bool, Bytes, Float, Int, String, Unknown};
        // Type, value, what its refusal says; none: taken.
        let cases: [(PropertyType, Value, Option<&str>); 32] = [
            (Int, json!(60), None),
            (Int, json!(60.0), None),
            (Int, json!(-5), None),
            (Int, json!(9_007_199_254_740_992_u64), None),
            (Int, json!("9007199254740993"), None),
            (Int, json!("18446744073709551615"), None),
            (Int, json!("-9223372036854775808"), None),
            (Int, json!(9_007_199_254_740_993_u64), Some("put it in quotes")),
            (Int, json!(18_446_744_073_709_551_616.0), Some("put it in quotes")),
            (Int, json!("18446744073709551616"), Some("64 bits")),
            (Int, json!("60"), Some("without quotes")),
            (Int, json!(60.5), Some("not whole")),
            (Int, json!("warm"), Some("whole number")),
            (Int, json!(true), Some("no int")),
            (Float, json!(21.5), None),
            (Float, json!(60), None),
            (Float, json!("21.5"), Some("without quotes")),
            (Float, json!("NaN"), Some("NaN and infinity")),
            (Float, json!(".inf"), Some("NaN and infinity")),
            (Bool, json!(true), None),
            (Bool, json!("on"), Some("true or false")),
            (Bool, json!(1), Some("true or false")),
            (String, json!("eco"), None),
            (String, json!(true), Some("YAML reads on, off, yes and no as booleans")),
            (String, json!(1), Some("in quotes")),
            (Bytes, json!("aGk="), None),
            (Bytes, json!("aGk"), Some("base64")),
            (Bytes, json!(1), Some("base64")),
            (Int, json!(null), Some("null")),
            (String, json!({}), Some("object")),
            (String, json!([]), Some("list")),
            (Unknown, json!(1), Some("does not know")),
        ];
        for (value_type, value, refused) in cases {
            match (read(&value, value_type), refused) {
                (Ok(_), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{value_type:?} {value}: {why}"),
                (read, _) => panic!("{value_type:?} {value}: {read:?}"),
            }
        }
    }
}
