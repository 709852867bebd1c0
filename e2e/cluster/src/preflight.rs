//! What must be there before anything is started: root, room on the disk, Debian's programs. Missing
//! packages are installed, and it is said which; everything else is one line that says what to do.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{CommandError, command, run, succeeds};
use crate::progress::say;

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("root is needed to {0}: run it as root or with sudo")]
    NotRoot(&'static str),
    #[error("{} has {have} MiB free and {what} needs {need} MiB: free some, or {instead}", path.display())]
    NoRoom { path: PathBuf, have: u64, need: u64, what: &'static str, instead: &'static str },
    #[error("cannot see how much room {} has", path.display())]
    Room { path: PathBuf, source: std::io::Error },
    #[error("missing: {programs}; install the packages {packages} (no apt-get here to do it)")]
    Missing { programs: String, packages: String },
    #[error("cannot install {packages} from Debian")]
    Install { packages: String, source: CommandError },
    #[error("{} is under {under}, which hosts have a private one of: use another directory", path.display())]
    Hidden { path: PathBuf, under: &'static str },
}

/// A program of the machine and the Debian package that has it.
struct Program {
    name: &'static str,
    package: &'static str,
    there: fn(&str) -> bool,
}

const fn in_path(name: &'static str, package: &'static str) -> Program {
    Program { name, package, there: has }
}

const PROGRAMS: [Program; 11] = [
    in_path("ip", "iproute2"),
    in_path("tc", "iproute2"),
    in_path("iptables", "iptables"),
    in_path("conntrack", "conntrack"),
    in_path("mount", "mount"),
    in_path("nsenter", "util-linux"),
    in_path("hostname", "hostname"),
    in_path("runc", "runc"),
    in_path("musl-gcc", "musl-tools"),
    Program {
        name: "/usr/lib/cni/bridge",
        package: "containernetworking-plugins",
        there: |path| Path::new(path).exists(),
    },
    // It goes into an image without libraries, so it must need none.
    Program { name: "/bin/busybox", package: "busybox-static", there: is_static },
];

/// Checks everything that starting a cluster needs and installs what Debian has.
pub fn cluster(root: &Path, cache: &Path) -> Result<(), PreflightError> {
    as_root("make network namespaces and start containers")?;
    for under in ["/run", "/var/lib", "/var/log"] {
        if let Some(path) = [root, cache].into_iter().find(|path| path.starts_with(under)) {
            return Err(PreflightError::Hidden { path: path.to_owned(), under });
        }
    }
    // etcd, images and their unpacked layers; measured at 1 GiB in the demo.
    room(root, 2048, "the cluster", "give --dir on another disk")?;
    // Built tools are 0.5 GiB. What Go keeps while building them lies elsewhere and is counted too,
    // because it is the same disk on nearly every machine.
    let built = cache.join("tools").exists();
    let need = if built { 256 } else { 6144 };
    room(cache, need, "building the tools", "set SELVEDGE_CACHE to a directory on another disk")?;
    packages()
}

pub fn as_root(to: &'static str) -> Result<(), PreflightError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(PreflightError::NotRoot(to)) }
}

fn room(path: &Path, need: u64, what: &'static str, instead: &'static str) -> Result<(), PreflightError> {
    let existing = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)
        .map_err(|error| PreflightError::Room { path: existing.to_owned(), source: error.into() })?;
    let have = stat.f_bavail.saturating_mul(stat.f_frsize) / (1 << 20);
    if have >= need {
        return Ok(());
    }
    Err(PreflightError::NoRoom { path: existing.to_owned(), have, need, what, instead })
}

fn packages() -> Result<(), PreflightError> {
    let missing: Vec<&Program> = PROGRAMS.iter().filter(|program| !(program.there)(program.name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    if !has("apt-get") {
        let programs = missing.iter().map(|program| program.name).collect::<Vec<_>>().join(", ");
        return Err(PreflightError::Missing { programs, packages: packages.join(", ") });
    }
    say(format!("installing from Debian: {}", packages.join(" ")));
    let refused = |source| PreflightError::Install { packages: packages.join(" "), source };
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get", args);
        run(apt.env("DEBIAN_FRONTEND", "noninteractive")).map_err(refused)
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], packages.as_slice()].concat())?;
    Ok(())
}

fn has(program: &str) -> bool {
    succeeds(&mut command("sh", ["-c", "command -v \"$1\"", "has", program]))
}

fn is_static(path: &str) -> bool {
    // A program that needs libraries names the loader that finds them.
    fs::read(path).is_ok_and(|bytes| !bytes.windows(7).any(|part| part == b"/ld-lin"))
}
