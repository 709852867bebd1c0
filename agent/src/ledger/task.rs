//! The ledger's thread: one command after another, commit first, then publish and answer.
//!
//! In: commands over a bounded channel. Out: the [`Desired`] snapshot, and answers over a channel that
//! each session brings along; it goes with the session, so a link that is gone never blocks the ledger.

use std::sync::Arc;

use selvedge_model::SessionId;
use selvedge_protocol::agent::{self as wire, to_agent::Message as FromHub, to_hub::Message as ToHub};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    desired::{Desired, Publisher},
    file::Opened,
    machine::{Machine, Outcome},
    row::{RowKey, StoreError},
    store::SqliteStore,
};

/// Commands that wait. The hub has one delta in flight, so this never fills in peace.
const COMMANDS: usize = 64;
/// Batches of answers that wait for the link.
const ANSWERS: usize = 8;

/// Why the ledger cannot go on. The process ends with it, and heals at the next start.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// What is on disk cannot be trusted any more.
    #[error("the ledger cannot be used any more; the next start begins it anew")]
    Damaged(#[from] StoreError),
}

/// What the ledger says to the link of the present session.
#[derive(Debug)]
pub enum FromLedger {
    /// Answers for the hub, in order.
    Answers(Vec<ToHub>),
    /// The session must end, and why.
    Close(String),
}

#[derive(Debug)]
enum Command {
    Hello { nonce: u64, redirects: u32, reply: oneshot::Sender<Dialled> },
    Receive { session: SessionId, message: FromHub },
    NoteTime { unix: u64 },
    SaveReports { reports: Vec<(RowKey, Option<wire::EntryReport>)> },
}

/// A session that begins.
#[derive(Debug)]
pub struct Dialled {
    /// Its identity.
    pub session: SessionId,
    /// Its first frame.
    pub hello: wire::Hello,
    /// What the ledger says to it.
    pub answers: mpsc::Receiver<FromLedger>,
}

/// The ledger's thread has ended: the process is on its way down.
#[derive(Debug, thiserror::Error)]
#[error("the ledger has stopped")]
pub struct Stopped;

/// The ledger takes no more commands now: the hub sends faster than a disk can follow.
#[derive(Debug, thiserror::Error)]
#[error("the ledger cannot follow the hub")]
pub struct Overrun;

/// How the tasks reach the ledger.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// A handle, and what [`run`] takes.
    #[must_use]
    pub fn new() -> (Self, Inbox) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        (Self { commands }, Inbox(inbox))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`Stopped`] when the process is on its way down.
    pub async fn hello(&self, nonce: u64, redirects: u32) -> Result<Dialled, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Hello { nonce, redirects, reply }).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Hands over one message of a session.
    ///
    /// # Errors
    /// [`Overrun`] when too many wait; the session then ends.
    pub fn receive(&self, session: SessionId, message: FromHub) -> Result<(), Overrun> {
        self.commands.try_send(Command::Receive { session, message }).map_err(|_| Overrun)
    }

    /// Stores a time that is known to have passed.
    ///
    /// # Errors
    /// [`Overrun`] when too many commands wait.
    pub fn note_time(&self, unix: u64) -> Result<(), Overrun> {
        self.commands.try_send(Command::NoteTime { unix }).map_err(|_| Overrun)
    }

    /// Stores reports (`Some`) and forgets those that have their verdict (`None`).
    ///
    /// # Errors
    /// [`Stopped`] when the process is on its way down.
    pub async fn save_reports(
        &self,
        reports: Vec<(RowKey, Option<wire::EntryReport>)>,
    ) -> Result<(), Stopped> {
        self.commands.send(Command::SaveReports { reports }).await.map_err(|_| Stopped)
    }
}

/// Commands for [`run`].
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Command>);

/// The thread's life: until every [`Handle`] is gone.
///
/// # Errors
/// [`LedgerError`] when what is on disk cannot be trusted any more.
pub fn run(opened: Opened, inbox: Inbox, desired: watch::Sender<Arc<Desired>>) -> Result<(), LedgerError> {
    let mut machine = opened.machine;
    let publisher = Publisher::load(&mut machine)?;
    desired.send_replace(publisher.desired(&machine));
    let mut ledger = Ledger { machine, publisher, desired, answers: None };
    let mut inbox = inbox.0;
    while let Some(command) = inbox.blocking_recv() {
        ledger.take(command)?;
    }
    Ok(())
}

struct Ledger {
    machine: Machine<SqliteStore>,
    publisher: Publisher,
    desired: watch::Sender<Arc<Desired>>,
    answers: Option<mpsc::Sender<FromLedger>>,
}

impl Ledger {
    fn take(&mut self, command: Command) -> Result<(), LedgerError> {
        match command {
            Command::Hello { nonce, redirects, reply } => {
                let (session, hello) = self.machine.hello(nonce, redirects)?;
                let (sender, answers) = mpsc::channel(ANSWERS);
                self.answers = Some(sender);
                // The link may be on its way down; then nobody asks any more.
                let _ = reply.send(Dialled { session, hello, answers });
                self.publish();
            }
            Command::Receive { session, message } => {
                let outcome = self.machine.receive(session, message)?;
                self.publisher.update(&mut self.machine, &outcome.changed)?;
                log(&outcome);
                self.publish();
                self.answer(outcome);
            }
            Command::NoteTime { unix } => self.machine.note_time(unix)?,
            Command::SaveReports { reports } => match self.machine.store().save_reports(&reports) {
                Err(StoreError::Unwritable(why)) => {
                    tracing::warn!(why, reports = reports.len(), "reports are kept in memory only");
                }
                result => result?,
            },
        }
        Ok(())
    }

    fn publish(&self) {
        let next = self.publisher.desired(&self.machine);
        self.desired.send_if_modified(|present| {
            let same = present.complete == next.complete
                && present.stopped == next.stopped
                && present.synced == next.synced
                && present.held_back == next.held_back
                && present.entries.len() == next.entries.len()
                && present.entries.iter().zip(&next.entries).all(|((a, x), (b, y))| {
                    a == b && x.uid == y.uid && x.hash == y.hash && x.revision == y.revision
                });
            *present = next;
            !same
        });
    }

    fn answer(&mut self, outcome: Outcome) {
        let Some(answers) = &self.answers else { return };
        let close = outcome.close.map(FromLedger::Close);
        let said = (!outcome.answers.is_empty()).then_some(FromLedger::Answers(outcome.answers));
        for message in said.into_iter().chain(close) {
            if answers.blocking_send(message).is_err() {
                // The session is gone; what was committed shows in the next Hello.
                self.answers = None;
                return;
            }
        }
    }
}

fn log(outcome: &Outcome) {
    for key in &outcome.changed {
        tracing::info!(entry = %key, "desired state changed");
    }
    if let Some(error) = &outcome.unwritable {
        tracing::warn!(%error, "nothing was committed; the hub offers it again");
    }
    for answer in &outcome.answers {
        match answer {
            ToHub::Ack(ack) => {
                for refusal in &ack.refused {
                    let key = refusal.key.clone().and_then(|key| RowKey::try_from(key).ok());
                    let entry = key.map(|key| key.to_string()).unwrap_or_default();
                    let (reason, message) = (&refusal.reason, &refusal.message);
                    tracing::warn!(entry, reason, message, "entry refused; its last good version stays");
                }
            }
            ToHub::Resync(resync) => tracing::warn!(reason = resync.reason, "delta does not fit; comparing"),
            _ => {}
        }
    }
}
