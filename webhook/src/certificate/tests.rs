use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::issue::{CA_LIFE, LEAF_LIFE, everything, leaf, next_ca};
use super::resolver::Resolver;
use super::store::{Due, OVERLAP, Store};

const HOUR: Duration = Duration::from_secs(3600);

fn names() -> Vec<String> {
    vec!["selvedge-webhook.selvedge-system.svc".into(), "127.0.0.1".into()]
}

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// Whether an API server with `bundle` takes the store's leaf at `now`, by the names that it bears.
fn is_trusted(bundle: &str, store: &Store, now: Timestamp) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let leaf = CertificateDer::from_pem_slice(store.leaf.as_bytes()).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().unwrap()));
    use rustls::client::danger::ServerCertVerifier as _;
    names().into_iter().all(|name| {
        verifier.verify_server_cert(&leaf, &[], &ServerName::try_from(name).unwrap(), &[], at).is_ok()
    })
}

#[test]
fn what_is_made_is_trusted_kept_and_served() {
    let store = everything(&names(), start()).unwrap();
    assert!(is_trusted(&store.bundle(), &store, start()));
    assert_eq!(store.due(&names(), start()), Due::Nothing);
    assert_eq!(Store::of(&store.data()), Some(store.clone()));
    Resolver::default().set(&store.leaf, &store.leaf_key).unwrap();
    assert!(
        Resolver::default().set(&store.leaf, &store.ca_key).is_err(),
        "serves a certificate with another's key"
    );
}

#[test]
fn a_leaf_is_renewed_when_a_third_of_its_life_is_left_or_a_name_is_missing() {
    let store = everything(&names(), start()).unwrap();
    assert_eq!(store.due(&names(), start() + LEAF_LIFE / 3 * 2 - HOUR), Due::Nothing);
    let later = start() + LEAF_LIFE / 3 * 2 + HOUR;
    assert_eq!(store.due(&names(), later), Due::Leaf);
    let renewed = leaf(&store, &names(), later).unwrap();
    assert_eq!(renewed.due(&names(), later), Due::Nothing);
    assert!(
        is_trusted(&store.bundle(), &renewed, later + LEAF_LIFE / 2),
        "the old bundle must do for the new leaf"
    );
    let more = [names(), vec!["localhost".to_owned()]].concat();
    assert_eq!(store.due(&more, start()), Due::Leaf);
}

#[test]
fn a_new_ca_signs_nothing_before_every_api_server_has_it() {
    let first = everything(&names(), start()).unwrap();
    // Leaves come and go for the first CA's time.
    let now = start() + CA_LIFE / 3 * 2 + HOUR;
    let old = leaf(&first, &names(), now).unwrap();
    assert_eq!(old.due(&names(), now), Due::Ca);
    let both = next_ca(old.clone(), now).unwrap();
    assert_eq!(both.cas.len(), 2);
    assert!(is_trusted(&both.bundle(), &both, now), "the leaf of the old CA is cut off");
    assert_eq!(both.due(&names(), now), Due::Nothing);

    let soon = now + OVERLAP / 2;
    let more = [names(), vec!["localhost".to_owned()]].concat();
    assert_eq!(both.due(&more, soon), Due::Nothing, "a leaf of a CA that is not known everywhere");
    let later = now + OVERLAP;
    assert_eq!(both.due(&more, later), Due::Leaf);
    let renewed = leaf(&both, &more, later).unwrap();
    assert!(is_trusted(&both.bundle(), &renewed, later));
    assert!(!is_trusted(&first.bundle(), &renewed, later), "still signed by the old CA");
}

#[test]
fn what_cannot_be_used_is_made_anew() {
    let store = everything(&names(), start()).unwrap();
    let foreign = everything(&names(), start() + HOUR).unwrap();
    let broken = [
        Store { leaf: "no certificate".into(), ..store.clone() },
        Store { cas: Vec::new(), ..store.clone() },
        Store { cas: foreign.cas, ..store.clone() },
    ];
    for (index, broken) in broken.iter().enumerate() {
        assert_eq!(broken.due(&names(), start() + HOUR), Due::Everything, "{index}");
    }
    assert_eq!(store.due(&names(), start() + LEAF_LIFE), Due::Everything, "expired while all were away");
    assert_eq!(Store::of(&std::collections::BTreeMap::new()), None);
}
