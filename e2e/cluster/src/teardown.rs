//! Taking a cluster away: first the list of what is there (pure, so that it can be read and reviewed),
//! then its execution. What is looked at is the machine, not a memory of it, so that a launcher that was
//! killed half way, or a state file that is gone, leaves nothing behind.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup;
use crate::clock::{Deadline, wait_for};
use crate::command::{command, succeeds};
use crate::fabric::FABRIC;
use crate::host::{Host, HostError};
use crate::layout::Layout;
use crate::process;

#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("the interface {0} is still there; `ip link del {0}` removes it")]
    Link(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every process, mount, container, interface and packet filter rule of the host.
    PowerOff(String),
    Link(String),
    Cgroup(String),
    Directory(PathBuf),
    File(PathBuf),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff(host) => write!(f, "power off host {host}"),
            Self::Link(link) => write!(f, "remove interface {link}"),
            Self::Cgroup(group) => write!(f, "remove cgroup {group}"),
            Self::Directory(path) => write!(f, "remove directory {}", path.display()),
            Self::File(path) => write!(f, "remove file {}", path.display()),
        }
    }
}

/// What taking the cluster away consists of. `hosts` is [`hosts`]. Logs and links to tools stay.
pub fn plan(layout: &Layout, hosts: &BTreeSet<String>) -> Vec<Step> {
    // The fabric last, so that no host sees its network go before itself.
    let (fabric, others): (Vec<_>, Vec<_>) = hosts.iter().cloned().partition(|host| host == FABRIC);
    let power_off = others.into_iter().chain(fabric).map(Step::PowerOff);
    let rest = [
        Step::Link(layout.uplink()),
        Step::Cgroup(layout.cgroup()),
        Step::File(layout.kubeconfig()),
        Step::Directory(layout.cluster()),
    ];
    power_off.chain(rest).collect()
}

/// The hosts of a cluster: those with a disk and those with a process.
pub fn hosts(layout: &Layout) -> BTreeSet<String> {
    let prefix = format!("{}/", layout.id());
    let running = process::values("SELVEDGE_HOST")
        .into_iter()
        .filter_map(|(_, value)| value.strip_prefix(&prefix).map(str::to_owned));
    let disks = fs::read_dir(layout.cluster().join("hosts")).into_iter().flatten().filter_map(Result::ok);
    running.chain(disks.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect()
}

/// Carries out one step. What is gone already is what was asked for.
pub fn execute(layout: &Layout, step: &Step) -> Result<(), TeardownError> {
    let tolerate = |result: std::io::Result<()>, path: &PathBuf| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TeardownError::Remove { path: path.clone(), source: error })
        }
        _ => Ok(()),
    };
    match step {
        Step::PowerOff(host) => Ok(Host::new(layout, host).power_off()?),
        Step::Link(link) => remove_link(link),
        Step::Cgroup(group) => {
            cgroup::remove(group);
            Ok(())
        }
        Step::Directory(path) => tolerate(fs::remove_dir_all(path), path),
        Step::File(path) => tolerate(fs::remove_file(path), path),
    }
}

/// The kernel removes it with the fabric, a moment later; helped along when it does not.
fn remove_link(link: &str) -> Result<(), TeardownError> {
    let gone = || {
        let there = succeeds(&mut command("ip", ["link", "show", link]));
        if there {
            succeeds(&mut command("ip", ["link", "del", link]));
        }
        (!there).then_some(())
    };
    wait_for(Deadline::after(Duration::from_secs(10)), gone)
        .ok_or_else(|| TeardownError::Link(link.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_on_the_list_and_the_fabric_goes_last() {
        let layout = Layout::at("/d/.dev").unwrap();
        let hosts = ["control", "edge-1", "fabric", "site"].map(str::to_owned).into();
        let text: String = plan(&layout, &hosts).iter().map(|step| format!("{step}\n")).collect();
        let id = layout.id();
        assert_eq!(text.replace(&id, "ID"), include_str!("goldens/teardown.txt"));
    }
}
