//! `selvedge_edgenode_controller_…` beyond what every controller counts: sessions and their replicas.

use std::sync::Weak;

use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::sessions::{Sessions, Switchboard};

/// Asks the sessions when it is scraped.
struct SessionMetrics {
    connected: IntGauge,
    joined: IntGauge,
    replicas: IntGauge,
    switchboard: Weak<Switchboard>,
}

/// The metrics of `switchboard`.
///
/// # Errors
/// Never: their names are names.
pub fn collector(switchboard: Weak<Switchboard>) -> Result<Box<dyn Collector>, prometheus::Error> {
    let gauge = |name: &str, help: &str| IntGauge::new(format!("selvedge_edgenode_controller_{name}"), help);
    Ok(Box::new(SessionMetrics {
        connected: gauge("nodes_connected", "EdgeNodes with a session at some hub replica.")?,
        joined: gauge("nodes_joined", "EdgeNodes that a machine has joined.")?,
        replicas: gauge("hub_replicas", "Hub replicas with a stream to this controller.")?,
        switchboard,
    }))
}

impl Collector for SessionMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [&self.connected, &self.joined, &self.replicas].into_iter().flat_map(|gauge| gauge.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(switchboard) = self.switchboard.upgrade() {
            let (connected, joined) = switchboard.look(Sessions::connected);
            let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            self.connected.set(number(connected));
            self.joined.set(number(joined));
            self.replicas.set(number(switchboard.look(Sessions::replicas)));
        }
        [&self.connected, &self.joined, &self.replicas]
            .into_iter()
            .flat_map(|gauge| gauge.collect())
            .collect()
    }
}
