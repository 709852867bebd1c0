//! The status as Prometheus text (exposition format 0.0.4). Numbers only; no object names as labels.

use std::fmt::Write as _;

use super::NodeStatus;

/// Renders the metrics of a status.
#[must_use]
pub fn metrics(status: &NodeStatus) -> String {
    let workloads = |phase: &str| status.workloads.iter().filter(|one| one.phase == phase).count();
    let connected = status.devices.iter().filter(|device| device.connected).count();
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, usize)]| {
        // Writing to a string cannot fail.
        let _ = write!(out, "# HELP selvedge_agent_{name} {help}\n# TYPE selvedge_agent_{name} {kind}\n");
        for (labels, value) in values {
            let _ = writeln!(out, "selvedge_agent_{name}{labels} {value}");
        }
    };
    metric(
        "connected",
        "gauge",
        "Whether a session with a hub is up.",
        &[("", status.link.connected.into())],
    );
    metric(
        "synced",
        "gauge",
        "Whether the hub said that the ledger is current.",
        &[("", status.in_sync.into())],
    );
    let sessions = usize::try_from(status.link.sessions).unwrap_or(usize::MAX);
    metric("sessions_total", "counter", "Sessions since the agent started.", &[("", sessions)]);
    metric("entries", "gauge", "Entries in force.", &[("", status.entries)]);
    metric("entries_held_back", "gauge", "Entries refused or waiting.", &[("", status.held_back.len())]);
    metric(
        "reports_waiting",
        "gauge",
        "Reports that no hub has written yet.",
        &[("", status.reports_waiting)],
    );
    metric(
        "workloads",
        "gauge",
        "Workloads by phase.",
        &[
            ("{phase=\"Pending\"}", workloads("Pending")),
            ("{phase=\"Running\"}", workloads("Running")),
            ("{phase=\"Succeeded\"}", workloads("Succeeded")),
            ("{phase=\"Failed\"}", workloads("Failed")),
        ],
    );
    metric(
        "devices",
        "gauge",
        "Devices by whether they answer.",
        &[("{connected=\"true\"}", connected), ("{connected=\"false\"}", status.devices.len() - connected)],
    );
    out
}
