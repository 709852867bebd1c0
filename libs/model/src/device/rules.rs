//! The rules of DeviceModels and Devices, over the raw JSON of their specs.
//!
//! Webhook and controllers ask the same functions; each says everything that is wrong at once.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::value::{self, Number};
use super::{
    Access, ModbusSource, PropertyType, Protocol, RegisterEncoding, RegisterTable, SimulatedSource, Source,
    Waveform, WordOrder, parse_duration,
};
use crate::fault::Fault;

/// Shortest interval: below it a property would keep the agent's one thread from everything else.
const SHORTEST_INTERVAL_MS: u128 = 10;

/// Longest list of names that helps in a message.
const NAMES_SHOWN: usize = 10;

/// A property as model and device define it: what the rules need of both.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Property {
    name: String,
    #[serde(rename = "type", default = "unknown")]
    value_type: PropertyType,
    #[serde(default)]
    access: Access,
    minimum: Option<Value>,
    maximum: Option<Value>,
    source: Option<Source>,
    read_interval: Option<String>,
    report_interval: Option<String>,
    deadband: Option<Value>,
}

fn unknown() -> PropertyType {
    PropertyType::Unknown
}

#[derive(Deserialize)]
struct ModelSpec {
    properties: Vec<Property>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceSpec {
    protocol: Protocol,
    #[serde(default)]
    properties: Vec<Property>,
    #[serde(default)]
    desired: BTreeMap<String, Value>,
}

/// Everything that is wrong with the spec of a DeviceModel.
#[must_use]
pub fn check_model(spec: &Value) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    let Some(ModelSpec { properties }) = faults.decoded(spec) else { return faults.0 };
    for (index, property) in properties.iter().enumerate() {
        let path = format!("spec.properties[{index}]");
        if properties[..index].iter().any(|other| other.name == property.name) {
            faults
                .say(format!("{path}.name"), format!("{:?} is there twice: names are unique", property.name));
        }
        if property.value_type == PropertyType::Unknown {
            faults.say(format!("{path}.type"), "must be int, float, bool, string or bytes");
        }
        if property.access == Access::Unknown {
            faults.say(format!("{path}.access"), "must be ReadOnly or ReadWrite");
        }
        let minimum =
            faults.bound(&format!("{path}.minimum"), property.minimum.as_ref(), property.value_type);
        let maximum =
            faults.bound(&format!("{path}.maximum"), property.maximum.as_ref(), property.value_type);
        if let (Some(minimum), Some(maximum)) = (minimum, maximum)
            && minimum.compare(maximum) == Ordering::Greater
        {
            faults.say(format!("{path}.minimum"), format!("{minimum} is above the maximum of {maximum}"));
        }
        faults.wiring(&path, property, property);
    }
    faults.0
}

/// Everything that is wrong with the spec of a Device. Without the spec of its model, only what does not
/// depend on it.
#[must_use]
pub fn check_device(spec: &Value, model: Option<&Value>) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    let Some(device) = faults.decoded::<DeviceSpec>(spec) else { return faults.0 };
    faults.protocol(&device.protocol);
    // A model that does not decode has faults of its own.
    let model = model.and_then(|model| ModelSpec::deserialize(model).ok());
    let Some(ModelSpec { properties: model }) = model else { return faults.0 };
    for (index, wiring) in device.properties.iter().enumerate() {
        let path = format!("spec.properties[{index}]");
        match model.iter().find(|property| property.name == wiring.name) {
            None => faults.say(format!("{path}.name"), no_such(&wiring.name, &model)),
            Some(property) => faults.wiring(&path, wiring, property),
        }
    }
    for property in &model {
        let own = device
            .properties
            .iter()
            .position(|wiring| wiring.name == property.name && wiring.source.is_some());
        let (path, source) = match own {
            Some(index) => (format!("spec.properties[{index}].source"), &device.properties[index].source),
            None => ("spec.properties".to_owned(), &property.source),
        };
        if source.as_ref().is_some_and(|source| !fits(source, &device.protocol)) {
            let name = &property.name;
            faults.say(
                path,
                format!(
                    "{name:?} is wired for another protocol than {}: give it a source of this one",
                    named(&device.protocol)
                ),
            );
        }
        if let (None, true) = (source, device.desired.contains_key(&property.name)) {
            faults.say(
                format!("spec.desired.{}", property.name),
                "has no source, neither in the model nor in spec.properties: nothing can be written",
            );
        }
    }
    for (name, wanted) in &device.desired {
        let path = format!("spec.desired.{name}");
        match model.iter().find(|property| property.name == *name) {
            None => faults.say(path, no_such(name, &model)),
            Some(property) => faults.desired(path, wanted, property),
        }
    }
    faults.0
}

struct Faults(Vec<Fault>);

impl Faults {
    fn say(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault::new(path, message));
    }

    fn decoded<T: for<'de> Deserialize<'de>>(&mut self, spec: &Value) -> Option<T> {
        T::deserialize(spec).map_err(|error| self.say("spec", format!("does not decode: {error}"))).ok()
    }

    fn desired(&mut self, path: String, wanted: &Value, property: &Property) {
        if property.access != Access::ReadWrite {
            self.say(path.clone(), "is read-only: remove it, or set access: ReadWrite in the model");
        }
        let number = match value::read(wanted, property.value_type) {
            Ok(number) => number,
            Err(why) => return self.say(path, why),
        };
        let bound = |bound: &Option<Value>| value::read(bound.as_ref()?, property.value_type).ok().flatten();
        let (minimum, maximum) = (bound(&property.minimum), bound(&property.maximum));
        let Some(number) = number else { return };
        let below = minimum.is_some_and(|minimum| number.compare(minimum) == Ordering::Less);
        let above = maximum.is_some_and(|maximum| number.compare(maximum) == Ordering::Greater);
        if below || above {
            let range = match (minimum, maximum) {
                (Some(minimum), Some(maximum)) => format!("from {minimum} to {maximum}"),
                (Some(minimum), None) => format!("of at least {minimum}"),
                (_, maximum) => maximum.map(|maximum| format!("of at most {maximum}")).unwrap_or_default(),
            };
            self.say(path, format!("{number} is out of range: write a value {range}"));
        }
    }

    fn bound(&mut self, path: &str, bound: Option<&Value>, value_type: PropertyType) -> Option<Number> {
        let bound = bound?;
        match value::read(bound, value_type) {
            Ok(None) => self.say(path, "has no meaning: only int and float have bounds"),
            Ok(number) => return number,
            Err(_) if !matches!(value_type, PropertyType::Int | PropertyType::Float) => {
                self.say(path, "has no meaning: only int and float have bounds");
            }
            Err(why) => self.say(path, why),
        }
        None
    }

    /// The wiring that stands at `path`, in the model or over it in a device.
    fn wiring(&mut self, path: &str, wiring: &Property, model: &Property) {
        for (name, interval) in
            [("readInterval", &wiring.read_interval), ("reportInterval", &wiring.report_interval)]
        {
            let Some(text) = interval else { continue };
            match parse_duration(text) {
                Ok(interval) if interval.as_millis() < SHORTEST_INTERVAL_MS => {
                    self.say(format!("{path}.{name}"), format!("{text} is too short: the least is 10ms"));
                }
                Ok(_) => {}
                Err(error) => self.say(format!("{path}.{name}"), error.to_string()),
            }
        }
        if let Some(deadband) = &wiring.deadband {
            let path = format!("{path}.deadband");
            if !matches!(model.value_type, PropertyType::Int | PropertyType::Float) {
                self.say(path, "has no meaning: only int and float have one");
            } else if deadband.as_f64().is_none_or(|deadband| !deadband.is_finite() || deadband < 0.0) {
                self.say(path, format!("{deadband} must be a number of at least 0"));
            }
        }
        match &wiring.source {
            None => {}
            Some(Source { modbus: Some(source), simulated: None }) => {
                self.modbus(&format!("{path}.source.modbus"), source, model);
            }
            Some(Source { modbus: None, simulated: Some(source) }) => {
                self.simulated(&format!("{path}.source.simulated"), source, model);
            }
            Some(_) => {
                self.say(format!("{path}.source"), "must have exactly one member: modbus or simulated")
            }
        }
    }

    fn modbus(&mut self, path: &str, source: &ModbusSource, property: &Property) {
        use RegisterTable::{Coil, DiscreteInput, HoldingRegister, InputRegister};
        match source.table {
            RegisterTable::Unknown => {
                self.say(
                    format!("{path}.table"),
                    "must be Coil, DiscreteInput, HoldingRegister or InputRegister",
                );
            }
            DiscreteInput | InputRegister if property.access == Access::ReadWrite => {
                let table = format!("{:?}", source.table);
                self.say(format!("{path}.table"), format!("{table} cannot be written, but the property is ReadWrite: use Coil or HoldingRegister"));
            }
            Coil | DiscreteInput | HoldingRegister | InputRegister => {}
        }
        if source.encoding == RegisterEncoding::Unknown {
            self.say(format!("{path}.encoding"), "must be Uint16, Int16, Uint32, Int32 or Float32");
        }
        if source.word_order == WordOrder::Unknown {
            self.say(format!("{path}.wordOrder"), "must be BigEndian or LittleEndian");
        }
        if source.scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
            self.say(format!("{path}.scale"), "must be a finite number other than 0");
        }
        let bits = matches!(source.table, Coil | DiscreteInput);
        if !bits && source.address.checked_add(source.encoding.registers() - 1).is_none() {
            let address = source.address;
            self.say(
                format!("{path}.address"),
                format!("{address} leaves no room for two registers: the last address is 65535"),
            );
        }
        if matches!(property.value_type, PropertyType::String | PropertyType::Bytes) {
            self.say(path, "holds numbers and booleans: a string or bytes property cannot live here");
        }
    }

    fn simulated(&mut self, path: &str, source: &SimulatedSource, property: &Property) {
        let number = matches!(property.value_type, PropertyType::Int | PropertyType::Float);
        match source.waveform {
            Waveform::Unknown => self.say(format!("{path}.waveform"), "must be Hold, Sine or Sawtooth"),
            Waveform::Sine | Waveform::Sawtooth if !number => {
                self.say(format!("{path}.waveform"), "needs a property of type int or float");
            }
            Waveform::Hold | Waveform::Sine | Waveform::Sawtooth => {}
        }
        if let Some(Err(error)) = source.period.as_deref().map(parse_duration) {
            self.say(format!("{path}.period"), error.to_string());
        }
    }

    fn protocol(&mut self, protocol: &Protocol) {
        match protocol {
            Protocol { modbus: Some(modbus), simulated: None } => match &modbus.tcp {
                None => self.say("spec.protocol.modbus", "must have exactly one member: tcp"),
                Some(tcp) => {
                    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.:_".contains(c);
                    if tcp.host.is_empty() || tcp.host.len() > 253 || !tcp.host.chars().all(allowed) {
                        let host = &tcp.host;
                        self.say(
                            "spec.protocol.modbus.tcp.host",
                            format!("{host:?} is no host name or address"),
                        );
                    }
                    if tcp.port == 0 {
                        self.say("spec.protocol.modbus.tcp.port", "0 is no port: 502 is usual");
                    }
                }
            },
            Protocol { modbus: None, simulated: Some(_) } => {}
            _ => self.say("spec.protocol", "must have exactly one member: modbus or simulated"),
        }
    }
}

fn fits(source: &Source, protocol: &Protocol) -> bool {
    source.modbus.is_some() == protocol.modbus.is_some()
        && source.simulated.is_some() == protocol.simulated.is_some()
}

fn named(protocol: &Protocol) -> &'static str {
    if protocol.modbus.is_some() { "modbus" } else { "simulated" }
}

fn no_such(name: &str, model: &[Property]) -> String {
    let names: Vec<_> = model.iter().take(NAMES_SHOWN).map(|property| property.name.as_str()).collect();
    let more = if model.len() > NAMES_SHOWN { ", ..." } else { "" };
    format!("{name:?} is no property of the model, which has {}{more}", names.join(", "))
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
