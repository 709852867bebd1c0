//! The commands of `selvedge-agent`: arguments in, a result for people out.

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use selvedge_protocol::{JoinToken, TokenError};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ConfigError, STATE_DIR, Settings},
    join::{JoinError, join},
    leave::{LeaveError, leave, who},
    run::{RunError, run},
    status::{self, ServerError},
};

const PROXIES: &str = "Hubs are reached through HTTPS_PROXY, http://[user:password@]host:port, but for the \
    hosts, domains, addresses and networks (10.0.0.0/8) of NO_PROXY.";

/// The agent of an edge node: runs what the cluster wants here, with or without a way to it.
#[derive(Debug, Parser)]
#[command(name = "selvedge-agent", version, after_help = PROXIES)]
pub struct Cli {
    /// What is logged to stderr: error, warn, info, debug, trace, or by target (info,selvedge_agent=debug)
    #[arg(long, global = true, env = "SELVEDGE_LOG", default_value = "info")]
    pub log: tracing_subscriber::filter::Targets,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a cluster, with the command that the EdgeNode's join Secret shows
    Join(Join),
    /// Run the agent
    Run(Run),
    /// Show what should run here, what does, and why not; needs no cloud
    Status(Status),
    /// Leave the cluster: stop what the agent runs here, forget ledger and identity; needs no cloud
    Leave(Leave),
}

#[derive(Debug, Args)]
struct Join {
    #[command(flatten)]
    token: Token,
    /// Directory of identity, ledger and socket
    #[arg(long, env = "SELVEDGE_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Seconds after which to give up; the same command goes on later
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Token {
    /// The join token
    #[arg(long)]
    token: Option<String>,
    /// File that holds the join token; - is stdin
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Run {
    /// Settings file [default: /etc/selvedge/agent.yaml, if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
struct Leave {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Args)]
struct Status {
    /// Directory of identity, ledger and socket
    #[arg(long, env = "SELVEDGE_STATE_DIR", value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// How it is shown
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The token cannot be read.
    #[error("cannot read the join token from {path}")]
    TokenFile {
        /// Where from.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Signals cannot be heard.
    #[error("cannot listen for SIGTERM and SIGINT")]
    Signals(#[source] io::Error),
    /// `join`.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// `run`.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `status`.
    #[error(transparent)]
    Status(#[from] ServerError),
    /// `status -o json`.
    #[error("the status cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// `leave`.
    #[error(transparent)]
    Leave(#[from] LeaveError),
    /// `leave`, and nobody said yes.
    #[error("nothing was done; say y, or add --yes where nobody can be asked")]
    NotSure,
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// [`CliError`], with what to do.
    pub async fn execute(self) -> Result<(), CliError> {
        match self.command {
            Command::Join(args) => {
                let token = JoinToken::decode(&args.token.read()?)?;
                let identity = join(&token, &args.state_dir, Duration::from_secs(args.timeout)).await?;
                println!("node {} has joined cluster {}", identity.node, identity.cluster);
                println!("start its agent: selvedge-agent run --state-dir {}", args.state_dir.display());
                Ok(())
            }
            Command::Run(args) => {
                let config = Config::load(args.config.as_deref(), args.settings)?;
                let mut terminate = signal(SignalKind::terminate()).map_err(CliError::Signals)?;
                let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Signals)?;
                let stop = CancellationToken::new();
                let heard = async {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    tracing::info!("stopping; containers run on");
                    stop.cancel();
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    result = run(config, stop.clone()) => Ok(result?),
                    () = heard => Ok(()),
                }
            }
            Command::Status(args) => {
                let status = status::ask(&args.state_dir).await?;
                match args.output {
                    Output::Text => print!("{}", status::text(&status)),
                    Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
                }
                Ok(())
            }
            Command::Leave(args) => {
                let config = Config::load(args.run.config.as_deref(), args.run.settings)?;
                let Some(identity) = who(&config).await? else {
                    println!(
                        "{} holds no identity: this machine is in no cluster",
                        config.state_dir.display()
                    );
                    return Ok(());
                };
                let (node, cluster) = (&identity.node, &identity.cluster);
                println!(
                    "node {node} leaves cluster {cluster}: its containers are stopped and removed, and its"
                );
                println!("ledger and identity are deleted; to come back it needs a new join command");
                if !args.yes && !is_sure(io::stdin().lock()) {
                    return Err(CliError::NotSure);
                }
                leave(&config, &identity).await?;
                println!("node {node} has left cluster {cluster}");
                println!("what is left of it there goes with: kubectl delete edgenode {node}");
                Ok(())
            }
        }
    }
}

fn is_sure(mut person: impl io::BufRead) -> bool {
    print!("go on? [y/N] ");
    let mut answer = String::new();
    let heard = io::stdout().flush().and_then(|()| person.read_line(&mut answer));
    heard.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

impl Token {
    fn read(self) -> Result<String, CliError> {
        let Some(path) = self.token_file else { return Ok(self.token.unwrap_or_default()) };
        let mut text = String::new();
        let read = if path.as_os_str() == "-" {
            io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(&path).map(|read| text = read)
        };
        read.map_err(|source| CliError::TokenFile { path, source })?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, is_sure};

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_sure(&b"y\n"[..]) && is_sure(&b" yes\n"[..]));
        for other in ["", "\n", "n\n", "yesterday\n"] {
            assert!(!is_sure(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
        Cli::try_parse_from(["selvedge-agent", "join", "--token", "slv1.x"]).unwrap();
        Cli::try_parse_from(["selvedge-agent", "join", "--token-file", "-"]).unwrap();
        assert!(Cli::try_parse_from(["selvedge-agent", "join"]).is_err());
        Cli::try_parse_from(["selvedge-agent", "run", "--hub", "https://a", "--hub", "https://b"]).unwrap();
        Cli::try_parse_from(["selvedge-agent", "leave", "--yes", "--state-dir", "/x"]).unwrap();
    }
}
