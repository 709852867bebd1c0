//! containerd on a host: its configuration, its start, its images. The same for the control host and for
//! edge hosts, at the paths that every user has: `/run/containerd/containerd.sock`, `/var/lib/containerd`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::{Deadline, wait_for};
use crate::command::succeeds;
use crate::host::{Host, HostError};

/// The sandbox image, which must be there before the first pod.
pub const PAUSE_IMAGE: &str = "selvedge.dev/pause:1";
/// Where Debian's `containernetworking-plugins` puts them.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";
/// The namespace of containerd that CRI uses.
const NAMESPACE: &str = "k8s.io";

#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot read image archive {}", path.display())]
    Archive { path: PathBuf, source: std::io::Error },
    #[error("containerd on host {host} did not answer within {} s; its log ends with:\n{tail}", within.as_secs())]
    NotReady { host: String, within: Duration, tail: String },
}

/// The containerd of one host.
pub struct Containerd<'a> {
    pub host: &'a Host,
    /// Where the built `containerd`, its shim and `ctr` are.
    pub bin: &'a Path,
    /// Addresses of the host's containers, as `a.b.c.d/n`.
    pub pods: &'a str,
}

impl Containerd<'_> {
    /// Starts it unless it runs, and waits until it answers.
    pub fn start(&self) -> Result<(), ContainerdError> {
        let disk = self.host.disk();
        let networks = disk.join("cni");
        write(&networks.join("10-bridge.conflist"), &network(self.pods))?;
        let config = disk.join("containerd.toml");
        write(&config, &configuration(&networks))?;
        let words = [
            self.bin.join("containerd").display().to_string(),
            "--config".to_owned(),
            config.display().to_string(),
        ];
        // It finds its shim by the path, and iptables and runc too.
        let path =
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.display());
        self.host.spawn("containerd", &words, &[("PATH", path)])?;
        let within = Duration::from_secs(30);
        let answers = || {
            let mut ctr = self.host.enter(self.bin.join("ctr")).ok()?;
            succeeds(ctr.args(["--connect-timeout", "1s", "--namespace", NAMESPACE, "images", "ls"]))
                .then_some(())
        };
        wait_for(Deadline::after(within), answers).ok_or_else(|| ContainerdError::NotReady {
            host: self.host.name().to_owned(),
            within,
            tail: self.host.log_tail("containerd"),
        })
    }

    /// Imports an image archive unless the same bytes were imported before and its image is still there.
    /// The answer says whether it was imported.
    pub fn import(&self, archive: &Path) -> Result<bool, ContainerdError> {
        let bytes = fs::read(archive)
            .map_err(|source| ContainerdError::Archive { path: archive.to_owned(), source })?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let notes = self.host.disk().join("imported.json");
        let mut imported: BTreeMap<String, String> =
            fs::read(&notes).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        if let Some(image) = imported.get(&hash)
            && self.images()?.contains(image)
        {
            return Ok(false);
        }
        // The host may stand in another directory.
        let archive = std::path::absolute(archive)
            .map_err(|source| ContainerdError::Archive { path: archive.to_owned(), source })?;
        let said = self.ctr(&["images", "import", &archive.display().to_string()])?;
        // "<name>  saved" is the line of the image; another archive of that name is no longer in force.
        if let Some(image) =
            said.lines().find_map(|line| line.split_whitespace().find(|word| word.contains(':')))
        {
            imported.retain(|_, name| name != image);
            imported.insert(hash, image.to_owned());
            write(&notes, &serde_json::to_string(&imported).unwrap_or_default())?;
        }
        Ok(true)
    }

    /// Names of the images that are there.
    pub fn images(&self) -> Result<Vec<String>, ContainerdError> {
        Ok(self.ctr(&["images", "ls", "--quiet"])?.lines().map(str::to_owned).collect())
    }

    fn ctr(&self, args: &[&str]) -> Result<String, ContainerdError> {
        let all = ["--namespace", NAMESPACE].iter().chain(args);
        Ok(self.host.run(self.bin.join("ctr"), all)?)
    }
}

fn write(path: &Path, text: &str) -> Result<(), ContainerdError> {
    let failed = |source| ContainerdError::Write { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

/// containerd's configuration: its defaults, but for what a host inside a machine needs.
fn configuration(networks: &Path) -> String {
    format!(
        r#"version = 3

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE_IMAGE}"

[plugins.'io.containerd.cri.v1.runtime']
  # Containers and virtual machines often lack CAP_SYS_RESOURCE, without which no score can be lowered.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{CNI_PLUGINS}"]
    conf_dir = "{networks}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
"#,
        networks = networks.display()
    )
}

/// The network of the host's containers: a bridge with addresses from `pods`, and ports of the host.
fn network(pods: &str) -> String {
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {{
      "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {{
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{{"subnet": "{pods}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
  ]
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_and_network_read_as_reviewed() {
        let text =
            format!("{}\n---\n{}", configuration(Path::new("/d/hosts/edge-1/cni")), network("10.88.0.0/24"));
        assert_eq!(text, include_str!("goldens/containerd.txt"));
        serde_json::from_str::<serde_json::Value>(&network("10.88.0.0/24")).expect("a conflist is JSON");
    }
}
