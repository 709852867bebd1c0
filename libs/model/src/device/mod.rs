//! Devices: typed values, the wiring of properties, and the rules that a desired value must keep.

mod duration;
pub mod rules;
mod scalar;
mod value;
mod wiring;

pub use duration::{DurationError, parse_duration};
pub use scalar::{PropertyType, Scalar};
pub use wiring::{
    ModbusProtocol, ModbusSource, ModbusTcp, Protocol, RegisterEncoding, RegisterTable, SimulatedProtocol,
    SimulatedSource, Source, Waveform, WordOrder,
};

use serde::{Deserialize, Serialize};

/// Whether a property can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Access {
    /// Read, never written.
    #[default]
    ReadOnly,
    /// Read and written.
    ReadWrite,
    /// A member of a newer version: never written.
    #[serde(other, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}
