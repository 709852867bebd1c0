//! Counting as nodes change gives what counting all of them would.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use selvedge_crds::edgenode::ApplicationState;
use selvedge_model::node::Allowed;
use selvedge_model::rollout::position;
use selvedge_model::selector::Selector;
use serde_json::json;

use super::super::fleet::{Asks, Fleet, Key, Node};
use super::super::tally::{Counts, Named};

/// So few are named that it matters which.
const NAMED: usize = 2;
const LATE: usize = 3;

/// What may happen. Names, labels, revisions and so on are few, so that they meet.
#[derive(Clone, Debug)]
enum Happens {
    Node(Node),
    Gone(usize),
    /// An application gets this selector, as one that is new or as it was.
    Selects {
        application: usize,
        tier: Option<usize>,
        /// Of its namespace.
        team: usize,
        anew: bool,
    },
    Forget(usize),
}

fn tier(of: usize) -> String {
    ["shop", "lab"][of].into()
}

fn key(application: usize) -> Key {
    Key::new("shops", ["api", "web"][application])
}

fn selector(tier_: usize) -> Selector {
    Selector { match_labels: [("tier".to_owned(), tier(tier_))].into(), ..Selector::default() }
}

/// What an application asks for that is of this life, with this selector, in a namespace of this team.
fn asks((_, selected, team): (u32, Option<usize>, usize)) -> Asks {
    Asks { selector: selected.map(selector), namespace: [("team".to_owned(), tier(team))].into() }
}

/// Of namespaces of this team alone.
fn allowed(team: usize) -> Allowed {
    Allowed::of(&json!({"matchLabels": {"team": tier(team)}}))
}

fn reports() -> impl Strategy<Value = Option<(usize, usize, usize)>> {
    prop::option::of((0..3_usize, 0..4_usize, 0..2_usize))
}

fn node() -> impl Strategy<Value = Node> {
    let label = prop::option::of(0..2_usize);
    let team = prop::option::weighted(0.3, 0..2_usize);
    (0..6_usize, 0..2_usize, label, team, any::<bool>(), [reports(), reports()]).prop_map(
        |(name, life, label, team, connected, reports)| Node {
            name: format!("n{name}").into(),
            uid: format!("n{name}-{life}").into(),
            labels: label.map(|label| ("tier".to_owned(), tier(label))).into_iter().collect(),
            allowed: team.map(allowed).unwrap_or_default(),
            connected,
            applications: (0..).zip(reports).filter_map(|(app, said)| Some(reported(app, said?))).collect(),
        },
    )
}

fn reported(app: usize, (revision, state, why): (usize, usize, usize)) -> (Key, Arc<ApplicationState>) {
    let state = ApplicationState {
        namespace: key(app).namespace,
        name: key(app).name,
        revision: ["", "r1", "r2"][revision].into(),
        state: ["Running", "Succeeded", "Failed", "Pending"][state].into(),
        reason: ["", "Why"][why].into(),
        ..ApplicationState::default()
    };
    (key(app), Arc::new(state))
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => node().prop_map(Happens::Node),
        1 => (0..6_usize).prop_map(Happens::Gone),
        2 => (0..2_usize, prop::option::of(0..2_usize), 0..2_usize, any::<bool>())
            .prop_map(|(application, tier, team, anew)| Happens::Selects { application, tier, team, anew }),
        1 => (0..2_usize).prop_map(Happens::Forget),
    ]
}

/// The nodes as they are, and the applications that are known: life, selector, and team of its namespace.
#[derive(Default)]
struct World {
    nodes: BTreeMap<Arc<str>, Node>,
    applications: BTreeMap<usize, (u32, Option<usize>, usize)>,
}

impl World {
    /// All that a plan asks, counted over all nodes.
    fn recount(
        &self,
        application: usize,
        current: &str,
        before: &[String],
    ) -> (Counts, Vec<String>, Vec<String>) {
        let (life, ..) = self.applications[&application];
        let asks = asks(self.applications[&application]);
        let mut counts = Counts::default();
        let (mut late, mut revisions) = (Vec::new(), Vec::new());
        for node in self.nodes.values() {
            let state = node.applications.get(&key(application));
            let revision = state.map_or("", |state| &state.revision);
            if !revision.is_empty() {
                revisions.push(revision.to_owned());
            }
            if node.connected && !revision.is_empty() && revision != current {
                let place = position(&format!("uid-{application}-{life}"), &node.uid);
                late.push((!before.contains(&node.uid.to_string()), place, node.uid.to_string()));
            }
            let selected = asks.selector.as_ref().is_some_and(|selector| selector.matches(&node.labels));
            if !selected || !node.allowed.lets_in(&asks.namespace) {
                continue;
            }
            counts.desired += 1;
            let updated = !current.is_empty() && revision == current;
            counts.updated += usize::from(updated);
            if !node.connected {
                counts.offline += 1;
                continue;
            }
            let runs = state.is_some_and(|state| ["Running", "Succeeded"].contains(&&*state.state));
            counts.ready += usize::from(runs);
            let why = match state {
                None => "nothing reported yet".to_owned(),
                Some(state) if state.reason.is_empty() => state.state.clone(),
                Some(state) => state.reason.clone(),
            };
            if state.is_some_and(|state| state.state == "Failed") {
                add(&mut counts.failed, node, why);
            } else if !(updated && runs) {
                let late = if updated || revision.is_empty() { "" } else { ", not updated yet" };
                add(&mut counts.waiting, node, why + late);
            }
        }
        late.sort();
        revisions.sort();
        revisions.dedup();
        (counts, late.into_iter().take(LATE).map(|(.., uid)| uid).collect(), revisions)
    }
}

fn add(named: &mut Named, node: &Node, why: String) {
    named.count += 1;
    if named.first.len() < NAMED {
        named.first.push((node.name.to_string(), why));
    }
}

/// What a fleet says of an application, as far as a plan can see.
fn counted(fleet: &mut Fleet, world: &World, application: usize) -> Vec<(Counts, Vec<String>, Vec<String>)> {
    let (life, ..) = world.applications[&application];
    let uid = format!("uid-{application}-{life}");
    let tally = fleet.tally(&key(application), &uid, &asks(world.applications[&application]));
    asked()
        .map(|(current, before)| {
            let revisions = tally.revisions().map(str::to_owned).collect();
            (tally.counts(current, NAMED), tally.late(current, &before, LATE), revisions)
        })
        .collect()
}

fn asked() -> impl Iterator<Item = (&'static str, Vec<String>)> {
    let admitted = vec!["n3-0".to_owned(), "n0-1".to_owned(), "n1-0".to_owned(), "never".to_owned()];
    ["", "r1", "r2", "r3"]
        .into_iter()
        .flat_map(move |current| [(current, Vec::new()), (current, admitted.clone())])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn counting_changes_gives_what_counting_all_gives(sequence in prop::collection::vec(happens(), 1..40)) {
        let (mut fleet, mut world) = (Fleet::default(), World::default());
        for happens in sequence {
            let known: Vec<usize> = world.applications.keys().copied().collect();
            let mut shown = BTreeMap::new();
            for application in &known {
                shown.insert(*application, counted(&mut fleet, &world, *application));
            }
            let touched = match happens {
                Happens::Node(node) => {
                    world.nodes.insert(node.name.clone(), node.clone());
                    Some(fleet.is(node))
                }
                Happens::Gone(name) => {
                    let name = format!("n{name}");
                    world.nodes.remove(&*name);
                    Some(fleet.gone(&name))
                }
                Happens::Selects { application, tier, team, anew } => {
                    let now = world.applications.entry(application).or_default();
                    *now = (now.0 + u32::from(anew), tier, team);
                    None
                }
                Happens::Forget(application) => {
                    world.applications.remove(&application);
                    fleet.forget(&key(application));
                    None
                }
            };
            for application in world.applications.keys().copied() {
                let counted = counted(&mut fleet, &world, application);
                for ((current, before), counted) in asked().zip(&counted) {
                    let recounted = world.recount(application, current, &before);
                    prop_assert_eq!(counted, &recounted, "application {}, current {:?}", application, current);
                }
                // Whoever was not touched by a node has nothing to write.
                let said = |touched: &Vec<Arc<Key>>| touched.iter().any(|touched| **touched == key(application));
                if touched.as_ref().is_some_and(|touched| !said(touched)) {
                    prop_assert_eq!(&counted, &shown[&application], "changed unsaid");
                }
            }
        }
    }
}

#[test]
fn a_node_that_says_the_same_again_touches_nobody() {
    let mut fleet = Fleet::default();
    fleet.tally(&key(0), "uid", &asks((0, Some(0), 0)));
    let (key_, state) = reported(1, (1, 0, 0));
    let mut node = Node {
        name: "n".into(),
        uid: "u".into(),
        labels: [("tier".to_owned(), tier(0))].into(),
        allowed: Allowed::default(),
        connected: true,
        applications: [(key_, state)].into(),
    };
    assert_eq!(fleet.is(node.clone()), [Arc::new(key(0))]);
    assert!(fleet.is(node.clone()).is_empty(), "the same again");
    node.applications.clear();
    assert!(fleet.is(node.clone()).is_empty(), "an application that nobody has asked for");
    node.labels.clear();
    assert_eq!(fleet.is(node.clone()), [Arc::new(key(0))], "it leaves");
    node.labels.insert("tier".into(), tier(0));
    node.allowed = allowed(1);
    assert!(fleet.is(node.clone()).is_empty(), "it lets others in");
    node.allowed = allowed(0);
    assert_eq!(fleet.is(node.clone()), [Arc::new(key(0))], "it lets this one in");
    node.labels.clear();
    assert_eq!(fleet.is(node.clone()), [Arc::new(key(0))], "it leaves again");
    assert!(fleet.gone("n").is_empty(), "it had left");
}
