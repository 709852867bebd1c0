use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt as _;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SigningKey as _,
};
use selvedge_protocol::proof;
use serde_json::json;
use x509_parser::prelude::ParsedExtension;

use super::decide::{Decision, Facts, Node, Rebuilt, decide};
use super::unhex;
use crate::edgenode::authority::{AGENT_LIFE, Authority, AuthorityFiles, serial};
use crate::edgenode::record::{CertificateRecord, IdentityRecord, JoinRecord, Records};
use crate::golden;

const SEED: [u8; 32] = [7; 32];
const CLUSTER: &str = "c1";

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A CSR with names that it must not get.
fn request(key: &KeyPair) -> Vec<u8> {
    let params = CertificateParams::new(vec!["kube-apiserver.example".into()]).unwrap();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn pem(der: &[u8]) -> String {
    let lines: Vec<String> =
        STANDARD.encode(der).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into()).collect();
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
}

fn agent_csr(der: &[u8], node: &str, seed: &[u8; 32]) -> CertificateSigningRequest {
    let signature = proof::sign_join(seed, &proof::join(CLUSTER, node, der)).unwrap();
    serde_json::from_value(json!({
        "metadata": {"name": "csr-1", "creationTimestamp": now(), "annotations": {
            "selvedge.dev/node": node, "selvedge.dev/node-uid": "u1",
            "selvedge.dev/join-proof": STANDARD.encode(signature)}},
        "spec": {"signerName": "selvedge.dev/agent", "usages": ["client auth", "digital signature"],
            "request": STANDARD.encode(pem(der))},
    }))
    .unwrap()
}

fn hub_csr(der: &[u8], username: &str) -> CertificateSigningRequest {
    serde_json::from_value(json!({
        "metadata": {"name": "csr-2", "creationTimestamp": now()},
        "spec": {"signerName": "selvedge.dev/hub", "usages": ["digital signature", "server auth"],
            "username": username, "request": STANDARD.encode(pem(der))},
    }))
    .unwrap()
}

fn joinable() -> Records {
    let join = JoinRecord {
        public_key: STANDARD.encode(proof::join_public_key(&SEED).unwrap()),
        expires: now() + Duration::from_secs(60),
        uid: "u1".into(),
        request: String::new(),
    };
    Records { join: Some(join), ..Records::default() }
}

/// The authority of the cluster, the same in all tests.
fn authority() -> &'static Authority {
    static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
        let files = AuthorityFiles::make([1; 16], now()).unwrap();
        Authority::load(AuthorityFiles { cluster_id: CLUSTER.into(), ..files }, AGENT_LIFE).unwrap()
    });
    &AUTHORITY
}

fn rendered(csr: &CertificateSigningRequest, node: Option<Node<'_>>, at: Timestamp) -> String {
    let hub_names = ["hub.example".to_owned()];
    let facts = Facts {
        node,
        authority: authority(),
        namespace: "selvedge-system",
        hub_names: &hub_names,
        serial: serial([0xff; 16]),
        now: at,
    };
    match decide(csr, &facts) {
        Decision::Agent {
            node,
            uid,
            pending: CertificateRecord { serial, not_after, .. },
            recorded,
            rebuilt,
            ..
        } => {
            let first = if recorded { "as recorded" } else { "record first" };
            let rebuilt = rebuilt.map(|Rebuilt { from, adopted }| {
                let adopted = adopted.map(|uid| format!(", adopted from {uid}")).unwrap_or_default();
                format!("; rebuild the record from {}{adopted}", from.serial)
            });
            let rebuilt = rebuilt.unwrap_or_default();
            format!("sign for node {node}, uid {uid}, serial {serial}, until {not_after}; {first}{rebuilt}")
        }
        Decision::Hub { .. } => "sign for the hub".into(),
        Decision::Refuse(refusal) => format!("deny {}: {refusal}", refusal.reason()),
        Decision::Keep(rest) => format!("keep for {rest:?}"),
        Decision::Remove => "remove".into(),
        Decision::Ignore => "ignore".into(),
    }
}

#[test]
fn what_is_done_about_a_request() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let der = request(&key);
    let records = joinable();
    let good = agent_csr(&der, "shop-1", &SEED);
    let node = |records| Some(Node { uid: "u1", denied: false, adopts: false, records });
    let recorded = |public_key: &str, not_after: Timestamp| {
        let mut records = joinable();
        records.identity.pending =
            Some(CertificateRecord { public_key: public_key.into(), serial: "5a".into(), not_after });
        records
    };
    let fingerprint = super::request::read(pem(&der).as_bytes()).unwrap().fingerprint;
    let mut text = String::new();
    let mut case = |name: &str, decided: String| writeln!(text, "{name}\n  → {decided}").unwrap();

    case("a good request", rendered(&good, node(&records), now()));
    let fresh = recorded(&fingerprint, now() + Duration::from_secs(80 * 86_400));
    case("the same key again: its answer was lost", rendered(&good, node(&fresh), now()));
    let other = recorded("another", now() + Duration::from_secs(80 * 86_400));
    case("another machine was first", rendered(&good, node(&other), now()));
    let stranger = agent_csr(&der, "shop-1", &[8; 32]);
    case("signed by another join key", rendered(&stranger, node(&records), now()));
    case("the join key expired", rendered(&good, node(&records), now() + Duration::from_secs(60)));
    let none = Records::default();
    case("no join key", rendered(&good, node(&none), now()));
    case("no such node", rendered(&good, None, now()));
    let replaced = Some(Node { uid: "u2", denied: false, adopts: false, records: &records });
    case("the node was created again", rendered(&good, replaced, now()));
    let denied = Some(Node { uid: "u1", denied: true, adopts: false, records: &records });
    case("the node is denied", rendered(&good, denied, now()));
    let mut moved = good.clone();
    moved.annotations_mut().insert("selvedge.dev/node".into(), "shop-2".into());
    case("a proof for another node", rendered(&moved, node(&records), now()));
    let mut bare = good.clone();
    bare.annotations_mut().remove("selvedge.dev/join-proof");
    case("no proof", rendered(&bare, node(&records), now()));
    let mut forged = der.clone();
    *forged.last_mut().unwrap() ^= 1;
    case(
        "the request's own signature is bad",
        rendered(&agent_csr(&forged, "shop-1", &SEED), node(&records), now()),
    );
    let p384 = request(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    case("another curve", rendered(&agent_csr(&p384, "shop-1", &SEED), node(&records), now()));
    let ed25519 = request(&KeyPair::generate_for(&PKCS_ED25519).unwrap());
    case("an Ed25519 key", rendered(&agent_csr(&ed25519, "shop-1", &SEED), node(&records), now()));
    case("not a request", rendered(&agent_csr(b"nonsense", "shop-1", &SEED), node(&records), now()));
    let mut server = good.clone();
    server.spec.usages = Some(vec!["digital signature".into(), "server auth".into()]);
    case("other usages", rendered(&server, node(&records), now()));

    let hub = "system:serviceaccount:selvedge-system:selvedge-hub";
    case("a hub", rendered(&hub_csr(&der, hub), None, now()));
    let cousin = "system:serviceaccount:shop:selvedge-hub";
    case("a hub of another namespace", rendered(&hub_csr(&der, cousin), None, now()));

    let mut done = good.clone();
    done.status = serde_json::from_value(json!({"certificate": ""})).unwrap();
    case("signed", rendered(&done, node(&records), now() + Duration::from_secs(20)));
    case("signed a minute ago", rendered(&done, node(&records), now() + Duration::from_secs(60)));
    let mut foreign = good.clone();
    foreign.spec.signer_name = "kubernetes.io/kubelet-serving".into();
    case("of another signer", rendered(&foreign, node(&records), now()));
    golden::check("signer", &text);
}

/// A certificate that was issued to a key.
fn certificate(
    by: &Authority,
    node: &str,
    uid: &str,
    serial: &str,
    not_after: Timestamp,
    key: &KeyPair,
) -> Vec<u8> {
    let issued = by.issue_agent(node, uid, &unhex(serial), not_after, key).unwrap();
    x509_parser::pem::parse_x509_pem(issued.pem.as_bytes()).unwrap().1.contents
}

/// A request for the next certificate of shop-1, with `old` and a signature by `by` that names the serial number 4a.
fn renewal(old: &[u8], by: &KeyPair, der: &[u8]) -> CertificateSigningRequest {
    renewal_of("u1", old, by, der)
}

/// The same, of an EdgeNode with this uid.
fn renewal_of(uid: &str, old: &[u8], by: &KeyPair, der: &[u8]) -> CertificateSigningRequest {
    let signature = by.sign(&proof::renew(CLUSTER, "shop-1", uid, "4a", der)).unwrap();
    let mut csr = agent_csr(der, "shop-1", &SEED);
    csr.annotations_mut().remove("selvedge.dev/join-proof");
    csr.annotations_mut().insert("selvedge.dev/old-certificate".into(), STANDARD.encode(old));
    csr.annotations_mut().insert("selvedge.dev/renewal-proof".into(), STANDARD.encode(signature));
    csr
}

#[test]
fn what_is_done_about_a_renewal() {
    let (old_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let der = request(&key);
    let fingerprint = super::request::read(pem(&der).as_bytes()).unwrap().fingerprint;
    let ends = now() + Duration::from_secs(30 * 86_400);
    let old = certificate(authority(), "shop-1", "u1", "4a", ends, &old_key);
    let record = |public_key: &str, serial: &str, not_after| {
        Some(CertificateRecord { public_key: public_key.into(), serial: serial.into(), not_after })
    };
    let records = |current, pending| {
        let identity = IdentityRecord { uid: "u1".into(), current, pending, request: String::new() };
        Records { join: None, identity }
    };
    let node = |records| Some(Node { uid: "u1", denied: false, adopts: false, records });
    let good = renewal(&old, &old_key, &der);
    let newest = records(record("old", "4a", ends), None);
    let fresh = authority().agent_not_after(now());
    let mut text = String::new();
    let mut case = |name: &str, decided: String| writeln!(text, "{name}\n  → {decided}").unwrap();

    case("the newest certificate", rendered(&good, node(&newest), now()));
    let pending = records(record("old", "4a", ends), record(&fingerprint, "5b", fresh));
    case("the same key again: its answer was lost", rendered(&good, node(&pending), now()));
    let other = records(record("old", "4a", ends), record("another", "5b", fresh));
    case("another key a moment later", rendered(&good, node(&other), now()));
    case(
        "another key an hour later: the first was lost",
        rendered(&good, node(&other), now() + Duration::from_secs(3600)),
    );
    let unseen = records(record("older", "3f", ends), record("old", "4a", ends));
    case("one that was issued and not seen in a session yet", rendered(&good, node(&unseen), now()));
    let renewed = records(record("next", "5b", fresh), None);
    case("renewed since, and the next one was used", rendered(&good, node(&renewed), now()));
    let restored = records(record("older", "3f", ends - Duration::from_secs(86_400)), None);
    case("the cluster was restored to before it", rendered(&good, node(&restored), now()));
    let lost = Records::default();
    case("the record was lost", rendered(&good, node(&lost), now()));
    let after = ends + Duration::from_secs(89 * 86_400);
    case("ended 89 days ago", rendered(&good, node(&newest), after));
    case("ended 90 days ago", rendered(&good, node(&newest), ends + Duration::from_secs(90 * 86_400)));
    let denied = Some(Node { uid: "u1", denied: true, adopts: false, records: &newest });
    case("the node is denied", rendered(&good, denied, now()));
    let replaced = Some(Node { uid: "u2", denied: false, adopts: false, records: &newest });
    case("the node was created again", rendered(&good, replaced, now()));
    case("signed by another key", rendered(&renewal(&old, &key, &der), node(&newest), now()));
    let mut moved = good.clone();
    moved.spec.request.0 = pem(&request(&KeyPair::generate().unwrap())).into_bytes();
    case("a proof over another request", rendered(&moved, node(&newest), now()));
    let foreign = Authority::load(AuthorityFiles::make([2; 16], now()).unwrap(), AGENT_LIFE).unwrap();
    let stranger = certificate(&foreign, "shop-1", "u1", "4a", ends, &old_key);
    case("of another CA", rendered(&renewal(&stranger, &old_key, &der), node(&newest), now()));
    let neighbour = certificate(authority(), "shop-2", "u1", "4a", ends, &old_key);
    case("of another node", rendered(&renewal(&neighbour, &old_key, &der), node(&newest), now()));
    let before = certificate(authority(), "shop-1", "u0", "4a", ends, &old_key);
    let before = renewal_of("u0", &before, &old_key, &der);
    case("of an EdgeNode before this one", rendered(&before, node(&newest), now()));
    let adopts = |records| Some(Node { uid: "u1", denied: false, adopts: true, records });
    case("of an EdgeNode before this one, which adopts", rendered(&before, adopts(&lost), now()));
    let begun = records(record("old", "4a", ends), record(&fingerprint, "5b", fresh));
    case("adopted: its answer was lost", rendered(&before, adopts(&begun), now()));
    let other = records(record("old", "4a", ends), record("another", "5b", fresh));
    case("a copy of it was adopted first", rendered(&before, adopts(&other), now()));
    let joined = records(None, record("another", "5b", fresh));
    case("a machine has just joined as this one", rendered(&before, adopts(&joined), now()));
    case("a machine has joined as this one", rendered(&before, adopts(&renewed), now()));
    case(
        "of an EdgeNode before this one, ended 90 days ago",
        rendered(&before, adopts(&lost), ends + Duration::from_secs(90 * 86_400)),
    );
    case("not a certificate", rendered(&renewal(b"nonsense", &old_key, &der), node(&newest), now()));
    golden::check("renewal", &text);
}

#[test]
fn a_certificate_holds_what_the_template_says_and_nothing_of_the_request() {
    let authority = Authority::load(AuthorityFiles::make([1; 16], now()).unwrap(), AGENT_LIFE).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = super::request::read(pem(&request(&key)).as_bytes()).unwrap();
    let until = authority.agent_not_after(now());
    let issue = || authority.issue_agent("shop-1", "u-1", &unhex("5a00ff"), until, &request.key).unwrap();
    let issued = issue();
    let (_, der) = x509_parser::pem::parse_x509_pem(issued.pem.as_bytes()).unwrap();
    let certificate = der.parse_x509().unwrap();
    let (_, root) = x509_parser::pem::parse_x509_pem(authority.certificate_pem.as_bytes()).unwrap();
    let root = root.parse_x509().unwrap();
    certificate.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=shop-1, serialNumber=u-1");
    assert_eq!(certificate.tbs_certificate.raw_serial_as_string(), "5a:00:ff");
    assert_eq!(certificate.validity().not_after.timestamp(), until.as_second());
    assert_eq!(certificate.validity().not_before.timestamp(), now().as_second() - 600);
    assert!(!certificate.is_ca());
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let known = |extension: &ParsedExtension<'_>| {
        matches!(
            extension,
            ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::AuthorityKeyIdentifier(_)
                | ParsedExtension::SubjectKeyIdentifier(_)
                | ParsedExtension::BasicConstraints(_)
        )
    };
    assert!(certificate.extensions().iter().all(|extension| known(extension.parsed_extension())));
    let again = issue();
    let (_, again) = x509_parser::pem::parse_x509_pem(again.pem.as_bytes()).unwrap();
    let again = again.parse_x509().unwrap();
    assert_eq!(again.tbs_certificate, certificate.tbs_certificate, "issuing again makes another certificate");
}

#[test]
fn a_hub_bears_the_names_of_the_installation() {
    let authority = Authority::load(AuthorityFiles::make([1; 16], now()).unwrap(), AGENT_LIFE).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = super::request::read(pem(&request(&key)).as_bytes()).unwrap();
    let names = ["hub.example".to_owned(), "10.0.0.7".to_owned()];
    let issued = authority.issue_hub(&names, &serial([9; 16]), now(), &request.key).unwrap();
    let (_, der) = x509_parser::pem::parse_x509_pem(issued.pem.as_bytes()).unwrap();
    let certificate = der.parse_x509().unwrap();
    let sans = certificate.subject_alternative_name().unwrap().unwrap().value;
    let names: Vec<_> = sans.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNSName(hub.example)", "IPAddress(0a:00:00:07)"]);
    let error = authority.issue_hub(&["höb".into()], &serial([9; 16]), now(), &request.key).unwrap_err();
    assert!(error.to_string().contains("--hub-name"), "{error}");
}
