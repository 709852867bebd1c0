//! kubectl and helm as a user runs them: real binaries, real output.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A command of the user's did not do what the story needs.
#[derive(Debug, thiserror::Error)]
pub enum KubectlError {
    /// It could not be started or fed.
    #[error("cannot run {command}")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// It exited with another code than 0.
    #[error("{command} failed:\n{stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// What it printed to stderr, or to stdout when that was empty.
        stderr: String,
    },
    /// Its output is not the JSON that was asked for.
    #[error("{command} printed no JSON")]
    NotJson {
        /// The command line.
        command: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// The tools of one cluster, run with its kubeconfig.
#[derive(Clone, Debug)]
pub struct Tools {
    bin: PathBuf,
    kubeconfig: PathBuf,
}

impl Tools {
    /// Tools in `bin`, pointed at `kubeconfig`.
    #[must_use]
    pub fn new(bin: &Path, kubeconfig: &Path) -> Self {
        Self { bin: bin.to_owned(), kubeconfig: kubeconfig.to_owned() }
    }

    /// Runs kubectl; the answer is its stdout.
    ///
    /// # Errors
    /// [`KubectlError`] when it cannot be started or exits with another code than 0.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, KubectlError> {
        self.run("kubectl", args, None)
    }

    /// Runs kubectl with `input` as its stdin.
    ///
    /// # Errors
    /// As [`Tools::kubectl`].
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String, KubectlError> {
        self.run("kubectl", args, Some(input))
    }

    /// Runs helm; the answer is its stdout.
    ///
    /// # Errors
    /// As [`Tools::kubectl`].
    pub fn helm(&self, args: &[&str]) -> Result<String, KubectlError> {
        self.run("helm", args, None)
    }

    /// An object as JSON, or `None` when it cannot be had right now.
    #[must_use]
    pub fn object(&self, args: &[&str]) -> Option<Value> {
        let args: Vec<&str> = ["get", "-o", "json"].into_iter().chain(args.iter().copied()).collect();
        serde_json::from_str(&self.kubectl(&args).ok()?).ok()
    }

    /// A command that the caller starts and ends, such as a watch; stdout is piped.
    #[must_use]
    pub fn command(&self, tool: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(tool));
        command.args(args).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    fn run(&self, tool: &str, args: &[&str], input: Option<&str>) -> Result<String, KubectlError> {
        use std::io::Write as _;
        let line = || format!("{tool} {}", args.join(" "));
        let start = |source| KubectlError::Start { command: line(), source };
        let mut command = self.command(tool, args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(start)?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).map_err(start)?;
        }
        let output = child.wait_with_output().map_err(start)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(KubectlError::Failed { command: line(), stderr: if stderr.is_empty() { stdout } else { stderr } })
    }
}

/// Status of one condition of an object: "True", "False", "Unknown", or "" when it has none.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    object["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == kind))
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
}
