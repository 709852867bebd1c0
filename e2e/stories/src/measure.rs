//! Results of benchmarks: one JSON object a measure, so that a page can be rendered and runs compared.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Outcome, world::io};

/// One measure of one run. What does not apply is left out.
#[derive(Clone, Debug, Default)]
pub struct Measure {
    fields: Map<String, Value>,
}

impl Measure {
    /// A single value.
    #[must_use]
    pub fn single(name: &str, unit: &str, value: f64) -> Self {
        Self::named(name, unit).with("value", json!(rounded(value)))
    }

    /// Many samples: value is their median, with their spread beside it.
    #[must_use]
    pub fn samples(name: &str, unit: &str, samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let index = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
            json!(sorted.get(index).copied().map(rounded))
        };
        Self::named(name, unit)
            .with("value", at(0.5))
            .with("n", json!(sorted.len()))
            .with("p50", at(0.5))
            .with("p99", at(0.99))
            .with("max", at(1.0))
    }

    /// What it is held against, and whether it holds.
    #[must_use]
    pub fn target(self, target: &str, met: bool) -> Self {
        self.with("target", json!(target)).with("met", json!(met))
    }

    /// The same measured on the floor under it, in the same run.
    #[must_use]
    pub fn reference(self, reference: f64) -> Self {
        let ratio = self.number("value") / reference;
        self.with("reference", json!(rounded(reference))).with("ratio", json!(rounded(ratio)))
    }

    /// One point of a series: the same measure at so many agents.
    #[must_use]
    pub fn at(self, series: &str, agents: usize) -> Self {
        self.with("series", json!(series)).with("agents", json!(agents))
    }

    /// How it was measured, in a sentence.
    #[must_use]
    pub fn note(self, note: &str) -> Self {
        self.with("note", json!(note))
    }

    /// A number of the measure; NaN when it has none of this name, so that no comparison with it holds.
    #[must_use]
    pub fn number(&self, field: &str) -> f64 {
        self.fields.get(field).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    fn named(name: &str, unit: &str) -> Self {
        Self::default().with("name", json!(name)).with("unit", json!(unit))
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.fields.insert(field.to_owned(), value);
        self
    }
}

/// Three digits after the point: below that is noise on every machine.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Writes all measures of a suite, replacing those of the run before, and says them.
///
/// # Errors
/// [`crate::StoryError::Io`] when the file cannot be written.
pub fn write(path: &Path, measures: &[Measure]) -> Outcome {
    let mut text = Vec::new();
    for measure in measures {
        let line = Value::Object(measure.fields.clone());
        println!("{line}");
        writeln!(text, "{line}").map_err(io("collect results"))?;
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(io("make the directory of results"))?;
    }
    std::fs::write(path, text).map_err(io("write the results"))
}
