//! Settings of `selvedge-agent run`: flags over the file over defaults.
//!
//! In: `/etc/selvedge/agent.yaml` (or another file) and flags. Out: [`Config`], whole and checked; an
//! unknown field is refused by name.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// Where the settings are looked for when no file is named.
pub const CONFIG_FILE: &str = "/etc/selvedge/agent.yaml";
/// Default state directory.
pub const STATE_DIR: &str = "/var/lib/selvedge";
/// Default directory in memory.
pub const MEMORY_DIR: &str = "/run/selvedge";
/// Default CRI socket.
pub const RUNTIME_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is not a configuration.
    #[error("the configuration {path} cannot be used")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with field and line.
        #[source]
        source: serde_yaml::Error,
    },
    /// The runtime endpoint is no Unix socket.
    #[error("runtimeEndpoint {0:?} is not a Unix socket: write unix:///run/containerd/containerd.sock")]
    RuntimeEndpoint(String),
}

/// What a file or the flags set; what is absent is decided elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Directory of identity, ledger and socket [default: /var/lib/selvedge]
    #[arg(long, env = "SELVEDGE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory of the files of Secrets, in memory (on a tmpfs) [default: /run/selvedge]
    #[arg(long, value_name = "DIR")]
    pub memory_dir: Option<PathBuf>,
    /// CRI socket of the container runtime [default: unix:///run/containerd/containerd.sock]
    #[arg(long, value_name = "URL")]
    pub runtime_endpoint: Option<String>,
    /// Serve metrics over TCP too, e.g. 127.0.0.1:9469 [default: on the agent's Unix socket alone]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
    /// Hubs to dial instead of those of the join command, as https://host:port; may be repeated
    #[arg(long = "hub", value_name = "URL")]
    pub hubs: Vec<String>,
}

/// Settings, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of identity, ledger and socket.
    pub state_dir: PathBuf,
    /// Directory of the files of Secrets, on a tmpfs.
    pub memory_dir: PathBuf,
    /// Path of the CRI socket.
    pub runtime_socket: PathBuf,
    /// Where metrics are served over TCP.
    pub metrics_address: Option<SocketAddr>,
    /// Hubs to dial; empty: those of the identity.
    pub hubs: Vec<String>,
}

impl Config {
    /// Reads `file` (or, when none is named, the default one if it exists) and puts `flags` over it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: Option<&Path>, flags: Settings) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(CONFIG_FILE));
        let settings = match fs::read_to_string(path) {
            Ok(text) => {
                parse(&text).map_err(|source| ConfigError::Malformed { path: path.to_owned(), source })?
            }
            Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => Settings::default(),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let endpoint = flags.runtime_endpoint.or(settings.runtime_endpoint);
        let endpoint = endpoint.unwrap_or_else(|| RUNTIME_ENDPOINT.to_owned());
        let socket = endpoint.strip_prefix("unix://").unwrap_or(&endpoint);
        if !socket.starts_with('/') {
            return Err(ConfigError::RuntimeEndpoint(endpoint));
        }
        Ok(Self {
            state_dir: flags.state_dir.or(settings.state_dir).unwrap_or_else(|| STATE_DIR.into()),
            memory_dir: flags.memory_dir.or(settings.memory_dir).unwrap_or_else(|| MEMORY_DIR.into()),
            runtime_socket: socket.into(),
            metrics_address: flags.metrics_address.or(settings.metrics_address),
            hubs: if flags.hubs.is_empty() { settings.hubs } else { flags.hubs },
        })
    }
}

fn parse(text: &str) -> Result<Settings, serde_yaml::Error> {
    // A file of comments alone is no document at all.
    Ok(serde_yaml::from_str::<Option<Settings>>(text)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Config, ConfigError, Settings, parse};
    use crate::chain::chain;

    fn load(text: &str, flags: Settings) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), flags)
    }

    #[test]
    fn flags_go_over_the_file_and_the_file_over_defaults() {
        let flags = Settings { state_dir: Some("/flag".into()), ..Settings::default() };
        let config = load("stateDir: /file\nhubs: [https://a]\n", flags).unwrap();
        assert_eq!(config.state_dir, Path::new("/flag"));
        assert_eq!(config.hubs, ["https://a"]);
        assert_eq!(config.runtime_socket, Path::new("/run/containerd/containerd.sock"));
        assert_eq!(parse("# nothing\n").unwrap(), Settings::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let error = load("stateDirectory: /x\n", Settings::default()).unwrap_err();
        assert!(chain(&error).contains("unknown field `stateDirectory`"), "{}", chain(&error));
        assert!(load("runtimeEndpoint: tcp://x\n", Settings::default()).is_err());
        let error = Config::load(Some(Path::new("/nowhere.yaml")), Settings::default()).unwrap_err();
        assert!(chain(&error).contains("/nowhere.yaml"));
    }
}
