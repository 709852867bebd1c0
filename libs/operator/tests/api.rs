//! The list-watch loop and the Lease against a real API server (`KUBECONFIG`):
//! `cargo test -p selvedge-operator --test api -- --ignored`. They make and delete a namespace each.

// Functions beside the tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt as _};
use selvedge_operator::lease::{Election, LeaseError, lead};
use selvedge_operator::listwatch::{Event, ListWatch, Target};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

async fn namespace(client: &Client) -> String {
    let metadata = ObjectMeta { generate_name: Some("operator-test-".into()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    let made = Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    made.name_any()
}

async fn remove(client: Client, namespace: &str) {
    Api::<Namespace>::all(client).delete(namespace, &DeleteParams::default()).await.unwrap();
}

fn config_map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

/// Events until one that `wanted` maps to something.
async fn until<R>(
    events: &mut mpsc::Receiver<Event<Value>>,
    wanted: impl Fn(&Event<Value>) -> Option<R>,
) -> R {
    let wait = async {
        loop {
            let event = events.recv().await.expect("the loop ended");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    timeout(Duration::from_secs(10), wait).await.expect("the event did not come in 10 s")
}

#[tokio::test]
#[ignore = "needs an API server"]
async fn lists_in_pages_watches_and_answers_a_poke() {
    let client = selvedge_operator::client::connect().await.unwrap();
    let namespace = namespace(&client).await;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    for name in ["a", "refused"] {
        api.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let target = Target::new(&ApiResource::erase::<ConfigMap>(&()), Some(&namespace));
    let decode = |object: Value| {
        if object["metadata"]["name"] == "refused" { Err("refused by the test") } else { Ok(object) }
    };
    let list_watch = ListWatch::new(client.clone(), target, decode);
    let poke = list_watch.poke();
    let (out, mut events) = mpsc::channel(16);
    let token = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(list_watch.run(out, token.clone()));

    let listed = until(&mut events, |event| match event {
        Event::Listed { revision, objects, undecodable, .. } => {
            assert!(objects.iter().all(|object| object["metadata"].get("managedFields").is_none()));
            assert!(objects.iter().any(|object| object["metadata"]["name"] == "a"));
            assert_eq!(undecodable.len(), 1);
            assert_eq!(undecodable[0].name, "refused");
            Some(*revision)
        }
        _ => None,
    })
    .await;

    let made = api.create(&PostParams::default(), &config_map("b")).await.unwrap();
    let made: u64 = made.resource_version().unwrap().parse().unwrap();
    assert!(made > listed);
    until(&mut events, |event| {
        matches!(event, Event::Applied { revision, .. } if *revision == made).then_some(())
    })
    .await;

    // The revision moves on elsewhere; this kind in this namespace is quiet.
    let spaces = Api::<Namespace>::all(client.clone());
    let label = Patch::Merge(json!({"metadata": {"labels": {"test": "x"}}}));
    let moved = spaces.patch(&namespace, &PatchParams::default(), &label).await.unwrap();
    let moved: u64 = moved.resource_version().unwrap().parse().unwrap();
    poke.poke();
    until(&mut events, |event| {
        matches!(event, Event::Bookmark { revision } if *revision >= moved).then_some(())
    })
    .await;

    // The last change anywhere is one of this kind in another namespace: no bookmark says so.
    let other = Api::<ConfigMap>::namespaced(client.clone(), "default");
    let moved = other.create(&PostParams::default(), &config_map(&namespace)).await.unwrap();
    let moved: u64 = moved.resource_version().unwrap().parse().unwrap();
    other.delete(&namespace, &DeleteParams::default()).await.unwrap();
    poke.poke();
    until(&mut events, |event| {
        use Event::{Bookmark, Listed};
        matches!(event, Bookmark { revision } | Listed { revision, .. } if *revision >= moved).then_some(())
    })
    .await;

    api.delete("b", &DeleteParams::default()).await.unwrap();
    until(&mut events, |event| match event {
        Event::Deleted { object, .. } => (object["metadata"]["name"] == "b").then_some(()),
        _ => None,
    })
    .await;
    token.cancel();
    tasks.join_all().await;
    remove(client, &namespace).await;
}

#[tokio::test]
#[ignore = "needs an API server"]
async fn a_lease_is_handed_over_at_once_and_taking_it_away_ends_the_leader() {
    let client = selvedge_operator::client::connect().await.unwrap();
    let namespace = namespace(&client).await;
    let api: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let election = |identity: &str| Election {
        namespace: namespace.clone(),
        name: "test".into(),
        identity: identity.into(),
        annotations: [("selvedge.dev/address".to_owned(), identity.to_owned())].into(),
    };
    let mut tasks = JoinSet::new();
    let mut start = |identity: &str| {
        let (leads, led) = oneshot::channel();
        let token = CancellationToken::new();
        let work = {
            let token = token.clone();
            move || async move {
                let _ = leads.send(());
                token.cancelled().await;
                Ok(())
            }
        };
        tasks.spawn(lead(client.clone(), election(identity), token.clone(), work));
        (led, token)
    };
    let (first_leads, first) = start("first");
    timeout(Duration::from_secs(5), first_leads).await.expect("the free Lease was not taken").unwrap();
    let (second_leads, _second) = start("second");
    first.cancel();
    timeout(Duration::from_secs(10), second_leads).await.expect("the Lease was not given back").unwrap();
    assert!(matches!(tasks.join_next().await, Some(Ok(Ok(())))));
    let lease = api.get("test").await.unwrap();
    assert_eq!(lease.annotations()["selvedge.dev/address"], "second");

    let theft = Patch::Merge(json!({"spec": {"holderIdentity": "thief"}}));
    api.patch("test", &PatchParams::default(), &theft).await.unwrap();
    let ended =
        timeout(Duration::from_secs(10), tasks.join_next()).await.expect("the leader goes on").unwrap();
    assert!(matches!(ended, Ok(Err(LeaseError::Taken { holder, .. })) if holder == "thief"));
    remove(client, &namespace).await;
}
