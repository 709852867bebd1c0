//! Volumes on disk: directories of files that containers mount read-only.
//!
//! A volume changes in one step, as kubelet does it: its files are links through `..data`, which is a
//! link to a directory named by content, and a change renames a new `..data` over the old one. A reader
//! sees all of the old files or all of the new ones. Files of Secrets are in memory alone, on a tmpfs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use selvedge_model::pod;

use super::{cri::WorkloadKey, desired::VolumeFiles};

/// The link to the directory in force.
const DATA: &str = "..data";
/// The next one, until it is renamed.
const NEXT: &str = "..next";

/// A tmpfs, as statfs(2) has it.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// Where the files of a volume are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Of a ConfigMap.
    Disk,
    /// Of a Secret.
    Memory,
}

/// A volume of a workload. One that changes its place is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VolumeId {
    pub(super) place: Place,
    pub(super) name: String,
}

impl VolumeId {
    /// None: its source is none that this agent knows.
    pub(super) fn of(volume: &pod::Volume) -> Option<Self> {
        volume.source()?;
        let place = if volume.secret.is_some() { Place::Memory } else { Place::Disk };
        Some(Self { place, name: volume.name.clone() })
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.place == Place::Memory { f.write_str(" in memory") } else { Ok(()) }
    }
}

/// A file or directory could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub(super) struct DiskError {
    action: &'static str,
    path: String,
    source: io::Error,
}

fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.display().to_string();
    move |source| DiskError { action, path, source }
}

/// Where everything of the runtime lives on disk.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    volumes: PathBuf,
    memory: PathBuf,
    logs: PathBuf,
}

impl Disk {
    /// `memory_dir` must be on a tmpfs by the time when a Secret is written.
    pub(super) fn new(state_dir: &Path, memory_dir: &Path) -> Self {
        Self {
            volumes: state_dir.join("volumes"),
            memory: memory_dir.join("secrets"),
            logs: state_dir.join("logs"),
        }
    }

    fn volumes_of(&self, place: Place, key: &WorkloadKey) -> PathBuf {
        let root = match place {
            Place::Disk => &self.volumes,
            Place::Memory => &self.memory,
        };
        root.join(&key.namespace).join(&key.name)
    }

    /// The directory that containers mount.
    pub(super) fn volume(&self, key: &WorkloadKey, volume: &VolumeId) -> PathBuf {
        self.volumes_of(volume.place, key).join(&volume.name)
    }

    /// Where the runtime writes a workload's logs.
    pub(super) fn logs(&self, key: &WorkloadKey) -> PathBuf {
        self.logs.join(&key.namespace).join(&key.name)
    }

    /// Workloads that have a directory here.
    pub(super) fn workloads(&self) -> BTreeSet<WorkloadKey> {
        let mut keys = BTreeSet::new();
        for root in [&self.volumes, &self.memory, &self.logs] {
            for namespace in names(root) {
                keys.extend(
                    names(&root.join(&namespace))
                        .into_iter()
                        .map(|name| WorkloadKey { namespace: namespace.clone(), name }),
                );
            }
        }
        keys
    }

    /// Content of each volume of a workload; empty for one that was never completed.
    pub(super) fn contents(&self, key: &WorkloadKey) -> BTreeMap<VolumeId, String> {
        let volumes = [Place::Disk, Place::Memory].into_iter().flat_map(|place| {
            let names = names(&self.volumes_of(place, key)).into_iter();
            names.map(move |name| VolumeId { place, name })
        });
        let content = |volume: &VolumeId| {
            let target = fs::read_link(self.volume(key, volume).join(DATA)).unwrap_or_default();
            target.to_string_lossy().trim_start_matches('.').to_owned()
        };
        volumes.map(|volume| (volume.clone(), content(&volume))).collect()
    }

    /// Makes the volume's files these, all at once.
    pub(super) fn write(
        &self,
        key: &WorkloadKey,
        volume: &VolumeId,
        files: &VolumeFiles,
    ) -> Result<(), DiskError> {
        if volume.place == Place::Memory {
            in_memory(&self.memory).map_err(on("keep Secrets in memory at", &self.memory))?;
        }
        let root = self.volume(key, volume);
        let name = format!("..{}", files.content);
        let data = root.join(&name);
        // What an attempt that was cut off left behind.
        remove_dir(&data)?;
        fs::create_dir_all(&data).map_err(on("create", &data))?;
        let mut tops = BTreeSet::new();
        for (path, bytes) in files.files() {
            let file = data.join(path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent).map_err(on("create", parent))?;
            }
            write_file(&file, &bytes, files.mode).map_err(on("write", &file))?;
            tops.extend(path.split('/').next().map(str::to_owned));
        }
        // A volume is told by the name that `..data` has, so that name must never reach the disk before
        // the files: a power cut would leave empty files that count as written.
        sync_dir(&data).map_err(on("sync", &data))?;
        let next = root.join(NEXT);
        let _ = fs::remove_file(&next);
        symlink(&name, &next).map_err(on("link", &next))?;
        fs::rename(&next, root.join(DATA)).map_err(on("rename", &next))?;
        for top in &tops {
            let link = root.join(top);
            if fs::read_link(&link).is_err() {
                symlink(Path::new(DATA).join(top), &link).map_err(on("link", &link))?;
            }
        }
        for old in names(&root) {
            let path = root.join(&old);
            if old.starts_with("..") {
                if old != name && old != DATA {
                    remove_dir(&path)?;
                }
            } else if !tops.contains(&old) {
                fs::remove_file(&path).map_err(on("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes one volume of a workload.
    pub(super) fn remove_volume(&self, key: &WorkloadKey, volume: &VolumeId) -> Result<(), DiskError> {
        remove_dir(&self.volume(key, volume))
    }

    /// Removes volumes and logs of a workload.
    pub(super) fn remove(&self, key: &WorkloadKey) -> Result<(), DiskError> {
        let volumes = [Place::Disk, Place::Memory].map(|place| self.volumes_of(place, key));
        for dir in volumes.into_iter().chain([self.logs(key)]) {
            remove_dir(&dir)?;
            // The namespace's directory goes with its last workload; not empty is no error.
            if let Some(namespace) = dir.parent() {
                let _ = fs::remove_dir(namespace);
            }
        }
        Ok(())
    }
}

/// Makes the directory for its owner alone: what is mounted from it is reached past it. On a disk nothing is written.
fn in_memory(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if rustix::fs::statfs(dir)?.f_type == TMPFS {
        return Ok(());
    }
    Err(io::Error::other("it is not on a tmpfs: mount one there, or name another directory by --memory-dir"))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove_dir(dir: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, bytes)?;
    // After the write and past the umask, so that the user's mode is what the file has.
    file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_dir(&entry.path())?;
        }
    }
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_a_tmpfs_is_memory() {
        super::in_memory(std::path::Path::new("/dev/shm")).unwrap();
        let error = super::in_memory(std::path::Path::new("/proc/self")).unwrap_err();
        assert!(error.to_string().contains("--memory-dir"), "{error}");
    }
}
