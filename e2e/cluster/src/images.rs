//! Container images: static binaries, an entrypoint, a user that is not root, and nothing else in them.
//!
//! An image is named `selvedge.dev/<binary>:<version>`; the chart's `image.registry` is `selvedge.dev` and
//! `image.tag` the version. The binaries come out of cargo, which builds only what changed; an archive is
//! written only when its binary did.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::{self, Cache, CacheError};
use crate::clock::Deadline;
use crate::command::{CommandError, command, run};
use crate::containerd::PAUSE_IMAGE;
use crate::layout::Layout;
use crate::progress::{say, watch};
use crate::python::{self, PythonError};
use crate::tools::{self, Tools};

/// Where the images would come from if they came from a registry.
pub const REGISTRY: &str = "selvedge.dev";
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A shell and small programs, for tests and for the demo's application.
pub const BUSYBOX_IMAGE: &str = "selvedge.dev/busybox:1";
/// Of `nobody`'s kind: no account has it, no file belongs to it.
const USER: &str = "65532";

/// The binaries that run in the cluster, and the crates that have them.
pub const CLUSTER_BINARIES: [&str; 6] = [
    "edgenode-controller",
    "edgeapplication-controller",
    "devicemodel-controller",
    "device-controller",
    "selvedge-webhook",
    "selvedge-hub",
];
const CLUSTER_CRATES: [&str; 3] = ["selvedge-controllers", "selvedge-webhook", "selvedge-hub"];
const AGENT: &str = "selvedge-agent";

#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error("cannot {what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot write the image {image}")]
    Write { image: String, source: CommandError },
    #[error("cannot add the Rust target {target} (rustup target add {target})")]
    Target { target: String, source: CommandError },
    #[error("cargo could not build {what} for {target}; the output above says why")]
    Cargo { what: String, target: String, source: CommandError },
}

/// Sources that binaries are built from, and where cargo puts what it makes of them.
#[derive(Clone, Debug)]
pub struct Checkout {
    root: PathBuf,
    artifacts: PathBuf,
}

impl Checkout {
    /// The one that this program is of.
    pub fn own() -> Self {
        let root = tools::sources().join("../../..");
        // A relative one is relative to where cargo runs.
        let artifacts = root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        Self { root, artifacts }
    }

    /// Another one. Never with the artifacts of this one: cargo tells packages of two checkouts apart by their
    /// version alone.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), artifacts: root.join("target") }
    }
}

/// What one image consists of.
struct Image<'a> {
    name: &'a str,
    entrypoint: &'a str,
    user: &'a str,
    env: &'a [&'a str],
    /// (file of this machine, path in the image)
    files: &'a [(&'a Path, &'a str)],
    /// (path in the image, where it points)
    links: &'a [(String, &'a str)],
}

/// The images that every host has: the sandbox's and a shell.
pub fn for_tests(cache: &Cache, tools: &Tools) -> Result<[PathBuf; 2], ImagesError> {
    let (pause, busybox) = (tools.path("pause"), PathBuf::from("/bin/busybox"));
    let key = cache::key([
        ("writer", tools.path("image").as_os_str().as_encoded_bytes()),
        ("pause", pause.as_os_str().as_encoded_bytes()),
        ("busybox", &read(&busybox)?),
    ]);
    let entry = cache.entry("images", "test", &key);
    let archives = ["pause.tar", "busybox.tar"].map(|name| entry.join(name));
    let Some(claim) = cache.claim(&entry)? else { return Ok(archives) };
    let root = Image {
        name: PAUSE_IMAGE,
        entrypoint: "/pause",
        user: "65535",
        env: &[],
        files: &[(&pause, "/pause")],
        links: &[],
    };
    write(tools, &root, &claim.dir().join("pause.tar"))?;
    let applets = run(&mut command("/bin/busybox", ["--list"]))
        .map_err(|source| ImagesError::Write { image: BUSYBOX_IMAGE.into(), source })?;
    let applets = applets.lines().filter(|name| *name != "busybox");
    let links: Vec<(String, &str)> = applets.map(|name| (format!("/bin/{name}"), "busybox")).collect();
    let shell = Image {
        name: BUSYBOX_IMAGE,
        entrypoint: "/bin/sh",
        user: "0",
        env: &["PATH=/bin"],
        files: &[(&busybox, "/bin/busybox")],
        links: &links,
    };
    write(tools, &shell, &claim.dir().join("busybox.tar"))?;
    claim.finish()?;
    Ok(archives)
}

/// The archives in a directory, if it is there.
pub fn in_directory(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut archives: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "tar"))
        .collect();
    archives.sort();
    archives
}

/// Builds the cluster's binaries for this machine's architecture and writes their archives; the answer
/// are those.
pub fn build(layout: &Layout, tools: &Tools) -> Result<Vec<PathBuf>, ImagesError> {
    write_cluster(&Checkout::own(), tools, VERSION, &layout.images())
}

/// Builds the cluster's binaries of a checkout and writes their archives into `dir`, as images with this tag.
pub fn write_cluster(
    checkout: &Checkout,
    tools: &Tools,
    tag: &str,
    dir: &Path,
) -> Result<Vec<PathBuf>, ImagesError> {
    let target = musl(std::env::consts::ARCH);
    let mut cargo = cargo(checkout, "build", &target);
    cargo.args(["--release", "--bins"]);
    cargo.args(CLUSTER_CRATES.iter().flat_map(|name| ["--package", name]));
    // One call for all of them, so that what they share is built once.
    cargo_run(checkout, &mut cargo, "the cluster's binaries", &target)?;
    make(dir)?;
    let mut archives = Vec::new();
    for binary in CLUSTER_BINARIES {
        let path = checkout.artifacts.join(&target).join("release").join(binary);
        let archive = dir.join(format!("{binary}.tar"));
        let (name, entrypoint) = (format!("{REGISTRY}/{binary}:{tag}"), format!("/{binary}"));
        let key = cache::key([
            ("name", name.as_bytes()),
            ("binary", &read(&path)?),
            ("writer", tools.path("image").as_os_str().as_encoded_bytes()),
        ]);
        let note = dir.join(format!("{binary}.key"));
        if !archive.exists() || fs::read_to_string(&note).ok().as_deref() != Some(key.as_str()) {
            let image = Image {
                name: &name,
                entrypoint: &entrypoint,
                user: USER,
                env: &[],
                files: &[(&path, &entrypoint)],
                links: &[],
            };
            write(tools, &image, &archive)?;
            fs::write(&note, key).map_err(|source| ImagesError::File {
                what: "write",
                path: note,
                source,
            })?;
            say(format!("wrote {name}"));
        }
        archives.push(archive);
    }
    Ok(archives)
}

/// The architectures that the agent is built for.
pub const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Builds the agent's static binary for `architectures`, into [`Layout::bin`], this machine's one also
/// under its plain name.
pub fn build_agent(
    layout: &Layout,
    cache: &Cache,
    architectures: &[&str],
) -> Result<Vec<PathBuf>, ImagesError> {
    make(&layout.bin())?;
    let mut built = Vec::new();
    for arch in architectures {
        let here = *arch == std::env::consts::ARCH;
        let names = [Some(format!("{AGENT}-{arch}")), here.then(|| AGENT.to_owned())];
        let to = names.into_iter().flatten().map(|name| layout.bin().join(name));
        built.extend(write_agent(&Checkout::own(), cache, arch, to)?);
    }
    Ok(built)
}

/// Builds the agent of a checkout for one architecture and copies its static binary `to` each of these files.
pub fn write_agent(
    checkout: &Checkout,
    cache: &Cache,
    arch: &str,
    to: impl IntoIterator<Item = PathBuf>,
) -> Result<Vec<PathBuf>, ImagesError> {
    let target = musl(arch);
    let here = arch == std::env::consts::ARCH;
    let mut cargo = if here { cargo(checkout, "build", &target) } else { cross(checkout, cache, &target)? };
    cargo.args(["--profile", "agent", "--package", AGENT, "--bin", AGENT]);
    cargo_run(checkout, &mut cargo, AGENT, &target)?;
    let binary = checkout.artifacts.join(&target).join("agent").join(AGENT);
    let copy = |to: PathBuf| {
        // Beside and renamed: the old one may be running, and a running program cannot be written.
        let part = to.with_extension("part");
        let copied = fs::copy(&binary, &part).and_then(|_| fs::rename(&part, &to));
        copied.map_err(|source| ImagesError::File { what: "copy the agent to", path: to.clone(), source })?;
        Ok(to)
    };
    to.into_iter().map(copy).collect()
}

fn musl(arch: &str) -> String {
    format!("{arch}-unknown-linux-musl")
}

fn cargo(checkout: &Checkout, verb: &str, target: &str) -> Command {
    let mut cargo = command("cargo", [verb, "--locked", "--target", target]);
    cargo.arg("--target-dir").arg(&checkout.artifacts).current_dir(&checkout.root);
    // What `cargo run` tells this program about itself is not for the build: a build script that looks at it
    // (ring's does) would be run anew, and all that depends on it built anew, for each program that builds.
    let own = |name: &str| name.starts_with("CARGO_MANIFEST") || name.starts_with("CARGO_PKG");
    for (name, _) in std::env::vars().filter(|(name, _)| own(name)) {
        cargo.env_remove(name);
    }
    // C code of dependencies must be compiled against musl too.
    cargo.env(format!("CC_{}", target.replace('-', "_")), "musl-gcc");
    cargo
}

/// cargo with a linker and C compiler for another architecture.
fn cross(checkout: &Checkout, cache: &Cache, target: &str) -> Result<Command, ImagesError> {
    let requirements = tools::sources().join("python/zigbuild.txt");
    let text = fs::read_to_string(&requirements).map_err(|source| ImagesError::File {
        what: "read",
        path: requirements,
        source,
    })?;
    let bin = python::environment(cache, "zigbuild", &text)?.join("bin");
    let mut cargo = command("cargo", ["zigbuild", "--locked", "--target", target]);
    cargo.arg("--target-dir").arg(&checkout.artifacts).current_dir(&checkout.root);
    let path = std::env::var("PATH").unwrap_or_default();
    cargo.env("PATH", format!("{}:{path}", bin.display()));
    Ok(cargo)
}

fn cargo_run(checkout: &Checkout, cargo: &mut Command, what: &str, target: &str) -> Result<(), ImagesError> {
    let there = run(command("rustup", ["target", "list", "--installed"]).current_dir(&checkout.root))
        .unwrap_or_default();
    if !there.lines().any(|line| line == target) {
        say(format!("adding the Rust target {target}"));
        run(command("rustup", ["target", "add", target]).current_dir(&checkout.root))
            .map_err(|source| ImagesError::Target { target: target.to_owned(), source })?;
    }
    let text = format!("{cargo:?}");
    let failed = |source| ImagesError::Cargo { what: what.to_owned(), target: target.to_owned(), source };
    let start = |source| failed(CommandError::Start { command: text.clone(), source });
    let mut child = cargo.spawn().map_err(start)?;
    let status = watch(&mut child, what, Deadline::after(Duration::MAX)).map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(failed(CommandError::Failed { command: text, status, output: String::new() }))
}

fn write(tools: &Tools, image: &Image<'_>, archive: &Path) -> Result<(), ImagesError> {
    let arch = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let mut writer = Command::new(tools.path("image"));
    writer.arg("-o").arg(archive);
    writer.args(["-ref", image.name, "-arch", arch, "-user", image.user, "-entrypoint", image.entrypoint]);
    writer.args(image.env.iter().flat_map(|setting| ["-env", setting]));
    for (at, target) in image.links {
        writer.arg("-link").arg(format!("{at}={target}"));
    }
    for (file, at) in image.files {
        writer.arg(format!("{}={at}", file.display()));
    }
    run(&mut writer).map(drop).map_err(|source| ImagesError::Write { image: image.name.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, ImagesError> {
    fs::read(path).map_err(|source| ImagesError::File { what: "read", path: path.to_owned(), source })
}

fn make(dir: &Path) -> Result<(), ImagesError> {
    fs::create_dir_all(dir).map_err(|source| ImagesError::File { what: "make", path: dir.to_owned(), source })
}
