//! How a device is reached and where each property lives in it.
//!
//! A union is a struct of options of which exactly one is set. A member enters with the driver that
//! implements it.

use serde::{Deserialize, Serialize};

/// How a device is reached: exactly one member is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Protocol {
    /// Modbus (Modbus Application Protocol 1.1b3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modbus: Option<ModbusProtocol>,
    /// Values made by the agent, for trying things out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<SimulatedProtocol>,
}

/// A Modbus server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ModbusProtocol {
    /// Over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<ModbusTcp>,
    /// Unit identifier, 0 to 255; it tells the devices behind a gateway apart. Default: 1.
    #[serde(default = "one")]
    pub unit_id: u8,
}

fn one() -> u8 {
    1
}

/// Address of a Modbus TCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModbusTcp {
    /// Host name or IP address, as the edge node sees it. At most 253 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 253)))]
    pub host: String,
    /// TCP port, 1 to 65535. Default: 502.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    #[serde(default = "modbus_port")]
    pub port: u16,
}

fn modbus_port() -> u16 {
    502
}

/// No settings: the simulated device lives in the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SimulatedProtocol {}

/// Where a property lives in its device: exactly one member is set, that of the device's protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// A Modbus register or coil.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modbus: Option<ModbusSource>,
    /// A value made by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<SimulatedSource>,
}

/// A Modbus register, or several in a row, or a coil.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ModbusSource {
    /// Which of the four tables: Coil (one bit, read and written), DiscreteInput (one bit, read),
    /// HoldingRegister (16 bits, read and written) or InputRegister (16 bits, read).
    pub table: RegisterTable,
    /// Protocol address, 0 to 65535. It counts from 0: register 40001 of a manual is HoldingRegister 0.
    pub address: u16,
    /// How registers make a number: Uint16 and Int16 take one register, Uint32, Int32 and Float32 (IEEE
    /// 754) take two. Ignored for Coil and DiscreteInput. Default: Uint16.
    #[serde(default)]
    pub encoding: RegisterEncoding,
    /// Order of the two registers of a value of 32 bits: BigEndian is the most significant first. Default:
    /// BigEndian.
    #[serde(default)]
    pub word_order: WordOrder,
    /// The property's value is the register's times this: 0.1 makes 21.5 of 215. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
}

/// The four tables of Modbus (section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RegisterTable {
    /// One bit, read and written.
    Coil,
    /// One bit, read.
    DiscreteInput,
    /// 16 bits, read and written.
    HoldingRegister,
    /// 16 bits, read.
    InputRegister,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// How registers make a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RegisterEncoding {
    /// One register, unsigned.
    #[default]
    Uint16,
    /// One register, two's complement.
    Int16,
    /// Two registers, unsigned.
    Uint32,
    /// Two registers, two's complement.
    Int32,
    /// Two registers, IEEE 754.
    Float32,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

impl RegisterEncoding {
    /// How many registers a value takes.
    #[must_use]
    pub const fn registers(self) -> u16 {
        match self {
            Self::Uint16 | Self::Int16 | Self::Unknown => 1,
            Self::Uint32 | Self::Int32 | Self::Float32 => 2,
        }
    }
}

/// Order of registers in values of more than 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum WordOrder {
    /// Most significant register first.
    #[default]
    BigEndian,
    /// Least significant register first.
    LittleEndian,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// A value that the agent makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SimulatedSource {
    /// How the value goes with time: Hold keeps what was written last; Sine and Sawtooth go between the
    /// property's minimum and maximum (0 and 100 when it has none). Default: Hold.
    #[serde(default)]
    pub waveform: Waveform,
    /// Length of one wave, as a duration such as 500ms, 10s, 5m or 1h. Default: 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::schema::duration"))]
    pub period: Option<String>,
}

/// How a simulated value goes with time. A wave goes between the property's minimum and maximum (0 and
/// 100 when it has none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Waveform {
    /// Keeps what was written last.
    #[default]
    Hold,
    /// A sine.
    Sine,
    /// Rises evenly, then falls at once.
    Sawtooth,
    /// A member of a newer version.
    #[serde(other, skip_serializing)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}
