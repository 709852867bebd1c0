//! The certificates and keys of the control plane: one CA, one certificate a program.
//!
//! Made once a cluster, all or nothing: written beside and renamed into place. Validity is a fixed span
//! of years, so that no clock is asked and no development cluster dies of age.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot make the certificate of {subject}")]
    Certificate { subject: String, source: rcgen::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// The directory of the certificates.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

/// One certificate: who bears it, and under which names it serves (none: a client only).
struct Subject {
    file: &'static str,
    name: &'static str,
    group: Option<&'static str>,
    serves: Vec<String>,
}

impl Pki {
    /// Opens the PKI in `dir`, making it for a control host of this address if it is not there.
    pub fn ensure(dir: &Path, control: Ipv4Addr) -> Result<Self, PkiError> {
        if !dir.join("ca.pem").exists() {
            let beside = dir.with_extension("part");
            let failed = |source| PkiError::Write { path: dir.to_owned(), source };
            if beside.exists() {
                fs::remove_dir_all(&beside).map_err(failed)?;
            }
            fs::create_dir_all(&beside).map_err(failed)?;
            make(&beside, control)?;
            fs::rename(&beside, dir).map_err(failed)?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn certificate(&self, file: &str) -> PathBuf {
        self.dir.join(format!("{file}.pem"))
    }

    pub fn key(&self, file: &str) -> PathBuf {
        self.dir.join(format!("{file}.key"))
    }
}

fn subjects(control: Ipv4Addr) -> Vec<Subject> {
    let client = |file, name, group| Subject { file, name, group, serves: Vec::new() };
    let mut apiserver: Vec<String> =
        ["localhost", "127.0.0.1", crate::component::KUBERNETES_SERVICE_IP].map(str::to_owned).into();
    apiserver.push(control.to_string());
    for suffix in ["", ".default", ".default.svc", ".default.svc.cluster.local"] {
        apiserver.push(format!("kubernetes{suffix}"));
    }
    vec![
        Subject { file: "apiserver", name: "kube-apiserver", group: None, serves: apiserver },
        Subject {
            file: "kubelet",
            name: "system:node:control",
            group: Some("system:nodes"),
            serves: vec!["control".into(), control.to_string()],
        },
        client("admin", "admin", Some("system:masters")),
        client("controller-manager", "system:kube-controller-manager", None),
        client("scheduler", "system:kube-scheduler", None),
        client("proxy", "system:kube-proxy", None),
        client("front-proxy", "front-proxy", None),
        // The built-in role of cluster DNS predates EndpointSlices, and this DNS is part of the launcher.
        client("dns", "selvedge-cluster-dns", Some("system:masters")),
    ]
}

fn make(dir: &Path, control: Ipv4Addr) -> Result<(), PkiError> {
    let failed = |source| PkiError::Certificate { subject: "selvedge-cluster".into(), source };
    let mut params = valid(CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, "selvedge-cluster");
    let key = KeyPair::generate().map_err(failed)?;
    let ca = params.self_signed(&key).map_err(failed)?;
    write(&dir.join("ca.pem"), &ca.pem(), 0o644)?;
    write(&dir.join("ca.key"), &key.serialize_pem(), 0o600)?;
    let issuer = Issuer::new(params, key);
    for subject in subjects(control) {
        let (certificate, key) = sign(&subject, &issuer)
            .map_err(|source| PkiError::Certificate { subject: subject.name.into(), source })?;
        write(&dir.join(format!("{}.pem", subject.file)), &certificate, 0o644)?;
        write(&dir.join(format!("{}.key", subject.file)), &key, 0o600)?;
    }
    let accounts = KeyPair::generate().map_err(failed)?;
    write(&dir.join("service-accounts.pem"), &accounts.public_key_pem(), 0o644)?;
    write(&dir.join("service-accounts.key"), &accounts.serialize_pem(), 0o600)
}

fn sign(subject: &Subject, issuer: &Issuer<'_, KeyPair>) -> Result<(String, String), rcgen::Error> {
    let mut params = valid(CertificateParams::new(subject.serves.clone())?);
    params.distinguished_name.push(DnType::CommonName, subject.name);
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !subject.serves.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn valid(mut params: CertificateParams) -> CertificateParams {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn is_made_once_and_keys_are_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("pki");
        let first = Pki::ensure(&at, Ipv4Addr::new(198, 18, 0, 2)).unwrap();
        let before = fs::read(first.certificate("admin")).unwrap();
        let again = Pki::ensure(&at, Ipv4Addr::new(198, 18, 0, 2)).unwrap();
        assert_eq!(before, fs::read(again.certificate("admin")).unwrap());
        let mode = fs::metadata(again.key("ca")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
