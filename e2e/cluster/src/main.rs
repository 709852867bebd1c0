//! `selvedge-cluster`: the cluster and its edge hosts for people and for the Makefile.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use selvedge_cluster::cluster::CONTROL;
use selvedge_cluster::modbus::{ModbusServer, Table};
use selvedge_cluster::progress::say;
use selvedge_cluster::tools::Tools;
use selvedge_cluster::{Cluster, Layout, UpOptions, debian, images, preflight};

type Error = Box<dyn std::error::Error>;

/// A real Kubernetes cluster and edge hosts on this machine, from source, without Docker.
///
/// Everything lies in one directory (--dir); two directories are two clusters, side by side. Needs root.
/// Built tools are cached in $SELVEDGE_CACHE (default ~/.cache/selvedge).
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// Directory of the cluster: kubeconfig, bin/, logs/.
    #[arg(long, global = true, env = "SELVEDGE_DIR", default_value = ".dev")]
    dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the cluster, or what is missing of it.
    ///
    /// With SELVEDGE_KUBECONFIG set, that cluster is used and none is started.
    Up(Up),
    /// Take the cluster away: processes, containers, mounts, networks, files. Logs and tools stay.
    Down,
    /// Show hosts and processes.
    Status,
    /// Build the tools that are not cached, and link them into bin/.
    Tools {
        /// Also unpack Debian's Prometheus, and print where it is.
        #[arg(long)]
        prometheus: bool,
    },
    /// Build Selvedge's binaries and images; import the images when the cluster is up.
    Images {
        /// Only the agent's plain binary, for x86_64 and aarch64.
        #[arg(long, conflicts_with = "cluster_only")]
        agent_only: bool,
        /// Only the images.
        #[arg(long)]
        cluster_only: bool,
    },
    /// Import an image archive into the cluster's node.
    Import { archive: PathBuf },
    /// Run a command on the control host, where Services and pods are reachable.
    Exec(Words),
    /// `SIGKILL` to one program of the control plane; `up` starts it again.
    Kill { component: String },
    /// Edge hosts: make them and let things happen to them.
    #[command(subcommand)]
    Edge(Edge),
    /// The Modbus server of an edge host.
    #[command(subcommand)]
    Modbus(Modbus),
}

#[derive(Args)]
struct Up {
    /// Only etcd, API server and controllers: no node, no pods.
    #[arg(long)]
    api_only: bool,
    /// Let etcd wait for the disk at every write.
    #[arg(long)]
    durable: bool,
}

#[derive(Args)]
struct Words {
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Subcommand)]
enum Edge {
    /// Make an edge host: network, disk, containerd.
    Create {
        name: String,
        /// Image archives to import besides pause and busybox.
        #[arg(long)]
        image: Vec<PathBuf>,
    },
    /// Take an edge host away with its disk.
    Destroy { name: String },
    /// Run a command on it.
    Exec {
        name: String,
        #[command(flatten)]
        exec: Words,
    },
    /// Start a long-running process on it, logging to logs/<host>-<process>.log.
    Spawn {
        name: String,
        process: String,
        #[command(flatten)]
        exec: Words,
    },
    /// `SIGKILL` to a process started by `spawn`, or to containerd.
    Kill { name: String, process: String },
    /// Cut the cable: packets vanish, nobody is told.
    Cut { name: String },
    /// Mend the cable.
    Mend { name: String },
    /// Limit the line, both ways.
    Slow {
        name: String,
        /// kbit/s, or `off`.
        kbit: String,
    },
    /// Take the power: everything on it ends at once, the disk stays.
    PowerOff { name: String },
    /// Give the power back; containerd starts, nothing else does.
    PowerOn { name: String },
}

#[derive(Subcommand)]
enum Modbus {
    /// Start it on an edge host.
    Start {
        edge: String,
        #[arg(long, default_value_t = 502)]
        port: u16,
    },
    /// Read a register: `get edge-1 holding 17`.
    Get { edge: String, table: String, address: u16 },
    /// Set a register: `set edge-1 input 0 215`.
    Set { edge: String, table: String, address: u16, value: u16 },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            say(text);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    let cluster = Cluster::new(Layout::at(&cli.dir)?);
    match cli.verb {
        Verb::Up(Up { api_only, durable }) => {
            cluster.up(&UpOptions { api_only, durable, ..UpOptions::default() })?;
            say(format!("up: export KUBECONFIG={}", cluster.layout().kubeconfig().display()));
        }
        Verb::Down => cluster.down()?,
        Verb::Status => cluster.status()?.iter().for_each(|line| println!("{line}")),
        Verb::Tools { prometheus } => {
            preflight::cluster(cluster.layout().root(), cluster.cache().root())?;
            Tools::build(cluster.cache())?.link(&cluster.layout().bin())?;
            if prometheus {
                println!("{}", debian::program(cluster.cache(), "prometheus")?.display());
            }
        }
        Verb::Images { agent_only, cluster_only } => build_images(&cluster, agent_only, cluster_only)?,
        Verb::Import { archive } => {
            cluster.import(&archive)?;
        }
        Verb::Exec(Words { command }) => return exec(cluster.command(&command[0])?, &command),
        Verb::Kill { component } => cluster.kill(&component)?,
        Verb::Edge(verb) => return edge(&cluster, verb),
        Verb::Modbus(verb) => modbus(&cluster, verb)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn build_images(cluster: &Cluster, agent_only: bool, cluster_only: bool) -> Result<(), Error> {
    preflight::cluster(cluster.layout().root(), cluster.cache().root())?;
    let tools = Tools::build(cluster.cache())?;
    if !agent_only {
        for archive in images::build(cluster.layout(), &tools)? {
            if cluster.has_node() && cluster.import(&archive)? {
                say(format!("imported {} into {CONTROL}", archive.display()));
            }
        }
    }
    if !cluster_only {
        for binary in images::build_agent(cluster.layout(), cluster.cache(), &images::ARCHITECTURES)? {
            say(format!("built {}", binary.display()));
        }
    }
    Ok(())
}

fn edge(cluster: &Cluster, verb: Edge) -> Result<ExitCode, Error> {
    match verb {
        Edge::Create { name, image } => {
            let edge = cluster.create_edge(&name)?;
            for archive in image {
                edge.import(&archive)?;
            }
            println!("{name} {}", edge.address());
        }
        Edge::Destroy { name } => cluster.destroy_edge(&name)?,
        Edge::Exec { name, exec: Words { command } } => {
            return exec(cluster.edge(&name)?.command(&command[0])?, &command);
        }
        Edge::Spawn { name, process, exec: Words { command } } => {
            cluster.edge(&name)?.spawn(&process, &command, &[])?;
        }
        Edge::Kill { name, process } => cluster.edge(&name)?.kill(&process)?,
        Edge::Cut { name } => cluster.edge(&name)?.cut()?,
        Edge::Mend { name } => cluster.edge(&name)?.mend()?,
        Edge::Slow { name, kbit } => {
            let kbit = if kbit == "off" { None } else { Some(kbit.parse()?) };
            cluster.edge(&name)?.slow(kbit)?;
        }
        Edge::PowerOff { name } => cluster.edge(&name)?.power_off()?,
        Edge::PowerOn { name } => cluster.edge(&name)?.power_on()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn modbus(cluster: &Cluster, verb: Modbus) -> Result<(), Error> {
    match verb {
        Modbus::Start { edge, port } => {
            let edge = cluster.edge(&edge)?;
            ModbusServer::start(&edge, cluster.cache(), port)?;
            println!("{}:{port}", edge.address());
        }
        Modbus::Get { edge, table, address } => {
            let server = ModbusServer::on(&cluster.edge(&edge)?)?;
            println!("{}", server.get(table.parse::<Table>()?, address)?);
        }
        Modbus::Set { edge, table, address, value } => {
            ModbusServer::on(&cluster.edge(&edge)?)?.set(table.parse::<Table>()?, address, value)?;
        }
    }
    Ok(())
}

/// Runs to the end with this terminal, and answers as the command did.
fn exec(mut command: std::process::Command, words: &[String]) -> Result<ExitCode, Error> {
    let status = command.args(&words[1..]).status()?;
    // What died of a signal has no code.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
