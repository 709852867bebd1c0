//! The twin of one device: what each property should be, what it was seen to be, and whether to write.
//! Pure: time comes in as an argument.
//!
//! A desired value is written at once when it changes. Otherwise reading comes first and only a
//! difference is written, so that a new agent, hub or connection alone writes nothing (sync invariant
//! I8). Somebody who changes a value at the device is overruled, but ever more slowly: two masters that
//! fight over a register would else wear out its flash within days.

use std::time::Duration;

use selvedge_model::{
    DeviceEntry, PropertyEntry,
    device::{Access, parse_duration},
};
use selvedge_protocol::agent::PropertyState;
use tokio::time::Instant;

use super::{
    driver::{Driver, Outcome},
    value::Value,
};

/// Defaults and floor of the intervals in a model.
const READ_INTERVAL: Duration = Duration::from_secs(1);
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
const INTERVAL_FLOOR: Duration = Duration::from_millis(10);
/// Waits between writes of one value that the device does not keep.
const FIRST_REWRITE: Duration = Duration::from_secs(1);
const LONGEST_REWRITE: Duration = Duration::from_secs(300);
/// A value that was kept for so long is no fight.
const KEPT: Duration = Duration::from_secs(600);

/// One device.
pub(super) struct Twin {
    properties: Vec<Property>,
    /// Something other than a value changed since [`Twin::take_dirty`].
    dirty: bool,
}

struct Property {
    name: String,
    /// Why it is never read; none: it is.
    unfit: Option<String>,
    wired: bool,
    read_interval: Duration,
    report_interval: Duration,
    deadband: f64,
    next_read: Instant,
    desired: Want,
    seen: Option<Value>,
    published: Option<Value>,
    read_ms: i64,
    confirmed: bool,
    /// Of the last read or write.
    error: String,
    rewrite: Duration,
    last_write: Option<Instant>,
}

/// What is desired of a property.
#[derive(Clone, Debug, PartialEq)]
enum Want {
    Nothing,
    /// What it shall show.
    Value(Value),
    /// What is desired cannot be.
    Never(String),
}

impl Twin {
    /// A twin that has seen nothing. The desired values come with [`Twin::aim`].
    pub(super) fn new<D: Driver>(entry: &DeviceEntry, driver: &D, now: Instant) -> Self {
        let property = |(index, property): (usize, &PropertyEntry)| {
            Property::new(property, driver.unfit(index, false), now)
        };
        Self { properties: entry.properties.iter().enumerate().map(property).collect(), dirty: true }
    }

    /// Takes the desired values of an entry with the same wiring. Answers the properties whose desired
    /// value is another one than before.
    pub(super) fn aim<D: Driver>(&mut self, entry: &DeviceEntry, driver: &D) -> Vec<usize> {
        let mut changed = Vec::new();
        for (index, (property, entry)) in self.properties.iter_mut().zip(&entry.properties).enumerate() {
            let want = want(index, entry, driver);
            if property.desired == want {
                continue;
            }
            property.confirmed = false;
            property.error.clear();
            property.rewrite = FIRST_REWRITE;
            if matches!(want, Want::Value(_)) {
                changed.push(index);
            }
            property.desired = want;
            self.dirty = true;
        }
        changed
    }

    /// Everything that can be read is due.
    pub(super) fn read_all(&mut self, now: Instant) {
        self.properties.iter_mut().for_each(|property| property.next_read = now);
    }

    /// When something has to be read next; none: never.
    pub(super) fn next_read(&self) -> Option<Instant> {
        self.properties.iter().filter(|p| p.unfit.is_none()).map(|p| p.next_read).min()
    }

    /// What is to be read now; each is due again an interval later.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, property) in self.properties.iter_mut().enumerate() {
            if property.unfit.is_none() && property.next_read <= now {
                // What was missed is not made up for.
                property.next_read = (property.next_read + property.read_interval).max(now);
                due.push(index);
            }
        }
        due
    }

    /// What to write into a property now, if anything.
    pub(super) fn to_write(&self, index: usize) -> Option<Value> {
        match &self.properties.get(index)?.desired {
            Want::Value(value) => Some(value.clone()),
            Want::Nothing | Want::Never(_) => None,
        }
    }

    /// Takes what was read. True: it is not what is desired, and is to be written now.
    pub(super) fn saw(&mut self, index: usize, read: Outcome<Value>, unix_ms: i64, now: Instant) -> bool {
        let Some(property) = self.properties.get_mut(index) else { return false };
        let value = match read {
            Ok(value) => value,
            Err(error) => {
                self.dirty |= property.fail(error);
                return false;
            }
        };
        property.read_ms = unix_ms;
        let kept = match &property.desired {
            Want::Value(wanted) => value.shows(wanted),
            Want::Nothing | Want::Never(_) => true,
        };
        let confirmed = kept && matches!(property.desired, Want::Value(_));
        self.dirty |= property.seen.is_none() || property.confirmed != confirmed;
        property.confirmed = confirmed;
        property.seen = Some(value);
        if kept {
            self.dirty |= property.fail(String::new());
            if property.last_write.is_some_and(|at| now >= at + KEPT) {
                property.rewrite = FIRST_REWRITE;
            }
            return false;
        }
        let due = property.last_write.is_none_or(|at| now >= at + property.rewrite);
        if !due {
            self.dirty |= property.differs();
        }
        due
    }

    /// A write was tried.
    pub(super) fn wrote(&mut self, index: usize, outcome: Outcome<()>, now: Instant) {
        let Some(property) = self.properties.get_mut(index) else { return };
        if property.last_write.is_some() {
            property.rewrite = (property.rewrite * 2).min(LONGEST_REWRITE);
        }
        property.last_write = Some(now);
        if let Err(error) = outcome {
            self.dirty |= property.fail(error);
        }
    }

    /// Whether the device was seen to have every desired value.
    pub(super) fn is_as_desired(&self) -> bool {
        self.properties.iter().all(|property| property.confirmed || property.desired == Want::Nothing)
    }

    /// Whether something other than a value changed since the last call.
    pub(super) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// The shortest interval at which a property may report whose value has changed enough since the
    /// last report; none: nothing has.
    pub(super) fn news(&self) -> Option<Duration> {
        self.properties
            .iter()
            .filter(|property| property.is_news())
            .map(|property| property.report_interval)
            .min()
    }

    /// The properties as they are reported now.
    pub(super) fn publish(&mut self) -> Vec<PropertyState> {
        self.properties
            .iter_mut()
            .map(|property| {
                property.published.clone_from(&property.seen);
                property.state()
            })
            .collect()
    }
}

impl Property {
    fn new(entry: &PropertyEntry, unfit: Option<String>, now: Instant) -> Self {
        let interval = |text: &Option<String>, default: Duration, field: &str| match text {
            None => Ok(default),
            Some(text) => parse_duration(text)
                .map(|d| d.max(INTERVAL_FLOOR))
                .map_err(|error| format!("{field}: {error}")),
        };
        let read = interval(&entry.read_interval, READ_INTERVAL, "readInterval");
        let report = interval(&entry.report_interval, REPORT_INTERVAL, "reportInterval");
        let bad = [&read, &report].into_iter().find_map(|interval| interval.as_ref().err().cloned());
        Self {
            name: entry.name.clone(),
            unfit: unfit.or(bad),
            wired: entry.source.is_some(),
            read_interval: read.unwrap_or(READ_INTERVAL),
            report_interval: report.unwrap_or(REPORT_INTERVAL),
            deadband: entry.deadband.as_ref().and_then(|scalar| scalar.as_f64()).unwrap_or(0.0),
            next_read: now,
            desired: Want::Nothing,
            seen: None,
            published: None,
            read_ms: 0,
            confirmed: false,
            error: String::new(),
            rewrite: FIRST_REWRITE,
            last_write: None,
        }
    }

    /// Whether the error is another one than before.
    fn fail(&mut self, error: String) -> bool {
        let other = self.error != error;
        self.error = error;
        other
    }

    fn differs(&mut self) -> bool {
        let (Some(seen), Want::Value(wanted)) = (&self.seen, &self.desired) else { return false };
        let error = format!(
            "the device shows {} where {} is desired; it is written again after {} s",
            seen.json(),
            wanted.json(),
            self.rewrite.as_secs()
        );
        self.fail(error)
    }

    fn is_news(&self) -> bool {
        match (&self.seen, &self.published) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(seen), Some(published)) => match (seen.number(), published.number()) {
                (Some(a), Some(b)) if self.deadband > 0.0 => (a - b).abs() >= self.deadband,
                _ => seen != published,
            },
        }
    }

    fn state(&self) -> PropertyState {
        let error = match (&self.desired, &self.unfit) {
            (Want::Never(why), _) => why,
            // A model may have properties that this device does not: no fault while nobody wants them.
            (_, Some(why)) if self.wired => why,
            _ => &self.error,
        };
        let written = if self.confirmed { self.to_written() } else { String::new() };
        PropertyState {
            name: self.name.clone(),
            reported: self.seen.as_ref().map(Value::json).unwrap_or_default(),
            read_unix_ms: self.read_ms,
            written,
            error: error.clone(),
        }
    }

    fn to_written(&self) -> String {
        if let Want::Value(value) = &self.desired { value.json() } else { String::new() }
    }
}

fn want<D: Driver>(index: usize, entry: &PropertyEntry, driver: &D) -> Want {
    let Some(scalar) = &entry.desired else { return Want::Nothing };
    let value = || -> Outcome<Value> {
        if entry.access != Access::ReadWrite {
            return Err("the property is read-only".to_owned());
        }
        let value = Value::of(entry.value_type, scalar)?;
        let beyond = |bound: Option<&selvedge_model::device::Scalar>, beyond: fn(f64, f64) -> bool| {
            let bound = bound.and_then(|bound| bound.as_f64());
            value.number().zip(bound).is_some_and(|(value, bound)| beyond(value, bound))
        };
        if beyond(entry.minimum.as_ref(), |value, bound| value < bound) {
            return Err(format!("{scalar} is below the minimum"));
        }
        if beyond(entry.maximum.as_ref(), |value, bound| value > bound) {
            return Err(format!("{scalar} is above the maximum"));
        }
        if let Some(why) = driver.unfit(index, true) {
            return Err(why);
        }
        driver.stored(index, &value)
    };
    value().map_or_else(Want::Never, Want::Value)
}
