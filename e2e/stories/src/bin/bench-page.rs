//! Renders `docs/benchmarks.md` from the results of the suites.
//!
//! In: `.dev/bench/<suite>.jsonl`, and `<suite>.<part>.jsonl` of what is measured apart. Out: the page, with
//! method, machine and date; a table and plots of what was measured at several numbers of agents; and why targets were
//! missed, which people write in `docs/benchmarks/<suite>-missed.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use selvedge_stories::plot::Plot;
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
     process: real mTLS, the real protocol, the agent's ledger in memory, so durability is not in it; twenty processes \
     of selvedge-agent with ledgers on disk for what is durable. Load, hub, controllers and API server share the \
     machine's cores. Each fleet has a cluster of its own: ten applications and ten devices a node for the memory of \
     a session and for quiet writes, ten applications and no devices for how cost grows with agents. Memory is \
     Pss_Anon. Times are from the request to the API server.",
    ),
];

/// A plot of series.
struct Series {
    /// Its file begins with the name of its suite.
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    /// Of each line: series, field and name.
    lines: [(&'static str, &'static str, &'static str); 2],
}

const PLOTS: [Series; 2] = [
    Series {
        file: "sync-latency",
        title: "A change of 2 KB to all agents, until it is acknowledged",
        unit: "ms",
        lines: [("change_to_acked_ms", "p50", "p50"), ("change_to_acked_ms", "p99", "p99")],
    },
    Series {
        file: "sync-memory",
        title: "Memory of one hub",
        unit: "MiB",
        lines: [("hub_memory_mb", "value", "no devices"), ("hub_memory_devices_mb", "value", "ten devices")],
    },
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
        let measures = read(&args.results, suite)?;
        // A suite that was not run has no section.
        if measures.is_empty() {
            continue;
        }
        let _infallible = write!(page, "\n## {suite} (`make bench-{suite}`)\n\n{method}\n\n{HEAD}");
        measures.iter().for_each(|measure| page.push_str(&row(measure)));
        page.push_str(&by_agents(&measures));
        page.push_str(&plots(args, suite, &measures)?);
        page.push_str(&missed(args, suite)?);
    }
    Ok(page)
}

/// Why targets of a suite were missed, in a person's words: `<page>/<suite>-missed.md`, when there is one.
fn missed(args: &Args, suite: &str) -> std::io::Result<String> {
    match std::fs::read_to_string(args.page.with_extension("").join(format!("{suite}-missed.md"))) {
        Ok(text) => Ok(format!("\n### What was missed, and why\n\n{text}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The measures of a suite: its own file, then those of its parts by name.
fn read(results: &Path, suite: &str) -> std::io::Result<Vec<Value>> {
    let mut files = BTreeSet::new();
    if results.is_dir() {
        for entry in std::fs::read_dir(results)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let part = name.strip_prefix(suite).and_then(|rest| rest.strip_suffix("jsonl"));
            if part.is_some_and(|part| part.starts_with('.')) {
                // The whole before its parts: the shorter name first.
                files.insert((name.len(), path));
            }
        }
    }
    let mut measures = Vec::new();
    for (_, path) in files {
        for line in std::fs::read_to_string(path)?.lines() {
            measures.push(serde_json::from_str(line)?);
        }
    }
    Ok(measures)
}

/// Of measures that name their series: a row for each number of agents, a column for each series.
fn by_agents(measures: &[Value]) -> String {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    let mut rows: BTreeMap<u64, BTreeMap<(&str, &str), &Value>> = BTreeMap::new();
    for measure in measures {
        let (Some(series), Some(agents)) = (measure["series"].as_str(), measure["agents"].as_u64()) else {
            continue;
        };
        let fields: &[&str] = if measure["p99"].is_null() { &["value"] } else { &["p50", "p99"] };
        for field in fields {
            if !columns.contains(&(series, *field)) {
                columns.push((series, *field));
            }
            rows.entry(agents).or_default().insert((series, *field), &measure[*field]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<String> = columns
        .iter()
        .map(|(series, field)| match *field {
            "value" => format!("`{series}`"),
            field => format!("`{series}` {field}"),
        })
        .collect();
    let mut table = format!(
        "\n### By number of agents\n\n| Agents | {} |\n|---|{}\n",
        head.join(" | "),
        "---|".repeat(head.len())
    );
    for (agents, cells) in rows {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| cells.get(column).map(ToString::to_string).unwrap_or_default())
            .collect();
        let _infallible = writeln!(table, "| {agents} | {} |", cells.join(" | "));
    }
    table
}

/// Draws the plots of a suite beside the page, and refers to them.
fn plots(args: &Args, suite: &str, measures: &[Value]) -> std::io::Result<String> {
    let mut text = String::new();
    for Series { file, title, unit, lines } in PLOTS.iter().filter(|plot| plot.file.starts_with(suite)) {
        let points = |series: &str, field: &str| {
            let mut points: Vec<(f64, f64)> = measures
                .iter()
                .filter(|measure| measure["series"] == series)
                .filter_map(|measure| Some((measure["agents"].as_f64()?, measure[field].as_f64()?)))
                .filter(|(agents, value)| *agents > 0.0 && *value > 0.0)
                .collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            points
        };
        let lines = lines.iter().map(|(series, field, line)| ((*line).to_owned(), points(series, field)));
        let plot = Plot {
            title: (*title).to_owned(),
            across: "agents".to_owned(),
            up: (*unit).to_owned(),
            lines: lines.collect(),
        };
        let Some(svg) = plot.svg() else { continue };
        let directory = args.page.with_extension("");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(format!("{file}.svg")), svg)?;
        let folder =
            directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let _infallible = write!(text, "\n![{title}, by number of agents]({folder}/{file}.svg)\n");
    }
    Ok(text)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::by_agents;

    #[test]
    fn series_become_a_table_in_the_order_of_agents() {
        let point = |series: &str, agents: u32, value: f64| json!({"name": "x", "series": series, "agents": agents, "value": value});
        let latency =
            json!({"name": "y", "series": "ms", "agents": 100, "value": 3.0, "p50": 3.0, "p99": 9.5});
        let table =
            by_agents(&[point("mb", 1000, 20.5), point("mb", 100, 8.25), latency, json!({"name": "alone"})]);
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
        let wanted = [
            "| Agents | `mb` | `ms` p50 | `ms` p99 |",
            "|---|---|---|---|",
            "| 100 | 8.25 | 3.0 | 9.5 |",
            "| 1000 | 20.5 |  |  |",
        ];
        assert_eq!(rows, wanted);
        assert!(by_agents(&[json!({"name": "alone"})]).is_empty());
    }
}
