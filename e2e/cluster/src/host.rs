//! A host: one process 1 with a network, mount, PID and UTS namespace of its own, and what runs in them.
//!
//! Nothing about a running host is written down except which processes were started on it. The host
//! itself is found by the mark in its environment, so that it survives the launcher and is found again
//! after any kind of death of it.
//!
//! On a host, `/run` is empty memory (lost at power off, as on a real machine), `/var/lib` and `/var/log`
//! are directories of its own disk ([`Layout::host`]), `/proc` shows its own processes. All else is this
//! machine's file system.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::clock::{Deadline, wait_for};
use crate::command::{CommandError, run};
use crate::layout::Layout;
use crate::process::{self, Identity};

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot {what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot start host {host}: process 1 did not appear within {} s; see {}", within.as_secs(), log.display())]
    NoInit { host: String, within: Duration, log: PathBuf },
    #[error("host {host} is off: power it on first")]
    Off { host: String },
    #[error("cannot start {process} on host {host}")]
    Spawn { process: String, host: String, source: std::io::Error },
    #[error("{process} ended at once on host {host}; its log {} ends with:\n{tail}", log.display())]
    EndedAtOnce { process: String, host: String, log: PathBuf, tail: String },
    #[error("{process} on host {host} did not end within {} s of being killed (uninterruptible?)", within.as_secs())]
    WillNotEnd { process: String, host: String, within: Duration },
    #[error("on host {host}")]
    Command { host: String, source: CommandError },
}

/// One host of a cluster, running or not.
#[derive(Clone, Debug)]
pub struct Host {
    layout: Layout,
    name: String,
}

/// What is kept of a process that was started on a host.
#[derive(Serialize, Deserialize)]
struct Record {
    identity: Identity,
    words: Vec<String>,
}

/// A host starts in milliseconds, a kill is immediate: longer means that something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

impl Host {
    pub fn new(layout: &Layout, name: &str) -> Self {
        Self { layout: layout.clone(), name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's disk as this machine sees it.
    pub fn disk(&self) -> PathBuf {
        self.layout.host(&self.name)
    }

    /// Where a path of the host is seen from this machine, while the host runs: also the paths in its
    /// private `/run`, such as sockets.
    pub fn path(&self, inside: &str) -> Result<PathBuf, HostError> {
        Ok(PathBuf::from(format!("/proc/{}/root{inside}", self.init()?.pid)))
    }

    fn mark(&self) -> (&'static str, String) {
        ("SELVEDGE_HOST", format!("{}/{}", self.layout.id(), self.name))
    }

    fn marked(&self) -> Vec<u32> {
        let (name, value) = self.mark();
        process::bearing(&format!("{name}={value}"))
    }

    /// The host's process 1 as this machine numbers it.
    pub fn init(&self) -> Result<Identity, HostError> {
        self.find_init().ok_or_else(|| HostError::Off { host: self.name.clone() })
    }

    fn find_init(&self) -> Option<Identity> {
        // `/pause` and not the shell before it: only then are the host's mounts made.
        let is_init = |pid: &u32| {
            matches!(process::numbers(*pid)[..], [_, 1])
                && process::words(*pid).first().is_some_and(|word| word.ends_with("/pause"))
        };
        self.marked().into_iter().find(is_init).and_then(Identity::of)
    }

    pub fn is_on(&self) -> bool {
        self.find_init().is_some()
    }

    /// Starts the host unless it is on. `pause` is the static program that becomes its process 1.
    /// The answer says whether it had to be started.
    pub fn power_on(&self, pause: &Path) -> Result<bool, HostError> {
        if self.is_on() {
            return Ok(false);
        }
        // What a launcher left that was killed half way.
        self.power_off()?;
        let disk = self.disk();
        for dir in [disk.join("var-lib"), disk.join("var-log"), disk.join("proc"), self.layout.logs()] {
            fs::create_dir_all(&dir).map_err(|source| HostError::File { what: "make", path: dir, source })?;
        }
        let log = self.layout.log(&self.name, "host");
        let mut command = Command::new("setsid");
        command
            .args([
                "unshare", "--fork", "--pid", "--mount", "--net", "--uts", "--", "sh", "-ec", BOOT, "boot",
            ])
            .arg(&disk)
            .arg(&self.name)
            .arg(pause);
        self.start(&mut command, &log, "process 1")?;
        wait_for(Deadline::after(PATIENCE), || self.find_init())
            .map(|_| true)
            .ok_or_else(|| HostError::NoInit { host: self.name.clone(), within: PATIENCE, log })
    }

    /// Takes the power away: every process on the host ends at once, its mounts, interfaces and rules go
    /// with it, its disk stays. Fine on a host that is off.
    pub fn power_off(&self) -> Result<(), HostError> {
        let marked = self.marked();
        let family = process::family(&marked);
        let groups = cgroup::of_processes(&family);
        let everyone: Vec<Identity> = family.into_iter().filter_map(Identity::of).collect();
        if let Some(init) = self.find_init() {
            init.kill();
        }
        // The shells and `nsenter`s outside the PID namespace, and a process 1 that had not come that far.
        for identity in marked.into_iter().filter_map(Identity::of) {
            identity.kill();
        }
        let gone = || (!everyone.iter().any(Identity::alive)).then_some(());
        wait_for(Deadline::after(PATIENCE), gone).ok_or_else(|| HostError::WillNotEnd {
            process: "a process".into(),
            host: self.name.clone(),
            within: PATIENCE,
        })?;
        cgroup::remove_empty(&groups);
        let records = self.disk().join("proc");
        if records.exists() {
            fs::remove_dir_all(&records).map_err(|source| HostError::File {
                what: "remove",
                path: records,
                source,
            })?;
        }
        Ok(())
    }

    /// A command that will run on the host: all namespaces, this process's environment and directory.
    pub fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, HostError> {
        let init = self.init()?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init.pid.to_string(), "--mount", "--net", "--pid", "--uts", "--"])
            .arg(program);
        let (name, value) = self.mark();
        command.env(name, value);
        Ok(command)
    }

    /// Runs a command on the host to its end; the answer is its stdout.
    pub fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, HostError> {
        let mut command = self.enter(program)?;
        run(command.args(args)).map_err(|source| HostError::Command { host: self.name.clone(), source })
    }

    /// Starts a long-running process on the host, its output appended to [`Layout::log`]. One of this name
    /// that runs already is left alone when it was started with the same words, else replaced.
    pub fn spawn(
        &self,
        process: &str,
        words: &[String],
        env: &[(&str, String)],
    ) -> Result<Identity, HostError> {
        if let Some(running) = self.record(process)
            && running.words == words
        {
            return Ok(running.identity);
        }
        self.kill(process)?;
        let (mark, value) = self.process_mark(process);
        let log = self.layout.log(&self.name, process);
        let inner = self.enter(words.first().map(String::as_str).unwrap_or_default())?;
        let mut command = Command::new("setsid");
        command.arg(inner.get_program()).args(inner.get_args()).args(words.iter().skip(1));
        command.env(mark, value).current_dir(self.disk());
        for (name, value) in env {
            command.env(name, value);
        }
        let outer = self.start(&mut command, &log, process)?;
        // `nsenter` forks into the PID namespace; its child is the process, once it is no `nsenter` itself.
        let arrived = |pid: &u32| {
            process::numbers(*pid).len() == 2
                && process::words(*pid).first().is_some_and(|word| word != "nsenter")
        };
        let found = || match Identity::of(outer) {
            None => Some(None),
            Some(_) => process::children(outer).into_iter().find(arrived).and_then(Identity::of).map(Some),
        };
        let ended_at_once = || HostError::EndedAtOnce {
            process: process.to_owned(),
            host: self.name.clone(),
            tail: tail(&log),
            log: log.clone(),
        };
        let identity = wait_for(Deadline::after(PATIENCE), found).flatten().ok_or_else(ended_at_once)?;
        self.remember(process, &Record { identity, words: words.to_vec() })?;
        Ok(identity)
    }

    /// Names of the processes that were started on the host since it was switched on.
    pub fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir(self.disk().join("proc")).into_iter().flatten().filter_map(Result::ok);
        let name = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned);
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names
    }

    /// The process of this name, when it runs.
    pub fn process(&self, process: &str) -> Option<Identity> {
        self.record(process).map(|record| record.identity)
    }

    /// `SIGKILL` to the process of this name and to what was started under its name by a launcher that
    /// could not write it down. What it started itself (a container's shim) lives on, as on a real machine.
    pub fn kill(&self, process: &str) -> Result<(), HostError> {
        let recorded = self.record(process).map(|record| record.identity);
        let (name, value) = self.process_mark(process);
        let unrecorded =
            process::bearing(&format!("{name}={value}")).into_iter().filter_map(Identity::of).filter(|one| {
                let parent_is_ours = process::words(one.pid).first().is_some_and(|word| word == "nsenter");
                parent_is_ours && recorded.is_none()
            });
        let outer: Vec<Identity> = unrecorded.collect();
        let inner = outer.iter().flat_map(|one| process::children(one.pid)).filter_map(Identity::of);
        let victims: Vec<Identity> = recorded.into_iter().chain(inner).collect();
        victims.iter().for_each(Identity::kill);
        let gone = || (!victims.iter().any(Identity::alive)).then_some(());
        wait_for(Deadline::after(PATIENCE), gone).ok_or_else(|| HostError::WillNotEnd {
            process: process.to_owned(),
            host: self.name.clone(),
            within: PATIENCE,
        })
    }

    /// Asks the process to end (`SIGTERM`) and waits; `false` when it still runs at the deadline.
    pub fn terminate(&self, process: &str, within: Duration) -> bool {
        let Some(identity) = self.process(process) else { return true };
        identity.terminate();
        wait_for(Deadline::after(within), || (!identity.alive()).then_some(())).is_some()
    }

    /// The last lines that the process wrote.
    pub fn log_tail(&self, process: &str) -> String {
        tail(&self.layout.log(&self.name, process))
    }

    fn process_mark(&self, process: &str) -> (&'static str, String) {
        ("SELVEDGE_PROCESS", format!("{}/{}/{process}", self.layout.id(), self.name))
    }

    fn record(&self, process: &str) -> Option<Record> {
        let text = fs::read(self.record_path(process)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        record.identity.alive().then_some(record)
    }

    fn record_path(&self, process: &str) -> PathBuf {
        self.disk().join("proc").join(format!("{process}.json"))
    }

    fn remember(&self, process: &str, record: &Record) -> Result<(), HostError> {
        let path = self.record_path(process);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(self.disk().join("proc"))?;
            File::create(&path)?.write_all(&serde_json::to_vec(record)?)
        };
        write().map_err(|source| HostError::File { what: "write", path: path.clone(), source })
    }

    /// Starts a command detached from this process, with the host's mark; the answer is its number.
    fn start(&self, command: &mut Command, log: &Path, process: &str) -> Result<u32, HostError> {
        let open = OpenOptions::new().create(true).append(true).open(log);
        let out = open.and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) =
            out.map_err(|source| HostError::File { what: "open", path: log.to_owned(), source })?;
        let (name, value) = self.mark();
        let child = command.env(name, value).stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(
            |source| HostError::Spawn { process: process.to_owned(), host: self.name.clone(), source },
        )?;
        let pid = child.id();
        reap(child);
        Ok(pid)
    }
}

/// Whoever starts a process collects it: a test that runs for minutes would otherwise gather zombies.
/// The thread ends with the child, or with this program.
fn reap(mut child: Child) {
    std::thread::spawn(move || {
        let _how_it_ended_stands_in_its_log = child.wait();
    });
}

/// The end of a log: enough to see the reason, short enough for a terminal.
fn tail(log: &Path) -> String {
    const LINES: usize = 12;
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// What the host does before its process 1: `$1` is its disk, `$2` its name, `$3` the program.
/// Mounts are first cut off from this machine's (private) and then shared among the host's own processes,
/// because a kubelet's mounts must reach the containers.
const BOOT: &str = r#"
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount --bind "$1/var-lib" /var/lib
mount --bind "$1/var-log" /var/log
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
hostname "$2"
exec "$3"
"#;
