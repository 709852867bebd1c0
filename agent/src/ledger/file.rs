//! The ledger's file at start: opened, or moved aside and begun anew. Never a crash loop, never a
//! lock-out: what the ledger held comes again from the hub, and until it is whole again nothing that
//! runs is touched.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    machine::Machine,
    row::{Meta, StoreError},
    store::SqliteStore,
};

/// File name of the ledger in the state directory.
pub const LEDGER_FILE: &str = "ledger.db";
/// File name of the key with which its Secrets are sealed.
pub const KEY_FILE: &str = "ledger.key";
/// Says that this node once had a ledger, so that a missing one is noticed.
const MARKER_FILE: &str = "ledger.made";

/// Why there is no ledger to work with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refuses, or another agent holds it.
    #[error("cannot open the ledger {path}")]
    Unusable {
        /// Path of the ledger.
        path: PathBuf,
        /// What the store says.
        #[source]
        source: StoreError,
    },
    /// A damaged ledger cannot be moved aside.
    #[error("cannot move the damaged ledger {path} aside")]
    MoveAside {
        /// Path of the ledger.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// An open ledger, and what an operator should know about it.
#[derive(Debug)]
pub struct Opened {
    /// The machine over the open file.
    pub machine: Machine<SqliteStore>,
    /// Empty, or what of the ledger was lost and why.
    pub notice: String,
}

/// Opens the ledger of `cluster_id` in `state_dir`; a damaged one is kept beside as
/// `ledger.db.corrupt-<n>` (the newest only).
///
/// # Errors
/// [`OpenError`] when the disk refuses or another agent runs on this state directory.
pub fn open(state_dir: &Path, agent_version: &str, cluster_id: &str) -> Result<Opened, OpenError> {
    let path = state_dir.join(LEDGER_FILE);
    let marker = state_dir.join(MARKER_FILE);
    let unusable = |source| OpenError::Unusable { path: path.clone(), source };
    let attempt = || {
        private(&path).map_err(|error| StoreError::Unwritable(error.to_string()))?;
        Machine::open(SqliteStore::open(&path)?, agent_version, cluster_id)
    };
    let (machine, notice) = match attempt() {
        Ok(machine) if is_new(machine.meta()) && marker.exists() => {
            (machine, "the ledger was missing; all entries are fetched anew".to_owned())
        }
        Ok(machine) if machine.lost() > 0 => {
            let notice = format!(
                "the key of the ledger's Secrets was lost or damaged; {} of them are fetched anew",
                machine.lost()
            );
            (machine, notice)
        }
        Ok(machine) => (machine, String::new()),
        Err(StoreError::Damaged(why)) => {
            let kept =
                move_aside(&path).map_err(|source| OpenError::MoveAside { path: path.clone(), source })?;
            let notice =
                format!("the ledger was damaged ({why}) and kept as {kept}; all entries are fetched anew");
            (attempt().map_err(unusable)?, notice)
        }
        Err(source) => return Err(unusable(source)),
    };
    if let Err(error) = fs::write(&marker, "") {
        tracing::warn!(path = %marker.display(), %error, "cannot mark that this node has a ledger");
    }
    Ok(Opened { machine, notice })
}

/// Makes the file for its owner alone, if it is not there; SQLite gives its log the same rights.
fn private(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map(drop)
}

fn is_new(meta: &Meta) -> bool {
    meta.boots <= 1
}

fn move_aside(path: &Path) -> io::Result<String> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let prefix = format!("{LEDGER_FILE}.corrupt-");
    let mut newest = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.parse::<u32>().ok());
        if let Some(number) = number {
            newest = newest.max(number);
            fs::remove_file(entry.path())?;
        }
    }
    let name = format!("{prefix}{}", newest + 1);
    fs::rename(path, directory.join(&name))?;
    // A log of the old file must never be played into the new one.
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(directory.join(format!("{LEDGER_FILE}{suffix}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(name)
}
