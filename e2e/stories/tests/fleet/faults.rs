//! What dies comes back, and while it is away changes go on: nothing is lost, nothing older is applied, and all
//! are in sync again.

use std::time::Duration;

use selvedge_cluster::clock::{Deadline, wait_for};
use selvedge_cluster::process::{self, Identity};
use selvedge_cluster::{ClusterError, UpOptions};
use selvedge_stories::{Outcome, StoryError, World, eventually, expect};
use serde_json::Value;

use crate::Stage;
use crate::load::Since;
use crate::standing::until_well;

const NAMESPACE: &str = "selvedge-system";
/// Changes around each fault: five faults make a thousand.
const CHANGES: usize = 210;
/// Changes a second: as many as fit into half a minute, in which everything that dies is back.
const RATE: usize = 7;
/// Longer than two heartbeats, so that both sides must find out by themselves.
const CUT: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);

pub fn a_hub_is_killed(stage: &mut Stage) -> Outcome {
    through(stage, "templates", |world| {
        let [hub, ..] = &pods(world, "selvedge-hub")?[..] else { return none("pod of the hub") };
        kill(hub, "selvedge-hub")
    })
}

pub fn the_api_server_is_killed(stage: &mut Stage) -> Outcome {
    through(stage, "maps", |world| {
        world.cluster.kill("kube-apiserver")?;
        up(world)
    })
}

pub fn the_leaders_are_killed(stage: &mut Stage) -> Outcome {
    through(stage, "templates", |world| {
        let leases = world.tools.kubectl(&["-n", NAMESPACE, "get", "leases", "-o", "json"])?;
        let leases: Value = serde_json::from_str(&leases).unwrap_or_default();
        let mut killed = Vec::new();
        for lease in leases["items"].as_array().into_iter().flatten() {
            let name = lease["metadata"]["name"].as_str().unwrap_or_default();
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            let Some(leader) = pods(world, name)?.into_iter().find(|pod| holder.starts_with(&pod.name))
            else {
                continue;
            };
            kill(&leader, name)?;
            killed.push(name.to_owned());
        }
        expect(
            "each of the four controllers had a leader",
            killed.len() == 4,
            format!("{killed:?}: {leases:#}"),
        )
    })
}

pub fn etcd_is_killed(stage: &mut Stage) -> Outcome {
    through(stage, "maps", |world| {
        world.cluster.kill("etcd")?;
        up(world)
    })
}

pub fn packets_to_one_hub_are_dropped(stage: &mut Stage) -> Outcome {
    through(stage, "templates", |world| {
        let [hub, ..] = &pods(world, "selvedge-hub")?[..] else { return none("pod of the hub") };
        // What agents send is for the pod once the node's port was translated, and comes from it before it is
        // translated back. What it says to the API server never is forwarded.
        let rules = [["-i", "eth0", "-d", &hub.address], ["-o", "eth0", "-s", &hub.address]];
        for rule in &rules {
            netfilter(world, "-I", rule)?;
        }
        // As long as the fault lasts; nothing is waited for.
        let _over = wait_for(Deadline::after(CUT), || None::<()>);
        rules.iter().try_for_each(|rule| netfilter(world, "-D", rule))
    })
}

/// Brings up what was killed, as a supervisor would.
pub fn up(world: &World) -> Outcome {
    Ok(world.cluster.up(&UpOptions { durable: true, ..UpOptions::default() })?)
}

/// Changes, a fault in the midst of them, and rest: says how long it took.
fn through(stage: &mut Stage, what: &str, fault: impl FnOnce(&World) -> Outcome) -> Outcome {
    stage.load.ask("mark")?;
    stage.load.change(CHANGES, RATE, what)?;
    let clock = Deadline::after(Duration::MAX);
    fault(&stage.world)?;
    let over = clock.elapsed();
    let since = stage.load.rest()?;
    let rested = clock.elapsed();
    until_well(stage)?;
    let (over, rested, told) = (over.as_secs_f64(), rested.as_secs_f64(), clock.elapsed().as_secs_f64());
    let Since { rest, fewest, back, .. } = since;
    eprintln!(
        "   the fault was over after {over:.1} s; {fewest} of {} sessions never broke off",
        stage.agents
    );
    eprintln!("   the last session was back after {back:.1} s; at rest {rest:.1} s after the last change");
    eprintln!("   at rest {rested:.1} s after the fault began; the API says so after {told:.1} s");
    Ok(())
}

struct Pod {
    name: String,
    uid: String,
    address: String,
}

/// Pods of one component that run.
fn pods(world: &World, component: &str) -> Outcome<Vec<Pod>> {
    let selector = format!("app.kubernetes.io/component={component}");
    let found = eventually(&format!("pods of {component}"), PATIENCE, || {
        let words = ["pods", "-n", NAMESPACE, "-l", &selector, "--field-selector=status.phase=Running"];
        world.tools.object(&words).ok_or("no answer".to_owned())
    })?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pod = |pod: &Value| Pod {
        name: text(&pod["metadata"]["name"]),
        uid: text(&pod["metadata"]["uid"]),
        address: text(&pod["status"]["podIP"]),
    };
    Ok(found["items"].as_array().into_iter().flatten().map(pod).collect())
}

/// `SIGKILL` to a program in a pod; its kubelet starts it again.
fn kill(pod: &Pod, program: &str) -> Outcome {
    // Every container knows where the API server is; its control group names its pod.
    let containers = process::bearing("KUBERNETES_SERVICE_PORT=443");
    let ours = |pid: &u32| {
        let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let word = process::words(*pid).into_iter().next().unwrap_or_default();
        group.contains(&pod.uid) && word.ends_with(program)
    };
    let Some(victim) = containers.into_iter().find(ours).and_then(Identity::of) else {
        return none(&format!("process of {program} in pod {}", pod.name));
    };
    victim.kill();
    let gone = || (!victim.alive()).then_some(());
    let gone = wait_for(Deadline::after(PATIENCE), gone).is_some();
    expect(&format!("{program} in pod {} is dead", pod.name), gone, victim.pid)
}

fn netfilter(world: &World, what: &str, rule: &[&str]) -> Outcome {
    let mut command = world.cluster.command("iptables")?;
    command.args(["--wait", "-t", "mangle", what, "FORWARD"]).args(rule).args(["-j", "DROP"]);
    selvedge_cluster::command::run(&mut command).map_err(ClusterError::Routes)?;
    Ok(())
}

fn none(what: &str) -> Outcome {
    Err(StoryError::Unexpected { what: format!("there is a {what}"), found: "none".into() })
}
