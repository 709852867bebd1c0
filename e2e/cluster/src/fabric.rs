//! The network between this machine, the control host and the edge hosts: a bridge in a host of its own,
//! so that this machine's network gets one interface with one address and nothing else: no bridge, no
//! route beyond the subnet, no packet filter rule.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::command::{CommandError, command, run, succeeds};
use crate::host::{Host, HostError};
use crate::layout::Layout;

/// The name of the host that has the bridge and nothing else.
pub const FABRIC: &str = "fabric";
/// The interface by which a host reaches the others.
pub const INTERFACE: &str = "eth0";

#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("cannot set up the cluster's network")]
    Command(#[from] CommandError),
    #[error("cannot let this machine forward packets to the cluster that SELVEDGE_KUBECONFIG names")]
    Forwarding(#[source] std::io::Error),
    #[error("no free subnet: all of 198.18.0.0/15 has routes on this machine already (`ip route`)")]
    NoSubnet,
}

/// One /24 of 198.18.0.0/15, which RFC 2544 reserves for tests on isolated networks: no real network that
/// this machine may be in uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet(u16);

impl Subnet {
    const COUNT: u16 = 512;

    /// The first free one from a start that differs by cluster. `routes` is the text of `ip route`.
    pub fn choose(id: &str, routes: &str) -> Option<Self> {
        let start = u16::from_str_radix(id.get(..4)?, 16).ok()? % Self::COUNT;
        let free = |subnet: &Self| {
            let prefix = subnet.prefix();
            !routes.split_whitespace().any(|word| word.starts_with(&prefix))
        };
        (0..Self::COUNT).map(|step| Self((start + step) % Self::COUNT)).find(free)
    }

    fn prefix(self) -> String {
        format!("198.{}.{}.", 18 + self.0 / 256, self.0 % 256)
    }

    /// The address of a member. This machine is 1, the control host 2, edge hosts count from 10.
    pub fn address(self, member: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, (18 + self.0 / 256) as u8, (self.0 % 256) as u8, member)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/24", self.address(0))
    }
}

/// The fabric of one cluster.
pub struct Fabric {
    layout: Layout,
    subnet: Subnet,
    host: Host,
}

impl Fabric {
    pub fn new(layout: &Layout, subnet: Subnet) -> Self {
        Self { layout: layout.clone(), subnet, host: Host::new(layout, FABRIC) }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes the bridge and this machine's link to it, as far as they are missing.
    pub fn ensure(&self, pause: &Path) -> Result<(), FabricError> {
        self.host.power_on(pause)?;
        if !self.has_link("br0")? {
            self.host.run("ip", ["link", "add", "br0", "type", "bridge"])?;
        }
        self.host.run("ip", ["link", "set", "br0", "up"])?;
        let uplink = self.layout.uplink();
        if !self.has_link("p1")? {
            // A link without its other end is one whose fabric died a moment ago.
            succeeds(&mut command("ip", ["link", "del", &uplink]));
            let fabric = self.host.init()?.pid.to_string();
            run(&mut command(
                "ip",
                ["link", "add", &uplink, "type", "veth", "peer", "name", "p1", "netns", &fabric],
            ))?;
        }
        self.plug("p1")?;
        let address = format!("{}/24", self.subnet.address(1));
        run(&mut command("ip", ["addr", "replace", &address, "dev", &uplink]))?;
        run(&mut command("ip", ["link", "set", &uplink, "up"]))?;
        Ok(())
    }

    /// Connects a running host under its address, unless it is connected.
    pub fn attach(&self, host: &Host, member: u8) -> Result<(), FabricError> {
        let port = format!("p{member}");
        let connected = succeeds(host.enter("ip")?.args(["link", "show", INTERFACE]));
        if !(connected && self.has_link(&port)?) {
            // A port whose other end died a moment ago may still be there.
            succeeds(self.host.enter("ip")?.args(["link", "del", &port]));
            let (inside, fabric) = (host.init()?.pid.to_string(), self.host.init()?.pid.to_string());
            // The same hardware address after a power loss, as real machines have it: else the others
            // would send to the old one until their tables time out.
            let hardware = format!("02:00:00:00:00:{member:02x}");
            let end = ["link", "add", INTERFACE, "address", &hardware, "netns", &inside];
            let other = ["type", "veth", "peer", "name", &port, "netns", &fabric];
            run(&mut command("ip", end.iter().chain(&other)))?;
        }
        self.plug(&port)?;
        let address = format!("{}/24", self.subnet.address(member));
        host.run("ip", ["addr", "replace", &address, "dev", INTERFACE])?;
        host.run("ip", ["link", "set", INTERFACE, "up"])?;
        Ok(())
    }

    /// Lets the hosts reach what this machine reaches, for a cluster that is not ours: the one mode that
    /// changes more of this machine's network than one interface. [`Fabric::close`] takes it back, but for
    /// forwarding, which may have come to be used by others meanwhile.
    pub fn open(&self) -> Result<(), FabricError> {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(FabricError::Forwarding)?;
        if !succeeds(&mut self.masquerade("-C")) {
            run(&mut self.masquerade("-A"))?;
        }
        Ok(())
    }

    /// Takes back the rule of [`Fabric::open`].
    pub fn close(&self) {
        while succeeds(&mut self.masquerade("-D")) {}
    }

    fn masquerade(&self, what: &str) -> std::process::Command {
        let subnet = self.subnet.to_string();
        let args = [
            "--wait",
            "-t",
            "nat",
            what,
            "POSTROUTING",
            "-s",
            &subnet,
            "!",
            "-d",
            &subnet,
            "-j",
            "MASQUERADE",
        ];
        command("iptables", args)
    }

    /// Sends a host's other traffic to this machine.
    pub fn route_out(&self, host: &Host) -> Result<(), FabricError> {
        let gateway = self.subnet.address(1).to_string();
        host.run("ip", ["route", "replace", "default", "via", &gateway])?;
        Ok(())
    }

    /// Limits what flows towards a host, or lifts the limit.
    pub fn shape(&self, member: u8, kbit: Option<u32>) -> Result<(), FabricError> {
        shape(&self.host, &format!("p{member}"), kbit)
    }

    fn has_link(&self, link: &str) -> Result<bool, FabricError> {
        Ok(succeeds(self.host.enter("ip")?.args(["link", "show", link])))
    }

    fn plug(&self, port: &str) -> Result<(), FabricError> {
        self.host.run("ip", ["link", "set", port, "master", "br0"])?;
        self.host.run("ip", ["link", "set", port, "up"])?;
        Ok(())
    }
}

/// Limits what leaves `host` by `link` with a token bucket, or lifts the limit.
pub fn shape(host: &Host, link: &str, kbit: Option<u32>) -> Result<(), FabricError> {
    match kbit {
        Some(kbit) => {
            let rate = format!("{kbit}kbit");
            // The burst must hold one frame; the queue holds what a modem would, 400 ms of it.
            let args = [
                "qdisc", "replace", "dev", link, "root", "tbf", "rate", &rate, "burst", "16kb", "latency",
                "400ms",
            ];
            host.run("tc", args)?;
        }
        None => {
            let _there_was_no_limit = succeeds(host.enter("tc")?.args(["qdisc", "del", "dev", link, "root"]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_subnet_is_passed_over_and_none_left_is_said() {
        let first = Subnet::choose("00ff12", "default via 192.0.2.1 dev eth0").unwrap();
        assert_eq!(first.address(2), Ipv4Addr::new(198, 18, 255, 2));
        let next = Subnet::choose("00ff12", "198.18.255.0/24 dev sv-abc scope link").unwrap();
        assert_eq!(next.address(2), Ipv4Addr::new(198, 19, 0, 2));
        let all: String = (0..512).map(|n| format!("{}0/24 dev x\n", Subnet(n).prefix())).collect();
        assert_eq!(Subnet::choose("00ff12", &all), None);
    }
}
