//! What a person types, what is kept over runs, and that a bad history is seen as one.

use clap::{CommandFactory as _, Parser as _};
use selvedge_history::{Agent, Event, InForce, Verdict as Ended};
use selvedge_load::clock::Clock;
use selvedge_load::faults::Fault;
use selvedge_load::identities::{Identities, Kept};
use selvedge_load::options::Options;
use selvedge_load::record::Record;
use selvedge_load::verdict::Verdict;
use selvedge_model::{ContentHash, SessionId};

const DEVICE: &str = "Device/load/load-00001-1";

#[test]
fn options_say_what_is_meant() {
    Options::command().debug_assert();
    let parse = |words: &[&str]| Options::try_parse_from([&["selvedge-load"], words].concat());
    let options =
        parse(&["--agents", "3", "--first", "9", "--faults", "cut, crash", "--duration", "90s"]).unwrap();
    assert_eq!(options.faults.0, [Fault::Cut, Fault::Crash]);
    assert_eq!(options.numbers().map(|n| options.node(n)).last().as_deref(), Some("load-00011"));
    assert_eq!(options.duration.as_secs(), 90);
    assert_eq!(parse(&["--faults", "all"]).unwrap().faults.0.len(), Fault::ALL.len());
    assert!(
        parse(&["--faults", "fire"]).unwrap_err().to_string().contains("half-open"),
        "it names what there is"
    );
    assert!(parse(&["--ca-cert", "ca.crt"]).is_err(), "a CA without its key signs nothing");
    assert!(parse(&["--agents", "0"]).is_err());
}

#[test]
fn identities_outlive_an_interrupted_run() {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/identities");
    let kept = |node: &str, key: &str| Kept { node: node.into(), key: key.into(), identity: None };
    let mut identities = Identities::open(&path).unwrap();
    identities.keep(kept("a", "first")).unwrap();
    identities.keep(kept("a", "second")).unwrap();
    drop(identities);
    // The power went while a line was written.
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"node\":\"b\",\"ke").unwrap();
    drop(file);
    let mut identities = Identities::open(&path).unwrap();
    assert_eq!(identities.get("a"), Some(&kept("a", "second")));
    assert_eq!(identities.get("b"), None);
    identities.keep(kept("b", "third")).unwrap();
    assert_eq!(Identities::open(&path).unwrap().get("b"), Some(&kept("b", "third")));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

fn judged(events: Vec<Event>) -> Verdict {
    let record = Record::new(Clock::start(), true);
    events.into_iter().for_each(|event| record.tell(|| event));
    let (violations, events) = record.judge();
    Verdict { violations, events, settled: Some(std::time::Duration::ZERO), ..Verdict::default() }
}

fn in_force(source: u64, hash: u8) -> Event {
    let version = InForce { uid: "u".into(), source, revision: "".into(), hash: ContentHash([hash; 32]) };
    Event::InForce { agent: Agent::of("load-00001"), key: DEVICE.into(), version }
}

/// Two versions, in order, and a report that is answered before the watch shows what it wrote.
fn good() -> Vec<Event> {
    let (node, session) = ("load-00001", SessionId { counter: 1, nonce: 0 });
    let desired = |hash: u8| Event::Desired {
        node: Some(node.into()),
        key: DEVICE.into(),
        uid: "u".into(),
        hash: ContentHash([hash; 32]),
    };
    let hash = ContentHash([2; 32]);
    vec![
        desired(1),
        desired(2),
        in_force(5, 1),
        in_force(6, 2),
        Event::Applied { node: node.into(), key: DEVICE.into(), hash },
        Event::Reported { session, key: DEVICE.into(), seq: 1, says: 7 },
        Event::Verdict { node: node.into(), session, key: DEVICE.into(), seq: 1, verdict: Ended::Written },
        Event::Status {
            node: node.into(),
            key: DEVICE.into(),
            object: "u".into(),
            session,
            says: 7,
            claims: vec![hash],
        },
    ]
}

fn words(verdict: &Verdict) -> String {
    verdict.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_bad_history_breaks_the_verdict_and_a_good_one_does_not() {
    let verdict = judged(good());
    assert!(verdict.holds(), "{verdict}");
    let back = [good(), vec![in_force(5, 1)]].concat();
    let verdict = judged(back);
    assert!(!verdict.holds());
    let text = words(&verdict);
    assert!(text.contains("went back to an older version BROKEN 1 times"), "{text}");
    assert!(text.contains("A RULE WAS BROKEN") && text.contains("from source revision 6 to 5"), "{text}");
    let mut unwritten = good();
    drop(unwritten.pop());
    let text = words(&judged(unwritten));
    assert!(text.contains("nothing acknowledged was lost BROKEN"), "{text}");
    assert!(!Verdict::default().holds(), "a fleet that did not come to rest has proved nothing");
}
