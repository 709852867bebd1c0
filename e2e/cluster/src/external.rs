//! A cluster that exists already, named by `SELVEDGE_KUBECONFIG`: it is used and not touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{CommandError, command, run};
use crate::kubeconfig;
use crate::layout::Layout;
use crate::tools::Tools;

#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    #[error("cannot read the kubeconfig {} that SELVEDGE_KUBECONFIG names", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the cluster of {} does not answer; unset SELVEDGE_KUBECONFIG to have one started here", path.display())]
    Unreachable { path: PathBuf, source: CommandError },
    #[error("cannot ask the cluster for its nodes")]
    Nodes(#[source] CommandError),
    #[error("no node of the cluster has an InternalIP, so edge hosts cannot reach the hub's NodePort")]
    NoNode,
}

/// The kubeconfig that the environment names.
pub fn named() -> Option<PathBuf> {
    std::env::var_os("SELVEDGE_KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Sees that the cluster answers, and puts its kubeconfig where everything here looks for one: by value,
/// so that files it refers to are found from anywhere.
pub fn adopt(path: &Path, layout: &Layout, tools: &Tools) -> Result<(), ExternalError> {
    std::fs::metadata(path).map_err(|source| ExternalError::Read { path: path.to_owned(), source })?;
    let kubectl = tools.path("kubectl").display().to_string();
    let ask = |words: &[&str]| {
        let mut kubectl = command(&kubectl, ["--kubeconfig"]);
        run(kubectl.arg(path).args(words))
            .map_err(|source| ExternalError::Unreachable { path: path.to_owned(), source })
    };
    ask(&["get", "--raw", "/readyz", "--request-timeout", "10s"])?;
    let text = ask(&["config", "view", "--raw", "--flatten", "--minify"])?;
    let target = layout.kubeconfig();
    kubeconfig::replace(&target, text.as_bytes())
        .map_err(|source| ExternalError::Write { path: target.clone(), source })
}

/// The address of the first node that has one.
pub fn node_address(kubectl: &mut Command) -> Result<String, ExternalError> {
    let internal = "jsonpath={.items[*].status.addresses[?(@.type=='InternalIP')].address}";
    let said = run(kubectl.args(["get", "nodes", "--output", internal])).map_err(ExternalError::Nodes)?;
    said.split_whitespace().next().map(str::to_owned).ok_or(ExternalError::NoNode)
}
