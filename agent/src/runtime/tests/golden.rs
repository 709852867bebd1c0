//! Renders a plan and a state for every case of `testdata/plans.yaml` and compares them with
//! `testdata/plans.txt`. `UPDATE_GOLDENS=1 cargo test -p selvedge-agent` writes the latter.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use selvedge_model::{
    ConfigMapEntry, ContentHash, EntryKey, Reference, ReferenceKind, SecretEntry, WorkloadEntry,
    pod::{PodMetadata, PodSpec, PodTemplate},
};
use selvedge_protocol::agent::Phase;
use serde::Deserialize;

use crate::runtime::{
    DesiredWorkload, Referenced,
    cri::{Container, ContainerNotes, ContainerState, Details, Sandbox, WorkloadKey},
    desired,
    fields::{ContainerFields, SandboxFields, content},
    plan::{Desired, Found, FoundContainer, FoundSandbox, Observed, plan},
    state::state,
    volumes::{Place, VolumeId},
};

const NOW_MS: i64 = 1_700_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    case: String,
    #[serde(default)]
    desired: Vec<Wanted>,
    #[serde(default)]
    observed: Vec<Seen>,
    #[serde(default)]
    keep_unknown: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Wanted {
    key: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    spec: PodSpec,
    #[serde(default)]
    config_maps: BTreeMap<String, ConfigMapEntry>,
    #[serde(default)]
    secrets: BTreeMap<String, SecretEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Seen {
    key: String,
    #[serde(default)]
    sandboxes: Vec<SeenSandbox>,
    #[serde(default)]
    volumes: BTreeMap<String, String>,
    #[serde(default)]
    on_disk: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SeenSandbox {
    id: String,
    #[serde(default = "yes")]
    ready: bool,
    #[serde(default)]
    attempt: u32,
    from: PodSpec,
    containers: Vec<SeenContainer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SeenContainer {
    id: String,
    name: String,
    state: ContainerState,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    streak: u32,
    #[serde(default)]
    grace: u64,
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    ended_ago: i64,
    #[serde(default)]
    ran: i64,
    #[serde(default)]
    last_line: String,
    /// The content label, when it is not that of the fields.
    content: Option<String>,
}

fn yes() -> bool {
    true
}

fn key(text: &str) -> WorkloadKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    WorkloadKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

impl Wanted {
    pub(super) fn entry(self) -> DesiredWorkload {
        let WorkloadKey { namespace, name } = key(&self.key);
        // Stands in for the versions of ConfigMaps and Secrets, which are part of the real hash.
        let values = serde_json::to_value((&self.config_maps, &self.secrets)).unwrap();
        let maps = self
            .config_maps
            .into_iter()
            .map(|(name, map)| (ReferenceKind::ConfigMap, name, Referenced::ConfigMap(Arc::new(map))));
        let secrets = self
            .secrets
            .into_iter()
            .map(|(name, secret)| (ReferenceKind::Secret, name, Referenced::Secret(Arc::new(secret))));
        let named: Vec<_> = maps.chain(secrets).collect();
        let references = named.iter().map(|(kind, name, _)| Reference {
            kind: kind.name().into(),
            name: name.clone(),
            version: "1".into(),
        });
        let entry = WorkloadEntry {
            revision: "r1".into(),
            references: references.collect(),
            template: PodTemplate {
                metadata: PodMetadata { labels: self.labels, ..PodMetadata::default() },
                spec: self.spec,
            },
        };
        let references = named.into_iter().map(|(kind, name, data)| {
            let version = "1".to_owned();
            (EntryKey { version, ..EntryKey::new(kind.entry(), &namespace, &name) }, data)
        });
        let references = references.collect();
        DesiredWorkload {
            namespace,
            name,
            uid: self.uid,
            content_hash: ContentHash::of(&serde_json::to_value((&entry, values)).unwrap()),
            entry: Arc::new(entry),
            references,
        }
    }
}

impl SeenSandbox {
    fn found(self, key: &WorkloadKey) -> FoundSandbox {
        let containers = self.containers.into_iter().map(|seen| {
            let spec = self.from.containers.iter().find(|container| container.name == seen.name);
            let fields =
                spec.map(|container| ContainerFields::of(container, &self.from.volumes)).unwrap_or_default();
            let finished_ms =
                if seen.state == ContainerState::Exited { NOW_MS - seen.ended_ago * 1000 } else { 0 };
            FoundContainer {
                container: Container {
                    id: seen.id,
                    sandbox: self.id.clone(),
                    name: seen.name,
                    attempt: seen.attempt,
                    state: seen.state,
                    content: seen.content.unwrap_or_else(|| content(&fields)),
                    notes: Some(ContainerNotes { fields, streak: seen.streak, grace_seconds: seen.grace }),
                },
                details: Some(Details {
                    started_ms: finished_ms - seen.ran * 1000,
                    finished_ms,
                    exit_code: seen.exit_code,
                    reason: seen.reason,
                    ..Details::default()
                }),
                last_line: seen.last_line,
            }
        });
        FoundSandbox {
            containers: containers.collect(),
            sandbox: Sandbox {
                id: self.id.clone(),
                key: key.clone(),
                ready: self.ready,
                attempt: self.attempt,
                created_at: 0,
                fields: Some(SandboxFields::of(&self.from)),
            },
        }
    }
}

fn render(case: Case) -> String {
    let mut out = format!("# {}\n", case.case);
    let wanted: Desired = case
        .desired
        .into_iter()
        .map(|wanted| (key(&wanted.key), desired::resolve(&wanted.entry()).map(Arc::new)))
        .collect();
    let mut observed = Observed::new();
    for seen in case.observed {
        let key = key(&seen.key);
        let workload = wanted.get(&key).and_then(|resolved| resolved.as_ref().ok());
        let same = |volume: &VolumeId| Some(workload?.volumes.get(volume)?.as_ref().ok()?.content.clone());
        let volumes = seen.volumes.into_iter().map(|(name, content)| {
            let volume = match name.strip_suffix(" in memory") {
                Some(name) => VolumeId { place: Place::Memory, name: name.into() },
                None => VolumeId { place: Place::Disk, name },
            };
            let content = if content == "same" { same(&volume).unwrap_or_default() } else { content };
            (volume, content)
        });
        let found = Found {
            volumes: volumes.collect(),
            on_disk: seen.on_disk,
            sandboxes: seen.sandboxes.into_iter().map(|sandbox| sandbox.found(&key)).collect(),
        };
        observed.insert(key, found);
    }
    let plans = plan(&wanted, &observed, NOW_MS, case.keep_unknown);
    for (key, plan) in &plans {
        let _ = writeln!(out, "{key}");
        for step in &plan.steps {
            let _ = writeln!(out, "  {step}");
        }
        let Some(resolved) = wanted.get(key) else { continue };
        let found = observed.get(key).cloned().unwrap_or_default();
        let state = state(resolved.as_ref().map(Arc::as_ref), &found, plan, None, false);
        let phase = Phase::try_from(state.phase).unwrap();
        let words = [state.reason, state.message].into_iter().filter(|word| !word.is_empty());
        let words: Vec<_> = words.collect();
        let _ = writeln!(out, "  -> {phase:?}, restarts {} {}", state.restarts, words.join(": "));
    }
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn plans_are_as_written_down() {
    let cases: Vec<Case> = serde_yaml::from_str(include_str!("../testdata/plans.yaml")).unwrap();
    let names: BTreeSet<_> = cases.iter().map(|case| case.case.clone()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let rendered = cases.into_iter().map(render).collect::<Vec<_>>().join("\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/runtime/testdata/plans.txt");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    let differs = rendered.lines().zip(golden.lines()).position(|(new, old)| new != old);
    if let Some(at) =
        differs.or((rendered != golden).then(|| golden.lines().count().min(rendered.lines().count())))
    {
        let around =
            |text: &str| text.lines().skip(at.saturating_sub(4)).take(8).collect::<Vec<_>>().join("\n");
        let (old, new) = (around(&golden), around(&rendered));
        panic!(
            "plans changed at line {}; UPDATE_GOLDENS=1 writes them\n--- was\n{old}\n--- is\n{new}",
            at + 1
        );
    }
}
