//! The little that a cluster must remember between two calls of the launcher: its subnet, what kind it
//! is, and which address each edge host has. What runs is never written here; it is looked up.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fabric::Subnet;
use crate::kubeconfig;
use crate::layout::Layout;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read {}; `selvedge-cluster down` clears it", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot understand {}; `selvedge-cluster down` clears it", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("no address left for edge host {0}: 245 edge hosts fit one cluster")]
    Full(String),
}

/// What kind of cluster it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Control plane, node, DNS.
    Full,
    /// etcd, API server and controllers: no pods.
    ApiOnly,
    /// Somebody else's cluster; only edge hosts are ours.
    External,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub subnet: Subnet,
    pub mode: Mode,
    /// Edge host → its member number in the subnet.
    pub edges: BTreeMap<String, u8>,
}

impl State {
    pub fn new(subnet: Subnet, mode: Mode) -> Self {
        Self { subnet, mode, edges: BTreeMap::new() }
    }

    pub fn load(layout: &Layout) -> Result<Option<Self>, StateError> {
        let path = layout.state();
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map(Some).map_err(|source| StateError::Parse { path, source })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Read { path, source }),
        }
    }

    pub fn save(&self, layout: &Layout) -> Result<(), StateError> {
        let path = layout.state();
        let write = || {
            fs::create_dir_all(layout.cluster())?;
            kubeconfig::replace(&path, &serde_json::to_vec_pretty(self)?)
        };
        write().map_err(|source| StateError::Write { path: path.clone(), source })
    }

    /// The number of an edge host, given out on first use: the lowest that is free.
    pub fn member(&mut self, edge: &str) -> Result<u8, StateError> {
        if let Some(member) = self.edges.get(edge) {
            return Ok(*member);
        }
        let free = (FIRST_EDGE..=LAST).find(|number| !self.edges.values().any(|taken| taken == number));
        let member = free.ok_or_else(|| StateError::Full(edge.to_owned()))?;
        self.edges.insert(edge.to_owned(), member);
        Ok(member)
    }
}

/// Below it there is room for this machine and the control host; 255 is the subnet's broadcast address.
const FIRST_EDGE: u8 = 10;
const LAST: u8 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_with_their_host_and_are_given_again_once_free() {
        let mut state = State::new(Subnet::choose("000000", "").unwrap(), Mode::Full);
        assert_eq!(state.member("a").unwrap(), 10);
        assert_eq!(state.member("b").unwrap(), 11);
        assert_eq!(state.member("a").unwrap(), 10);
        state.edges.remove("a");
        assert_eq!(state.member("c").unwrap(), 10);
        assert_eq!(state.member("b").unwrap(), 11);
        for n in 0..243 {
            state.member(&format!("more-{n}")).unwrap();
        }
        assert!(matches!(state.member("one-too-many"), Err(StateError::Full(_))));
    }
}
