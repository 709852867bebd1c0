//! What a controller counts: `<prefix>_reconciles_total{result}`, `<prefix>_reconcile_errors_total{error}`,
//! `<prefix>_reconcile_duration_seconds` and `<prefix>_watch_errors_total{kind, reason}`.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry, exponential_buckets};

use super::{Classified, Next};

/// Shared by all streams of one controller.
#[derive(Clone)]
pub struct Metrics {
    reconciles: IntCounterVec,
    errors: IntCounterVec,
    duration: Histogram,
    watch_errors: IntCounterVec,
}

impl Metrics {
    /// Registers them under `prefix`, such as `selvedge_device_controller`.
    ///
    /// # Errors
    /// When the prefix is no metric name or was registered before.
    pub fn new(prefix: &str, registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("{prefix}_{name}"), help), labels)
        };
        // 1 ms to 32 s.
        let buckets = exponential_buckets(0.001, 2.0, 16)?;
        let duration =
            HistogramOpts::new(format!("{prefix}_reconcile_duration_seconds"), "Time a reconcile took.");
        let metrics = Self {
            reconciles: counters(
                "reconciles_total",
                "Reconciles by result: ok or the class of the error.",
                &["result"],
            )?,
            errors: counters("reconcile_errors_total", "Failed reconciles by error.", &["error"])?,
            duration: Histogram::with_opts(duration.buckets(buckets))?,
            watch_errors: counters(
                "watch_errors_total",
                "Watches that failed, and objects held aside because they do not decode.",
                &["kind", "reason"],
            )?,
        };
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.reconciles.clone()),
            Box::new(self.errors.clone()),
            Box::new(self.duration.clone()),
            Box::new(self.watch_errors.clone()),
        ]
    }

    pub(super) fn reconciled(&self, result: &Result<Next, impl Classified>, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        match result {
            Ok(_) => self.reconciles.with_label_values(&["ok"]).inc(),
            Err(error) => {
                self.reconciles.with_label_values(&[error.class().label()]).inc();
                self.errors.with_label_values(&[error.variant()]).inc();
            }
        }
    }

    pub(super) fn watch_error(&self, kind: &str, reason: &str) {
        self.watch_errors.with_label_values(&[kind, reason]).inc();
    }
}
