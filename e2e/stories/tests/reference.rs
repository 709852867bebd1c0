//! `docs/reference/metrics.md`, from what the binaries register: `make generate` writes it, `make check` fails
//! when it is not what is registered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::MetricType;

const HEAD: &str = "\
# Metrics

What hub, webhook and controllers count, at `/metrics` of port 8080 of each pod. Written by `make generate`; do not
edit. The agent's metrics are in [agent-metrics.md](agent-metrics.md). Counters begin at zero with each start; no
label names an object.

The coalescing ratio, reports over writes: `sum(rate(selvedge_hub_reports_total[5m])) /
sum(rate(selvedge_hub_status_writes_total{result=\"written\"}[5m]))`. How long 99 of 100 deliveries stay below:
`histogram_quantile(0.99, sum by (le) (rate(selvedge_hub_desired_to_delivered_seconds_bucket[5m])))`.
";

/// What it is measured in, as its name says.
fn unit(name: &str, kind: MetricType) -> &'static str {
    let base = name.strip_suffix("_total").unwrap_or(name);
    if base.ends_with("_timestamp_seconds") {
        "Unix time, s"
    } else if base.ends_with("_seconds") {
        "s"
    } else if base.ends_with("_bytes") {
        "bytes"
    } else if kind == MetricType::COUNTER {
        "events"
    } else {
        "number"
    }
}

fn table(collectors: &[Box<dyn Collector>]) -> String {
    let mut text = String::from("| Metric | Type | Labels | Unit | Meaning |\n|---|---|---|---|---|\n");
    let mut rows: Vec<String> = Vec::new();
    for collector in collectors {
        let families = collector.collect();
        for of in collector.desc() {
            let kind = families.iter().find(|family| family.name() == of.fq_name).map(|f| f.get_field_type());
            let kind = kind.unwrap_or_else(|| panic!("{} collects nothing", of.fq_name));
            let kind_name = match kind {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                other => panic!("{} is a {other:?}", of.fq_name),
            };
            let labels: Vec<String> = of.variable_labels.iter().map(|label| format!("`{label}`")).collect();
            let (labels, unit) = (labels.join(", "), unit(&of.fq_name, kind));
            rows.push(format!("| `{}` | {kind_name} | {labels} | {unit} | {} |", of.fq_name, of.help));
        }
    }
    for row in rows {
        writeln!(text, "{row}").unwrap();
    }
    text
}

#[test]
fn metrics_are_as_documented() {
    let registry = Registry::new();
    let hub = selvedge_hub::metrics::Metrics::new(&registry).unwrap().collectors();
    let webhook = selvedge_webhook::metrics::Metrics::new(&registry).unwrap().collectors();
    let controllers = selvedge_controllers::metrics::collectors().unwrap();
    let mut page = HEAD.to_owned();
    for (title, collectors) in [("Hub", hub), ("Webhook", webhook), ("Controllers", controllers)] {
        write!(page, "\n## {title}\n\n{}", table(&collectors)).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/reference/metrics.md is not what is registered: run `make generate`\n{page}"
    );
}
