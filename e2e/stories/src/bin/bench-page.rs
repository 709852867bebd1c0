//! Renders `docs/benchmarks.md` from the results of the suites.
//!
//! In: `.dev/bench/<suite>.jsonl`. Out: the page, with method, machine and date.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;

/// Renders the page of benchmarks.
#[derive(Parser)]
struct Args {
    /// Where the suites left their results.
    #[arg(long, default_value = ".dev/bench")]
    results: PathBuf,
    /// The page.
    #[arg(long, default_value = "docs/benchmarks.md")]
    page: PathBuf,
    /// The day of the runs, as YYYY-MM-DD.
    #[arg(long)]
    date: String,
}

/// Each suite, and how it measures.
const SUITES: [(&str, &str); 2] = [
    (
        "demo",
        "The whole system as `make demo` brings it up, on one machine: control plane (etcd with fsync), hub and controllers in pods, one \
     edge host with containerd, pymodbus as the device. Hundred rounds each, one at a time, nothing else running. \
     The device is read every 10 ms and reported at once. `desired_to_bare_watch_ms` is the floor: a bare watch of \
     the same object by the same client, in the same rounds.",
    ),
    (
        "sync",
        "A real API server (etcd with fsync), hub and controllers as processes on loopback, simulated agents in one \
     process: real mTLS, the real protocol, the agent's ledger in memory, so durability is not in it. Load and \
     hub share the machine's cores. Two fleets: ten applications and ten devices a node for the memory of a \
     session, ten applications and no devices for everything else.",
    ),
];

fn main() -> ExitCode {
    let args = Args::parse();
    match render(&args).and_then(|page| std::fs::write(&args.page, page)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-page: cannot render {}: {error}", args.page.display());
            ExitCode::FAILURE
        }
    }
}

fn render(args: &Args) -> std::io::Result<String> {
    let mut page =
        String::from("# Benchmarks\n\nRendered by `make bench` from `.dev/bench/*.jsonl`; do not edit.\n\n");
    let _infallible = writeln!(page, "Machine: {}. Date: {}.", machine()?, args.date);
    for (suite, method) in SUITES {
        let path = args.results.join(format!("{suite}.jsonl"));
        // A suite that was not run has no section.
        if !path.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let _infallible = write!(page, "\n## {suite} (`make bench-{suite}`)\n\n{method}\n\n{HEAD}");
        for line in text.lines() {
            let measure: Value = serde_json::from_str(line)?;
            page.push_str(&row(&measure));
        }
    }
    Ok(page)
}

const HEAD: &str = "| Measure | Value | n | p50 | p99 | max | Reference | Ratio | Target | Met | Note |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|\n";

fn row(measure: &Value) -> String {
    let cell = |field: &str| match &measure[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(met) => if *met { "yes" } else { "**no**" }.to_owned(),
        other => other.to_string(),
    };
    let value = format!("{} {}", cell("value"), cell("unit"));
    let rest =
        ["n", "p50", "p99", "max", "reference", "ratio", "target", "met", "note"].map(cell).join(" | ");
    format!("| `{}` | {value} | {rest} |\n", cell("name"))
}

/// Cores, memory and kernel: enough to judge a figure by.
fn machine() -> std::io::Result<String> {
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string(Path::new("/proc/meminfo"))?;
    let kilobytes: u64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{cores} cores, {} GiB, Linux {}", kilobytes / 1024 / 1024, kernel.trim()))
}
