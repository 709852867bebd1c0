//! Registers and coils to values and back. Pure.

use selvedge_model::device::{ModbusSource, PropertyType, RegisterEncoding, RegisterTable, WordOrder};

use crate::devices::{driver::Outcome, value::Value};

/// Digits of a scaled value that mean something: 235 x 0.1 is 23.5, not 23.500000000000004.
const DIGITS: usize = 12;

/// What stands in registers, before scale and type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Raw {
    Int(i64),
    Float(f32),
}

/// Why no value of this type can stand in this place; none: it can.
pub(super) fn unfit(source: &ModbusSource, value_type: PropertyType) -> Option<String> {
    let bits = matches!(source.table, RegisterTable::Coil | RegisterTable::DiscreteInput);
    if source.table == RegisterTable::Unknown {
        return Some("its table is none that this agent knows".to_owned());
    }
    if !bits && source.encoding == RegisterEncoding::Unknown {
        return Some("its encoding is none that this agent knows".to_owned());
    }
    if !bits && source.word_order == WordOrder::Unknown {
        return Some("its wordOrder is none that this agent knows".to_owned());
    }
    if source.scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
        return Some("its scale must be a finite number other than 0".to_owned());
    }
    if !bits && source.address.checked_add(source.encoding.registers() - 1).is_none() {
        return Some("its registers go past address 65535".to_owned());
    }
    match value_type {
        PropertyType::Int | PropertyType::Float | PropertyType::Bool => None,
        PropertyType::String | PropertyType::Bytes => {
            Some("registers hold numbers and booleans, no string or bytes".to_owned())
        }
        PropertyType::Unknown => Some("its type is none that this agent knows".to_owned()),
    }
}

/// Registers to what stands in them. `words` are as many as the encoding takes.
pub(super) fn raw(source: &ModbusSource, words: &[u16]) -> Outcome<Raw> {
    let pair = |words: &[u16]| match (words, source.word_order) {
        (&[low, high], WordOrder::LittleEndian) | (&[high, low], _) => {
            Ok((u32::from(high) << 16) | u32::from(low))
        }
        _ => Err(format!("the device sent {} registers instead of 2", words.len())),
    };
    let single = |words: &[u16]| match words {
        &[word] => Ok(word),
        _ => Err(format!("the device sent {} registers instead of 1", words.len())),
    };
    Ok(match source.encoding {
        RegisterEncoding::Uint16 | RegisterEncoding::Unknown => Raw::Int(single(words)?.into()),
        RegisterEncoding::Int16 => Raw::Int(single(words)?.cast_signed().into()),
        RegisterEncoding::Uint32 => Raw::Int(pair(words)?.into()),
        RegisterEncoding::Int32 => Raw::Int(pair(words)?.cast_signed().into()),
        RegisterEncoding::Float32 => Raw::Float(f32::from_bits(pair(words)?)),
    })
}

/// What stands in registers to words.
pub(super) fn words(source: &ModbusSource, raw: Raw) -> Outcome<Vec<u16>> {
    let range = |what: i64| format!("{what} does not fit into a register of encoding {:?}", source.encoding);
    let pair = |bits: u32| {
        #[allow(clippy::cast_possible_truncation)]
        let (high, low) = ((bits >> 16) as u16, bits as u16);
        if source.word_order == WordOrder::LittleEndian { vec![low, high] } else { vec![high, low] }
    };
    Ok(match (source.encoding, raw) {
        (RegisterEncoding::Float32, Raw::Float(float)) => pair(float.to_bits()),
        (RegisterEncoding::Uint16 | RegisterEncoding::Unknown, Raw::Int(int)) => {
            vec![u16::try_from(int).map_err(|_| range(int))?]
        }
        (RegisterEncoding::Int16, Raw::Int(int)) => {
            vec![i16::try_from(int).map_err(|_| range(int))?.cast_unsigned()]
        }
        (RegisterEncoding::Uint32, Raw::Int(int)) => pair(u32::try_from(int).map_err(|_| range(int))?),
        (RegisterEncoding::Int32, Raw::Int(int)) => {
            pair(i32::try_from(int).map_err(|_| range(int))?.cast_unsigned())
        }
        _ => return Err(format!("{raw:?} is nothing for encoding {:?}", source.encoding)),
    })
}

/// What stands in registers, as a value of the property's type.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
pub(super) fn value(source: &ModbusSource, value_type: PropertyType, raw: Raw) -> Outcome<Value> {
    let scale = source.scale.unwrap_or(1.0);
    if let (Raw::Int(int), PropertyType::Int) = (raw, value_type)
        && scale == 1.0
    {
        return Ok(Value::Int(int.into()));
    }
    let float = match raw {
        Raw::Int(int) => int as f64,
        // Through its shortest text: 0.1 in 32 bits is 0.1, not 0.10000000149.
        Raw::Float(float) => float.to_string().parse().unwrap_or_else(|_| float.into()),
    };
    if !float.is_finite() {
        return Err(format!("the device shows {float}, which is not a finite number"));
    }
    let scaled = if scale == 1.0 { float } else { rounded(float * scale) };
    match value_type {
        PropertyType::Int => Ok(Value::Int(scaled.round() as i128)),
        PropertyType::Float => Ok(Value::Float(scaled)),
        PropertyType::Bool => Ok(Value::Bool(float != 0.0)),
        PropertyType::String | PropertyType::Bytes | PropertyType::Unknown => {
            Err(format!("a register is no value of type {value_type:?}"))
        }
    }
}

/// The nearest that registers can hold to a value of the property's type.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn stored(source: &ModbusSource, value: &Value) -> Outcome<Raw> {
    let scale = source.scale.unwrap_or(1.0);
    let number = match value {
        Value::Int(int) if scale == 1.0 && source.encoding != RegisterEncoding::Float32 => {
            let fits = i64::try_from(*int);
            return fits.map(Raw::Int).map_err(|_| format!("{int} does not fit into registers"));
        }
        Value::Bool(value) => return Ok(flag(source, *value)),
        value => value.number().ok_or_else(|| format!("{} is nothing for a register", value.json()))? / scale,
    };
    if source.encoding == RegisterEncoding::Float32 {
        let float = number as f32;
        return if float.is_finite() {
            Ok(Raw::Float(float))
        } else {
            Err(format!("{number} is beyond 32 bits"))
        };
    }
    let whole = number.round();
    // `as` saturates: what is out of range stays out of the range of any register.
    Ok(Raw::Int(whole as i64))
}

fn flag(source: &ModbusSource, value: bool) -> Raw {
    if source.encoding == RegisterEncoding::Float32 {
        Raw::Float(if value { 1.0 } else { 0.0 })
    } else {
        Raw::Int(value.into())
    }
}

fn rounded(float: f64) -> f64 {
    format!("{float:.DIGITS$e}").parse().unwrap_or(float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use PropertyType::{Bool, Float, Int};
    use RegisterEncoding::{Float32, Int16, Int32, Uint16, Uint32};
    use WordOrder::{BigEndian, LittleEndian};

    fn source(encoding: RegisterEncoding, word_order: WordOrder, scale: Option<f64>) -> ModbusSource {
        ModbusSource { table: RegisterTable::HoldingRegister, address: 0, encoding, word_order, scale }
    }

    #[test]
    fn registers_are_values_and_values_are_registers() {
        for (encoding, order, scale, value_type, registers, json) in [
            (Uint16, BigEndian, None, Int, vec![65535], "65535"),
            (Int16, BigEndian, None, Int, vec![65535], "-1"),
            (Uint32, BigEndian, None, Int, vec![1, 2], "65538"),
            (Uint32, LittleEndian, None, Int, vec![2, 1], "65538"),
            (Int32, BigEndian, None, Int, vec![0xffff, 0xfffe], "-2"),
            (Int32, LittleEndian, None, Int, vec![0xfffe, 0xffff], "-2"),
            (Float32, BigEndian, None, Float, vec![0x3dcc, 0xcccd], "0.1"),
            (Float32, LittleEndian, None, Float, vec![0xcccd, 0x3dcc], "0.1"),
            (Uint16, BigEndian, Some(0.1), Float, vec![235], "23.5"),
            (Uint16, BigEndian, Some(0.1), Float, vec![3], "0.3"),
            (Int16, BigEndian, Some(0.01), Float, vec![65535 - 1234], "-12.35"),
            (Uint16, BigEndian, Some(10.0), Int, vec![6], "60"),
            (Uint16, BigEndian, None, Float, vec![60], "60.0"),
            (Uint16, BigEndian, None, Bool, vec![1], "true"),
        ] {
            let source = source(encoding, order, scale);
            let read = value(&source, value_type, raw(&source, &registers).unwrap()).unwrap();
            assert_eq!(read.json(), json, "{source:?}");
            assert_eq!(words(&source, stored(&source, &read).unwrap()).unwrap(), registers, "{source:?}");
        }
    }

    #[test]
    fn what_a_register_cannot_hold_is_refused() {
        for (encoding, scale, wanted) in [
            (Uint16, None, Value::Int(65536)),
            (Uint16, None, Value::Int(-1)),
            (Int16, None, Value::Int(32768)),
            (Uint32, None, Value::Int(1 << 32)),
            (Int32, None, Value::Int((1 << 64) - 1)),
            (Uint16, Some(0.1), Value::Float(6553.6)),
            (Uint16, Some(1e-300), Value::Float(1e300)),
            (Float32, None, Value::Float(1e39)),
            (Uint16, None, Value::Text("1".into())),
        ] {
            let source = source(encoding, BigEndian, scale);
            let written = stored(&source, &wanted).and_then(|raw| words(&source, raw));
            assert!(written.is_err(), "{encoding:?} took {wanted:?}");
        }
        let source = source(Float32, BigEndian, None);
        assert!(value(&source, Float, Raw::Float(f32::NAN)).is_err());
    }

    #[test]
    fn a_value_between_two_steps_is_stored_as_the_nearest() {
        let source = source(Uint16, BigEndian, Some(0.5));
        let raw = stored(&source, &Value::Float(60.3)).unwrap();
        assert_eq!(value(&source, Float, raw).unwrap(), Value::Float(60.5));
    }
}
