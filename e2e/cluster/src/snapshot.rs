//! What an operator does to etcd: a snapshot, and a restore, both ways that etcd's documentation knows.
//!
//! In: a file. Out: a control plane that stands still and has other data; [`Cluster::up`] starts it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{CONTROL, Cluster, ClusterError};
use crate::command::{CommandError, command, run};
use crate::component::{ETCD_MEMBER, etcd_data};
use crate::host::Host;

/// What a restore failed at.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("etcd did not end within {} s of being asked to", within.as_secs())]
    WillNotEnd { within: Duration },
    #[error("cannot {what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("etcdutl cannot restore {}", from.display())]
    Restore { from: PathBuf, source: CommandError },
}

/// Everything that knows revisions of etcd, etcd last. A restore wants all of it to start anew.
const CONTROL_PLANE: [&str; 7] = [
    "coredns",
    "kube-proxy",
    "kubelet",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-apiserver",
    "etcd",
];
/// It writes what it has in memory, and ends.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    /// Ends etcd and copies its database to `file`: ended by itself it has all in it, which a killed one has
    /// in its log. [`Cluster::up`] starts it again.
    pub fn snapshot(&self, file: &Path) -> Result<(), ClusterError> {
        let control = Host::new(self.layout(), CONTROL);
        if !control.terminate("etcd", PATIENCE) {
            return Err(SnapshotError::WillNotEnd { within: PATIENCE }.into());
        }
        let database = etcd_data(&control.disk()).join("member/snap/db");
        let copied = fs::copy(&database, file).map(drop);
        Ok(copied.map_err(|source| SnapshotError::File { what: "copy", path: database, source })?)
    }

    /// Ends the control plane with everything on the control host but containers, and gives etcd the data of
    /// a snapshot. `bump`: revisions go on so much above those of the snapshot, and all below are compacted, so
    /// that nobody watches on as if nothing had happened. [`Cluster::up`] starts it again.
    pub fn restore(&self, file: &Path, bump: Option<u64>) -> Result<(), ClusterError> {
        let control = Host::new(self.layout(), CONTROL);
        for component in CONTROL_PLANE {
            control.kill(component)?;
        }
        let data = etcd_data(&control.disk());
        fs::remove_dir_all(&data).map_err(|source| SnapshotError::File {
            what: "remove",
            path: data.clone(),
            source,
        })?;
        let etcdutl = self.layout().bin().join("etcdutl").display().to_string();
        let mut restore = command(&etcdutl, ["snapshot", "restore"]);
        // A copied database does not end in the hash that a streamed one has.
        restore.arg(file).arg("--skip-hash-check").arg("--data-dir").arg(&data).args(ETCD_MEMBER);
        if let Some(bump) = bump {
            restore.arg(format!("--bump-revision={bump}")).arg("--mark-compacted");
        }
        let restored = run(&mut restore).map(drop);
        Ok(restored.map_err(|source| SnapshotError::Restore { from: file.to_owned(), source })?)
    }
}
