//! Facts of this machine: what `status.agent` and `status.capacity` of its EdgeNode say.

use std::{fs, path::Path};

use selvedge_protocol::agent::NodeState;

/// Version of this agent.
pub const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The machine as it is, with the size of the disk that holds `state_dir`; runtime and notice are filled
/// in by who knows them. What cannot be found out is empty or 0.
#[must_use]
pub fn state(state_dir: &Path) -> NodeState {
    let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get) as u64;
    NodeState {
        agent_version: AGENT_VERSION.to_owned(),
        arch: arch(std::env::consts::ARCH).to_owned(),
        os: std::env::consts::OS.to_owned(),
        kernel: line("/proc/sys/kernel/osrelease"),
        cpu_millis: cpus * 1000,
        storage_bytes: rustix::fs::statvfs(state_dir).map_or(0, |disk| disk.f_blocks * disk.f_frsize),
        memory_bytes: memory_bytes(&line("/proc/meminfo")),
        ..NodeState::default()
    }
}

/// Go's names, as in the label `kubernetes.io/arch`.
fn arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn memory_bytes(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_is_measured() {
        assert_eq!(super::memory_bytes("MemTotal:        1024 kB\nMemFree: 1 kB"), 1_048_576);
        assert_eq!(super::memory_bytes(""), 0);
        let state = super::state(std::path::Path::new("/"));
        assert!(state.memory_bytes > 0 && state.storage_bytes > 0 && state.cpu_millis > 0, "{state:?}");
    }
}
