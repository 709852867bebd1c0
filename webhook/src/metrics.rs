//! What the webhook counts.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};

/// All metrics of the webhook, `selvedge_webhook_*`. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    reviews: IntCounterVec,
    bad_requests: IntCounterVec,
    duration: Histogram,
    not_after: IntGauge,
}

/// Kinds that are judged; the API server may be told to send others, which must not make labels.
const KINDS: [&str; 4] = ["EdgeNode", "EdgeApplication", "DeviceModel", "Device"];
const OPERATIONS: [&str; 3] = ["CREATE", "UPDATE", "DELETE"];

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// When they were registered before.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let reviews = IntCounterVec::new(
            Opts::new(
                "selvedge_webhook_reviews_total",
                "Reviews by verdict: allowed, warned, refused or failed.",
            ),
            &["kind", "operation", "verdict"],
        )?;
        let bad_requests = IntCounterVec::new(
            Opts::new("selvedge_webhook_bad_requests_total", "Requests that were no review, by reason."),
            &["reason"],
        )?;
        // 100 us to 3 s.
        let duration = HistogramOpts::new("selvedge_webhook_review_duration_seconds", "Time a review took.")
            .buckets(exponential_buckets(0.0001, 2.0, 16)?);
        let duration = Histogram::with_opts(duration)?;
        let not_after = IntGauge::new(
            "selvedge_webhook_certificate_not_after_timestamp_seconds",
            "End of the serving certificate, as a Unix time.",
        )?;
        let metrics = Self { reviews, bad_requests, duration, not_after };
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.reviews.clone()),
            Box::new(self.bad_requests.clone()),
            Box::new(self.duration.clone()),
            Box::new(self.not_after.clone()),
        ]
    }

    pub(crate) fn review(&self, kind: &str, operation: &str, verdict: &str, took: Duration) {
        let kind = KINDS.into_iter().find(|known| *known == kind).unwrap_or("other");
        let operation = OPERATIONS.into_iter().find(|known| *known == operation).unwrap_or("other");
        self.reviews.with_label_values(&[kind, operation, verdict]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn bad_request(&self, reason: &str) {
        self.bad_requests.with_label_values(&[reason]).inc();
    }

    pub(crate) fn certificate(&self, not_after: jiff::Timestamp) {
        self.not_after.set(not_after.as_second());
    }
}
