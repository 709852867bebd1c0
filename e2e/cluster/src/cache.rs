//! Built things, kept outside the checkout by the content that they were built from, so that a second
//! clone, another branch or a `git clean` does not build them again.
//!
//! An entry is a directory named by its key. It appears by one rename when it is whole, and is never
//! changed after; two builders of the same entry wait for each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {} in the cache of built tools; set SELVEDGE_CACHE to a directory that can be written", path.display())]
pub struct CacheError {
    what: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// The cache directory: `$SELVEDGE_CACHE`, else `~/.cache/selvedge`.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// An exclusive right to make one entry, held as long as it lives.
pub struct Claim {
    _lock: File,
    entry: PathBuf,
    part: PathBuf,
}

impl Cache {
    pub fn from_environment() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        let root = set("SELVEDGE_CACHE").or_else(|| Some(home()?.join("selvedge")));
        Self { root: root.unwrap_or_else(|| PathBuf::from("/var/tmp/selvedge")) }
    }

    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an entry is or will be.
    pub fn entry(&self, kind: &str, name: &str, key: &str) -> PathBuf {
        self.root.join(kind).join(format!("{name}-{key}"))
    }

    /// `None` when the entry is there; else the right to make it. Waits while another process makes it.
    pub fn claim(&self, entry: &Path) -> Result<Option<Claim>, CacheError> {
        if entry.exists() {
            return Ok(None);
        }
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| CacheError { what, path, source }
        };
        let parent = entry.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(fail("make", parent))?;
        let path = entry.with_extension("lock");
        let lock = File::create(&path).map_err(fail("open", &path))?;
        lock.lock().map_err(fail("lock", &path))?;
        if entry.exists() {
            return Ok(None);
        }
        let part = entry.with_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part).map_err(fail("clear", &part))?;
        }
        fs::create_dir(&part).map_err(fail("make", &part))?;
        Ok(Some(Claim { _lock: lock, entry: entry.to_owned(), part }))
    }
}

impl Claim {
    /// Where to make it.
    pub fn dir(&self) -> &Path {
        &self.part
    }

    /// It is whole: puts it in its place.
    pub fn finish(self) -> Result<(), CacheError> {
        fs::rename(&self.part, &self.entry).map_err(|source| CacheError {
            what: "finish",
            path: self.entry.clone(),
            source,
        })
    }
}

/// The key of what is built from these parts: each is a name and its content.
pub fn key<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, content) in parts {
        // Lengths first, so that no two lists of parts run into the same bytes.
        for field in [name.as_bytes(), content] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
    }
    // 64 bits tell the handful of builds of one machine apart.
    hasher.finalize().to_hex().as_str().chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_with_each_part_and_with_where_parts_end() {
        let base = key([("go.mod", &b"a"[..]), ("go.sum", b"b")]);
        assert_eq!(base, key([("go.mod", &b"a"[..]), ("go.sum", b"b")]));
        assert_ne!(base, key([("go.mod", &b"ab"[..]), ("go.sum", b"")]));
        assert_ne!(base, key([("go.mod", &b"a"[..]), ("go.sum", b"c")]));
    }

    #[test]
    fn an_entry_is_made_once_and_a_broken_off_attempt_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let entry = cache.entry("tools", "x", "0");
        let first = cache.claim(&entry).unwrap().expect("nobody made it");
        fs::write(first.dir().join("half"), "").unwrap();
        drop(first);
        assert!(!entry.exists());
        let second = cache.claim(&entry).unwrap().expect("still nobody made it");
        assert!(!second.dir().join("half").exists());
        second.finish().unwrap();
        assert!(cache.claim(&entry).unwrap().is_none());
    }
}
