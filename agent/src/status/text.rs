//! The status for people: what is the matter first, then tables.

use std::fmt::Write as _;

use super::NodeStatus;

/// Renders a status as text, a line break after each line.
#[must_use]
pub fn text(status: &NodeStatus) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<9} {value}", format!("{name}:"));
    };
    line("node", &format!("{} (agent {}, cluster {})", status.node, status.version, status.cluster));
    line("link", &link(status));
    line("ledger", &ledger(status));
    line("runtime", &runtime(status));
    if !status.notice.is_empty() {
        line("notice", &status.notice);
    }
    if !status.workloads.is_empty() {
        let rows = status.workloads.iter().map(|workload| {
            let age = if workload.started == 0 { 0 } else { status.now.saturating_sub(workload.started) };
            vec![
                workload.name.clone(),
                or_dash(&workload.desired),
                or_dash(&workload.applied),
                workload.phase.clone(),
                workload.restarts.to_string(),
                if workload.started == 0 { "-".into() } else { duration(age) },
                why(&workload.reason, &workload.message),
            ]
        });
        let head = ["WORKLOAD", "DESIRED", "RUNNING", "STATE", "RESTARTS", "UP", "WHY"];
        out.push_str(&table(&head, rows));
    }
    if !status.devices.is_empty() {
        let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        let rows = status.devices.iter().map(|device| {
            vec![
                device.name.clone(),
                yes(device.connected),
                yes(device.applied),
                or_dash(&device.values.join(" ")),
                why(&device.reason, &device.message),
            ]
        });
        out.push_str(&table(&["DEVICE", "CONNECTED", "APPLIED", "VALUES", "WHY"], rows));
    }
    if !status.held_back.is_empty() {
        let rows =
            status.held_back.iter().map(|held| vec![held.entry.clone(), why(&held.reason, &held.message)]);
        out.push_str(&table(&["NOT IN FORCE", "WHY"], rows));
    }
    out
}

fn link(status: &NodeStatus) -> String {
    let link = &status.link;
    let time = duration(status.now.saturating_sub(link.since));
    if link.connected {
        let sync = if status.in_sync { "in sync" } else { "syncing" };
        return format!("connected to {} since {time}, {sync}", link.hub);
    }
    let next = link.next_try.saturating_sub(status.now);
    let next = if next == 0 { "trying now".to_owned() } else { format!("next try in {}", duration(next)) };
    format!("no hub for {time}: {}; {next}; working from the ledger", link.reason)
}

fn ledger(status: &NodeStatus) -> String {
    let mut text = format!("{} entries in force", status.entries);
    if !status.complete {
        text.push_str(", not whole yet: nothing that runs is stopped");
    }
    if status.stopped {
        text.push_str(", the EdgeNode was deleted: containers and drivers are stopped");
    }
    if status.reports_waiting > 0 {
        let _ = write!(text, ", reports waiting for the hub: {}", status.reports_waiting);
    }
    text
}

fn runtime(status: &NodeStatus) -> String {
    let error = &status.runtime_error;
    match (status.runtime.as_str(), error.is_empty()) {
        ("", true) => "not asked yet".into(),
        (name, true) => name.into(),
        ("", false) => format!("cannot be used: {error}"),
        (name, false) => format!("{name}, cannot be used: {error}"),
    }
}

fn why(reason: &str, message: &str) -> String {
    match (reason, message) {
        ("", "") => String::new(),
        ("", text) | (text, "") => text.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// `45s`, `3m`, `5h`, `2d`: as kubectl shows ages.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> =
        std::iter::once(head.iter().map(|&cell| cell.to_owned()).collect()).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::from("\n");
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
pub mod tests {
    use super::super::{DeviceStatus, HeldBackStatus, NodeStatus, WorkloadStatus};
    use crate::link::{Counts, LinkStatus};

    /// One of each.
    pub fn status() -> NodeStatus {
        NodeStatus {
            node: "shop-1".into(),
            cluster: "c-1".into(),
            version: "0.1.0".into(),
            now: 10_000,
            notice: String::new(),
            link: LinkStatus {
                hub: "https://hub:8443".into(),
                connected: true,
                since: 9_800,
                reason: String::new(),
                next_try: 0,
                sessions: 1,
            },
            counts: Counts::default(),
            in_sync: true,
            complete: true,
            stopped: false,
            entries: 4,
            reports_waiting: 0,
            runtime: "containerd://2.4.2".into(),
            runtime_error: String::new(),
            workloads: vec![WorkloadStatus {
                name: "shop/web".into(),
                desired: "web-2".into(),
                applied: "web-1".into(),
                phase: "Failed".into(),
                reason: "ImagePullFailed".into(),
                message: "no such image".into(),
                restarts: 0,
                started: 0,
            }],
            devices: vec![DeviceStatus {
                name: "shop/boiler".into(),
                connected: true,
                applied: true,
                reason: String::new(),
                message: String::new(),
                values: vec!["setpoint=60".into()],
            }],
            held_back: vec![HeldBackStatus {
                entry: "Workload/shop/api".into(),
                reason: "WaitingForReferences".into(),
                message: "waits for ConfigMap/shop/menu/1".into(),
            }],
        }
    }

    #[test]
    fn says_what_runs_and_why_not() {
        let expected = "\
node:     shop-1 (agent 0.1.0, cluster c-1)
link:     connected to https://hub:8443 since 3m, in sync
ledger:   4 entries in force
runtime:  containerd://2.4.2

WORKLOAD  DESIRED  RUNNING  STATE   RESTARTS  UP  WHY
shop/web  web-2    web-1    Failed  0         -   ImagePullFailed: no such image

DEVICE       CONNECTED  APPLIED  VALUES       WHY
shop/boiler  yes        yes      setpoint=60

NOT IN FORCE       WHY
Workload/shop/api  WaitingForReferences: waits for ConfigMap/shop/menu/1
";
        assert_eq!(super::text(&status()), expected);
    }

    #[test]
    fn says_why_there_is_no_hub() {
        let mut status = status();
        status.link.down("https://hub:8443".into(), "connection refused".into(), 9_880, 132);
        let text = super::text(&status);
        let line = "link:     no hub for 2m: connection refused; next try in 12s; working from the ledger\n";
        assert!(text.contains(line), "{text}");
    }
}
