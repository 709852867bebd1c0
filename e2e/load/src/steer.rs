//! A run that is steered from outside, for rigs that break things themselves: lines in, lines out.
//!
//! In, one a line: what to do. Out: lines that begin with `steer: `, one for each line in, among those of every
//! run; at the end of the input the verdict.
//!
//! | Line | Does | Answer |
//! |---|---|---|
//! | `changes <n> <a second> maps` | n changes of devices begin; some are of a ConfigMap of all nodes | `changing` |
//! | `changes <n> <a second> templates` | the same; some are of the template of all nodes | `changing` |
//! | `mark` | counts anew what `rest` and `standing` tell | `marked` |
//! | `rest <seconds>` | waits for the end of changes, then until every node has what the cluster says | `rest ...` |
//! | `hold` | others will change the cluster: nothing is judged that agents show from now on | `held` |
//! | `read`, `read withdrawn` | reads what nodes may have now; what they lost by that was lost on purpose | `read` |
//! | `restored` | the cluster was restored from a snapshot | `restored` |
//! | `go` | what was held is judged | `going` |
//! | `remake` | makes every Device that is gone, as it was | `remade` |
//! | `standing` | | `standing ...` |
//! | `end` | the verdict | |

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use selvedge_history::{Agent as Name, Event, Wanted};
use selvedge_model::SessionId;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::change::{Changes, Made};
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::limits;
use crate::mirror::Mirror;
use crate::objects::{Cluster, Kind};
use crate::options::Options;
use crate::run::{self, Agents, LOOK, REST, RunError};
use crate::statuses;
use crate::verdict::Verdict;

/// Of so many changes one goes to all nodes: it costs what as many changes as there are nodes cost.
const FANOUT: usize = 50;
/// How often it is looked whether nodes have what they should: late nodes are admitted by and by.
const AGAIN: Duration = Duration::from_secs(2);

/// A steered run.
struct Steered<'a> {
    options: &'a Options,
    cluster: Cluster,
    fleet: Arc<Fleet>,
    mirror: Arc<Mirror>,
    nodes: Vec<String>,
    watches: JoinSet<()>,
    changing: JoinSet<Changes>,
    made: HashMap<u64, Made>,
    outage: Arc<Outage>,
}

/// Runs as the input says.
///
/// # Errors
/// [`RunError`] when there is nothing to judge.
pub async fn run(options: &Options) -> Result<Verdict, RunError> {
    limits::raise(options.agents)?;
    let cluster = Cluster::connect(options.kubeconfig.as_deref(), options).await?;
    let fleet = Arc::new(Fleet::new(Clock::start(), true));
    let kept = run::prepare(options, &cluster).await?;
    let mirror = Arc::new(run::mirror(options, &cluster, &fleet).await?);
    let watches = statuses::follow(&cluster, &mirror);
    let mut agents = JoinSet::new();
    run::start(&mut agents, &fleet, options, &kept)?;
    run::until_synced(&fleet, &kept, options.settle, &mut agents).await?;
    drop(fleet.take_arrivals());
    let began = Instant::now();
    let outage = Arc::new(Outage::new(fleet.clone()));
    let mut always = JoinSet::new();
    always.spawn(outage.clone().watch(kept.len()));
    let mut steered = Steered {
        options,
        cluster,
        fleet,
        mirror,
        nodes: options.numbers().map(|number| options.node(number)).collect(),
        watches,
        changing: JoinSet::new(),
        made: HashMap::new(),
        outage,
    };
    println!("steer: ready");
    let settled = tokio::select! {
        settled = steered.obey() => settled?,
        failed = run::first_failure(&mut agents) => return Err(failed),
    };
    steered.watches.shutdown().await;
    let Steered { cluster, fleet, mirror, made, .. } = &steered;
    let verdict = run::judge(options, cluster, fleet, mirror, agents, made).await?;
    Ok(Verdict { lasted: began.elapsed(), settled, ..verdict })
}

impl Steered<'_> {
    /// Does what lines say until they end; how long the fleet took to come to rest then.
    async fn obey(&mut self) -> Result<Option<Duration>, RunError> {
        let mut lines = lines();
        while let Some(line) = lines.recv().await {
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match words[..] {
                [] => continue,
                ["end"] => break,
                ["changes", count, rate, what] => self.change(count, rate, what).await,
                ["mark"] => {
                    self.outage.begin();
                    Ok("marked".to_owned())
                }
                ["rest", seconds] => match seconds.parse() {
                    Ok(seconds) => self.rest(Duration::from_secs(seconds)).await,
                    Err(_) => Ok(format!("failed: {seconds} is no number of seconds")),
                },
                ["hold"] => {
                    self.changed().await?;
                    self.fleet.record.hold();
                    Ok("held".to_owned())
                }
                ["read"] => self.read(false).await,
                ["read", "withdrawn"] => self.read(true).await,
                ["restored"] => {
                    self.fleet.record.tell(|| Event::Restored);
                    Ok("restored".to_owned())
                }
                ["go"] => {
                    self.fleet.record.go_on();
                    Ok("going".to_owned())
                }
                ["remake"] => self.remake().await,
                ["standing"] => Ok(format!("standing {}", self.outage)),
                _ => Ok(format!("failed: {line:?} is no line of selvedge_load::steer")),
            };
            match answer {
                Ok(answer) => println!("steer: {answer}"),
                Err(RunError::Objects(error)) => {
                    println!("steer: failed: {}", selvedge_agent::chain::chain(&error));
                }
                Err(error) => return Err(error),
            }
        }
        self.changed().await?;
        self.fleet.record.go_on();
        self.settle(self.options.settle).await
    }

    async fn change(&mut self, count: &str, rate: &str, what: &str) -> Result<String, RunError> {
        let (Ok(count), Ok(rate)) = (count.parse::<usize>(), rate.parse::<f64>()) else {
            return Ok(format!("failed: {count} changes {rate} times a second cannot be made"));
        };
        self.changed().await?;
        let templates = what == "templates" && self.options.applications > 0;
        let maps = what == "maps" && self.options.applications > 0;
        let mut changes = Changes::new(&self.cluster, &self.mirror, &self.fleet, self.options);
        // Other choices than before.
        changes.reseed(self.options.seed + self.made.len() as u64);
        self.changing.spawn(async move {
            for n in 1..=count {
                let began = Instant::now();
                match n % FANOUT == FANOUT / 2 {
                    true if templates => drop(changes.to_template().await),
                    true if maps => drop(changes.to_all().await),
                    _ => changes.to_one().await,
                }
                tokio::time::sleep_until(began + Duration::from_secs_f64(1.0 / rate.max(0.001))).await;
            }
            changes
        });
        Ok("changing".to_owned())
    }

    /// Waits for the end of changes.
    async fn changed(&mut self) -> Result<(), RunError> {
        while let Some(changes) = self.changing.join_next().await {
            self.made.extend(changes?.made);
        }
        Ok(())
    }

    async fn read(&mut self, withdrawn: bool) -> Result<String, RunError> {
        self.changed().await?;
        self.mirror.read_anew(&self.cluster, &self.nodes, withdrawn).await?;
        // After a restore a watch would wait for revisions that the cluster does not have any more.
        self.watches = statuses::follow(&self.cluster, &self.mirror);
        Ok("read".to_owned())
    }

    async fn remake(&mut self) -> Result<String, RunError> {
        self.cluster.make(Kind::Device, self.mirror.made(Kind::Device)).await?;
        Ok("remade".to_owned())
    }

    async fn rest(&mut self, within: Duration) -> Result<String, RunError> {
        self.changed().await?;
        Ok(match self.settle(within).await? {
            Some(after) => {
                let made = self.made.len();
                format!("rest after={:.1} changes={made} {}", after.as_secs_f64(), self.outage)
            }
            None => format!("restless {}", self.outage),
        })
    }

    /// Waits until all is said and every node has what it should; if it does not come to that, the record is
    /// told what there is instead.
    async fn settle(&mut self, within: Duration) -> Result<Option<Duration>, RunError> {
        let began = Instant::now();
        let mut none = Agents::new();
        loop {
            let left = within.saturating_sub(began.elapsed());
            let quiet = run::rest(&self.fleet, self.nodes.len(), left, &mut none).await?;
            let standing = Mirror::read(&self.cluster, &self.options.namespace, self.fleet.clone()).await?;
            let differ: Vec<&String> =
                self.nodes.iter().filter(|node| !self.is_whole(node, &standing)).collect();
            if quiet.is_some() && differ.is_empty() {
                return Ok(Some(began.elapsed().saturating_sub(REST)));
            }
            if began.elapsed() >= within {
                println!("{} nodes do not have what they should, {differ:.3?} and on", differ.len());
                for node in differ {
                    let agent = Name::of(node);
                    let rows = self.fleet.record.answered(&agent);
                    let (wanted, session) = (standing.wanted(node), Some(SessionId::default()));
                    self.fleet.record.tell(|| Event::Rest { agent, session, wanted, rows, said: Vec::new() });
                }
                return Ok(None);
            }
            sleep(AGAIN).await;
        }
    }

    fn is_whole(&self, node: &str, standing: &Mirror) -> bool {
        let rows = self.fleet.record.answered(&Name::of(node));
        let wanted: HashMap<_, _> = standing.wanted(node).into_iter().collect();
        let as_wanted = rows.iter().all(|row| match wanted.get(&row.key) {
            Some(Wanted::OneOf(versions)) => versions.iter().any(|v| v.0 == row.uid && v.1 == row.hash),
            Some(Wanted::Held) => true,
            None => false,
        });
        let sure = wanted.values().filter(|wanted| matches!(wanted, Wanted::OneOf(_))).count();
        as_wanted && rows.len() >= sure
    }
}

/// What became of the fleet since a moment.
struct Outage {
    fleet: Arc<Fleet>,
    since: Mutex<Instant>,
    /// Fewest sessions.
    fewest: AtomicUsize,
    /// When it was last not whole, milliseconds after the moment.
    broken: AtomicU64,
    came: AtomicU64,
    removed: AtomicU64,
}

impl Outage {
    fn new(fleet: Arc<Fleet>) -> Self {
        let (fewest, broken) = (AtomicUsize::new(usize::MAX), AtomicU64::new(0));
        let since = Mutex::new(Instant::now());
        let outage =
            Self { fleet, since, fewest, broken, came: AtomicU64::new(0), removed: AtomicU64::new(0) };
        outage.begin();
        outage
    }

    fn begin(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.fewest.store(usize::MAX, Ordering::Relaxed);
        self.broken.store(0, Ordering::Relaxed);
        let counters = &self.fleet.counters;
        self.came.store(counters.upserts.load(Ordering::Relaxed), Ordering::Relaxed);
        self.removed.store(counters.removes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    async fn watch(self: Arc<Self>, agents: usize) {
        loop {
            let (sessions, _) = self.fleet.standing();
            self.fewest.fetch_min(sessions, Ordering::Relaxed);
            if sessions < agents {
                let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
                let broken = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.broken.store(broken, Ordering::Relaxed);
            }
            sleep(LOOK).await;
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sessions, synced) = self.fleet.standing();
        let fewest = self.fewest.load(Ordering::Relaxed).min(sessions);
        let back = self.broken.load(Ordering::Relaxed);
        let since =
            |now: &AtomicU64, then: &AtomicU64| now.load(Ordering::Relaxed) - then.load(Ordering::Relaxed);
        let came = since(&self.fleet.counters.upserts, &self.came);
        let removed = since(&self.fleet.counters.removes, &self.removed);
        let violations = self.fleet.record.found();
        write!(
            f,
            "sessions={sessions} synced={synced} fewest={fewest} back={:.1} came={came} removed={removed} \
             violations={violations}",
            back as f64 / 1000.0
        )
    }
}

/// Lines of the input. A thread reads them: nothing else could be waiting for a terminal or pipe.
fn lines() -> Receiver<String> {
    let (sender, lines) = channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
