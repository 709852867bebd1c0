//! Processes of this machine, read from `/proc`: who bears our mark, is it still the same one, end it.
//! A process is never known by its number alone, because numbers are used again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process: its number, and when it started (clock ticks since boot), which no successor shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    pub started: u64,
}

impl Identity {
    /// `None` when there is no such process, or only the zombie of one.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        started(&stat).map(|started| Self { pid, started })
    }

    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Ends it at once. A process that has ended already is what was asked for.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        // The descriptor first, then the look: so the signal cannot reach a later owner of the number.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.alive() {
            let _ended_meanwhile = pidfd_send_signal(descriptor, signal);
        }
    }
}

/// The start time from the text of `/proc/<pid>/stat`, unless the process is a zombie.
fn started(stat: &str) -> Option<u64> {
    // The second field is the program's name in brackets and may hold blanks and brackets itself.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        // State was field 3; the start time is field 22.
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// All processes whose environment has exactly this `NAME=value`.
pub fn bearing(mark: &str) -> Vec<u32> {
    everyone().into_iter().filter(|pid| bears(*pid, mark)).collect()
}

fn bears(pid: u32, mark: &str) -> bool {
    environment(pid).split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
}

/// All processes with this environment variable, and its value.
pub fn values(name: &str) -> Vec<(u32, String)> {
    let value = |pid: u32| {
        let environ = environment(pid);
        let entry = environ
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec))?;
        Some((pid, String::from_utf8_lossy(&entry).into_owned()))
    };
    everyone().into_iter().filter_map(value).collect()
}

fn environment(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

/// Its numbers in the PID namespaces that it is seen from, this machine's first.
pub fn numbers(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Its direct children.
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// These processes and all that descend from them.
pub fn family(roots: &[u32]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut next: Vec<u32> = roots.to_vec();
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children(pid));
        }
    }
    found
}

/// The words that it was started with.
pub fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn everyone() -> Vec<u32> {
    let Ok(entries) = fs::read_dir(Path::new("/proc")) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| std::str::from_utf8(entry.file_name().as_bytes()).ok()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 9 9";
        assert_eq!(started(stat), Some(424242));
        assert_eq!(started("77 (dead) Z 1 77 77 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 424242 9"), None);
    }

    fn until(what: &str, true_now: impl Fn() -> bool) {
        for _ in 0..1_000 {
            if true_now() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("not within 10 s: {what}");
    }

    #[test]
    fn a_child_is_found_by_its_mark_and_killed_and_its_successor_is_not_taken_for_it() {
        let mark = format!("SELVEDGE_TEST={}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").env(name, value).spawn().expect("sleep starts");
        let one = Identity::of(child.id()).expect("it runs");
        // The kernel lets the parent go on before the new program's environment can be read.
        until("its environment shows", || !environment(child.id()).is_empty());
        assert_eq!(bearing(&mark), vec![child.id()]);
        let other = Identity { started: one.started + 1, ..one };
        other.kill();
        assert!(one.alive(), "another start time is another process");
        one.kill();
        child.wait().expect("it ends");
        assert!(!one.alive());
    }
}
