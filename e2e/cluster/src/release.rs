//! The release before this one, built from its tag: what the present one must work beside, and what fleets are
//! upgraded from.
//!
//! Comes in: the checkout's git history. Goes out: agent, image archives, chart and examples of the release, in
//! the cache by its commit. It is built by this program's ways (`images`), with this program's tools, in a copy
//! of its sources; the checkout itself is not touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, CacheError};
use crate::command::{CommandError, command, run};
use crate::images::{self, Checkout, ImagesError};
use crate::progress::say;
use crate::tools::Tools;

/// Names a tag or commit to be taken for the previous release.
pub const ASKED: &str = "SELVEDGE_RELEASE";

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Images(#[from] ImagesError),
    #[error(
        "this checkout knows no release before it: `git fetch --tags` brings them (a shallow clone needs \
         `git fetch --tags --unshallow`), or name a commit by {ASKED}"
    )]
    NoTag(#[source] CommandError),
    #[error("{name} is no commit of this checkout: `git fetch --tags` may bring it")]
    NoCommit { name: String, source: CommandError },
    #[error("cannot unpack the sources of {name}")]
    Unpack { name: String, source: CommandError },
    #[error("cannot {what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} names no version of the workspace", path.display())]
    NoVersion { path: PathBuf },
}

/// A release, built.
#[derive(Clone, Debug)]
pub struct Release {
    name: String,
    commit: String,
    version: [u32; 3],
    entry: PathBuf,
}

impl Release {
    /// The release before the commit that is checked out in `repository`, or the one that `SELVEDGE_RELEASE`
    /// names. Builds it unless it was built before, which takes as long as this release does.
    pub fn previous(repository: &Path, cache: &Cache, tools: &Tools) -> Result<Self, ReleaseError> {
        let (name, commit) = find(repository, std::env::var(ASKED).ok().filter(|name| !name.is_empty()))?;
        // Without dots, behind the last of which the cache puts its own words.
        let entry = cache.entry("releases", &name.replace(['/', '.'], "-"), &commit);
        let manifest = entry.join(MANIFEST);
        let mut release = Self { name, commit, version: [0; 3], entry };
        release.build(repository, cache, tools)?;
        let text = fs::read_to_string(&manifest).map_err(file("read", &manifest))?;
        release.version = version(&text).ok_or(ReleaseError::NoVersion { path: manifest })?;
        Ok(release)
    }

    /// Its tag, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version in its manifests. A commit after a release still bears that release's version.
    pub fn version(&self) -> [u32; 3] {
        self.version
    }

    /// The directory that has its chart and examples at the places of a checkout.
    pub fn root(&self) -> &Path {
        &self.entry
    }

    /// The agent's binary for this machine.
    pub fn agent(&self) -> PathBuf {
        self.entry.join("selvedge-agent")
    }

    /// The tag of its images, which have the registry and names of the present ones.
    pub fn image_tag(&self) -> &str {
        &self.commit
    }

    /// The archives of its images.
    pub fn images(&self) -> Vec<PathBuf> {
        images::in_directory(&self.entry.join("images"))
    }

    fn build(&self, repository: &Path, cache: &Cache, tools: &Tools) -> Result<(), ReleaseError> {
        let Some(claim) = cache.claim(&self.entry)? else { return Ok(()) };
        let dir = claim.dir();
        say(format!("building release {} ({}): 15 min on two cores", self.name, self.commit));
        // Beside the entry, so that a build that was broken off goes on where it was.
        let source = self.entry.with_extension("source");
        self.unpack(repository, &source)?;
        let checkout = Checkout::at(&source);
        images::write_cluster(&checkout, tools, &self.commit, &dir.join("images"))?;
        images::write_agent(&checkout, cache, std::env::consts::ARCH, [dir.join("selvedge-agent")])?;
        for part in [MANIFEST, "charts", "examples"] {
            let from = source.join(part);
            let copied = run(command("cp", ["-r"]).arg(from).arg(dir));
            copied.map_err(|source| ReleaseError::Unpack { name: self.name.clone(), source })?;
        }
        claim.finish()?;
        fs::remove_dir_all(&source).map_err(file("remove", &source))
    }

    fn unpack(&self, repository: &Path, to: &Path) -> Result<(), ReleaseError> {
        fs::create_dir_all(to).map_err(file("make", to))?;
        let archive = to.join("source.tar");
        let unpack = || {
            let written = archive.display().to_string();
            git(repository, &["archive", "--format=tar", "--output", &written, &self.commit])?;
            run(command("tar", ["--extract", "--file"]).arg(&archive).arg("--directory").arg(to))
        };
        unpack().map(drop).map_err(|source| ReleaseError::Unpack { name: self.name.clone(), source })
    }
}

const MANIFEST: &str = "Cargo.toml";

/// Name and abbreviated commit of the asked release, or of the newest before the commit that is checked out
/// (which may be a release itself).
fn find(repository: &Path, asked: Option<String>) -> Result<(String, String), ReleaseError> {
    let newest = ["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD~1"];
    let name = asked.map_or_else(|| git(repository, &newest).map_err(ReleaseError::NoTag), Ok)?;
    let commit = git(repository, &["rev-parse", "--verify", &format!("{name}^{{commit}}")])
        .map_err(|source| ReleaseError::NoCommit { name: name.clone(), source })?;
    // An image's tag too, which has no room for what a tag of git's may be made of.
    Ok((name, commit.chars().take(12).collect()))
}

/// git's answer. The checkout may belong to somebody else than who runs the tests.
fn git(repository: &Path, words: &[&str]) -> Result<String, CommandError> {
    let mut git = Command::new("git");
    git.current_dir(repository).args(["-c", "safe.directory=*"]).args(words);
    Ok(run(&mut git)?.trim().to_owned())
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ReleaseError {
    let path = path.to_owned();
    move |source| ReleaseError::File { what, path, source }
}

/// The workspace's version in its manifest.
fn version(manifest: &str) -> Option<[u32; 3]> {
    let package = manifest.split("[workspace.package]").nth(1)?;
    let line = package.lines().find_map(|line| line.strip_prefix("version = "))?;
    let mut numbers = line.trim().trim_matches('"').split('.').map(|part| part.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_workspaces() {
        let text = "[workspace]\nresolver = \"3\"\n\n[workspace.package]\nversion = \"1.20.3\"\nedition = \"2024\"\n";
        assert_eq!(version(text), Some([1, 20, 3]));
        let own = fs::read_to_string(crate::tools::sources().join("../../../Cargo.toml")).unwrap();
        let own = version(&own).unwrap();
        assert_eq!(own.map(|number| number.to_string()).join("."), images::VERSION);
        assert_eq!(version("version = \"1.0.0\""), None);
    }

    #[test]
    fn the_newest_tag_before_the_checkout_is_taken_and_none_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let git = |words: &[&str]| {
            git(dir.path(), &[&["-c", "user.name=a", "-c", "user.email=a@b"], words].concat())
        };
        git(&["init", "--quiet"]).unwrap();
        let commit = ["commit", "--quiet", "--allow-empty", "--message", "a"];
        for words in [&commit[..], &commit] {
            git(words).unwrap();
        }
        let none = find(dir.path(), None).unwrap_err().to_string();
        assert!(none.contains("git fetch --tags"), "{none}");
        for words in [&["tag", "v1.0.0"][..], &commit, &["tag", "v1.1.0"]] {
            git(words).unwrap();
        }
        // What is checked out is 1.1.0 itself: the one before it is meant.
        let (name, short) = find(dir.path(), None).unwrap();
        assert_eq!(name, "v1.0.0");
        assert_eq!(short.len(), 12);
        assert_eq!(find(dir.path(), Some("HEAD".into())).unwrap().0, "HEAD");
        let unknown = find(dir.path(), Some("v9".into())).unwrap_err().to_string();
        assert!(unknown.contains("v9"), "{unknown}");
    }
}
