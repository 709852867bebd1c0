//! The programs of the cluster, built from the pinned Go module and the one C file in `tools/`, once for their
//! content.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cache::{self, Cache, CacheError};
use crate::clock::Deadline;
use crate::command::{CommandError, command};
use crate::go::{Go, GoError};
use crate::progress::{say, watch};

#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Go(#[from] GoError),
    #[error("cannot read the sources of {module} in {}", path.display())]
    Source { module: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot build {module}; the output above says why")]
    Build { module: &'static str, source: CommandError },
    #[error("cannot link {} into {}", program, dir.display())]
    Link { program: String, dir: PathBuf, source: std::io::Error },
}

/// Packages of the Go module in `tools/go`, each of which becomes the program of its last name. One module for
/// all of them, so that they agree on the versions of what they share (Kubernetes' libraries above all), and that
/// is compiled once.
const PACKAGES: [&str; 10] = [
    "./coredns",
    "./etcd",
    "./image",
    "./kube",
    "github.com/containerd/containerd/v2/cmd/containerd",
    "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    "github.com/containerd/containerd/v2/cmd/ctr",
    "go.etcd.io/etcd/etcdutl/v3",
    "helm.sh/helm/v4/cmd/helm",
    "k8s.io/kubernetes/cmd/kubectl",
];

/// Further names of `kube`, by which it knows what to be.
const KUBE: [&str; 5] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"];

/// containerd without the file systems that its hosts have not.
const TAGS: &str = "no_btrfs,no_devmapper,no_zfs";
/// Nobody attaches a debugger: a sixth of the compilers' time, and the names in stack traces stay.
const COMPILER: &str = "all=-dwarf=false";
/// Without versions, clients see v0.0.0, and a chart's kubeVersion refuses the cluster.
const LINKER: &str = "-s -w \
    -X github.com/containerd/containerd/v2/version.Version=v2.3.5 \
    -X helm.sh/helm/v4/internal/version.version=v4.2.4 \
    -X k8s.io/component-base/version.gitMajor=1 \
    -X k8s.io/component-base/version.gitMinor=36 \
    -X k8s.io/component-base/version.gitVersion=v1.36.3";
const PAUSE: &str = "pause";
/// To be told before it starts.
const TAKES: &str = "8 min on two cores when nothing is cached";

/// All built programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// (program, where it lies)
    programs: Vec<(String, PathBuf)>,
}

/// The directory with the programs' sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

impl Tools {
    /// Builds what is not in the cache.
    pub fn build(cache: &Cache) -> Result<Self, ToolsError> {
        let go = Go::find(cache)?;
        let dir = build_programs(cache, &go)?;
        let names = PACKAGES.iter().map(|package| name(package)).chain(KUBE);
        let mut programs: Vec<_> = names.map(|name| (name.to_owned(), dir.join(name))).collect();
        programs.push((PAUSE.to_owned(), build_pause(cache)?.join(PAUSE)));
        Ok(Self { programs })
    }

    /// Where a program lies. An unknown name is left to `PATH`.
    pub fn path(&self, program: &str) -> PathBuf {
        let found = self.programs.iter().find(|(name, _)| name == program);
        found.map_or_else(|| PathBuf::from(program), |(_, path)| path.clone())
    }

    /// Where containerd, its shim and `ctr` lie together.
    pub fn containerd_dir(&self) -> &Path {
        let found = self.programs.iter().find(|(name, _)| name == "containerd");
        found.and_then(|(_, path)| path.parent()).unwrap_or(Path::new(""))
    }

    /// Puts links to all of them into one directory, for people's `PATH`.
    pub fn link(&self, dir: &Path) -> Result<(), ToolsError> {
        let failed = |program: &str| {
            let (program, dir) = (program.to_owned(), dir.to_owned());
            move |source| ToolsError::Link { program, dir, source }
        };
        fs::create_dir_all(dir).map_err(failed("tools"))?;
        for (program, path) in &self.programs {
            let link = dir.join(program);
            if fs::read_link(&link).is_ok_and(|target| target == *path) {
                continue;
            }
            if link.symlink_metadata().is_ok() {
                fs::remove_file(&link).map_err(failed(program))?;
            }
            symlink(path, &link).map_err(failed(program))?;
        }
        Ok(())
    }
}

/// A package's last name but for a module's major version, which is what `go build` calls its program.
fn name(package: &'static str) -> &'static str {
    let package = package.strip_suffix("/v3").unwrap_or(package);
    package.rsplit('/').next().unwrap_or(package)
}

fn build_programs(cache: &Cache, go: &Go) -> Result<PathBuf, ToolsError> {
    const MODULE: &str = "go";
    let source = sources().join(MODULE);
    let files = read_sources(MODULE, &source)?;
    let how = format!("{} {PACKAGES:?} {KUBE:?} {TAGS} {COMPILER} {LINKER}", go.version);
    let parts = files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    let key = cache::key(parts.chain([("how", how.as_bytes())]));
    let entry = cache.entry("tools", "programs", &key);
    let Some(claim) = cache.claim(&entry)? else { return Ok(entry) };
    say(format!("building Kubernetes, etcd, containerd, CoreDNS and helm with {}: {TAKES}", go.version));
    let started = Deadline::after(Duration::MAX);
    let mut build = go.command();
    build.current_dir(&source).args(["build", "-tags", TAGS, "-gcflags", COMPILER, "-ldflags", LINKER]);
    // A directory by its last slash: each program gets its own name in it.
    build.arg("-o").arg(claim.dir().join("")).args(PACKAGES);
    finish(MODULE, &mut build, "Kubernetes and its neighbours", started)?;
    for link in KUBE {
        symlink("kube", claim.dir().join(link)).map_err(|source| ToolsError::Link {
            program: link.to_owned(),
            dir: claim.dir().to_owned(),
            source,
        })?;
    }
    claim.finish()?;
    say(format!("built them in {} s", started.elapsed().as_secs()));
    Ok(entry)
}

/// The process 1 of hosts and pods, in C, because it must be small: every pod has one.
fn build_pause(cache: &Cache) -> Result<PathBuf, ToolsError> {
    let source = sources().join(PAUSE);
    let files = read_sources(PAUSE, &source)?;
    let key = cache::key(files.iter().map(|(name, content)| (name.as_str(), content.as_slice())));
    let entry = cache.entry("tools", PAUSE, &key);
    let Some(claim) = cache.claim(&entry)? else { return Ok(entry) };
    let mut build = command("musl-gcc", ["-static", "-Os", "-s", "-Wall", "-Werror", "-o"]);
    build.arg(claim.dir().join(PAUSE)).arg(source.join("pause.c"));
    finish(PAUSE, &mut build, PAUSE, Deadline::after(Duration::MAX))?;
    claim.finish()?;
    Ok(entry)
}

fn finish(
    module: &'static str,
    build: &mut Command,
    program: &str,
    started: Deadline,
) -> Result<(), ToolsError> {
    let text = format!("{build:?}");
    let fail = |source| ToolsError::Build { module, source };
    let start = |source| fail(CommandError::Start { command: text.clone(), source });
    let mut child = build.spawn().map_err(start)?;
    let status = watch(&mut child, program, started).map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(fail(CommandError::Failed { command: text, status, output: String::new() }))
}

/// Every file of a module, sorted by name.
fn read_sources(module: &'static str, dir: &Path) -> Result<Vec<(String, Vec<u8>)>, ToolsError> {
    let failed = |source| ToolsError::Source { module, path: dir.to_owned(), source };
    let mut files = Vec::new();
    let mut next = vec![dir.to_owned()];
    while let Some(at) = next.pop() {
        for entry in fs::read_dir(&at).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                next.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            files.push((name, fs::read(&path).map_err(failed)?));
        }
    }
    files.sort();
    Ok(files)
}
