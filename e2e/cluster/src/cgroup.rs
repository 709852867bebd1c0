//! Cgroups, the one thing of a host that the kernel does not take away with its process 1: the empty
//! directories that containers leave. Version 1 hierarchies and version 2 alike.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the hierarchies are mounted: (controllers, mount point); version 2 has no controllers named.
fn hierarchies(mounts: &str) -> Vec<(BTreeSet<String>, PathBuf)> {
    let parse = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers = match kind {
            "cgroup" => options
                .split(',')
                .filter(|option| !MOUNT_OPTIONS.contains(option))
                .map(str::to_owned)
                .collect(),
            "cgroup2" => BTreeSet::new(),
            _ => return None,
        };
        Some((controllers, PathBuf::from(at)))
    };
    mounts.lines().filter_map(parse).collect()
}

const MOUNT_OPTIONS: [&str; 8] = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime", "xattr"];

fn mounted() -> Vec<(BTreeSet<String>, PathBuf)> {
    hierarchies(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

/// Makes a group (a path from the root of the hierarchies) in all of them, for a kubelet to live under.
pub fn make(group: &str) -> std::io::Result<()> {
    for (controllers, at) in mounted() {
        let dir = at.join(group.trim_start_matches('/'));
        fs::create_dir_all(&dir)?;
        // A version 1 cpuset starts empty and takes no process until it has processors and memory.
        if controllers.contains("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(dir.join(file), fs::read(at.join(file))?)?;
            }
        }
        // A version 2 group has only the controllers that its parent hands down. Where a controller
        // cannot be handed down (it is in use by version 1) there is nothing to hand.
        if controllers.is_empty() {
            let have = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
            for controller in have.split_whitespace() {
                let _not_available = fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
    Ok(())
}

/// Removes a group and all below it, as far as no process is in them.
pub fn remove(group: &str) {
    for (_, at) in mounted() {
        remove_tree(&at.join(group.trim_start_matches('/')));
    }
}

fn remove_tree(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _still_used = fs::remove_dir(dir);
}

/// The groups that these processes are in, other than this program's own.
pub fn of_processes(pids: &BTreeSet<u32>) -> BTreeSet<PathBuf> {
    let mounted = mounted();
    let own = groups(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), &mounted);
    let theirs = pids.iter().flat_map(|pid| {
        groups(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default(), &mounted)
    });
    theirs.filter(|group| !own.iter().any(|mine| mine.starts_with(group))).collect()
}

/// The directories behind the text of `/proc/<pid>/cgroup`.
fn groups(text: &str, mounted: &[(BTreeSet<String>, PathBuf)]) -> BTreeSet<PathBuf> {
    let parse = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let wanted: BTreeSet<String> =
            controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let (_, at) = mounted.iter().find(|(have, _)| *have == wanted)?;
        let path = path.trim_start_matches('/');
        (!path.is_empty()).then(|| at.join(path))
    };
    text.lines().filter_map(parse).collect()
}

/// Removes those groups that are empty now, and their parents that became empty by it.
pub fn remove_empty(groups: &BTreeSet<PathBuf>) {
    let roots: Vec<PathBuf> = mounted().into_iter().map(|(_, at)| at).collect();
    for group in groups.iter().rev() {
        let mut dir = group.as_path();
        while !roots.iter().any(|root| root == dir) && fs::remove_dir(dir).is_ok() {
            let Some(parent) = dir.parent() else { break };
            dir = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_placed_in_both_versions_and_the_root_group_is_nobodys() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let mounted = hierarchies(mounts);
        let found = groups("3:cpu:/k8s.io/abc\n2:name=systemd:/\n0::/user/x\n", &mounted);
        let expected =
            ["/sys/fs/cgroup/cpu/k8s.io/abc", "/sys/fs/cgroup/unified/user/x"].map(PathBuf::from).into();
        assert_eq!(found, expected);
    }
}
