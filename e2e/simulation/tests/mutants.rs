//! The checker can fail: every mutant of the shipped code is caught by some history.
//!
//! Each file of `mutants/` is a small diff that takes one rule out of the code. The workspace is copied to
//! `target/mutants/source`, the diff applied there, and the histories run: they must find a violation. Minutes
//! a mutant, so it runs by hand or in the long tests:
//!
//! `cargo test -p selvedge-simulation --test mutants -- --ignored --nocapture`, and `SELVEDGE_MUTANT=<part of
//! its name>` for one of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{fs, io};

/// What is not source, or not this project's.
const LEFT_OUT: [&str; 4] = ["target", ".git", ".dev", "node_modules"];
/// Histories that a mutant may survive: most die in the first few.
const HISTORIES: &str = "2000";

/// Mutants that break no invariant, and why: what they cost is time, which no history measures.
const HARMLESS: [(&str, &str); 1] =
    [("bookmark-ignored", "a replica that waits pokes every 5 s, and lists when its watch says nothing")];

#[test]
#[ignore = "builds the workspace once a mutant: minutes"]
fn every_mutant_is_caught() {
    let root = root();
    let (target, source) = (root.join("target/mutants"), root.join("target/mutants/source"));
    let only = std::env::var("SELVEDGE_MUTANT").unwrap_or_default();
    let mut unexpected = Vec::new();
    for mutant in mutants() {
        let name = mutant.file_stem().unwrap().to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        copy(&root, &source).unwrap();
        // The copy lies within a checkout, which git must not take it for a part of.
        apply(&mutant, &source, &["--whitespace=nowarn"]);
        let built = cargo(&source, &target, &["--no-run"]);
        assert!(built.status.success(), "{name} does not build:\n{}", text(&built));
        let ran = cargo(&source, &target, &["every_history"]);
        let said = text(&ran);
        let caught = said.lines().find(|line| line.contains("does not hold"));
        println!("{name}: {}", caught.unwrap_or("SURVIVED"));
        let known = HARMLESS.iter().any(|(harmless, _)| *harmless == name);
        if caught.is_some() == known {
            unexpected.push(name);
        }
    }
    copy(&root, &source).unwrap();
    assert!(unexpected.is_empty(), "survived, or was caught though it is held for harmless: {unexpected:?}");
}

/// What is changed in the code is changed in its mutants, too.
#[test]
fn every_mutant_applies() {
    for mutant in mutants() {
        apply(&mutant, &root(), &["--check"]);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn mutants() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants");
    let mut mutants: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    mutants.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    mutants.sort();
    assert!(!mutants.is_empty());
    mutants
}

fn apply(mutant: &Path, source: &Path, options: &[&str]) {
    let applied = Command::new("git")
        .arg("apply")
        .args(options)
        .arg(mutant)
        .current_dir(source)
        .env("GIT_CEILING_DIRECTORIES", source.parent().unwrap())
        .env_remove("GIT_DIR")
        .output()
        .unwrap();
    assert!(applied.status.success(), "{} does not apply:\n{}", mutant.display(), text(&applied));
}

fn cargo(source: &Path, target: &Path, arguments: &[&str]) -> Output {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo)
        .args(["test", "--quiet", "--package", "selvedge-simulation", "--test", "histories"])
        .args(arguments)
        .current_dir(source)
        .env("CARGO_TARGET_DIR", target)
        .env("SELVEDGE_HISTORIES", HISTORIES)
        .env_remove("SELVEDGE_SEED")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Makes `to` what `from` is. What is the same already is not touched, so that cargo builds only what a
/// mutant changed.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let (old, new) = (entry.path(), to.join(&name));
        if kind.is_dir() {
            copy(&old, &new)?;
        } else if kind.is_file() {
            let content = fs::read(&old)?;
            if fs::read(&new).ok().as_ref() != Some(&content) {
                fs::write(&new, content)?;
            }
        }
    }
    Ok(())
}
