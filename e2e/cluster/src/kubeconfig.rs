//! Kubeconfig files with everything in them by value, so that a copy of one works anywhere.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pki::Pki;

/// Writes the kubeconfig of one of the PKI's subjects, readable by its owner alone.
pub fn write(path: &Path, server: &str, pki: &Pki, subject: &str) -> std::io::Result<()> {
    let read = |path| Ok::<_, std::io::Error>(STANDARD.encode(std::fs::read(path)?));
    let text = render(
        server,
        subject,
        &read(pki.certificate("ca"))?,
        &read(pki.certificate(subject))?,
        &read(pki.key(subject))?,
    );
    replace(path, text.as_bytes())
}

/// Writes beside and renames, so that a reader never sees half a file.
pub fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?.write_all(text)?;
    std::fs::rename(beside, path)
}

fn render(server: &str, subject: &str, ca: &str, certificate: &str, key: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: selvedge
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {subject}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: selvedge
  context: {{cluster: selvedge, user: {subject}}}
current-context: selvedge
"
    )
}
