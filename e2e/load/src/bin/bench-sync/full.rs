//! A fleet of nodes with ten applications and ten devices each: what a session costs when nothing happens.
//!
//! In: the rig. Out: memory of a session, writes of a quiet fleet.

use std::time::Duration;

use selvedge_stories::Outcome;
use selvedge_stories::measure::Measure;
use tokio::time::{Instant, sleep};

use crate::load::{Load, Shape, size, writes};
use crate::rig::{Hub, Rig};

/// Long enough that one lease more or less changes nothing.
const QUIET: Duration = Duration::from_secs(60);

pub async fn measure(rig: &Rig, hub: &Hub, agents: u32, measures: &mut Vec<Measure>) -> Outcome {
    let shape = Shape { prefix: "full", agents, applications: 10, devices: 10 };
    let mut full = Load::prepare(rig, shape, &[&hub.endpoint]).await?;
    let agents = agents as usize;
    let mut sizes = Vec::new();
    for count in [agents / 4, agents / 2, agents] {
        full.grow(count).await?;
        full.quiet(rig, count).await?;
        sizes.push((count, hub.process.memory_kb()));
    }
    for (count, kilobytes) in &sizes {
        let name = format!("hub_memory_devices_mb_{}", size(*count));
        measures.push(Measure::single(&name, "MiB", kilobytes / 1024.0).at("hub_memory_devices_mb", *count));
    }
    let slope = slope(&sizes);
    measures.push(Measure::single("hub_idle_session_kb", "KiB", slope).target("<= 18", slope <= 18.0).note(
        &format!(
            "Pss_Anon of one hub, slope between {} and {agents} sessions, at rest; ten applications, ten devices a \
             node; all objects are in the index before the first session",
            agents / 4
        ),
    ));
    let before = writes(rig)?;
    let began = Instant::now();
    sleep(QUIET).await;
    let seconds = began.elapsed().as_secs_f64();
    let after = writes(rig)?;
    let all = (after.all - before.all) / seconds;
    let others = (after.without_leases - before.without_leases) / seconds;
    let name = format!("api_writes_per_s_{}_quiet", size(agents));
    measures.push(Measure::single(&name, "1/s", all).target("<= 2", all <= 2.0).note(&format!(
        "the API server's own count over {seconds:.0} s, with {agents} nodes of ten devices; {others:.2}/s of it are \
         not leases, which controllers and API server renew whatever the fleet's size"
    )));
    full.end().await;
    Ok(())
}

/// KiB a session, between the first size and the last.
pub fn slope(sizes: &[(usize, f64)]) -> f64 {
    match (sizes.first(), sizes.last()) {
        (Some(first), Some(last)) => (last.1 - first.1) / (last.0 as f64 - first.0 as f64),
        _ => f64::NAN,
    }
}
