//! Devices that the agent makes up, for trying things out: they hold what is written, or go in waves.

use selvedge_model::{
    PropertyEntry,
    device::{PropertyType, Waveform, parse_duration},
};

use super::{
    clock,
    driver::{Broken, Driver, Outcome},
    value::Value,
};

/// Length of a wave that names none.
const PERIOD_MS: u64 = 60_000;

/// A simulated device.
pub(super) struct Simulated {
    properties: Vec<Outcome<Simulation>>,
}

struct Simulation {
    value_type: PropertyType,
    waveform: Waveform,
    period_ms: u64,
    low: f64,
    high: f64,
    held: Value,
}

impl Simulated {
    pub(super) fn new(properties: &[PropertyEntry]) -> Self {
        Self { properties: properties.iter().map(simulation).collect() }
    }

    fn property(&self, property: usize) -> Outcome<&Simulation> {
        match self.properties.get(property) {
            Some(known) => known.as_ref().map_err(Clone::clone),
            None => Err("no such property".to_owned()),
        }
    }
}

fn simulation(property: &PropertyEntry) -> Outcome<Simulation> {
    let source = property.source.as_ref().and_then(|source| source.simulated.as_ref());
    let source = source.ok_or("it has no simulated source")?;
    let low = property.minimum.as_ref().and_then(|scalar| scalar.as_f64()).unwrap_or(0.0);
    let high = property.maximum.as_ref().and_then(|scalar| scalar.as_f64()).unwrap_or(100.0);
    let held = match property.value_type {
        // A device that just woke up: at its lowest value.
        PropertyType::Int | PropertyType::Float => number(property.value_type, low),
        PropertyType::Bool => Value::Bool(false),
        PropertyType::String => Value::Text(String::new()),
        PropertyType::Bytes => Value::Bytes(String::new()),
        PropertyType::Unknown => return Err("its type is none that this agent knows".to_owned()),
    };
    if source.waveform == Waveform::Unknown {
        return Err("its waveform is none that this agent knows".to_owned());
    }
    if source.waveform != Waveform::Hold && held.number().is_none() {
        return Err("a waveform needs a property of type int or float".to_owned());
    }
    let period_ms = match &source.period {
        None => PERIOD_MS,
        Some(text) => {
            let period = parse_duration(text).map_err(|error| format!("period: {error}"))?;
            u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1)
        }
    };
    Ok(Simulation { value_type: property.value_type, waveform: source.waveform, period_ms, low, high, held })
}

#[allow(clippy::cast_possible_truncation)]
fn number(value_type: PropertyType, value: f64) -> Value {
    if value_type == PropertyType::Int { Value::Int(value.round() as i128) } else { Value::Float(value) }
}

impl Simulation {
    /// Its value at a time of day: waves go on over restarts.
    #[allow(clippy::cast_precision_loss)]
    fn at(&self, unix_ms: u64) -> Value {
        let phase = (unix_ms % self.period_ms) as f64 / self.period_ms as f64;
        let level = match self.waveform {
            Waveform::Sine => f64::midpoint((phase * std::f64::consts::TAU).sin(), 1.0),
            Waveform::Sawtooth => phase,
            Waveform::Hold | Waveform::Unknown => return self.held.clone(),
        };
        let value = self.low + level * (self.high - self.low);
        // Three decimals are enough for something made up.
        number(self.value_type, (value * 1000.0).round() / 1000.0)
    }
}

impl Driver for Simulated {
    async fn connect(&mut self) -> Result<(), Broken> {
        Ok(())
    }

    fn unfit(&self, property: usize, write: bool) -> Option<String> {
        match self.property(property) {
            Err(error) => Some(error),
            Ok(known) if write && known.waveform != Waveform::Hold => {
                Some("a property with a waveform cannot be written".to_owned())
            }
            Ok(_) => None,
        }
    }

    fn stored(&self, property: usize, value: &Value) -> Outcome<Value> {
        self.property(property).map(|_| value.clone())
    }

    async fn read(&mut self, properties: &[usize]) -> Result<Vec<(usize, Outcome<Value>)>, Broken> {
        let now = u64::try_from(clock::unix_ms()).unwrap_or_default();
        let read = |property: &usize| (*property, self.property(*property).map(|known| known.at(now)));
        Ok(properties.iter().map(read).collect())
    }

    async fn write(&mut self, property: usize, value: &Value) -> Result<Outcome<()>, Broken> {
        if let Some(Ok(known)) = self.properties.get_mut(property) {
            known.held = value.clone();
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(waveform: &str) -> Simulation {
        let property = serde_json::json!({
            "name": "level", "type": "float", "minimum": 10, "maximum": 20,
            "source": {"simulated": {"waveform": waveform, "period": "4s"}},
        });
        simulation(&serde_json::from_value(property).unwrap()).unwrap()
    }

    #[test]
    fn waves_go_between_minimum_and_maximum() {
        let at = |waveform: &str| [0, 1000, 2000, 3000].map(|ms| made(waveform).at(ms).number().unwrap());
        assert_eq!(at("Sine"), [15.0, 20.0, 15.0, 10.0]);
        assert_eq!(at("Sawtooth"), [10.0, 12.5, 15.0, 17.5]);
        assert_eq!(at("Hold"), [10.0; 4]);
    }
}
