//! One sample of everything that is sent, as the shipped code sends it.
//!
//! Together they set every field, every variant and every value of an enum. A new field gets a sample of its
//! own here: those that stand stay as they are, with `..Default::default()`, as an older version sends them.

use bytes::Bytes;
use selvedge_protocol::agent::{
    self, EntryKind, refused, to_agent::Message as Down, to_hub::Message as Up, verdict,
};
use selvedge_protocol::controller::{self, to_controller, to_replica};
use selvedge_protocol::{encode, join};

/// What one message looks like.
pub struct Sample {
    /// Its protobuf name.
    pub message: &'static str,
    /// What is said with it.
    pub name: &'static str,
    /// What is on the wire.
    pub bytes: Bytes,
}

/// All of them.
pub fn samples() -> Vec<Sample> {
    let hub = up().into_iter().map(|(name, message)| Sample {
        message: "selvedge.agent.v1.ToHub",
        name,
        bytes: encode(&agent::ToHub { message: Some(message) }),
    });
    let agent = down().into_iter().map(|(name, message)| Sample {
        message: "selvedge.agent.v1.ToAgent",
        name,
        bytes: encode(&agent::ToAgent { message: Some(message) }),
    });
    let controller = to_controller().into_iter().map(|(name, message)| Sample {
        message: "selvedge.controller.v1.ToController",
        name,
        bytes: encode(&controller::ToController { message: Some(message) }),
    });
    let replica = to_replica().into_iter().map(|(name, message)| Sample {
        message: "selvedge.controller.v1.ToReplica",
        name,
        bytes: encode(&controller::ToReplica { message: Some(message) }),
    });
    hub.chain(agent).chain(controller).chain(replica).chain(joins()).collect()
}

fn up() -> Vec<(&'static str, Up)> {
    let session = Some(agent::Session { counter: 41, nonce: 0xdead_beef_0123_4567 });
    vec![
        (
            "hello",
            Up::Hello(agent::Hello {
                session,
                protocol_min: 1,
                protocol_max: 2,
                cluster_id: CLUSTER.into(),
                watermark: Some(watermark("devices.selvedge.dev", 991_204)),
                digest: hash(0xd1),
                redirects: 1,
                entries: 20,
                ..Default::default()
            }),
        ),
        (
            "hello of an agent that inflates",
            Up::Hello(agent::Hello {
                encodings: vec![agent::Encoding::JsonDeflate.into()],
                ..Default::default()
            }),
        ),
        (
            "hello of an agent that says what it can hold",
            Up::Hello(agent::Hello { max_entries: 200, max_bytes: 1 << 20, ..Default::default() }),
        ),
        (
            "hello of an agent that has refused something",
            Up::Hello(agent::Hello {
                refused: vec![agent::Refusal {
                    key: Some(key(EntryKind::Secret, "pins", "v2")),
                    content_hash: hash(0x5e),
                    reason: "Undecodable".into(),
                    message: "this version of the agent cannot read the Secret".into(),
                }],
                ..Default::default()
            }),
        ),
        ("hello of a new agent", Up::Hello(agent::Hello { digest: hash(0), ..Default::default() })),
        (
            "hello with the largest numbers",
            Up::Hello(agent::Hello {
                session: Some(agent::Session { counter: u64::MAX, nonce: u64::MAX }),
                protocol_min: u32::MAX,
                protocol_max: u32::MAX,
                watermark: Some(agent::Watermark { epoch: u64::MAX, ..watermark("", u64::MAX) }),
                redirects: u32::MAX,
                entries: u64::MAX,
                ..Default::default()
            }),
        ),
        (
            "inventory of a small set",
            Up::Inventory(agent::Inventory {
                rows: vec![
                    row(key(EntryKind::NodeSettings, "node", ""), ""),
                    row(key(EntryKind::ConfigMap, "web-config", "8d1f"), ""),
                    row(key(EntryKind::Secret, "web-token", "41aa"), ""),
                    row(key(EntryKind::Workload, "web", ""), "web-7f9c"),
                    row(key(EntryKind::Device, "boiler-1", ""), ""),
                ],
                last: true,
                ..Default::default()
            }),
        ),
        (
            "inventory of a large set",
            Up::Inventory(agent::Inventory {
                buckets: vec![hash(0), hash(0xff)],
                last: true,
                ..Default::default()
            }),
        ),
        ("ack", Up::Ack(agent::Ack { nonce: 3, ..Default::default() })),
        (
            "ack with a refusal",
            Up::Ack(agent::Ack {
                nonce: u64::MAX,
                refused: vec![agent::Refusal {
                    key: Some(key(EntryKind::Workload, "web", "")),
                    content_hash: hash(0xc1),
                    reason: "UnsupportedField".into(),
                    message: "spec.hostPID is not supported".into(),
                }],
            }),
        ),
        (
            "ack of an agent that does not know Secrets",
            Up::Ack(agent::Ack {
                nonce: 5,
                refused: vec![agent::Refusal {
                    key: Some(key(EntryKind::Secret, "web-token", "41aa")),
                    content_hash: hash(0xc3),
                    reason: "UnknownKind".into(),
                    message: "this version of the agent does not know entries of the kind of it".into(),
                }],
            }),
        ),
        ("retry", Up::Retry(agent::Retry { nonce: 3, reason: "DiskFull".into(), after_ms: 30_000 })),
        ("resync", Up::Resync(agent::Resync { nonce: 3, reason: "base digest differs".into() })),
        ("report of the node", Up::Report(agent::Report { entries: vec![node_report()] })),
        ("report of workloads", Up::Report(agent::Report { entries: workload_reports() })),
        ("report of a device", Up::Report(agent::Report { entries: vec![device_report()] })),
        ("heartbeat", Up::Heartbeat(agent::Heartbeat { unix_ms: 1_795_333_260_123 })),
        ("heartbeat before 1970", Up::Heartbeat(agent::Heartbeat { unix_ms: -1 })),
        (
            "end of a stream",
            Up::Stream(agent::StreamData {
                stream: 9,
                data: b"last words\n".to_vec(),
                end: true,
                error: "the container ended".into(),
            }),
        ),
    ]
}

fn down() -> Vec<(&'static str, Down)> {
    let refused = |code: refused::Code, message: &str| agent::Refused {
        code: code.into(),
        message: message.into(),
        retry_after_ms: 60_000,
        ..Default::default()
    };
    vec![
        (
            "welcome",
            Down::Welcome(agent::Welcome {
                protocol: 1,
                cluster_id: CLUSTER.into(),
                epoch: 2,
                unix_ms: 1_795_333_260_123,
                heartbeat_ms: 15_000,
                max_frame_bytes: 2 * 1024 * 1024,
            }),
        ),
        (
            "refused as stale",
            Down::Refused(agent::Refused {
                newest: Some(agent::Session { counter: 42, nonce: 7 }),
                retry_after_ms: 0,
                ..refused(refused::Code::Stale, "a newer session of this node is known")
            }),
        ),
        ("refused for now", Down::Refused(refused(refused::Code::TryLater, "no EdgeNode with this uid yet"))),
        ("refused as denied", Down::Refused(refused(refused::Code::Denied, "the EdgeNode has spec.denied"))),
        ("refused by another cluster", Down::Refused(refused(refused::Code::OtherCluster, "of cluster c-2"))),
        ("refused for its protocol", Down::Refused(refused(refused::Code::Protocol, "protocol 2 to 3"))),
        (
            "refused as another EdgeNode",
            Down::Refused(refused(refused::Code::OtherUid, "of an EdgeNode before")),
        ),
        ("superseded", Down::Refused(refused(refused::Code::Superseded, "a newer session lives"))),
        ("in sync", Down::InSync(agent::InSync {})),
        ("compare all", Down::Compare(agent::Compare::default())),
        ("compare buckets", Down::Compare(agent::Compare { buckets: vec![0, 127, 128, 255] })),
        ("delta", Down::Delta(delta())),
        (
            "delta that more follow",
            Down::Delta(agent::Delta {
                nonce: 4,
                base_digest: hash(2),
                target_digest: hash(3),
                ..Default::default()
            }),
        ),
        ("delta with a Secret and what names it", Down::Delta(secret_delta())),
        ("delta with a deflated body", Down::Delta(deflated_delta())),
        ("verdicts", Down::Verdicts(agent::Verdicts { verdicts: verdicts() })),
        ("heartbeat", Down::Heartbeat(agent::Heartbeat { unix_ms: 1_795_333_260_123 })),
        ("farewell", Down::Farewell(agent::Farewell { reason: "the EdgeNode was deleted".into() })),
        (
            "goodbye",
            Down::Goodbye(agent::Goodbye {
                reason: "this replica is behind what the node has seen".into(),
                retry_after_ms: 700,
                behind: true,
            }),
        ),
        (
            "open a stream",
            Down::OpenStream(agent::OpenStream {
                stream: 9,
                kind: "logs".into(),
                request: br#"{"container":"web"}"#.to_vec(),
            }),
        ),
    ]
}

fn to_controller() -> Vec<(&'static str, to_controller::Message)> {
    use to_controller::Message;
    let session = |closed| controller::Session {
        node: "shop-0042".into(),
        uid: UID.into(),
        counter: 41,
        nonce: 0xdead_beef_0123_4567,
        certificate_serial: "0a1b2c".into(),
        closed,
    };
    vec![
        (
            "a machine waits",
            Message::Waiting(controller::Waiting { node: "shop-1".into(), uid: "11111111-2222".into() }),
        ),
        ("register", Message::Register(controller::Register { replica: "selvedge-hub-6d4f-x2x".into() })),
        (
            "all sessions",
            Message::Sessions(controller::Sessions { snapshot: true, sessions: vec![session(false)] }),
        ),
        (
            "a session has ended",
            Message::Sessions(controller::Sessions { snapshot: false, sessions: vec![session(true)] }),
        ),
        ("done", Message::Done(controller::Done { order: 17 })),
        ("restored", Message::Restored(controller::Restored { epoch: 2 })),
        ("heartbeat", Message::Heartbeat(controller::Heartbeat { unix_ms: 1_795_333_260_123 })),
    ]
}

fn to_replica() -> Vec<(&'static str, to_replica::Message)> {
    use to_replica::Message;
    let reason = "spec.denied".into();
    vec![
        (
            "supersede",
            Message::Supersede(controller::Supersede { order: 17, uid: UID.into(), counter: 42, nonce: 7 }),
        ),
        ("deny", Message::Deny(controller::Deny { order: 18, uid: UID.into(), reason })),
        ("duplicate", Message::Duplicate(controller::Duplicate { order: 19, uid: UID.into(), seconds: 300 })),
        ("heartbeat", Message::Heartbeat(controller::Heartbeat { unix_ms: 1_795_333_260_123 })),
    ]
}

fn joins() -> [Sample; 4] {
    let (cluster_id, node) = (CLUSTER.to_owned(), "shop-0042".to_owned());
    let join = join::JoinRequest {
        cluster_id: cluster_id.clone(),
        node: node.clone(),
        csr_der: vec![0x30, 0x82, 0xff],
        signature: vec![0xa5; 64],
    };
    let renew = join::RenewRequest {
        cluster_id,
        node,
        old_certificate_der: vec![0x30, 0x83, 0xfe],
        csr_der: vec![0x30, 0x82, 0xff],
        signature: vec![0x5a; 64],
    };
    let response = join::JoinResponse {
        certificate_chain_pem: b"-----BEGIN CERTIFICATE-----\nleaf\n".to_vec(),
        ca_bundle_pem: b"-----BEGIN CERTIFICATE-----\nroot\n".to_vec(),
        node_uid: UID.into(),
        ..Default::default()
    };
    let renewable =
        join::JoinResponse { not_before: 1_767_225_000, not_after: 1_775_001_600, ..response.clone() };
    [
        Sample { message: "selvedge.join.v1.JoinRequest", name: "join", bytes: encode(&join) },
        Sample { message: "selvedge.join.v1.RenewRequest", name: "renew", bytes: encode(&renew) },
        Sample { message: "selvedge.join.v1.JoinResponse", name: "signed", bytes: encode(&response) },
        Sample { message: "selvedge.join.v1.JoinResponse", name: "renewable", bytes: encode(&renewable) },
    ]
}

const CLUSTER: &str = "c-5f0e6a1b";
const UID: &str = "0b8f3c1e-2f64-4a55-9d0e-6d1f0a7c9e11";

/// Not UTF-8, so that a hash cannot turn into a string.
fn hash(byte: u8) -> Vec<u8> {
    vec![byte; 32]
}

fn key(kind: EntryKind, name: &str, version: &str) -> agent::Key {
    let namespace = if kind == EntryKind::NodeSettings { "" } else { "shop" };
    agent::Key { kind: kind.into(), namespace: namespace.into(), name: name.into(), version: version.into() }
}

/// With one resource: a map has no order on the wire.
fn watermark(resource: &str, revision: u64) -> agent::Watermark {
    let revisions = [(resource.to_owned(), revision)].into();
    agent::Watermark { cluster_id: CLUSTER.into(), epoch: 2, revisions }
}

fn row(key: agent::Key, revision: &str) -> agent::Row {
    let key = Some(key);
    agent::Row {
        key,
        uid: UID.into(),
        content_hash: hash(0xc1),
        source_revision: 991_187,
        revision: revision.into(),
    }
}

fn report(key: agent::Key, seq: u64, state: agent::entry_report::State) -> agent::EntryReport {
    let (key, state) = (Some(key), Some(state));
    agent::EntryReport { key, uid: UID.into(), content_hash: hash(0xc1), seq, state }
}

fn node_report() -> agent::EntryReport {
    let state = agent::NodeState {
        agent_version: "0.1.0".into(),
        arch: "arm64".into(),
        os: "linux".into(),
        kernel: "6.18.0".into(),
        runtime: "containerd://2.4.2".into(),
        cpu_millis: 4_000,
        memory_bytes: 2_147_483_648,
        storage_bytes: 31_914_983_424,
        runtime_error: "no such socket".into(),
        notice: "the ledger was rebuilt".into(),
    };
    report(key(EntryKind::NodeSettings, "node", ""), 4_294_967_297, agent::entry_report::State::Node(state))
}

fn workload_reports() -> Vec<agent::EntryReport> {
    use agent::Phase;
    let phases = [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed];
    let reports = phases.into_iter().zip(1..).map(|(phase, seq)| {
        let state = agent::WorkloadState {
            phase: phase.into(),
            reason: "CrashLoop".into(),
            message: "container web ended with 1".into(),
            revision: "web-7f9c".into(),
            restarts: 5,
            started_unix_ms: 1_795_333_000_000,
        };
        report(key(EntryKind::Workload, "web", ""), seq, agent::entry_report::State::Workload(state))
    });
    reports.collect()
}

fn device_report() -> agent::EntryReport {
    let setpoint = agent::PropertyState {
        name: "setpoint".into(),
        reported: "60".into(),
        read_unix_ms: 1_795_333_260_000,
        written: "60".into(),
        error: "illegal data address".into(),
    };
    let state = agent::DeviceState {
        connected: true,
        reason: "Timeout".into(),
        message: "no answer from 10.0.0.5:502".into(),
        properties: vec![setpoint, agent::PropertyState::default()],
    };
    report(key(EntryKind::Device, "boiler-1", ""), 9, agent::entry_report::State::Device(state))
}

fn delta() -> agent::Delta {
    let upsert = agent::Upsert {
        key: Some(key(EntryKind::Device, "boiler-1", "")),
        uid: UID.into(),
        source_revision: 991_204,
        revision: "web-7f9c".into(),
        content_hash: hash(0xc2),
        encoding: agent::Encoding::Json.into(),
        body: Bytes::from_static(br#"{"desired":{"setpoint":60}}"#),
    };
    agent::Delta {
        nonce: 3,
        base_digest: hash(0xd1),
        removes: vec![agent::Remove { key: Some(key(EntryKind::Workload, "old", "")), uid: UID.into() }],
        upserts: vec![upsert],
        target_digest: hash(0xd2),
        watermark: Some(watermark("devices.selvedge.dev", 991_204)),
    }
}

/// By bytes that were once deflated: another library may deflate differently.
fn deflated_delta() -> agent::Delta {
    const DEFLATED: &[u8] =
        &[0xab, 0x56, 0x4a, 0xad, 0xc8, 0x2c, 0x51, 0xb2, 0x2a, 0x29, 0x2a, 0x4d, 0xad, 0x05, 0x00];
    let upsert = agent::Upsert {
        key: Some(key(EntryKind::Device, "boiler-1", "")),
        uid: UID.into(),
        source_revision: 991_206,
        content_hash: hash(0xc4),
        encoding: agent::Encoding::JsonDeflate.into(),
        body: Bytes::from_static(DEFLATED),
        ..Default::default()
    };
    agent::Delta { nonce: 6, upserts: vec![upsert], target_digest: hash(0xd4), ..Default::default() }
}

fn secret_delta() -> agent::Delta {
    let upsert = |kind, name, version, revision: &str, body| agent::Upsert {
        key: Some(key(kind, name, version)),
        uid: UID.into(),
        source_revision: 991_205,
        revision: revision.into(),
        content_hash: hash(0xc3),
        encoding: agent::Encoding::Json.into(),
        body: Bytes::from_static(body),
    };
    let secret = br#"{"data":{"token":"aHVudGVyMg=="},"salt":"f00d"}"#;
    let workload =
        br#"{"references":[{"kind":"Secret","name":"web-token","version":"41aa"}],"revision":"web-7f9c"}"#;
    agent::Delta {
        nonce: 5,
        base_digest: hash(0xd2),
        removes: vec![agent::Remove {
            key: Some(key(EntryKind::Secret, "web-token", "40ff")),
            uid: UID.into(),
        }],
        upserts: vec![
            upsert(EntryKind::Secret, "web-token", "41aa", "", secret),
            upsert(EntryKind::Workload, "web", "", "web-7f9c", workload),
        ],
        target_digest: hash(0xd3),
        watermark: Some(watermark("secrets/shop", 991_205)),
    }
}

fn verdicts() -> Vec<agent::Verdict> {
    use verdict::Code;
    let verdict = |code: Code, reason: &str| agent::Verdict {
        key: Some(key(EntryKind::Device, "boiler-1", "")),
        seq: 9,
        code: code.into(),
        reason: reason.into(),
    };
    vec![
        verdict(Code::Written, ""),
        verdict(Code::Superseded, ""),
        verdict(Code::Gone, ""),
        verdict(Code::Refused, "UnknownKind"),
    ]
}
