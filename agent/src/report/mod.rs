//! The report task: sends what is true at the edge, and keeps it until the hub has written it.
//!
//! In: notes of the reconciler, verdicts and sessions of the link. Out: `Report` frames, and reports to
//! be kept by the ledger. Sent at once, made durable within [`SAVE_EVERY`]: what a crash in between
//! takes away is looked at anew at the next start, and an SD card is not worn out by a value that
//! changes ten times a second.

mod book;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub use book::{Book, Note};
use selvedge_model::EntryKey;
use selvedge_protocol::agent::{EntryReport, Report, Verdicts};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::ledger::{self, Desired, RowKey, Stopped};

/// How long a changed report may wait for the disk.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Reports of one frame: device states are about 1 KB, frames stay far below their limit.
const REPORTS_A_FRAME: usize = 128;

/// What the report task listens to.
pub struct Reporter {
    /// What became true.
    pub notes: mpsc::Receiver<Vec<Note>>,
    /// What became of reports.
    pub verdicts: mpsc::Receiver<Verdicts>,
    /// Where to send, while a session is up.
    pub uplink: watch::Receiver<Option<mpsc::Sender<Report>>>,
    /// Which entries there are.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// Who asks what is true now, and how many reports have no verdict.
    pub questions: mpsc::Receiver<oneshot::Sender<(Vec<EntryReport>, usize)>>,
    /// Where reports are kept.
    pub ledger: ledger::Handle,
}

impl Reporter {
    /// Runs until `stop`, then makes durable what is not yet.
    ///
    /// # Errors
    /// [`Stopped`] when the ledger has stopped.
    pub async fn run(mut self, mut book: Book, stop: CancellationToken) -> Result<(), Stopped> {
        let node = RowKey::from(&EntryKey::node_settings());
        let mut save_at: Option<Instant> = None;
        loop {
            let uplink = self.uplink.borrow().clone();
            let room = async {
                match &uplink {
                    Some(uplink) => uplink.reserve().await.ok(),
                    None => std::future::pending().await,
                }
            };
            let save = async {
                match save_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {
                    return self.ledger.save_reports(book.unsaved()).await;
                }
                Some(notes) = self.notes.recv() => notes.into_iter().for_each(|note| book.note(note)),
                Some(verdicts) = self.verdicts.recv() => {
                    verdicts.verdicts.iter().for_each(|verdict| book.verdict(verdict));
                }
                Ok(()) = self.uplink.changed() => book.session(),
                Ok(()) = self.desired.changed() => {
                    let present = present(&self.desired.borrow_and_update());
                    book.retain(|key| *key == node || present.contains(key));
                }
                Some(question) = self.questions.recv() => {
                    // Who asked may be gone.
                    let _ = question.send(book.snapshot());
                }
                permit = room, if book.has_unsent() => match permit {
                    Some(permit) => permit.send(Report { entries: book.take(REPORTS_A_FRAME) }),
                    // The session is ending: wait for the next one to begin.
                    None => if self.uplink.changed().await.is_ok() { book.session() },
                },
                () = save => {
                    self.ledger.save_reports(book.unsaved()).await?;
                    save_at = None;
                }
            }
            if save_at.is_none() && book.has_unsaved() {
                save_at = Some(Instant::now() + SAVE_EVERY);
            }
        }
    }
}

fn present(desired: &Desired) -> BTreeSet<RowKey> {
    let held_back = desired.held_back.iter().map(|held| held.key.clone());
    desired.entries.keys().map(RowKey::from).chain(held_back).collect()
}
