use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use selvedge_protocol::controller::{Session, Sessions as Report, ToReplica, to_replica::Message};

use super::state::{Effects, Presence, Sessions};

fn at(second: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + Duration::from_secs(second)
}

fn session(uid: &str, counter: u64, closed: bool) -> Session {
    let (node, certificate_serial) = (format!("node-{uid}"), format!("serial-{counter}"));
    Session { node, uid: uid.into(), counter, nonce: counter, certificate_serial, closed }
}

fn report(snapshot: bool, sessions: &[Session]) -> Report {
    Report { snapshot, sessions: sessions.to_vec() }
}

fn absent(second: u64) -> Presence {
    Presence::Absent { since: at(second) }
}

fn connected(replica: &str, counter: u64) -> Presence {
    Presence::Connected { replica: replica.into(), serial: format!("serial-{counter}") }
}

/// Orders as `<replica>: supersede <uid> <counter>`, `<replica>: duplicate <uid> <seconds>` or `<replica>: deny
/// <uid>`.
fn orders(effects: &Effects) -> Vec<String> {
    let render = |(replica, order): &(String, ToReplica)| match order.message.as_ref().unwrap() {
        Message::Supersede(order) => format!("{replica}: supersede {} {}", order.uid, order.counter),
        Message::Deny(order) => format!("{replica}: deny {}", order.uid),
        Message::Duplicate(order) => format!("{replica}: duplicate {} {}", order.uid, order.seconds),
        Message::Heartbeat(_) => unreachable!(),
    };
    effects.orders.iter().map(render).collect()
}

#[test]
fn the_newer_session_supersedes_the_older_whichever_is_heard_first() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    sessions.connect("b", 2);
    let effects = sessions.report("a", 1, &report(true, &[session("u", 5, false)]), at(1));
    assert_eq!((orders(&effects), effects.touched), (vec![], vec!["node-u".to_owned()]));
    let effects = sessions.report("b", 2, &report(false, &[session("u", 6, false)]), at(2));
    assert_eq!(orders(&effects), ["a: supersede u 6"]);
    assert_eq!(sessions.presence("u"), connected("b", 6));
    // An older one that comes late is told off, also after the newer has ended.
    sessions.report("b", 2, &report(false, &[session("u", 6, true)]), at(3));
    let effects = sessions.report("a", 1, &report(false, &[session("u", 4, false)]), at(4));
    assert_eq!(orders(&effects), ["a: supersede u 6"]);
}

#[test]
fn a_lost_stream_changes_nobody_while_its_replica_lives() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    sessions.report("a", 1, &report(true, &[session("u", 1, false)]), at(10));
    let effects = sessions.lose("a", 1, at(100));
    assert_eq!(effects.touched, ["node-u"]);
    assert_eq!(sessions.presence("u"), absent(100));
    sessions.confirm("a", at(130));
    assert_eq!(sessions.presence("u"), absent(130), "the grace period begins anew");
    // The replica dials again and still has the session.
    sessions.connect("a", 2);
    assert_eq!(sessions.presence("u"), connected("a", 1));
    sessions.report("a", 2, &report(true, &[session("u", 1, false)]), at(140));
    assert_eq!(sessions.presence("u"), connected("a", 1));
}

#[test]
fn a_dead_replica_takes_its_sessions_with_it_since_it_was_last_known_to_live() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    sessions.report("a", 1, &report(true, &[session("u", 1, false), session("v", 1, false)]), at(10));
    sessions.connect("b", 2);
    sessions.report("b", 2, &report(false, &[session("v", 2, false)]), at(20));
    sessions.lose("a", 1, at(100));
    sessions.confirm("a", at(110));
    let mut touched = sessions.bury("a").touched;
    touched.sort();
    assert_eq!(touched, ["node-u", "node-v"]);
    assert_eq!(sessions.presence("u"), absent(110));
    assert_eq!(sessions.presence("v"), connected("b", 2));
    assert_eq!(sessions.doubted(), [""; 0]);
}

#[test]
fn a_snapshot_ends_what_it_does_not_name_and_an_older_stream_says_nothing() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    sessions.report("a", 1, &report(true, &[session("u", 1, false), session("v", 1, false)]), at(10));
    sessions.connect("a", 2);
    sessions.report("a", 2, &report(true, &[session("v", 1, false)]), at(20));
    assert_eq!(sessions.presence("u"), absent(20));
    assert_eq!(
        sessions.report("a", 1, &report(false, &[session("u", 9, false)]), at(21)),
        Effects::default()
    );
    assert_eq!(sessions.lose("a", 1, at(22)), Effects::default());
    assert_eq!(sessions.presence("v"), connected("a", 1));
}

#[test]
fn a_denied_node_is_denied_everywhere_once_and_again_when_it_comes_back() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    sessions.connect("b", 2);
    sessions.know("node-u", "u", true, at(0));
    sessions.report("a", 1, &report(true, &[session("u", 1, false)]), at(10));
    assert_eq!(orders(&sessions.shut("u", "denied", at(11))), ["a: deny u", "b: deny u"]);
    assert_eq!(orders(&sessions.shut("u", "denied", at(12))), [""; 0]);
    assert_eq!(sessions.overdue(at(16)), 2);
    sessions.done("a", 1);
    sessions.done("b", 2);
    assert_eq!(sessions.overdue(at(16)), 0);
    let effects = sessions.report("b", 2, &report(false, &[session("u", 2, false)]), at(13));
    assert_eq!(orders(&effects), ["b: deny u"]);
    sessions.admit("u");
    let effects = sessions.report("b", 2, &report(false, &[session("u", 3, false)]), at(14));
    assert_eq!(orders(&effects), ["a: supersede u 3"]);
}

#[test]
fn a_deleted_or_replaced_edge_node_is_denied_by_its_old_uid() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    sessions.know("node-u", "u", true, at(0));
    sessions.report("a", 1, &report(true, &[session("u", 1, false)]), at(1));
    assert_eq!(orders(&sessions.know("node-u", "w", false, at(2))), ["a: deny u"]);
    sessions.report("a", 1, &report(false, &[session("w", 1, false)]), at(3));
    assert_eq!(orders(&sessions.forget("node-u", at(4))), ["a: deny w"]);
}

#[test]
fn two_machines_with_one_identity_are_named_on_the_fourth_turn_in_a_minute() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    sessions.connect("b", 2);
    let places = [("a", 1), ("b", 2)];
    let mut open = |counter: u64, second: u64| {
        let (replica, stream) = places[counter as usize % 2];
        orders(&sessions.report(replica, stream, &report(false, &[session("u", counter, false)]), at(second)))
    };
    let (first, said) = (open(1, 0), open(2, 5));
    assert_eq!((first, said), (vec![], vec!["b: supersede u 2".to_owned()]));
    assert_eq!(open(3, 10), ["a: supersede u 3"]);
    assert_eq!(open(4, 15), ["b: supersede u 4"]);
    let fourth = ["a: duplicate u 300", "b: duplicate u 300", "a: supersede u 5"];
    assert_eq!(open(5, 20), fourth, "both are told, and who must end before that it must");
    // Slowed, they take turns by the minute, and stay named.
    assert_eq!(open(6, 80), ["a: duplicate u 300", "b: duplicate u 300", "b: supersede u 6"]);
    // One was switched off; the other loses its session once.
    assert_eq!(open(7, 500), ["a: supersede u 7"]);
}

#[test]
fn a_machine_whose_replicas_are_killed_is_not_two() {
    let mut sessions = Sessions::new(at(0));
    for turn in 1..=8 {
        let (second, replica) = (turn * 5, if turn % 2 == 0 { "a" } else { "b" });
        sessions.connect(replica, turn);
        let opened = report(true, &[session("u", turn, false)]);
        let said = orders(&sessions.report(replica, turn, &opened, at(second)));
        assert!(!said.iter().any(|order| order.contains("duplicate")), "{said:?} after {turn}");
        sessions.lose(replica, turn, at(second + 1));
    }
}

#[test]
fn a_machine_alone_is_never_two() {
    let mut sessions = Sessions::new(at(0));
    sessions.connect("a", 1);
    let mut report_at = |closed, counter, second| {
        orders(&sessions.report("a", 1, &report(false, &[session("u", counter, closed)]), at(second)))
    };
    // A session that ended before the next began; and half-open ones, now and then.
    for counter in 1..20 {
        assert_eq!(report_at(false, counter, counter), [""; 0]);
        assert_eq!(report_at(true, counter, counter), [""; 0]);
    }
    for counter in 20..40 {
        assert_eq!(report_at(false, counter, counter * 25), [""; 0]);
    }
    // The same news again is no other session.
    for _ in 0..10 {
        assert_eq!(report_at(false, 39, 39 * 25), [""; 0]);
    }
}

#[test]
fn nobody_is_missed_from_before_the_start() {
    let sessions = Sessions::new(at(1000));
    assert_eq!(sessions.presence("u"), absent(1000));
}

#[derive(Clone, Debug)]
enum Event {
    Open { replica: usize, uid: usize, counter: u64 },
    Close { replica: usize, uid: usize },
    Redial { replica: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..3usize, 0..2usize, 1..50u64)
            .prop_map(|(replica, uid, counter)| Event::Open { replica, uid, counter }),
        2 => (0..3usize, 0..2usize).prop_map(|(replica, uid)| Event::Close { replica, uid }),
        1 => (0..3usize).prop_map(|replica| Event::Redial { replica }),
    ]
}

const REPLICAS: [&str; 3] = ["a", "b", "c"];
const UIDS: [&str; 2] = ["u", "v"];

proptest! {
    /// Replicas open and close sessions and lose their streams in any order, and carry out what they are
    /// told. Then no replica holds a session of a node that is older than the newest ever opened.
    #[test]
    fn only_the_newest_session_of_a_node_lives(events in proptest::collection::vec(event(), 0..60)) {
        let mut sessions = Sessions::new(at(0));
        // What each replica really holds, and the newest of each node.
        let mut held = [[None::<u64>; 2]; 3];
        let mut newest = [0; 2];
        let mut streams = [0; 3];
        for (replica, name) in REPLICAS.iter().enumerate() {
            streams[replica] = replica as u64 + 1;
            sessions.connect(name, streams[replica]);
        }
        for (step, event) in events.into_iter().enumerate() {
            let now = at(step as u64);
            let (replica, report) = match event {
                Event::Open { replica, uid, counter } => {
                    // A replica knows its own newest and answers an older Hello by itself.
                    if held[replica][uid].is_some_and(|held| held >= counter) {
                        continue;
                    }
                    held[replica][uid] = Some(counter);
                    newest[uid] = newest[uid].max(counter);
                    (replica, report(false, &[session(UIDS[uid], counter, false)]))
                }
                Event::Close { replica, uid } => {
                    let Some(counter) = held[replica][uid].take() else { continue };
                    (replica, report(false, &[session(UIDS[uid], counter, true)]))
                }
                Event::Redial { replica } => {
                    sessions.lose(REPLICAS[replica], streams[replica], now);
                    streams[replica] += 10;
                    sessions.connect(REPLICAS[replica], streams[replica]);
                    let all: Vec<_> = (0..2)
                        .filter_map(|uid| Some(session(UIDS[uid], held[replica][uid]?, false)))
                        .collect();
                    (replica, report(true, &all))
                }
            };
            let mut queue = vec![(replica, report)];
            while let Some((replica, report)) = queue.pop() {
                let effects = sessions.report(REPLICAS[replica], streams[replica], &report, now);
                for (name, order) in effects.orders {
                    let replica = REPLICAS.iter().position(|replica| *replica == name).unwrap();
                    let order = match order.message.unwrap() {
                        Message::Supersede(order) => order,
                        // Slows machines and ends nothing.
                        Message::Duplicate(_) => continue,
                        order => panic!("{order:?}"),
                    };
                    let uid = UIDS.iter().position(|uid| *uid == order.uid).unwrap();
                    if let Some(counter) = held[replica][uid].filter(|held| *held < order.counter) {
                        held[replica][uid] = None;
                        let closed = super::tests::report(false, &[session(UIDS[uid], counter, true)]);
                        queue.push((replica, closed));
                    }
                }
            }
        }
        for uid in 0..2 {
            let lives: Vec<_> = (0..3).filter_map(|replica| held[replica][uid]).collect();
            prop_assert!(lives.iter().all(|counter| *counter == newest[uid]), "{lives:?}, newest {}", newest[uid]);
            let is_connected = matches!(sessions.presence(UIDS[uid]), Presence::Connected { .. });
            prop_assert_eq!(is_connected, !lives.is_empty());
        }
    }
}

#[test]
fn a_machine_of_an_edge_node_before_this_one_waits_for_as_long_as_it_asks() {
    let mut sessions = Sessions::new(at(0));
    assert!(sessions.wait("node-u", "old", at(1)).touched.is_empty(), "no such EdgeNode");
    sessions.know("node-u", "u", true, at(1));
    assert!(sessions.wait("node-u", "u", at(2)).touched.is_empty(), "it is the present one");
    assert_eq!(sessions.wait("node-u", "old", at(10)).touched, ["node-u"]);
    assert!(sessions.wait("node-u", "old", at(70)).touched.is_empty(), "that is known");
    let until = |sessions: &Sessions, second| {
        sessions.waiting("node-u", at(second)).map(|(uid, left)| (uid.to_owned(), left.as_secs()))
    };
    assert_eq!(until(&sessions, 100), Some(("old".into(), 270)));
    assert_eq!(until(&sessions, 370), None, "it has gone");
    assert_eq!(sessions.wait("node-u", "old", at(400)).touched, ["node-u"], "it is back");
    sessions.connect("a", 1);
    sessions.report("a", 1, &report(true, &[session("u", 1, false)]), at(401));
    assert_eq!(until(&sessions, 402), None, "somebody is in");
    sessions.wait("node-u", "old", at(403));
    sessions.know("node-u", "v", false, at(404));
    assert_eq!(until(&sessions, 405), None, "created again");
}
