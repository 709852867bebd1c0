//! A container runtime in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use crate::runtime::cri::{
    Container, ContainerConfig, ContainerState, Cri, CriError, Details, Identity, Sandbox, SandboxConfig,
};

/// What the fake holds. Tests look at it and change it.
#[derive(Default)]
pub(super) struct World {
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, (Container, Details)>,
    /// Environment of each container.
    pub(super) env: BTreeMap<String, Vec<(String, String)>>,
    /// Images that the node has, and that the registry has.
    pub(super) images: BTreeSet<String>,
    pub(super) registry: BTreeSet<String>,
    pub(super) away: bool,
    /// Pulls that never end.
    pub(super) slow_registry: bool,
    next: u32,
}

impl World {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    /// The containers that run, as `name attempt`.
    pub(super) fn running(&self) -> Vec<String> {
        let running = self.containers.values().map(|(container, _)| container);
        let running = running.filter(|container| container.state == ContainerState::Running);
        running.map(|container| format!("{} {}", container.name, container.attempt)).collect()
    }

    /// Ends every container with this code.
    pub(super) fn exit_all(&mut self, exit_code: i32) {
        for (container, details) in self.containers.values_mut() {
            container.state = ContainerState::Exited;
            details.exit_code = exit_code;
            details.finished_ms = details.started_ms + 1;
        }
    }
}

#[derive(Default)]
pub(super) struct Fake(pub(super) Mutex<World>);

impl Fake {
    pub(super) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn up(&self, call: &'static str) -> Result<std::sync::MutexGuard<'_, World>, CriError> {
        let world = self.world();
        if world.away {
            return Err(CriError::Unreachable { call, socket: "fake".into(), message: "away".into() });
        }
        Ok(world)
    }
}

fn refused<T>(call: &'static str, message: &str) -> Result<T, CriError> {
    Err(CriError::Refused { call, message: message.to_owned() })
}

impl Cri for std::sync::Arc<Fake> {
    async fn identify(&self) -> Result<Identity, CriError> {
        drop(self.up("Version")?);
        Ok(Identity { name_version: "fake://1".into(), cgroup_parent: "/selvedge" })
    }
    async fn sandboxes(&self) -> Result<Vec<Sandbox>, CriError> {
        Ok(self.up("ListPodSandbox")?.sandboxes.values().cloned().collect())
    }
    async fn containers(&self) -> Result<Vec<Container>, CriError> {
        Ok(self.up("ListContainers")?.containers.values().map(|(container, _)| container.clone()).collect())
    }
    async fn details(&self, container: &str) -> Result<Option<Details>, CriError> {
        Ok(self.up("ContainerStatus")?.containers.get(container).map(|(_, details)| details.clone()))
    }
    async fn image(&self, reference: &str) -> Result<Option<String>, CriError> {
        Ok(self.up("ImageStatus")?.images.get(reference).cloned())
    }
    async fn pull(&self, reference: &str) -> Result<String, CriError> {
        if self.up("PullImage")?.slow_registry {
            std::future::pending::<()>().await;
        }
        let mut world = self.up("PullImage")?;
        if !world.registry.contains(reference) {
            return refused("PullImage", "not found");
        }
        world.images.insert(reference.to_owned());
        Ok(reference.to_owned())
    }
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, CriError> {
        let mut world = self.up("RunPodSandbox")?;
        let id = world.id("s");
        let sandbox = Sandbox {
            id: id.clone(),
            key: config.key.clone(),
            ready: true,
            attempt: config.attempt,
            created_at: world.next.into(),
            fields: Some(config.fields.clone()),
        };
        world.sandboxes.insert(id.clone(), sandbox);
        Ok(id)
    }
    async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut world = self.up("RemovePodSandbox")?;
        world.sandboxes.remove(id);
        world.containers.retain(|_, (container, _)| container.sandbox != id);
        Ok(())
    }
    async fn create_container(
        &self,
        sandbox: &str,
        _: &SandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, CriError> {
        let mut world = self.up("CreateContainer")?;
        let taken = world.containers.values().any(|(other, _)| {
            other.sandbox == sandbox && other.name == config.name && other.attempt == config.attempt
        });
        if taken || !world.sandboxes.contains_key(sandbox) {
            return refused("CreateContainer", "name is reserved, or no such sandbox");
        }
        let id = world.id("c");
        let container = Container {
            id: id.clone(),
            sandbox: sandbox.to_owned(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            content: config.content.clone(),
            notes: Some(config.notes.clone()),
        };
        world.containers.insert(id.clone(), (container, Details::default()));
        world.env.insert(id.clone(), config.env.clone());
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let mut world = self.up("StartContainer")?;
        let Some((container, details)) = world.containers.get_mut(id) else {
            return refused("StartContainer", "no such container");
        };
        container.state = ContainerState::Running;
        details.started_ms = 1;
        Ok(())
    }
    async fn stop_container(&self, id: &str, _: Duration) -> Result<(), CriError> {
        if let Some((container, _)) = self.up("StopContainer")?.containers.get_mut(id) {
            container.state = ContainerState::Exited;
        }
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        self.up("RemoveContainer")?.containers.remove(id);
        Ok(())
    }
    async fn reopen_log(&self, _: &str) -> Result<(), CriError> {
        Ok(())
    }
}
