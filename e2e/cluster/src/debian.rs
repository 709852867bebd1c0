//! A program out of a Debian package, unpacked into the cache and not installed: installing Prometheus
//! would start it as a service of the machine.

use std::path::PathBuf;

use crate::cache::{Cache, CacheError};
use crate::command::{CommandError, command, run};
use crate::progress::say;

#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("cannot fetch Debian's package {package} (`apt-get update` first, perhaps)")]
    Fetch { package: String, source: CommandError },
}

/// The program of this name from the package of the same name.
pub fn program(cache: &Cache, package: &str) -> Result<PathBuf, DebianError> {
    let fetch = |source| DebianError::Fetch { package: package.to_owned(), source };
    let policy = run(&mut command("apt-cache", ["policy", package])).map_err(fetch)?;
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
    let version = candidate.unwrap_or("none").trim().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let entry = cache.entry("debian", package, &version);
    if let Some(claim) = cache.claim(&entry)? {
        say(format!("unpacking Debian's {package} into {}", entry.display()));
        let mut download = command("apt-get", ["download", "-qq", package]);
        run(download.current_dir(claim.dir())).map_err(fetch)?;
        let unpack = "for deb in *.deb; do dpkg-deb -x \"$deb\" . && rm \"$deb\"; done";
        run(command("sh", ["-ec", unpack]).current_dir(claim.dir())).map_err(fetch)?;
        claim.finish()?;
    }
    Ok(entry.join("usr/bin").join(package))
}
