//! Where everything of one cluster lies: one directory, and an id derived from its path, so that a
//! cluster is found again by its directory alone and two of them never meet.

use std::path::{Path, PathBuf};

/// The directory of one cluster, absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The cluster in `root`, which need not exist yet.
    pub fn at(root: impl AsRef<Path>) -> std::io::Result<Self> {
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// Six hexadecimal digits, unique to the directory: short, because an interface name has 15 bytes.
    pub fn id(&self) -> String {
        let hash = blake3::hash(self.root.as_os_str().as_encoded_bytes());
        hash.to_hex().as_str().chars().take(6).collect()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The administrator's kubeconfig, usable from this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Links to the built tools.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// `PATH` with the tools first.
    pub fn path_with_tools(&self) -> String {
        format!("{}:{}", self.bin().display(), std::env::var("PATH").unwrap_or_default())
    }

    /// One log file a process, named `<host>-<process>.log`. Kept by `down`: they say why.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn log(&self, host: &str, process: &str) -> PathBuf {
        self.logs().join(format!("{host}-{process}.log"))
    }

    /// Image archives, imported into the cluster by `up`.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Everything that `down` removes as a whole.
    pub fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    pub fn state(&self) -> PathBuf {
        self.cluster().join("state.json")
    }

    /// Held while the cluster is changed.
    pub fn lock(&self) -> PathBuf {
        self.root.join("cluster.lock")
    }

    pub fn pki(&self) -> PathBuf {
        self.cluster().join("pki")
    }

    /// The disk of one host.
    pub fn host(&self, name: &str) -> PathBuf {
        self.cluster().join("hosts").join(name)
    }

    /// The cgroup that the cluster's pods live under.
    pub fn cgroup(&self) -> String {
        format!("/selvedge-{}", self.id())
    }

    /// The one interface that the cluster puts into this machine's own network.
    pub fn uplink(&self) -> String {
        format!("sv-{}", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_differ_by_directory() {
        let (a, b) = (Layout::at("/x/.dev").unwrap(), Layout::at("/y/.dev").unwrap());
        assert!(a.uplink().len() < 16, "IFNAMSIZ is 16 with its terminating zero");
        assert_ne!(a.id(), b.id());
        assert_eq!(a.id(), Layout::at("/x/.dev").unwrap().id());
    }
}
