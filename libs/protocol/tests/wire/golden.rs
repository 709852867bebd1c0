//! Golden files: `golden/v<version>/<message>.txt`, one case after the other, each with its name, its meaning
//! in protobuf's text format, and its bytes in hex.
//!
//! A case that was written once is never written again: `UPDATE_GOLDENS=1` only adds those that are missing,
//! to the files of the present version.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Before the name of a case.
const CASE: &str = "== ";
/// Before the size of its bytes, which follow in lines of hex.
const BYTES: &str = "-- ";
const BYTES_A_LINE: usize = 32;

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Golden {
    /// Its meaning.
    pub text: String,
    /// What is on the wire.
    pub bytes: Vec<u8>,
}

/// All cases of all versions, by message and name.
pub type Goldens = BTreeMap<(String, String), Golden>;

/// Reads them.
pub fn read() -> Goldens {
    let mut goldens = Goldens::new();
    for version in entries(&folder()).into_iter().filter(|path| path.is_dir()) {
        for file in entries(&version) {
            let message = file.file_stem().unwrap().to_str().unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            for (name, golden) in parse(&text) {
                let twice = goldens.insert((message.to_owned(), name.clone()), golden);
                assert!(twice.is_none(), "{message}: {name:?} is there twice");
            }
        }
    }
    goldens
}

/// Adds a case to the files of the present version.
pub fn add(message: &str, name: &str, golden: &Golden) {
    let folder = folder().join(concat!("v", env!("CARGO_PKG_VERSION")));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{message}.txt"));
    let mut text = std::fs::read_to_string(&path).unwrap_or_default();
    text += &render(name, golden);
    std::fs::write(path, text).unwrap();
}

fn render(name: &str, golden: &Golden) -> String {
    let mut out = format!("{CASE}{name}\n{}\n{BYTES}{} bytes\n", golden.text, golden.bytes.len());
    for line in golden.bytes.chunks(BYTES_A_LINE) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{}", hex.join(" ")).unwrap();
    }
    out + "\n"
}

fn parse(text: &str) -> impl Iterator<Item = (String, Golden)> {
    let cases = text.split(CASE).skip(1);
    cases.map(|case| {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, bytes) = rest.split_once(BYTES).unwrap();
        let (size, hex) = bytes.split_once(" bytes\n").unwrap();
        let bytes: Vec<u8> =
            hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        assert_eq!(bytes.len().to_string(), size, "{name}: bytes are missing");
        (name.to_owned(), Golden { text: text.trim_end().to_owned(), bytes })
    })
}

fn folder() -> PathBuf {
    // The fuzz target reads them too, from its own crate below this one.
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    crates.map(|folder| folder.join("golden")).find(|folder| folder.is_dir()).expect("a folder of goldens")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}
