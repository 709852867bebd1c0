//! Python environments in the cache: pinned packages that the machine does not have (a Modbus server,
//! a cross linker, Go itself).

use std::fs::{self, File};
use std::path::PathBuf;

use crate::cache::{self, Cache};
use crate::clock::Deadline;
use crate::command::{CommandError, command, run};
use crate::progress::{say, watch};

#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    #[error("cannot prepare {}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot make a Python environment (on Debian: apt-get install python3-venv)")]
    Environment(#[source] CommandError),
    #[error("pip could not install {packages}; is PyPI reachable?")]
    Pip { packages: String, source: CommandError },
}

/// A virtual environment with these packages (one requirement a line); the answer is its directory.
///
/// An environment cannot be moved, so it is made in its place, and a file written last says that it is whole.
pub fn environment(cache: &Cache, name: &str, requirements: &str) -> Result<PathBuf, PythonError> {
    let dir = cache.entry("python", name, &cache::key([("requirements", requirements.as_bytes())]));
    let whole = dir.join(".whole");
    if whole.exists() {
        return Ok(dir);
    }
    let fail = |path: &PathBuf| {
        let path = path.clone();
        move |source| PythonError::File { path, source }
    };
    let parent = cache.root().join("python");
    fs::create_dir_all(&parent).map_err(fail(&parent))?;
    let lock_path = dir.with_extension("lock");
    let lock = File::create(&lock_path).map_err(fail(&lock_path))?;
    lock.lock().map_err(fail(&lock_path))?;
    if whole.exists() {
        return Ok(dir);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(fail(&dir))?;
    }
    let packages = requirements.split_whitespace().collect::<Vec<_>>().join(" ");
    say(format!("installing from PyPI into {}: {packages}", dir.display()));
    let started = Deadline::after(std::time::Duration::MAX);
    let at = dir.display().to_string();
    run(&mut command("python3", ["-m", "venv", &at])).map_err(PythonError::Environment)?;
    let mut pip = command(&format!("{at}/bin/pip"), ["install", "--quiet", "--no-input"]);
    pip.args(packages.split(' '));
    let refused = |source| PythonError::Pip { packages: packages.clone(), source };
    let mut child = pip.spawn().map_err(|source| {
        refused(CommandError::Start { command: format!("{at}/bin/pip install"), source })
    })?;
    let status = watch(&mut child, "pip", started).map_err(fail(&dir))?;
    if !status.success() {
        return Err(refused(CommandError::Failed {
            command: format!("{at}/bin/pip install {packages}"),
            status,
            output: "see above".into(),
        }));
    }
    File::create(&whole).map_err(fail(&whole))?;
    Ok(dir)
}
