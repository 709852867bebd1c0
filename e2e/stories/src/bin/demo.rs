//! The main job, from nothing: a control plane, Selvedge by `helm install`, an edge node by its join
//! command, an application and a device on it, a refusal, and Prometheus. Says what it does as it goes.
//!
//! In: the checkout that it was built from. Out: `.dev/`, a running cluster, and tables on stdout. Run it
//! twice and the second time finds everything in place.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use selvedge_cluster::EdgeHost;
use selvedge_cluster::clock::Deadline;
use selvedge_cluster::modbus::{ModbusServer, Table};
use selvedge_stories::{Installed, Outcome, Prometheus, World, chain, eventually, expect};

/// What the demo's edge node is called, in `examples/` too.
const NODE: &str = "shop-0042";
/// Where `examples/` says that the boiler's Modbus server listens.
const MODBUS_PORT: u16 = 502;
/// What the demo waits for takes seconds; this is for a machine that also does something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// From an empty machine to a device in kubectl.
#[derive(Parser)]
struct Args {
    /// Bring up cluster, chart and edge host, and stop there.
    #[arg(long)]
    only_up: bool,
    /// Where everything that is started keeps its files.
    #[arg(long, default_value = ".dev")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match tell(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn tell(args: &Args) -> Outcome {
    let started = Deadline::after(Duration::MAX);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    step("A Kubernetes control plane and Selvedge's images (the first time, this builds both)");
    let world = World::up(&args.dir, &repository, false)?;

    if world.cluster.is_external() {
        println!("{}", own_cluster(&world.layout().images()));
    }
    step("helm install selvedge charts/selvedge");
    world.install(Installed { chart: &world.file("charts/selvedge"), words: &[] })?;
    show(&world, &["-n", "selvedge-system", "get", "pods"])?;

    step("kubectl apply -f examples/");
    print!("{}", world.apply("examples/")?);
    world.tools.kubectl(&["config", "set-context", "--current", "--namespace=shop"])?;

    step("An edge host: its own network, containerd, and a boiler's Modbus server");
    let host = world.cluster.create_edge(NODE)?;
    let boiler = ModbusServer::start(&host, world.cluster.cache(), MODBUS_PORT)?;
    if args.only_up {
        return Ok(());
    }
    join(&world, &host)?;

    step("The application runs, the device reports");
    world.wait_condition(&["edgeapplication", "hello", "-n", "shop"], "Ready", "True", PATIENCE)?;
    world.wait_condition(&["device", "boiler-1", "-n", "shop"], "Synced", "True", PATIENCE)?;

    refuse_and_accept(&world, &boiler)?;
    // Ours runs on the control host, where pods have routes; a cluster that exists has one of its own, or none.
    if !world.cluster.is_external() {
        scrape(&world)?;
    }

    step("What there is now");
    for kind in ["edgenodes", "edgeapplications", "devices"] {
        show(&world, &["get", kind])?;
        println!();
    }
    println!("The demo took {} s. Next:", started.elapsed().as_secs());
    print!("{NEXT}");
    Ok(())
}

/// What a cluster that is not ours needs to have.
fn own_cluster(images: &Path) -> String {
    format!(
        "This cluster's nodes must have Selvedge's images. They are in {}/*.tar:\n  \
         on each node   ctr --namespace k8s.io images import <archive>\n  \
         with kind      kind load image-archive <archive>",
        images.display()
    )
}

/// Joins once; a host that has joined before only gets its agent started.
fn join(world: &World, host: &EdgeHost) -> Outcome {
    step("The edge node joins with the command from its Secret");
    if host.disk().join("var-lib/selvedge/identity.json").exists() {
        world.start_agent(host)?;
    } else {
        world.join(host, NODE)?;
    }
    world.wait_condition(&["edgenode", NODE], "Ready", "True", PATIENCE)?;
    show(world, &["get", "edgenodes"])
}

/// A value out of range is refused with the reason; one in range reaches the register.
fn refuse_and_accept(world: &World, boiler: &ModbusServer) -> Outcome {
    let patch = |value: u16| format!(r#"{{"spec":{{"desired":{{"setpoint":{value}}}}}}}"#);
    step("kubectl patch device boiler-1 … setpoint: 500");
    let desire = |value| {
        let patch = patch(value);
        world.tools.kubectl(&["-n", "shop", "patch", "device", "boiler-1", "--type", "merge", "-p", &patch])
    };
    match desire(500) {
        Ok(said) => expect("a setpoint of 500 is refused", false, said)?,
        Err(refusal) => println!("{refusal}"),
    }
    step("kubectl patch device boiler-1 … setpoint: 60");
    let before = boiler.get(Table::Holding, 0)?;
    print!("{}", desire(60)?);
    let after = eventually("the setpoint is in the register", PATIENCE, || {
        let found = boiler.get(Table::Holding, 0).map_err(|error| error.to_string())?;
        if found == 60 { Ok(found) } else { Err(format!("holding register 0 is {found}")) }
    })?;
    println!("holding register 0 of the Modbus server: {before} → {after}");
    world.wait_condition(&["device", "boiler-1", "-n", "shop"], "Synced", "True", PATIENCE)?;
    Ok(())
}

/// Every component is scraped, and one session is counted.
fn scrape(world: &World) -> Outcome {
    step("Prometheus scrapes all of it");
    let prometheus = Prometheus::start(world)?;
    let (up, sessions) = eventually("Prometheus sees every component and one session", PATIENCE, || {
        let all = prometheus.discover().map_err(|error| error.to_string())?;
        let up = prometheus.number("count(up == 1)")?;
        let sessions = prometheus.number("sum(selvedge_hub_sessions)")?;
        if up == all as f64 && sessions == 1.0 {
            Ok((up, sessions))
        } else {
            Err(format!("{up} of {all} up, {sessions} sessions"))
        }
    })?;
    println!("up == 1 for {up} pods; sum(selvedge_hub_sessions) == {sessions}");
    Ok(())
}

fn step(what: &str) {
    println!("\n▸ {what}");
}

/// A command's own output, after the command.
fn show(world: &World, words: &[&str]) -> Outcome {
    println!("$ kubectl {}", words.join(" "));
    print!("{}", world.tools.kubectl(words)?);
    Ok(())
}

const NEXT: &str = "
  export KUBECONFIG=$PWD/.dev/kubeconfig PATH=$PWD/.dev/bin:$PATH
  kubectl get devices --watch                                # values as they change
  kubectl patch device boiler-1 --type merge -p '{\"spec\":{\"desired\":{\"setpoint\":70}}}'
  kubectl describe edgenode shop-0042                        # what is there, and why not
  kubectl -n selvedge-system scale deploy/selvedge-hub --replicas=0   # the edge goes on without a cloud
  make down                                                  # all of it gone
";
