//! A history in which all is well, and one wrong event each that must be found.

use selvedge_model::{ContentHash, SessionId};

use crate::{Agent, Checker, Event, InForce, Invariant, Name, Row, Verdict, Wanted};

const DEVICE: &str = "Device/shop/boiler";
const WORKLOAD: &str = "Workload/shop/web";

fn hash(n: u8) -> ContentHash {
    ContentHash([n; 32])
}

fn session(counter: u64) -> SessionId {
    SessionId { counter, nonce: 0 }
}

fn row(n: u8) -> Row {
    Row { key: DEVICE.into(), uid: "u1".into(), hash: hash(n) }
}

fn desired(key: &str, uid: &str, n: u8) -> Event {
    Event::Desired { node: None, key: key.into(), uid: uid.into(), hash: hash(n) }
}

fn answered(rows: Vec<Row>) -> Event {
    Event::Answered { agent: Agent::of("n"), session: session(1), nonce: 1, rows, removed: Vec::new() }
}

fn in_force(key: &str, uid: &str, source: u64, revision: &str, n: u8) -> Event {
    let version = InForce { uid: uid.into(), source, revision: revision.into(), hash: hash(n) };
    Event::InForce { agent: Agent::of("n"), key: key.into(), version }
}

fn booted(rows: Vec<Row>) -> Event {
    Event::Booted { agent: Agent::of("n"), fresh: false, rows }
}

fn reported(seq: u64) -> Event {
    Event::Reported { session: session(1), key: DEVICE.into(), seq, says: seq }
}

fn status(counter: u64, says: u64, claims: Vec<ContentHash>) -> Event {
    let (node, key, object): (Name, Name, Name) = ("n".into(), DEVICE.into(), "u1".into());
    Event::Status { node, key, object, session: session(counter), says, claims }
}

fn verdict(seq: u64, verdict: Verdict) -> Event {
    Event::Verdict { node: "n".into(), session: session(1), key: DEVICE.into(), seq, verdict }
}

fn rest(rows: Vec<Row>) -> Event {
    let wanted = vec![(DEVICE.into(), Wanted::OneOf(vec![("u1".into(), hash(2))]))];
    let said = vec![(DEVICE.into(), 1)];
    Event::Rest { agent: Agent::of("n"), session: Some(session(1)), wanted, rows, said }
}

fn kept(count: usize) -> Event {
    Event::Kept { node: "n".into(), session: session(1), what: "dirty parts".into(), count, most: 3 }
}

fn said(says: u64) -> Event {
    match rest(vec![row(2)]) {
        Event::Rest { agent, session, wanted, rows, .. } => {
            Event::Rest { agent, session, wanted, rows, said: vec![(DEVICE.into(), says)] }
        }
        other => other,
    }
}

/// Two versions of a device, one of a workload, a report that was written.
fn good() -> Vec<Event> {
    vec![
        desired(DEVICE, "u1", 1),
        desired(DEVICE, "u1", 2),
        desired(DEVICE, "u2", 3),
        desired(WORKLOAD, "w", 4),
        desired(WORKLOAD, "w", 5),
        Event::Paced { key: WORKLOAD.into() },
        booted(Vec::new()),
        answered(vec![row(1)]),
        in_force(DEVICE, "u1", 10, "", 1),
        answered(vec![row(2)]),
        in_force(DEVICE, "u1", 12, "", 2),
        in_force(WORKLOAD, "w", 13, "r1", 4),
        booted(vec![row(2)]),
        Event::Applied { node: "n".into(), key: DEVICE.into(), hash: hash(2) },
        reported(1),
        status(1, 1, vec![hash(2)]),
        verdict(1, Verdict::Written),
        rest(vec![row(2)]),
    ]
}

fn violated(more: Vec<Event>) -> Vec<Invariant> {
    let mut checker = Checker::default();
    for (at, event) in (0..).zip(good().into_iter().chain(more)) {
        checker.observe(at, event);
    }
    checker.violations().iter().map(|violation| violation.invariant).collect()
}

#[test]
fn a_good_history_has_no_violation() {
    assert_eq!(violated(Vec::new()), []);
    let passed = Event::Passed { node: "n".into(), key: WORKLOAD.into(), revision: "r2".into() };
    assert_eq!(violated(vec![passed, in_force(WORKLOAD, "w", 13, "r2", 5)]), []);
    let withdrawn = Event::Withdrawn { node: Some("n".into()), key: DEVICE.into(), uid: "u1".into() };
    let out = Event::OutOfForce { agent: Agent::of("n"), key: DEVICE.into() };
    assert_eq!(violated(vec![withdrawn, reported(2), verdict(2, Verdict::Gone), out]), []);
    let vanished = Event::Vanished { key: DEVICE.into() };
    assert_eq!(violated(vec![vanished.clone(), reported(2), verdict(2, Verdict::Gone)]), []);
    let lost = Event::Booted { agent: Agent::of("n"), fresh: true, rows: Vec::new() };
    assert_eq!(violated(vec![lost, in_force(DEVICE, "u1", 10, "", 1)]), [], "a lost ledger knows nothing");
    let upgraded = Event::Upgraded { agent: Agent::of("n") };
    assert_eq!(violated(vec![upgraded, booted(Vec::new())]), [], "refusals are forgotten");
    let settled =
        |but: &[&str]| Event::Settled { but: but.iter().map(|key| ("n".into(), (*key).into())).collect() };
    assert_eq!(violated(vec![settled(&[DEVICE]), in_force(DEVICE, "u1", 14, "", 1)]), []);
    assert_eq!(violated(vec![settled(&[]), booted(vec![row(2)]), in_force(DEVICE, "u1", 12, "", 2)]), []);
    let epoch = Event::Epoch { agent: Agent::of("n"), epoch: 1 };
    assert_eq!(violated(vec![epoch, in_force(DEVICE, "u1", 4, "", 1)]), [], "revisions begin anew");
    assert_eq!(violated(vec![status(2, 2, vec![])]), [], "a newer session may write");
    assert_eq!(violated(vec![status(2, 2, vec![]), Event::Restored, status(1, 2, vec![])]), []);
}

#[test]
fn what_must_not_be_is_found() {
    let out = Event::OutOfForce { agent: Agent::of("n"), key: DEVICE.into() };
    let vanished = Event::Vanished { key: DEVICE.into() };
    for (wrong, invariant) in [
        (vec![in_force(DEVICE, "u1", 10, "", 1)], Invariant::I1),
        (vec![in_force(DEVICE, "u2", 14, "", 3), in_force(DEVICE, "u1", 15, "", 2)], Invariant::I1),
        (vec![rest(Vec::new())], Invariant::I2),
        (vec![rest(vec![row(1)])], Invariant::I2),
        (vec![rest(vec![row(2), Row { key: WORKLOAD.into(), ..row(4) }])], Invariant::I2),
        (vec![in_force(DEVICE, "u1", 13, "", 9)], Invariant::I3),
        (vec![booted(Vec::new())], Invariant::I4),
        (vec![Event::Lingers { node: "n".into(), what: "Applying".into() }], Invariant::Lingering),
        (vec![booted(vec![row(1)])], Invariant::I4),
        (vec![reported(2), verdict(2, Verdict::Written)], Invariant::I4),
        (vec![reported(2), verdict(2, Verdict::Gone)], Invariant::I4),
        (vec![said(2)], Invariant::I4),
        (vec![status(1, 1, vec![hash(1)])], Invariant::I5),
        (vec![status(0, 1, Vec::new())], Invariant::I6),
        (vec![kept(3), kept(4)], Invariant::I7),
        (
            vec![
                Event::Settled { but: vec![("n".into(), WORKLOAD.into())] },
                in_force(DEVICE, "u1", 14, "", 1),
            ],
            Invariant::I8,
        ),
        (vec![out.clone()], Invariant::Absence),
        (vec![vanished, out], Invariant::Absence),
        (vec![answered(vec![row(2)])], Invariant::Repetition),
        (vec![in_force(WORKLOAD, "w", 13, "r2", 5)], Invariant::Late),
    ] {
        assert_eq!(violated(wrong.clone()), [invariant], "{wrong:?}");
    }
}

#[test]
fn a_violation_names_its_proof() {
    let mut checker = Checker::default();
    for event in good().into_iter().chain([in_force(DEVICE, "u1", 10, "", 1)]) {
        checker.observe(7, event);
    }
    let violation = &checker.violations()[0];
    assert_eq!(violation.events, [11, 19]);
    assert_eq!(
        violation.to_string(),
        "I1 does not hold at n Device/shop/boiler after 7 ms: n went back from source revision 12 to 10 (events [11, 19])"
    );
}
