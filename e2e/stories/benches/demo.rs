//! How fast and how small the demo's system is: the suite `demo`.
//!
//! In: a cluster as `make demo` brings it up, in a directory of its own. Out: `.dev/bench/demo.jsonl`, one
//! object a measure, and the same on stdout.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject, Patch, PatchParams, WatchEvent, WatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use selvedge_cluster::EdgeHost;
use selvedge_cluster::modbus::{ModbusServer, Table};
use selvedge_stories::measure::{self, Measure};
use selvedge_stories::{Installed, Outcome, StoryError, World, chain, condition, eventually};
use serde_json::json;

const NODE: &str = "shop-0042";
const PATIENCE: Duration = Duration::from_secs(60);
/// Patches, one at a time: enough for a p99 that is not the maximum of ten.
const ROUNDS: u16 = 100;

/// Measures what the demo shows.
#[derive(Parser)]
struct Args {
    /// Where the cluster under measurement keeps its files, in the checkout.
    #[arg(long, default_value = ".dev/bench/cluster")]
    dir: PathBuf,
    /// Where the results go, in the checkout.
    #[arg(long, default_value = ".dev/bench/demo.jsonl")]
    out: PathBuf,
    /// What `cargo bench` calls every benchmark with.
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(|source| StoryError::Io { what: "start a runtime".into(), source });
    match outcome.and_then(|runtime| run(&args, &runtime)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-demo: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, runtime: &tokio::runtime::Runtime) -> Outcome {
    // Not where cargo runs benchmarks, which is their package's directory.
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    let world = World::up(&repository.join(&args.dir), repository, true)?;
    let result = suite(&world, runtime);
    world.cluster.down()?;
    measure::write(&repository.join(&args.out), &result?)
}

fn suite(world: &World, runtime: &tokio::runtime::Runtime) -> Outcome<Vec<Measure>> {
    world.install(Installed { chart: &world.file("charts/selvedge"), words: &[] })?;
    world.apply("examples/")?;
    let host = world.cluster.create_edge(NODE)?;
    let boiler = ModbusServer::start(&host, world.cluster.cache(), 502)?;

    let begun = now();
    world.join(&host, NODE)?;
    eventually("the application runs", PATIENCE, || {
        let node = world.tools.object(&["edgenode", NODE]).ok_or("no EdgeNode")?;
        let running = node["status"]["summary"]["applications"] == "2/2";
        if running { Ok(()) } else { Err(node["status"].to_string()) }
    })?;
    let joined = begun.elapsed().as_secs_f64();
    eventually("the device is in sync", PATIENCE, || {
        let device = world.tools.object(&["device", "boiler-1", "-n", "shop"]).ok_or("no Device")?;
        if condition(&device, "Synced") == "True" { Ok(()) } else { Err(device["status"].to_string()) }
    })?;
    // As the targets are stated: read every 10 ms, report as soon as something changed.
    let quick = |name| json!({"name": name, "readInterval": "10ms", "reportInterval": "10ms", "deadband": 0});
    let wiring = json!({"spec": {"properties": [quick("temperature"), quick("setpoint")]}});
    world.tools.kubectl(&[
        "-n",
        "shop",
        "patch",
        "device",
        "boiler-1",
        "--type",
        "merge",
        "-p",
        &wiring.to_string(),
    ])?;

    let (down, up) = runtime.block_on(latencies(world, &boiler))?;
    let mut measures = vec![
        Measure::single("join_to_running_s", "s", joined)
            .target("<= 5", joined <= 5.0)
            .note("from the join command to both applications running; images present"),
    ];
    measures.extend(down);
    measures.push(up);
    measures.extend(sizes(world, &host)?);
    Ok(measures)
}

/// `desired_to_register_ms` with the bare watch beside it, and `register_to_watch_ms`.
async fn latencies(world: &World, boiler: &ModbusServer) -> Outcome<(Vec<Measure>, Measure)> {
    let devices = devices(world).await?;
    let (mut to_register, mut to_watch) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Up and down between two values, both in the model's range.
        let value = 40 + (round % 2) * 10 + round % 7;
        let mut watch = watch(&devices).await?;
        let patch = json!({"spec": {"desired": {"setpoint": value}}});
        devices
            .patch("boiler-1", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(unexpected("the patch is taken"))?;
        let answered = now();
        let register = async {
            while boiler.get(Table::Holding, 0)? != value {
                tokio::task::yield_now().await;
                within(answered, "the setpoint is in the register")?;
            }
            Outcome::Ok(answered.elapsed())
        };
        let seen = async {
            loop {
                let object = next(&mut watch).await?;
                if object.data["spec"]["desired"]["setpoint"] == value {
                    return Outcome::Ok(answered.elapsed());
                }
            }
        };
        // Side by side, so that neither waits for the other.
        let (register, seen) = futures::future::try_join(register, seen).await?;
        to_register.push(millis(register));
        to_watch.push(millis(seen));
        let synced = |object: &DynamicObject| {
            object.data["status"]["summary"].to_string().contains(&format!("setpoint={value}"))
        };
        until(&mut watch, synced).await?;
    }
    let mut back = Vec::new();
    for round in 0..ROUNDS {
        let mut watch = watch(&devices).await?;
        // Tenths of a degree, a whole degree apart.
        let value = 200 + (round % 50) * 10;
        let set = now();
        boiler.set(Table::Input, 0, value)?;
        let shown = format!("temperature={}", f64::from(value) / 10.0);
        until(&mut watch, |object| object.data["status"]["summary"].to_string().contains(&shown)).await?;
        back.push(millis(set.elapsed()));
    }
    let desired = Measure::samples("desired_to_register_ms", "ms", &to_register);
    let floor = Measure::samples("desired_to_bare_watch_ms", "ms", &to_watch);
    let met = desired.number("p50") <= 10.0 && desired.number("p99") <= 40.0;
    let desired = desired
        .reference(floor.number("p50"))
        .target("p50 <= 10, p99 <= 40", met)
        .note("from the API server's answer to a patch; the reference is a bare watch of the same object");
    let reported = Measure::samples("register_to_watch_ms", "ms", &back);
    let met = reported.number("p50") <= 20.0 && reported.number("p99") <= 50.0;
    let reported = reported
        .target("p50 <= 20, p99 <= 50", met)
        .note("from the register in the Modbus server to the Device's status on a watch; read every 10 ms");
    Ok((vec![desired, floor], reported))
}

/// Memory and size of the agent as it runs.
fn sizes(world: &World, host: &EdgeHost) -> Outcome<Vec<Measure>> {
    let gone = || StoryError::Unexpected { what: "the agent runs".into(), found: "no process".into() };
    let pid = host.process("agent").ok_or_else(gone)?.pid;
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}"))
            .map_err(|source| StoryError::Io { what: format!("read {file} of the agent"), source })
    };
    let (status, rollup) = (read("status")?, read("smaps_rollup")?);
    let megabytes = |text: &str, field: &str| {
        let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        let kilobytes: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(f64::NAN);
        kilobytes / 1024.0
    };
    let rss = megabytes(&status, "VmRSS:");
    let binary = std::fs::metadata(world.layout().bin().join("selvedge-agent"))
        .map_err(|source| StoryError::Io { what: "look at the agent's binary".into(), source })?
        .len() as f64
        / (1024.0 * 1024.0);
    Ok(vec![
        Measure::single("agent_rss_mb", "MiB", rss)
            .target("<= 10", rss <= 10.0)
            .note("two applications, two devices"),
        Measure::single("agent_pss_mb", "MiB", megabytes(&rollup, "Pss:")),
        Measure::single("agent_private_dirty_mb", "MiB", megabytes(&rollup, "Private_Dirty:")),
        Measure::single("agent_binary_mb", "MiB", binary)
            .target("<= 6", binary <= 6.0)
            .note("static, stripped"),
    ])
}

async fn devices(world: &World) -> Outcome<Api<DynamicObject>> {
    let kubeconfig = kube::config::Kubeconfig::read_from(world.layout().kubeconfig())
        .map_err(unexpected("the kubeconfig can be read"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .map_err(unexpected("the kubeconfig can be used"))?;
    let client = kube::Client::try_from(config).map_err(unexpected("a client can be made"))?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("selvedge.dev", "v1alpha1", "Device"));
    Ok(Api::namespaced_with(client, "shop", &kind))
}

type Watch = std::pin::Pin<Box<dyn futures::Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Send>>;

/// A watch that begins with the next change.
async fn watch(devices: &Api<DynamicObject>) -> Outcome<Watch> {
    let now = devices.get("boiler-1").await.map_err(unexpected("the device exists"))?;
    let version = now.metadata.resource_version.unwrap_or_default();
    let params = WatchParams::default().fields("metadata.name=boiler-1");
    Ok(devices.watch(&params, &version).await.map_err(unexpected("the device can be watched"))?.boxed())
}

async fn until(watch: &mut Watch, holds: impl Fn(&DynamicObject) -> bool) -> Outcome {
    while !holds(&next(watch).await?) {}
    Ok(())
}

async fn next(watch: &mut Watch) -> Outcome<DynamicObject> {
    loop {
        let event = tokio::time::timeout(PATIENCE, watch.try_next()).await;
        let event = event.map_err(unexpected("the watch shows a change in time"))?;
        if let Some(WatchEvent::Modified(object)) = event.map_err(unexpected("the watch goes on"))? {
            return Ok(object);
        }
    }
}

fn within(since: Instant, what: &str) -> Outcome {
    if since.elapsed() < PATIENCE {
        return Ok(());
    }
    Err(StoryError::NotInTime { what: what.into(), within: PATIENCE, last: "another value".into() })
}

fn unexpected<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> StoryError {
    move |error| StoryError::Unexpected { what: what.into(), found: error.to_string() }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[allow(clippy::disallowed_methods)] // the benchmark's stopwatch
fn now() -> Instant {
    Instant::now()
}
