//! Values of properties: untyped in the API, typed by the model.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The type of a property's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PropertyType {
    /// Whole number of up to 64 bits.
    Int,
    /// Finite number of 64 bits (IEEE 754).
    Float,
    /// true or false.
    Bool,
    /// UTF-8 text.
    String,
    /// Bytes, in standard base64.
    Bytes,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// A plain YAML scalar, as it stands in `spec.desired`.
///
/// Integers beyond 2^53 are strings there: the API server keeps numbers as doubles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// true or false.
    Bool(bool),
    /// A number, as JSON has it.
    Number(serde_json::Number),
    /// Text; also integers beyond 2^53 and base64.
    Text(String),
}

impl Scalar {
    /// The number as a double; none for text and booleans.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}
