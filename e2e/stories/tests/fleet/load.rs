//! `selvedge-load`, steered: the fleet's agents, and who judges what they saw.
//!
//! In: lines (`selvedge_load::steer`). Out: its answers; all else that it says goes to this program's stderr.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use selvedge_cluster::clock::Deadline;
use selvedge_stories::{Outcome, StoryError, World, expect};

use crate::Stage;

/// To build it, join thousands of nodes one by one and bring each what it should have, on a busy machine.
const COMING_TOGETHER: Duration = Duration::from_secs(3600);
/// What does not wait for the fleet.
const PROMPT: Duration = Duration::from_secs(180);
/// How long a fleet may take to come to rest, with replicas that come back one after the other.
const REST: Duration = Duration::from_secs(600);
/// What begins its answers.
const ANSWER: &str = "steer: ";

/// See the module.
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    changes: usize,
    violations: usize,
}

/// What became of the fleet since it was marked.
#[derive(Debug)]
pub struct Since {
    /// From the last change until everything was at rest, seconds.
    pub rest: f64,
    /// Sessions that never broke off.
    pub fewest: usize,
    /// When the last session was back, seconds after the mark; 0: none was away.
    pub back: f64,
    /// Entries that were brought to nodes.
    pub came: usize,
    /// Entries that were taken away from nodes.
    pub removed: usize,
    text: String,
}

impl Load {
    /// Builds and starts it, and waits until all agents are in sync.
    pub fn start(world: &World, directory: &Path, agents: usize) -> Outcome<Self> {
        let program = build(&world.file("."))?;
        let kubeconfig = world.layout().kubeconfig();
        let mut child = Command::new(program)
            .arg("--steered")
            .args(["--agents", &agents.to_string(), "--settle", "20m"])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--identities")
            .arg(directory.join("identities"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io("start selvedge-load"))?;
        let (sender, answers) = channel();
        let stdout = child.stdout.take();
        std::thread::spawn(move || {
            for line in
                stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines().map_while(Result::ok))
            {
                eprintln!("   {line}");
                if let Some(answer) = line.strip_prefix(ANSWER) {
                    // Nobody may listen any more.
                    let _ended = sender.send(answer.to_owned());
                }
            }
        });
        let stdin = child.stdin.take();
        let mut load = Self { child, stdin, answers, changes: 0, violations: 0 };
        load.answer("ready", COMING_TOGETHER)?;
        Ok(load)
    }

    /// Says a line, and waits for its answer.
    pub fn ask(&mut self, line: &str) -> Outcome<String> {
        self.say(line)?;
        self.answer(line, PROMPT)
    }

    /// Begins changes, so many a second; some of them of all nodes: of `maps`, or of `templates`.
    pub fn change(&mut self, count: usize, rate: usize, what: &str) -> Outcome {
        self.changes += count;
        self.ask(&format!("changes {count} {rate} {what}")).map(drop)
    }

    /// Waits until all changes are made and arrived, and everything has been said and answered. Nothing may
    /// have been lost, and no rule broken.
    pub fn rest(&mut self) -> Outcome<Since> {
        self.say(&format!("rest {}", REST.as_secs()))?;
        let text = self.answer("rest", REST * 2)?;
        expect("every node has what the cluster says", text.starts_with("rest "), &text)?;
        let since = Since::read(&text);
        expect("all changes were made", since.value("changes") == self.changes as f64, &text)?;
        // Each step answers for what happened in it.
        let found = since.value("violations") as usize;
        let before = std::mem::replace(&mut self.violations, found);
        expect("no rule was broken", found == before, &text)?;
        Ok(since)
    }

    /// What became of the fleet since it was marked.
    pub fn standing(&mut self) -> Outcome<Since> {
        Ok(Since::read(&self.ask("standing")?))
    }

    /// Ends it, whatever it does.
    pub fn kill(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }

    fn say(&mut self, line: &str) -> Outcome {
        let stdin = self.stdin.as_mut();
        let said = stdin.map_or(Ok(()), |stdin| writeln!(stdin, "{line}"));
        said.map_err(io("steer selvedge-load, which has ended"))
    }

    fn answer(&mut self, what: &str, within: Duration) -> Outcome<String> {
        let answer = self.answers.recv_timeout(within).map_err(|error| StoryError::NotInTime {
            what: format!("selvedge-load answers {what:?}"),
            within,
            last: error.to_string(),
        })?;
        expect(&format!("selvedge-load does {what:?}"), !answer.starts_with("failed"), &answer)?;
        Ok(answer)
    }
}

/// The last step: agents end, and all that was seen is judged.
pub fn every_rule_held(stage: &mut Stage) -> Outcome {
    let load = &mut stage.load;
    load.say("end")?;
    drop(load.stdin.take());
    let deadline = Deadline::after(REST);
    let status = selvedge_cluster::clock::wait_for(deadline, || load.child.try_wait().ok().flatten());
    expect("every rule held", status.is_some_and(|status| status.success()), format!("{status:?}"))?;
    expect("a thousand changes were made meanwhile", load.changes >= 1000, load.changes)
}

impl Since {
    fn read(text: &str) -> Self {
        let since = Self { rest: 0.0, fewest: 0, back: 0.0, came: 0, removed: 0, text: text.to_owned() };
        let count = |name| since.value(name) as usize;
        let (fewest, came, removed) = (count("fewest"), count("came"), count("removed"));
        Self { rest: since.value("after"), fewest, back: since.value("back"), came, removed, ..since }
    }

    fn value(&self, name: &str) -> f64 {
        let pairs: HashMap<&str, &str> =
            self.text.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        pairs.get(name).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }
}

/// Builds it for speed: thousands of agents share two cores with all that they try.
fn build(repository: &Path) -> Outcome<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(repository);
    cargo.args(["build", "--release", "--package", "selvedge-load", "--bin", "selvedge-load"]);
    // As in `selvedge_cluster::images`: a build script that looks at these would be run anew.
    let own = |name: &str| name.starts_with("CARGO_MANIFEST") || name.starts_with("CARGO_PKG");
    for (name, _) in std::env::vars().filter(|(name, _)| own(name)) {
        cargo.env_remove(name);
    }
    let built = cargo.status().map_err(io("run cargo"))?;
    expect("selvedge-load is built", built.success(), built)?;
    Ok(Path::new(env!("CARGO_TARGET_TMPDIR")).join("../release/selvedge-load"))
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> StoryError + '_ {
    move |source| StoryError::Io { what: what.to_owned(), source }
}
