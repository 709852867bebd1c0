//! What there is: sandboxes and containers as the runtime lists them, volumes as they lie on disk.

use std::{collections::HashMap, path::Path};

use super::{
    cri::{ContainerState, Cri, CriError, Details},
    logs,
    plan::{Found, FoundContainer, FoundSandbox, Observed},
    volumes::Disk,
};

/// When containers started and how they ended. Kept, because it never changes for one container in one
/// state, and asking for each costs a call.
#[derive(Default)]
pub(super) struct Known(HashMap<String, (ContainerState, Details, String)>);

/// Looks at everything that is ours.
///
/// # Errors
/// [`CriError`] when the runtime does not answer; then nothing is known.
pub(super) async fn observe<C: Cri>(cri: &C, disk: &Disk, known: &mut Known) -> Result<Observed, CriError> {
    let sandboxes = cri.sandboxes().await?;
    let containers = cri.containers().await?;
    let mut observed = Observed::new();
    let mut place = HashMap::new();
    for sandbox in sandboxes {
        place.insert(sandbox.id.clone(), sandbox.key.clone());
        let found: &mut Found = observed.entry(sandbox.key.clone()).or_default();
        found.sandboxes.push(FoundSandbox { sandbox, containers: Vec::new() });
    }
    let mut still = Known::default();
    for container in containers {
        let home = place.get(&container.sandbox).and_then(|key| observed.get_mut(key));
        let Some(found) = home else { continue };
        let remembered = known.0.remove(&container.id).filter(|(state, ..)| *state == container.state);
        let entry = match (remembered, container.state) {
            (Some(entry), _) => Some(entry),
            (None, ContainerState::Created | ContainerState::Unknown) => None,
            (None, state) => cri.details(&container.id).await?.map(|details| {
                let ended = state == ContainerState::Exited;
                let line = if ended { logs::last_line(Path::new(&details.log_path)) } else { String::new() };
                (state, details, line)
            }),
        };
        let (details, last_line) = match &entry {
            Some((_, details, line)) => (Some(details.clone()), line.clone()),
            None => (None, String::new()),
        };
        if let Some(entry) = entry {
            still.0.insert(container.id.clone(), entry);
        }
        if let Some(sandbox) = found.sandboxes.iter_mut().find(|s| s.sandbox.id == container.sandbox) {
            sandbox.containers.push(FoundContainer { container, details, last_line });
        }
    }
    *known = still;
    for key in disk.workloads() {
        let volumes = disk.contents(&key);
        let found = observed.entry(key).or_default();
        found.volumes = volumes;
        found.on_disk = true;
    }
    for found in observed.values_mut() {
        found.sandboxes.sort_by_key(|found| std::cmp::Reverse(found.sandbox.created_at));
        for sandbox in &mut found.sandboxes {
            sandbox.containers.sort_by(|a, b| a.container.name.cmp(&b.container.name));
        }
    }
    Ok(observed)
}
