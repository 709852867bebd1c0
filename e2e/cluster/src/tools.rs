//! The programs of the cluster, built from the pinned Go modules (and one C file) in `tools/`, each
//! once for its content.

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

/// One directory of `tools/`: what is built from it, and how.
struct Module {
    dir: &'static str,
    /// (Go package, program)
    programs: &'static [(&'static str, &'static str)],
    /// Further names of the first program.
    links: &'static [&'static str],
    tags: &'static str,
    /// `-X` settings of the linker.
    settings: &'static [&'static str],
    /// About how long it takes on two cores from nothing, to be told before it starts.
    takes: &'static str,
}

const KUBERNETES_VERSION: [&str; 3] = [
    // Without these, clients see v0.0.0, and a chart's kubeVersion refuses the cluster.
    "k8s.io/component-base/version.gitVersion=v1.36.3",
    "k8s.io/component-base/version.gitMajor=1",
    "k8s.io/component-base/version.gitMinor=36",
];

const GO_MODULES: [Module; 6] = [
    Module {
        dir: "etcd",
        programs: &[("go.etcd.io/etcd/server/v3", "etcd"), ("go.etcd.io/etcd/etcdutl/v3", "etcdutl")],
        links: &[],
        tags: "",
        settings: &[],
        takes: "1 min",
    },
    Module {
        dir: "kubernetes",
        programs: &[("./kube", "kube"), ("k8s.io/kubernetes/cmd/kubectl", "kubectl")],
        links: &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"],
        tags: "",
        settings: &KUBERNETES_VERSION,
        takes: "6 min",
    },
    Module {
        dir: "containerd",
        programs: &[
            ("github.com/containerd/containerd/v2/cmd/containerd", "containerd"),
            ("github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "containerd-shim-runc-v2"),
            ("github.com/containerd/containerd/v2/cmd/ctr", "ctr"),
        ],
        links: &[],
        tags: "no_btrfs no_devmapper no_zfs",
        settings: &["github.com/containerd/containerd/v2/version.Version=v2.4.2"],
        takes: "2 min",
    },
    Module {
        dir: "coredns",
        programs: &[(".", "coredns")],
        links: &[],
        tags: "",
        settings: &[],
        takes: "2 min",
    },
    Module {
        dir: "helm",
        programs: &[("helm.sh/helm/v4/cmd/helm", "helm")],
        links: &[],
        tags: "",
        settings: &["helm.sh/helm/v4/internal/version.version=v4.3.1"],
        takes: "3 min",
    },
    Module { dir: "image", programs: &[(".", "image")], links: &[], tags: "", settings: &[], takes: "10 s" },
];

/// All built programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// (program, where it lies)
    programs: Vec<(String, PathBuf)>,
}

/// The directory with the modules' sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

impl Tools {
    /// Builds what is not in the cache.
    pub fn build(cache: &Cache) -> Result<Self, ToolsError> {
        let go = Go::find(cache)?;
        let mut programs = vec![("pause".to_owned(), build_pause(cache)?.join("pause"))];
        for module in &GO_MODULES {
            let dir = build_module(cache, &go, module)?;
            let names = module.programs.iter().map(|(_, program)| program).chain(module.links);
            programs.extend(names.map(|name| ((*name).to_owned(), dir.join(name))));
        }
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

fn build_module(cache: &Cache, go: &Go, module: &'static Module) -> Result<PathBuf, ToolsError> {
    let source = sources().join(module.dir);
    let files = read_sources(module.dir, &source)?;
    let how = format!("{} {:?} {:?} {:?}", go.version, module.programs, module.tags, module.settings);
    let parts = files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    let key = cache::key(parts.chain([("how", how.as_bytes())]));
    let entry = cache.entry("tools", module.dir, &key);
    let Some(claim) = cache.claim(&entry)? else { return Ok(entry) };
    let names: Vec<&str> = module.programs.iter().map(|(_, program)| *program).collect();
    say(format!(
        "building {} with {}: {} on two cores when nothing is cached",
        names.join(", "),
        go.version,
        module.takes
    ));
    let started = Deadline::after(Duration::MAX);
    for (package, program) in module.programs {
        let linker: Vec<String> = module.settings.iter().map(|setting| format!("-X {setting}")).collect();
        let mut build = go.command();
        build.current_dir(&source).args(["build", "-tags", module.tags, "-ldflags", &linker.join(" "), "-o"]);
        build.arg(claim.dir().join(program)).arg(package);
        finish(module.dir, &mut build, program, started)?;
    }
    if let Some((_, first)) = module.programs.first() {
        for link in module.links {
            symlink(first, claim.dir().join(link)).map_err(|source| ToolsError::Link {
                program: (*link).to_owned(),
                dir: claim.dir().to_owned(),
                source,
            })?;
        }
    }
    claim.finish()?;
    say(format!("built {} in {} s", names.join(", "), started.elapsed().as_secs()));
    Ok(entry)
}

/// The process 1 of hosts and pods, in C, because it must be small: every pod has one.
fn build_pause(cache: &Cache) -> Result<PathBuf, ToolsError> {
    const MODULE: &str = "pause";
    let source = sources().join(MODULE);
    let files = read_sources(MODULE, &source)?;
    let key = cache::key(files.iter().map(|(name, content)| (name.as_str(), content.as_slice())));
    let entry = cache.entry("tools", MODULE, &key);
    let Some(claim) = cache.claim(&entry)? else { return Ok(entry) };
    let mut build = command("musl-gcc", ["-static", "-Os", "-s", "-Wall", "-Werror", "-o"]);
    build.arg(claim.dir().join("pause")).arg(source.join("pause.c"));
    finish(MODULE, &mut build, MODULE, Deadline::after(Duration::MAX))?;
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
