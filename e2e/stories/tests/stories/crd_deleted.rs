//! `kubectl delete crd` by accident: the objects are gone, what runs at the edge is not.

use std::time::Duration;

use selvedge_stories::{Installed, Outcome, World, expect};

use crate::NODE;
use crate::application::page;

/// A watch that found no CRD tries again within 30 s, with jitter; then the usual seconds.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn nothing_stops(world: &World) -> Outcome {
    let host = world.cluster.edge(NODE)?;
    let started = page(&host, "started", |_| true)?;
    world.tools.kubectl(&["delete", "crd", "edgeapplications.selvedge.dev", "--timeout=60s"])?;
    // A node that says so has looked at the removal and held it.
    world.wait_condition(&["edgenode", NODE], "Synced", "False", PATIENCE)?;
    expect("the container runs on", page(&host, "started", |_| true)? == started, &started)?;

    world.install(Installed { chart: &world.file("charts/selvedge"), words: &[] })?;
    world.tools.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd/edgeapplications.selvedge.dev",
        "--timeout=30s",
    ])?;
    world.apply("examples/")?;
    world.wait_condition(&["edgeapplication", "hello", "-n", "shop"], "Ready", "True", PATIENCE)?;
    world.wait_condition(&["edgenode", NODE], "Synced", "True", PATIENCE)?;
    expect("it was never restarted", page(&host, "started", |_| true)? == started, started)
}
