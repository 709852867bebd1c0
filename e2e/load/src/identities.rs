//! The identities of all simulated agents, in one file that only its owner can read.
//!
//! One JSON object a line, the last one of a node holds. A key is written before it is shown to a hub,
//! because a join key is used up by the first key that asks with it; so a run that was interrupted goes on
//! where it was, and a torn last line is a line that was not written.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use selvedge_agent::identity::Identity;
use serde::{Deserialize, Serialize};

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the identities in {path}: name another file with --identities")]
pub struct IdentitiesError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What is known of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Name of the EdgeNode.
    pub node: String,
    /// Its private key, PEM (PKCS 8).
    pub key: String,
    /// None: the key was made, a certificate was not issued yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<Identity>,
}

/// The open file, and what it says.
#[derive(Debug)]
pub struct Identities {
    path: PathBuf,
    file: File,
    kept: BTreeMap<String, Kept>,
}

impl Identities {
    /// Opens the file, and makes it when it is not there.
    ///
    /// # Errors
    /// [`IdentitiesError`].
    pub fn open(path: &Path) -> Result<Self, IdentitiesError> {
        let failed = |doing| move |source| IdentitiesError { doing, path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).append(true).create(true).mode(0o600).open(path).map_err(failed("open"))?;
        // It may be older than this rule.
        let owner_alone = std::fs::Permissions::from_mode(0o600);
        file.set_permissions(owner_alone).map_err(failed("close to others"))?;
        let mut kept = BTreeMap::new();
        let mut torn = false;
        for line in BufReader::new(&file).lines() {
            let line = line.map_err(failed("read"))?;
            torn = false;
            match serde_json::from_str::<Kept>(&line) {
                Ok(one) => drop(kept.insert(one.node.clone(), one)),
                Err(_) => torn = true,
            }
        }
        if torn {
            // What follows must not be glued to it.
            file.write_all(b"\n").map_err(failed("mend"))?;
        }
        Ok(Self { path: path.to_owned(), file, kept })
    }

    /// What is known of a node.
    #[must_use]
    pub fn get(&self, node: &str) -> Option<&Kept> {
        self.kept.get(node)
    }

    /// Keeps it, over a crash of this process.
    ///
    /// # Errors
    /// [`IdentitiesError`].
    pub fn keep(&mut self, kept: Kept) -> Result<(), IdentitiesError> {
        let failed = |source: io::Error| IdentitiesError { doing: "keep", path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&kept).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)?;
        self.kept.insert(kept.node.clone(), kept);
        Ok(())
    }
}
