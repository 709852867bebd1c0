//! What a controller counts: `<prefix>_reconciles_total{result}`, `<prefix>_reconcile_errors_total{error}`,
//! `<prefix>_reconcile_duration_seconds` and `<prefix>_watch_errors_total{kind, reason}`.

use std::time::Duration;

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
        let counters = |name: &str, help: &str, labels: &[&str]| -> Result<_, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(format!("{prefix}_{name}"), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        // 1 ms to 32 s.
        let buckets = exponential_buckets(0.001, 2.0, 16)?;
        let name = format!("{prefix}_reconcile_duration_seconds");
        let duration =
            Histogram::with_opts(HistogramOpts::new(name, "Time a reconcile took.").buckets(buckets))?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self {
            reconciles: counters(
                "reconciles_total",
                "Reconciles by result: ok or the class of the error.",
                &["result"],
            )?,
            errors: counters("reconcile_errors_total", "Failed reconciles by error.", &["error"])?,
            duration,
            watch_errors: counters(
                "watch_errors_total",
                "Watches that failed, and objects held aside because they do not decode.",
                &["kind", "reason"],
            )?,
        })
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
