//! `selvedge-agent run`: builds the tasks and the socket, owns them, and ends with the first that
//! fails. Containers run on whatever happens to the agent.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    chain::chain,
    clock::{self, Latest},
    config::Config,
    devices::Devices,
    identity::{Identity, IdentityError},
    ledger::{self, Desired, LedgerError, OpenError, StoreError},
    link::{Counters, Link, LinkHandles, LinkStatus},
    node::AGENT_VERSION,
    reconciler::Reconciler,
    renew::Renewal,
    report::{Book, Reporter},
    runtime::Runtime,
    status::{Server, ServerError, Sources},
};

/// Batches of notes, and frames of verdicts, that wait for the report task.
const QUEUE: usize = 64;
/// Questions about the status that wait.
const QUESTIONS: usize = 8;
/// After SIGTERM reports are made durable and the session is closed; a service manager kills after 90 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not joined, or the identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The ledger failed while it ran.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Reports of the last run cannot be read.
    #[error("cannot read the kept reports")]
    Reports(#[from] StoreError),
    /// The agent's socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A task panicked.
    #[error("a task of the agent failed; its message stands above")]
    Task(#[from] tokio::task::JoinError),
    /// A task stopped although nobody asked it to.
    #[error("the {0} task stopped by itself")]
    Stopped(&'static str),
}

/// Runs the agent until `stop`, or until a part of it fails.
///
/// # Errors
/// [`RunError`]; the supervisor starts the agent again.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let identity = Identity::load(&config.state_dir)?;
    let mut opened = ledger::open(&config.state_dir, AGENT_VERSION, &identity.cluster)?;
    if !opened.notice.is_empty() {
        tracing::warn!(notice = opened.notice, "nothing that runs is stopped for it");
    }
    let meta = opened.machine.meta().clone();
    let book = Book::open(meta.boots, opened.machine.store().reports()?);
    let server = Server::listen(&config.state_dir, config.metrics_address).await?;

    let (handle, inbox) = ledger::Handle::new();
    let (desired_out, desired) = watch::channel(Arc::new(Desired::default()));
    let (uplink_out, uplink) = watch::channel(None);
    let (link_out, link) = watch::channel(LinkStatus::begin(clock::unix()));
    let (verdicts_out, verdicts) = mpsc::channel(QUEUE);
    let (notes_out, notes) = mpsc::channel(QUEUE);
    let (questions_out, questions) = mpsc::channel(QUESTIONS);
    let notice = opened.notice.clone();
    let counters = Arc::new(Counters::default());
    tracing::info!(
        node = identity.node,
        cluster = identity.cluster,
        version = AGENT_VERSION,
        entries = opened.machine.rows().len(),
        "working from the ledger"
    );

    let mut tasks: JoinSet<Result<&'static str, RunError>> = JoinSet::new();
    tasks.spawn_blocking(move || {
        ledger::run(opened, inbox, desired_out).map(|()| "ledger").map_err(Into::into)
    });
    let reporter =
        Reporter { notes, verdicts, uplink, desired: desired.clone(), questions, ledger: handle.clone() };
    let token = stop.clone();
    tasks.spawn(async move {
        // A ledger that has stopped tells its own reason.
        let _ = reporter.run(book, token).await;
        Ok("report")
    });
    let reconciler = Reconciler {
        runtime: Runtime::connect(&config.runtime_socket, &config.state_dir, &config.memory_dir),
        devices: Devices::new(),
        desired: desired.clone(),
        notes: notes_out,
        node_uid: identity.node_uid.clone(),
        notice,
        state_dir: config.state_dir.clone(),
    };
    let token = stop.clone();
    tasks.spawn(async move {
        reconciler.run(token).await;
        Ok("reconciler")
    });
    let (latest, known) = watch::channel(Latest::at(meta.latest_time));
    let (renewed, replaced) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let renewal = Renewal {
        state_dir: config.state_dir.clone(),
        hubs: config.hubs.clone(),
        latest: known,
        renewed: Arc::clone(&renewed),
        replaced: Arc::clone(&replaced),
    };
    let token = stop.clone();
    tasks.spawn(async move {
        renewal.run(token).await;
        Ok("renewal")
    });
    let task = Link {
        state_dir: config.state_dir,
        hubs: config.hubs,
        handles: LinkHandles { ledger: handle, verdicts: verdicts_out, uplink: uplink_out },
        status: link_out,
        counters: Arc::clone(&counters),
        latest,
        renewed,
        replaced,
    };
    let token = stop.clone();
    tasks.spawn(async move {
        task.run(token).await;
        Ok("link")
    });
    let sources = Sources { identity, link, counters, desired, questions: questions_out };
    let token = stop.clone();
    tasks.spawn(async move {
        server.run(sources, token).await;
        Ok("status")
    });
    supervise(tasks, stop).await
}

/// Waits for the tasks: the first that ends before `stop` ends all others.
async fn supervise(
    mut tasks: JoinSet<Result<&'static str, RunError>>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut first: Result<(), RunError> = Ok(());
    let mut ended = |result: Result<Result<&'static str, RunError>, tokio::task::JoinError>| {
        let error = match result {
            Ok(Ok(_)) if stop.is_cancelled() => return,
            Ok(Ok(name)) => RunError::Stopped(name),
            Ok(Err(error)) => error,
            Err(panic) => panic.into(),
        };
        if first.is_ok() {
            first = Err(error);
        } else {
            tracing::warn!(error = chain(&error), "another task ended too");
        }
        stop.cancel();
    };
    tokio::select! {
        Some(result) = tasks.join_next() => ended(result),
        () = stop.cancelled() => {}
    }
    let drained = timeout(DRAIN_TIMEOUT, async {
        while let Some(result) = tasks.join_next().await {
            ended(result);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(tasks = tasks.len(), "tasks did not end in time");
    }
    first
}
