//! Container logs: the last line of one that ended, and a bound on what they fill.
//!
//! The runtime writes them in the CRI format, `<time> <stream> <tags> <text>`, one file an attempt.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// A log that has grown past this is moved to `<log>.1`, over the one before. Half of kubelet's 10 MiB a
/// file, and one old file instead of four: an SD card is small.
const ROTATE_AT: u64 = 5 * 1024 * 1024;
/// The tail that is searched for the last line.
const TAIL: i64 = 2048;

/// The name of an attempt's log, relative to the workload's log directory.
pub(super) fn file_name(container: &str, attempt: u32) -> String {
    format!("{container}_{attempt}.log")
}

/// The text of the last line that is not empty; empty when there is none.
pub(super) fn last_line(path: &Path) -> String {
    let tail = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = i64::try_from(file.metadata()?.len()).unwrap_or(i64::MAX);
        file.seek(SeekFrom::End(-length.min(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let tail = tail().unwrap_or_default();
    let text = |line: &str| line.splitn(4, ' ').nth(3).map(|text| text.trim().to_owned());
    tail.lines().rev().filter_map(text).find(|text| !text.is_empty()).unwrap_or_default()
}

/// Moves a log away that has grown too long. True: the runtime has to open it anew.
pub(super) fn rotate(path: &Path) -> bool {
    let long = fs::metadata(path).is_ok_and(|metadata| metadata.len() > ROTATE_AT);
    long && fs::rename(path, path.with_extension("log.1")).is_ok()
}

/// Removes the logs of attempts that are older than the one before `attempt`.
pub(super) fn prune(directory: &Path, container: &str, attempt: u32) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let old = name
            .to_str()
            .and_then(|name| name.strip_prefix(container)?.strip_prefix('_')?.split('.').next()?.parse().ok())
            .is_some_and(|number: u32| number + 1 < attempt);
        if old {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ROTATE_AT, last_line, prune, rotate};

    #[test]
    fn finds_the_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web_0.log");
        assert_eq!(last_line(&path), "");
        let line = "2026-11-22T05:00:00.000000000Z stderr F ";
        std::fs::write(&path, format!("{line}first\n{line}no such till: 7\n{line}\n")).unwrap();
        assert_eq!(last_line(&path), "no such till: 7");
    }

    #[test]
    fn logs_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web_3.log");
        std::fs::write(&path, "short").unwrap();
        assert!(!rotate(&path));
        std::fs::File::create(&path).unwrap().set_len(ROTATE_AT + 1).unwrap();
        assert!(rotate(&path) && !path.exists() && dir.path().join("web_3.log.1").exists());
        for old in ["web_0.log", "web_1.log.1", "web_2.log", "websocket_0.log"] {
            std::fs::write(dir.path().join(old), "").unwrap();
        }
        prune(dir.path(), "web", 3);
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["web_2.log", "web_3.log.1", "websocket_0.log"]);
    }
}
