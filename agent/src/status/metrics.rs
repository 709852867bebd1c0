//! The status as Prometheus text (exposition format 0.0.4). Numbers only; no object names as labels.
//! What each means stands in `docs/reference/agent-metrics.md`.

use std::{collections::BTreeMap, fmt::Write as _};

use super::NodeStatus;
use crate::link::Traffic;

/// The text of one exposition.
#[derive(Default)]
struct Text(String);

impl Text {
    /// One metric with a sample per set of labels (`name="value",…`; empty: none).
    fn metric<L: AsRef<str>>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP selvedge_agent_{name} {help}\n# TYPE selvedge_agent_{name} {kind}\n");
        for (labels, value) in samples {
            let labels = match labels.as_ref() {
                "" => String::new(),
                labels => format!("{{{labels}}}"),
            };
            let _ = writeln!(self.0, "selvedge_agent_{name}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) {
        self.metric(name, "gauge", help, [("", value as u64)]);
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, counts: &BTreeMap<String, u64>) {
        let samples = counts.iter().map(|(of, count)| (format!("{label}={of:?}"), *count));
        self.metric(name, "counter", help, samples);
    }
}

/// Renders the metrics of a status.
#[must_use]
pub fn metrics(status: &NodeStatus) -> String {
    let mut text = Text::default();
    text.gauge("connected", "Whether a session with a hub is up.", status.link.connected.into());
    text.gauge("synced", "Whether the hub said that the ledger is current.", status.in_sync.into());
    let sessions = [("", status.link.sessions)];
    text.metric("sessions_total", "counter", "Sessions since the agent started.", sessions);
    link(&mut text, status);
    text.gauge("entries", "Entries in force.", status.entries);
    text.gauge("entries_held_back", "Entries refused or waiting.", status.held_back.len());
    text.gauge("reports_waiting", "Reports that no hub has written yet.", status.reports_waiting);
    let phases = ["Pending", "Running", "Succeeded", "Failed"].map(|phase| {
        let count = status.workloads.iter().filter(|one| one.phase == phase).count();
        (format!("phase={phase:?}"), count as u64)
    });
    text.metric("workloads", "gauge", "Workloads by phase.", phases);
    let devices = [true, false].map(|connected| {
        let count = status.devices.iter().filter(|device| device.connected == connected).count();
        (format!("connected=\"{connected}\""), count as u64)
    });
    text.metric("devices", "gauge", "Devices by whether they answer.", devices);
    text.0
}

fn link(text: &mut Text, status: &NodeStatus) {
    let counts = &status.counts;
    text.counters("dials_total", "Tries to reach a hub, by how far they came.", "result", &counts.dials);
    text.counters("sessions_ended_total", "Sessions that ended, by how.", "reason", &counts.sessions_ended);
    let both = |number: fn(&Traffic) -> u64| {
        [("sent", &counts.sent), ("received", &counts.received)].into_iter().flat_map(
            move |(way, traffic)| {
                let labels = move |kind: &String| format!("direction=\"{way}\",kind={kind:?}");
                traffic.iter().map(move |(kind, traffic)| (labels(kind), number(traffic)))
            },
        )
    };
    let help = "Messages over the link, by kind.";
    text.metric("messages_total", "counter", help, both(|traffic| traffic.messages));
    let help = "Bytes of messages over the link before TLS, by kind.";
    text.metric("message_bytes_total", "counter", help, both(|traffic| traffic.bytes));
    let help = "Entries answered as refused, by reason.";
    text.counters("entries_refused_total", help, "reason", &counts.entries_refused);
    text.counters("verdicts_total", "Verdicts of the hub on reports, by code.", "code", &counts.verdicts);
}

#[cfg(test)]
mod tests {
    use super::{Traffic, metrics};
    use crate::status::text::tests::status;

    /// What is counted is documented, and nothing else is.
    const REFERENCE: &str = include_str!("../../../docs/reference/agent-metrics.md");

    #[test]
    fn every_metric_is_well_formed_and_documented() {
        let mut status = status();
        status.counts.dials.insert("Connected".into(), 3);
        status.counts.sent.insert("Ack".into(), Traffic { messages: 2, bytes: 90 });
        status.counts.entries_refused.insert("Undecodable".into(), 1);
        let text = metrics(&status);
        for line in [
            "selvedge_agent_connected 1",
            "selvedge_agent_dials_total{result=\"Connected\"} 3",
            "selvedge_agent_message_bytes_total{direction=\"sent\",kind=\"Ack\"} 90",
            "selvedge_agent_entries_refused_total{reason=\"Undecodable\"} 1",
            "selvedge_agent_workloads{phase=\"Failed\"} 1",
            "selvedge_agent_devices{connected=\"true\"} 1",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let documented = REFERENCE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(told.collect::<Vec<_>>(), documented.collect::<Vec<_>>());
    }
}
