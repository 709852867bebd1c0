//! An edge host of demo and tests: a machine of its own as far as software can tell, and everything that
//! happens to machines at the edge: the cable cut, the line slow, the process killed, the power gone.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::succeeds;
use crate::containerd::{Containerd, ContainerdError};
use crate::fabric::{Fabric, FabricError, INTERFACE, shape};
use crate::host::{Host, HostError};
use crate::layout::Layout;
use crate::process::Identity;
use crate::state::State;
use crate::tools::Tools;

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Fabric(#[from] FabricError),
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
}

/// One edge host. Dropping it changes nothing; [`EdgeHost::destroy`](crate::Cluster::destroy_edge) does.
pub struct EdgeHost {
    host: Host,
    layout: Layout,
    tools: Tools,
    state: State,
    member: u8,
    pods: String,
}

impl EdgeHost {
    pub(crate) fn new(layout: &Layout, tools: &Tools, state: &State, name: &str, member: u8) -> Self {
        Self {
            host: Host::new(layout, name),
            layout: layout.clone(),
            tools: tools.clone(),
            state: state.clone(),
            member,
            // Outside the control host's pods, and different on every edge host: easier to read in a trace.
            pods: format!("10.88.{member}.0/24"),
        }
    }

    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Its address in the fabric.
    pub fn address(&self) -> Ipv4Addr {
        self.state.subnet.address(self.member)
    }

    /// Where it reaches the control host: a NodePort or hostPort there is a port of this address.
    pub fn control_address(&self) -> Ipv4Addr {
        self.state.subnet.address(2)
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its disk as this machine sees it; its `/var/lib` is `var-lib` in it.
    pub fn disk(&self) -> PathBuf {
        self.host.disk()
    }

    /// Switches it on: network, then containerd. Fine when it is on.
    pub fn power_on(&self) -> Result<(), EdgeError> {
        self.host.power_on(&self.tools.path("pause"))?;
        let fabric = Fabric::new(&self.layout, self.state.subnet);
        fabric.attach(&self.host, self.member)?;
        if self.state.mode == crate::state::Mode::External {
            fabric.route_out(&self.host)?;
        }
        self.start_containerd()
    }

    /// Takes its power: every process and container ends at once and unasked; the disk stays.
    pub fn power_off(&self) -> Result<(), EdgeError> {
        Ok(self.host.power_off()?)
    }

    /// Starts containerd unless it runs, after it was killed by [`EdgeHost::kill`]`("containerd")`.
    pub fn start_containerd(&self) -> Result<(), EdgeError> {
        Ok(self.containerd().start()?)
    }

    /// Imports an image archive; `false` when it was there.
    pub fn import(&self, archive: &Path) -> Result<bool, EdgeError> {
        Ok(self.containerd().import(archive)?)
    }

    /// Starts a long-running process on the host, its output appended to `logs/<host>-<name>.log`.
    pub fn spawn(&self, name: &str, words: &[String], env: &[(&str, String)]) -> Result<Identity, EdgeError> {
        Ok(self.host.spawn(name, words, env)?)
    }

    /// The process of this name, when it runs.
    pub fn process(&self, name: &str) -> Option<Identity> {
        self.host.process(name)
    }

    /// `SIGKILL` to the process of this name, and waits until it is gone.
    pub fn kill(&self, name: &str) -> Result<(), EdgeError> {
        Ok(self.host.kill(name)?)
    }

    /// `SIGTERM` to the process of this name; whether it ended within the time.
    pub fn terminate(&self, name: &str, within: Duration) -> bool {
        self.host.terminate(name, within)
    }

    /// A command that will run on the host.
    pub fn command(&self, program: &str) -> Result<Command, EdgeError> {
        let mut command = self.host.enter(program)?;
        command.env("PATH", self.layout.path_with_tools());
        Ok(command)
    }

    /// Where a path of the host, also one in its private `/run`, is seen from this machine while it is on.
    pub fn path(&self, inside: &str) -> Result<PathBuf, EdgeError> {
        Ok(self.host.path(inside)?)
    }

    /// Cuts the cable: nothing in, nothing out, and no error that would tell anyone.
    pub fn cut(&self) -> Result<(), EdgeError> {
        for rule in CUT {
            if !self.has(rule)? {
                let args = [&["--wait", "-t", rule.table, "-I", rule.chain], rule.rest].concat();
                self.host.run("iptables", args)?;
            }
        }
        Ok(())
    }

    /// Mends the cable.
    pub fn mend(&self) -> Result<(), EdgeError> {
        for rule in CUT {
            if self.has(rule)? {
                let args = [&["--wait", "-t", rule.table, "-D", rule.chain], rule.rest].concat();
                self.host.run("iptables", args)?;
            }
        }
        Ok(())
    }

    /// Limits the line to so many kbit/s each way; `None` lifts the limit.
    pub fn slow(&self, kbit: Option<u32>) -> Result<(), EdgeError> {
        shape(&self.host, INTERFACE, kbit)?;
        Ok(Fabric::new(&self.layout, self.state.subnet).shape(self.member, kbit)?)
    }

    fn has(&self, rule: Rule) -> Result<bool, EdgeError> {
        let args = [&["--wait", "-t", rule.table, "-C", rule.chain], rule.rest].concat();
        Ok(succeeds(self.host.enter("iptables")?.args(args)))
    }

    fn containerd(&self) -> Containerd<'_> {
        Containerd { host: &self.host, bin: self.tools.containerd_dir(), pods: &self.pods }
    }
}

#[derive(Clone, Copy)]
struct Rule {
    table: &'static str,
    chain: &'static str,
    rest: &'static [&'static str],
}

/// As early as a packet comes in and as late as it goes out, so that the host's own traffic and that of
/// its containers are cut alike, and established connections with them.
const CUT: [Rule; 2] = [
    Rule { table: "raw", chain: "PREROUTING", rest: &["-i", INTERFACE, "-j", "DROP"] },
    Rule { table: "mangle", chain: "POSTROUTING", rest: &["-o", INTERFACE, "-j", "DROP"] },
];
