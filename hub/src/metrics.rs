//! Counters of the hub. No object names as labels.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// See the module.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Live sessions.
    pub sessions: IntGauge,
    /// TLS handshakes by result.
    pub handshakes: IntCounterVec,
    /// Deltas sent.
    pub deltas: IntCounter,
    /// Deltas acknowledged.
    pub acks: IntCounter,
    /// Comparisons that agents asked for.
    pub resyncs: IntCounter,
    /// Hellos and entries refused, by reason.
    pub refused: IntCounterVec,
    /// Status writes by result.
    pub status_writes: IntCounterVec,
    /// Reports that a newer one of the same object overtook before it was written.
    pub status_coalesced: IntCounter,
    /// Join requests by result.
    pub joins: IntCounterVec,
    /// Objects held, by resource.
    pub index_objects: IntGaugeVec,
    /// Proofs of a restored API server.
    pub restores: IntCounter,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When a name is taken in `registry`.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounter::new(format!("selvedge_hub_{name}"), help);
        let counters = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(format!("selvedge_hub_{name}"), help), &[label])
        };
        let metrics = Self {
            sessions: IntGauge::new("selvedge_hub_sessions", "Live sessions of agents.")?,
            handshakes: counters("handshakes_total", "TLS handshakes.", "result")?,
            deltas: counter("deltas_total", "Deltas sent to agents.")?,
            acks: counter("acks_total", "Deltas that agents committed.")?,
            resyncs: counter("resyncs_total", "Comparisons that agents asked for.")?,
            refused: counters("refused_total", "Sessions refused by the hub.", "reason")?,
            status_writes: counters("status_writes_total", "Status writes.", "result")?,
            status_coalesced: counter(
                "status_coalesced_total",
                "Reports overtaken before they were written.",
            )?,
            joins: counters("joins_total", "Join requests.", "result")?,
            index_objects: IntGaugeVec::new(
                Opts::new("selvedge_hub_index_objects", "Objects held in the index."),
                &["resource"],
            )?,
            restores: counter("restores_total", "Proofs that the API server's state was restored.")?,
        };
        registry.register(Box::new(metrics.sessions.clone()))?;
        registry.register(Box::new(metrics.handshakes.clone()))?;
        registry.register(Box::new(metrics.deltas.clone()))?;
        registry.register(Box::new(metrics.acks.clone()))?;
        registry.register(Box::new(metrics.resyncs.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.status_writes.clone()))?;
        registry.register(Box::new(metrics.status_coalesced.clone()))?;
        registry.register(Box::new(metrics.joins.clone()))?;
        registry.register(Box::new(metrics.index_objects.clone()))?;
        registry.register(Box::new(metrics.restores.clone()))?;
        Ok(metrics)
    }
}
