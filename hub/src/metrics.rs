//! Counters of the hub. No object names as labels; every label takes few values.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};
use selvedge_operator::BoxError;
use selvedge_protocol::agent::{
    refused, to_agent::Message as ToAgent, to_hub::Message as ToHub, verdict::Code,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// Reasons for which agents of this version refuse an entry. Others are counted as one: an agent must not make
/// labels.
const REFUSALS: [&str; 4] = ["UnknownKind", "UnknownEncoding", "HashMismatch", "Undecodable"];

/// How often the event loop is asked to be in time.
const ASKED: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Live sessions.
    pub sessions: IntGauge,
    /// TLS handshakes by result.
    pub handshakes: IntCounterVec,
    /// Sessions refused or ended by the hub, by reason.
    pub refused: IntCounterVec,
    /// Parts of sets that sessions have to look at or to send.
    pub dirty: IntGauge,
    /// From an event's arrival at the index to the agent's Ack.
    pub delivered: Histogram,
    /// From the Ack to the report that it is in force.
    pub applied: Histogram,
    /// Deltas sent.
    pub deltas: IntCounter,
    /// Deltas acknowledged.
    pub acks: IntCounter,
    /// What agents did not take, by reason.
    pub nacks: IntCounterVec,
    /// What agents sent and should not have, by name of the fault.
    pub bad_input: IntCounterVec,
    /// Comparisons that agents asked for.
    pub resyncs: IntCounter,
    /// Comparisons that wait for their turn.
    pub comparisons_waiting: IntGauge,
    /// Comparisons that had their turn.
    pub comparisons: IntCounter,
    /// Sessions whose nodes are paused after a restore.
    pub paused: IntGauge,
    /// Messages by direction and kind.
    pub messages: IntCounterVec,
    /// Their bytes before TLS.
    pub message_bytes: IntCounterVec,
    /// Sessions that waited for the caches to reach what their agents have seen.
    pub watermark_waits: IntCounter,
    /// Removals that wait, by kind.
    pub removals_held: IntGaugeVec,
    /// Kinds whose removals wait for a release.
    pub removal_guard: IntGaugeVec,
    /// Reports that came.
    pub reports: IntCounter,
    /// Verdicts on reports.
    pub verdicts: IntCounterVec,
    /// Status writes by result.
    pub status_writes: IntCounterVec,
    /// Reports that a newer one of the same object overtook before it was written.
    pub status_coalesced: IntCounter,
    /// Join requests by result.
    pub joins: IntCounterVec,
    /// Renewals by result.
    pub renewals: IntCounterVec,
    /// Objects held, by resource.
    pub index_objects: IntGaugeVec,
    /// Proofs of a restored API server.
    pub restores: IntCounter,
    /// Parts of the ConfigMap `selvedge-cluster` that cannot be read.
    pub cluster_unreadable: IntGaugeVec,
    /// How late the event loop is.
    pub lateness: Histogram,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When a name is taken in `registry`.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::make()?;
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn make() -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("selvedge_hub_{name}");
        let counter = |of: &str, help: &str| IntCounter::new(name(of), help);
        let gauge = |of: &str, help: &str| IntGauge::new(name(of), help);
        let counters =
            |of: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name(of), help), labels);
        let gauges =
            |of: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name(of), help), labels);
        let seconds = |of: &str, help: &str, first: f64| {
            let buckets = exponential_buckets(first, 2.0, 16)?;
            Histogram::with_opts(HistogramOpts::new(name(of), help).buckets(buckets))
        };
        Ok(Self {
            sessions: gauge("sessions", "Live sessions of agents.")?,
            handshakes: counters("handshakes_total", "TLS handshakes by result.", &["result"])?,
            refused: counters(
                "refused_total",
                "Sessions refused or ended by the hub, by reason; superseded: a newer session of the node lives.",
                &["reason"],
            )?,
            dirty: gauge("dirty_keys", "Parts of nodes' sets that sessions have yet to look at or to send.")?,
            // 1 ms to 33 s.
            delivered: seconds(
                "desired_to_delivered_seconds",
                "From the arrival of a change at the index to the Ack of an agent that has it on disk.",
                0.001,
            )?,
            // 5 ms to 164 s: an image may have to be pulled.
            applied: seconds(
                "delivered_to_applied_seconds",
                "From the Ack to the report that the content is in force, of workloads and devices.",
                0.005,
            )?,
            deltas: counter("deltas_total", "Deltas sent to agents.")?,
            acks: counter("acks_total", "Deltas that agents committed.")?,
            nacks: counters(
                "nacks_total",
                "What agents did not take: Retry and Resync of whole deltas, else the reason for one entry.",
                &["reason"],
            )?,
            bad_input: counters(
                "bad_input_total",
                "What agents sent and should not have, by fault: see protocol-errors.md.",
                &["reason"],
            )?,
            resyncs: counter("resyncs_total", "Comparisons that agents asked for.")?,
            comparisons_waiting: gauge(
                "comparisons_waiting",
                "Sessions whose sets differ and that wait for their turn to be compared.",
            )?,
            comparisons: counter("comparisons_total", "Sets that were compared beyond their digests.")?,
            paused: gauge(
                "paused_nodes",
                "Connected nodes that have seen more than the cluster has, and wait until its restore is accepted.",
            )?,
            messages: counters(
                "messages_total",
                "Messages of sessions by direction, as the hub sees it, and kind.",
                &["direction", "kind"],
            )?,
            message_bytes: counters(
                "message_bytes_total",
                "Their bytes before TLS, without WebSocket headers.",
                &["direction", "kind"],
            )?,
            watermark_waits: counter(
                "watermark_waits_total",
                "Times that a session waited for the caches to reach what its agent has seen.",
            )?,
            removals_held: gauges("removals_held", "Entries whose removal waits, by kind.", &["kind"])?,
            removal_guard: gauges(
                "removal_guard_tripped",
                "1 while all removals of a kind wait for a release.",
                &["kind"],
            )?,
            reports: counter("reports_total", "Reports on entries that came from agents.")?,
            verdicts: counters("verdicts_total", "Verdicts on reports, by code.", &["code"])?,
            status_writes: counters(
                "status_writes_total",
                "Status writes by result. Reports over those written is the coalescing ratio.",
                &["result"],
            )?,
            status_coalesced: counter(
                "status_coalesced_total",
                "Reports overtaken by a newer one before they were written.",
            )?,
            joins: counters("joins_total", "Join requests by result.", &["result"])?,
            renewals: counters(
                "renewals_total",
                "Requests for further certificates by result.",
                &["result"],
            )?,
            index_objects: gauges("index_objects", "Objects held in the index, by resource.", &["resource"])?,
            restores: counter("restores_total", "Proofs that the API server's state was restored.")?,
            cluster_unreadable: gauges(
                "cluster_unreadable",
                "1 while a part of the ConfigMap selvedge-cluster cannot be read: object, identity, history or crds.",
                &["part"],
            )?,
            // 0.1 ms to 3 s.
            lateness: seconds(
                "loop_lateness_seconds",
                "How much later than asked a timer fired, ten times a second: stalls of the event loop.",
                0.0001,
            )?,
        })
    }

    /// All of them.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.sessions.clone()),
            Box::new(self.handshakes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.dirty.clone()),
            Box::new(self.delivered.clone()),
            Box::new(self.applied.clone()),
            Box::new(self.deltas.clone()),
            Box::new(self.acks.clone()),
            Box::new(self.nacks.clone()),
            Box::new(self.bad_input.clone()),
            Box::new(self.resyncs.clone()),
            Box::new(self.comparisons_waiting.clone()),
            Box::new(self.comparisons.clone()),
            Box::new(self.paused.clone()),
            Box::new(self.messages.clone()),
            Box::new(self.message_bytes.clone()),
            Box::new(self.watermark_waits.clone()),
            Box::new(self.removals_held.clone()),
            Box::new(self.removal_guard.clone()),
            Box::new(self.reports.clone()),
            Box::new(self.verdicts.clone()),
            Box::new(self.status_writes.clone()),
            Box::new(self.status_coalesced.clone()),
            Box::new(self.joins.clone()),
            Box::new(self.renewals.clone()),
            Box::new(self.index_objects.clone()),
            Box::new(self.restores.clone()),
            Box::new(self.cluster_unreadable.clone()),
            Box::new(self.lateness.clone()),
        ]
    }

    /// A message of so many bytes went to an agent.
    pub fn sent(&self, message: &ToAgent, bytes: usize) {
        self.traffic("sent", to_agent(message), bytes);
        match message {
            ToAgent::Delta(_) => self.deltas.inc(),
            ToAgent::Refused(refused) => self.refused.with_label_values(&[refusal(refused.code())]).inc(),
            ToAgent::Verdicts(verdicts) => {
                for verdict in &verdicts.verdicts {
                    self.verdicts.with_label_values(&[code(verdict.code())]).inc();
                }
            }
            _ => {}
        }
    }

    /// A message of so many bytes came from an agent; none: of a kind that this hub does not know.
    pub fn received(&self, message: Option<&ToHub>, bytes: usize) {
        self.traffic("received", message.map_or("Unknown", to_hub), bytes);
        let nack = |reason: &str| self.nacks.with_label_values(&[reason]).inc();
        match message {
            Some(ToHub::Ack(ack)) => {
                self.acks.inc();
                for refusal in &ack.refused {
                    nack(REFUSALS.into_iter().find(|known| *known == refusal.reason).unwrap_or("Other"));
                }
            }
            Some(ToHub::Retry(_)) => nack("Retry"),
            Some(ToHub::Resync(_)) => nack("Resync"),
            Some(ToHub::Report(report)) => self.reports.inc_by(report.entries.len() as u64),
            _ => {}
        }
    }

    fn traffic(&self, direction: &str, kind: &str, bytes: usize) {
        self.messages.with_label_values(&[direction, kind]).inc();
        self.message_bytes.with_label_values(&[direction, kind]).inc_by(bytes as u64);
    }

    /// Measures the event loop until `token` is cancelled.
    ///
    /// # Errors
    /// Never.
    pub async fn measure_loop(self, token: CancellationToken) -> Result<(), BoxError> {
        while !token.is_cancelled() {
            let due = clock::now() + ASKED;
            sleep(ASKED).await;
            self.lateness.observe(clock::now().saturating_duration_since(due).as_secs_f64());
        }
        Ok(())
    }
}

const fn to_agent(message: &ToAgent) -> &'static str {
    match message {
        ToAgent::Welcome(_) => "Welcome",
        ToAgent::Refused(_) => "Refused",
        ToAgent::InSync(_) => "InSync",
        ToAgent::Compare(_) => "Compare",
        ToAgent::Delta(_) => "Delta",
        ToAgent::Verdicts(_) => "Verdicts",
        ToAgent::Heartbeat(_) => "Heartbeat",
        ToAgent::Farewell(_) => "Farewell",
        ToAgent::Goodbye(_) => "Goodbye",
        ToAgent::OpenStream(_) => "OpenStream",
    }
}

const fn to_hub(message: &ToHub) -> &'static str {
    match message {
        ToHub::Hello(_) => "Hello",
        ToHub::Inventory(_) => "Inventory",
        ToHub::Ack(_) => "Ack",
        ToHub::Retry(_) => "Retry",
        ToHub::Resync(_) => "Resync",
        ToHub::Report(_) => "Report",
        ToHub::Heartbeat(_) => "Heartbeat",
        ToHub::Stream(_) => "Stream",
    }
}

/// For logs and metrics.
#[must_use]
pub const fn refusal(code: refused::Code) -> &'static str {
    match code {
        refused::Code::Unspecified => "unspecified",
        refused::Code::Stale => "stale",
        refused::Code::TryLater => "try_later",
        refused::Code::Denied => "denied",
        refused::Code::OtherCluster => "other_cluster",
        refused::Code::Protocol => "protocol",
        refused::Code::Superseded => "superseded",
        refused::Code::OtherUid => "other_uid",
    }
}

const fn code(code: Code) -> &'static str {
    match code {
        Code::Unspecified => "Unspecified",
        Code::Written => "Written",
        Code::Superseded => "Superseded",
        Code::Gone => "Gone",
        Code::Refused => "Refused",
    }
}
