use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, SigningKey as _, date_time_ymd,
};
use serde_json::json;

use super::*;
use crate::index::{Event, Resource};

/// 2026-01-01 and 2026-04-01.
const BEGINS: i64 = 1_767_225_600;
const ENDS: i64 = 1_775_001_600;

struct World {
    ca: CertifiedIssuer<'static, KeyPair>,
    key: KeyPair,
}

impl World {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { ca, key: KeyPair::generate().unwrap() }
    }

    fn request(&self, node: &str, uid: &str, by: &KeyPair) -> RenewRequest {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node);
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), uid);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(vec![0x4a].into());
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 4, 1));
        let old = params.signed_by(&self.key, &self.ca).unwrap();
        RenewRequest {
            cluster_id: "c".into(),
            node: node.into(),
            old_certificate_der: old.der().to_vec(),
            csr_der: b"csr".to_vec(),
            signature: by.sign(&proof::renew("c", node, uid, "4a", b"csr")).unwrap(),
        }
    }

    fn judge(&self, request: RenewRequest, index: &Index, now: i64) -> &'static str {
        let ca_pem = self.ca.as_ref().pem();
        let cluster = Cluster { id: "c".into(), epoch: 0, ca_pem, release: String::new() };
        match verify(request, index, &cluster, now) {
            Ok(_) => "filed",
            Err(Refusal::Refused) => "refused",
            Err(Refusal::Outdated(_)) => "outdated",
            Err(Refusal::Later) => "later",
        }
    }
}

/// The node "shop" with its newest certificate and its end.
fn index(serial: &str, ends: &str, denied: bool) -> Index {
    let record = json!({"uid": "u1", "current": {"publicKey": "k", "serial": serial, "notAfter": ends}});
    let annotations = json!({"selvedge.dev/identity": record.to_string()});
    let mut index = Index::default();
    index.apply(Event::Applied(
        Resource::EdgeNodes,
        json!({"metadata": {"name": "shop", "uid": "u1", "resourceVersion": "1", "annotations": annotations},
            "spec": {"denied": denied}}),
    ));
    index
}

/// The EdgeNode "shop" that was made anew, after the one with uid u1.
fn anew(adopt: &str, denied: bool) -> Index {
    let mut index = Index::default();
    index.apply(Event::Applied(
        Resource::EdgeNodes,
        json!({"metadata": {"name": "shop", "uid": "u2", "resourceVersion": "1"},
            "spec": {"denied": denied, "join": {"adopt": adopt}}}),
    ));
    index
}

#[test]
fn only_the_newest_certificate_of_a_node_that_is_admitted_asks_for_another() {
    let (world, day) = (World::new(), 86_400);
    let known = index("4a", "2026-04-01T00:00:00Z", false);
    let good = || world.request("shop", "u1", &world.key);
    assert_eq!(world.judge(good(), &known, ENDS - 30 * day), "filed");
    assert_eq!(world.judge(good(), &known, ENDS + 89 * day), "filed", "its end has passed");
    assert_eq!(world.judge(good(), &known, ENDS + 90 * day), "refused", "too long ago");
    assert_eq!(world.judge(good(), &known, BEGINS - day), "refused", "not valid yet");
    let renewed = index("5b", "2026-06-01T00:00:00Z", false);
    assert_eq!(world.judge(good(), &renewed, BEGINS), "outdated");
    let behind = index("3f", "2026-02-01T00:00:00Z", false);
    assert_eq!(world.judge(good(), &behind, BEGINS), "filed", "the record is on its way, or was restored");
    assert_eq!(world.judge(good(), &Index::default(), BEGINS), "later", "the node is on its way");
    assert_eq!(world.judge(good(), &index("4a", "2026-04-01T00:00:00Z", true), BEGINS), "refused");
    let other = KeyPair::generate().unwrap();
    assert_eq!(world.judge(world.request("shop", "u1", &other), &known, BEGINS), "refused", "another key");
    assert_eq!(world.judge(world.request("shop", "u2", &world.key), &known, BEGINS), "later", "another uid");
    assert_eq!(world.judge(good(), &anew("Never", false), BEGINS), "later", "created anew");
    assert_eq!(world.judge(good(), &anew("SameName", false), BEGINS), "filed", "created anew, and adopts");
    assert_eq!(world.judge(good(), &anew("SameName", true), BEGINS), "refused", "denied");
    assert_eq!(world.judge(good(), &anew("SameName", false), ENDS + 90 * day), "refused", "too long ago");
    let renamed = RenewRequest { node: "till".into(), ..good() };
    assert_eq!(world.judge(renamed, &known, BEGINS), "refused");
    let moved = RenewRequest { csr_der: b"csq".to_vec(), ..good() };
    assert_eq!(world.judge(moved, &known, BEGINS), "refused", "another request");
    let elsewhere = RenewRequest { cluster_id: "d".into(), ..good() };
    assert_eq!(world.judge(elsewhere, &known, BEGINS), "refused");
    let mut stranger = World::new();
    stranger.key = KeyPair::generate().unwrap();
    let foreign = stranger.request("shop", "u1", &stranger.key);
    assert_eq!(world.judge(foreign, &known, BEGINS), "refused", "another CA");
    let nonsense = RenewRequest { old_certificate_der: b"nonsense".to_vec(), ..good() };
    assert_eq!(world.judge(nonsense, &known, BEGINS), "refused");
}

#[test]
fn few_are_filed_in_a_second() {
    let (renewals, now) = (Renewals::default(), clock::now());
    let filed = |at: Instant| (0..1000).filter(|_| renewals.admit(at)).count();
    assert_eq!(filed(now), 20);
    assert!((12..=13).contains(&filed(now + Duration::from_secs(10))));
}
