//! Prometheus, configured from the annotations that users get, sees every component.

use std::time::Duration;

use selvedge_stories::{Outcome, Prometheus, World, eventually};

pub fn prometheus_sees_every_component(world: &World) -> Outcome {
    let prometheus = Prometheus::start(world)?;
    eventually("eight pods are up and one session is counted", Duration::from_secs(60), || {
        prometheus.discover().map_err(|error| error.to_string())?;
        let up = prometheus.number("count(up{job=\"pods\"} == 1)")?;
        let all = prometheus.number("count(up{job=\"pods\"})")?;
        let sessions = prometheus.number("sum(selvedge_hub_sessions)")?;
        if up == 8.0 && all == 8.0 && sessions == 1.0 {
            Ok(())
        } else {
            Err(format!("{up} of {all} up, {sessions} sessions"))
        }
    })
}
