//! The reported set: what is true at the edge, latest per key, until the hub has written it (sync
//! rule 10). Pure.
//!
//! In: states as they become true, verdicts, sessions that begin. Out: reports to send, and changes to
//! be made durable.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use selvedge_protocol::MAX_FRAME_BYTES;
use selvedge_protocol::agent::{EntryReport, Verdict, entry_report::State, verdict::Code};

use crate::ledger::RowKey;

/// Half of a frame's limit, so that nobody has to count what is around the reports.
const BYTES_A_FRAME: usize = MAX_FRAME_BYTES / 2;

/// A state that became true.
#[derive(Clone, Debug)]
pub struct Note {
    /// The entry that it is about.
    pub key: RowKey,
    /// Uid of its source object.
    pub uid: String,
    /// Content hash of what was really applied; empty: nothing yet.
    pub content_hash: Vec<u8>,
    /// What is true of it.
    pub state: State,
}

#[derive(Debug)]
struct Kept {
    report: EntryReport,
    /// Has no verdict yet.
    pending: bool,
    /// Was not sent in this session.
    unsent: bool,
    /// Its entry is not desired any more: goes with its verdict.
    leaving: bool,
}

impl Kept {
    fn new(report: EntryReport) -> Self {
        Self { report, pending: true, unsent: true, leaving: false }
    }
}

/// The reported set.
#[derive(Debug)]
pub struct Book {
    kept: BTreeMap<RowKey, Kept>,
    seq: u64,
    unsaved: BTreeSet<RowKey>,
}

impl Book {
    /// A book of the agent's `boot`-th start that goes on with the reports that had no verdict. Numbers
    /// of reports rise with each boot, so that none has to be written down for it.
    #[must_use]
    pub fn open(boot: u64, restored: Vec<EntryReport>) -> Self {
        let mut kept = BTreeMap::new();
        let mut seq = boot << 32;
        for report in restored {
            let Some(key) = report.key.clone().and_then(|key| RowKey::try_from(key).ok()) else { continue };
            seq = seq.max(report.seq);
            kept.insert(key, Kept::new(report));
        }
        Self { kept, seq, unsaved: BTreeSet::new() }
    }

    /// Notes a state. The same state again is nothing new.
    pub fn note(&mut self, note: Note) {
        let state = Some(note.state);
        if let Some(kept) = self.kept.get_mut(&note.key) {
            let known = &kept.report;
            if known.uid == note.uid && known.content_hash == note.content_hash && known.state == state {
                kept.leaving = false;
                return;
            }
        }
        self.seq += 1;
        let report = EntryReport {
            key: Some((&note.key).into()),
            uid: note.uid,
            content_hash: note.content_hash,
            seq: self.seq,
            state,
        };
        self.unsaved.insert(note.key.clone());
        self.kept.insert(note.key, Kept::new(report));
    }

    /// Forgets what is not about `present` entries, once it has its verdict.
    pub fn retain(&mut self, present: impl Fn(&RowKey) -> bool) {
        self.kept.retain(|key, kept| {
            kept.leaving = !present(key);
            kept.pending || !kept.leaving
        });
    }

    /// A session began: everything is said again. The statuses may say by now that the node is offline, the
    /// hub may not have known an entry before, and one that lost its ledger is known nothing of. What is
    /// written already costs the hub no write.
    pub fn session(&mut self) {
        for kept in self.kept.values_mut() {
            kept.unsent = true;
        }
    }

    /// Takes reports for one frame: up to `limit`, and no more bytes than a frame may have. A single one always
    /// fits: a device has at most 128 properties.
    pub fn take(&mut self, limit: usize) -> Vec<EntryReport> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for kept in self.kept.values_mut().filter(|kept| kept.unsent).take(limit) {
            bytes += kept.report.encoded_len();
            if bytes > BYTES_A_FRAME && !taken.is_empty() {
                break;
            }
            kept.unsent = false;
            taken.push(kept.report.clone());
        }
        taken
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.kept.values().any(|kept| kept.unsent)
    }

    /// Notes a verdict. One on an older report says nothing about the newest.
    pub fn verdict(&mut self, verdict: &Verdict) {
        let Some(key) = verdict.key.clone().and_then(|key| RowKey::try_from(key).ok()) else { return };
        let Some(kept) = self.kept.get_mut(&key).filter(|kept| kept.report.seq == verdict.seq) else {
            return;
        };
        if verdict.code() == Code::Unspecified {
            return;
        }
        if kept.pending {
            kept.pending = false;
            self.unsaved.insert(key.clone());
        }
        if kept.leaving {
            self.kept.remove(&key);
        }
    }

    /// What changed since the last call: reports to be kept (`Some`) and to be forgotten (`None`).
    pub fn unsaved(&mut self) -> Vec<(RowKey, Option<EntryReport>)> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let pending = |key: &RowKey| self.kept.get(key).filter(|kept| kept.pending);
        unsaved.into_iter().map(|key| (key.clone(), pending(&key).map(|kept| kept.report.clone()))).collect()
    }

    /// Whether something is to be made durable.
    #[must_use]
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Everything that is true, and how much of it has no verdict.
    #[must_use]
    pub fn snapshot(&self) -> (Vec<EntryReport>, usize) {
        let pending = self.kept.values().filter(|kept| kept.pending).count();
        (self.kept.values().map(|kept| kept.report.clone()).collect(), pending)
    }
}

#[cfg(test)]
mod tests {
    use selvedge_model::{EntryKey, EntryKind};
    use selvedge_protocol::agent::{DeviceState, Verdict, entry_report::State, verdict::Code};

    use super::{BYTES_A_FRAME, Book, Note};
    use crate::ledger::RowKey;

    fn key() -> RowKey {
        RowKey::from(&EntryKey::new(EntryKind::Device, "shop", "boiler"))
    }

    fn note(message: &str) -> Note {
        let state = State::Device(DeviceState { message: message.into(), ..DeviceState::default() });
        Note { key: key(), uid: "u".into(), content_hash: vec![1], state }
    }

    fn verdict(seq: u64) -> Verdict {
        Verdict { key: Some((&key()).into()), seq, code: Code::Written.into(), reason: String::new() }
    }

    #[test]
    fn the_latest_wins_and_stays_until_its_verdict() {
        let mut book = Book::open(1, Vec::new());
        book.note(note("a"));
        let first = book.take(9).remove(0).seq;
        book.note(note("b"));
        book.verdict(&verdict(first));
        let second = book.take(9).remove(0);
        assert!(second.seq > first, "the verdict on the older report must not end the newer one");
        book.session();
        assert_eq!(book.take(9), std::slice::from_ref(&second), "a new session hears it again");
        book.verdict(&verdict(second.seq));
        book.note(note("b"));
        assert!(!book.has_unsent(), "what was written and is still so is not said again");
    }

    #[test]
    fn reports_that_do_not_fit_into_one_frame_go_in_the_next() {
        let mut book = Book::open(1, Vec::new());
        for name in ["a", "b", "c"] {
            let key = RowKey::from(&EntryKey::new(EntryKind::Device, "shop", name));
            book.note(Note { key, ..note(&"x".repeat(BYTES_A_FRAME / 2 - 100)) });
        }
        assert_eq!((book.take(9).len(), book.take(9).len(), book.take(9).len()), (2, 1, 0));
    }

    #[test]
    fn a_new_session_hears_what_was_written_too() {
        let mut book = Book::open(1, Vec::new());
        book.note(note("a"));
        let report = book.take(9).remove(0);
        book.verdict(&verdict(report.seq));
        assert!(!book.has_unsent());
        book.session();
        assert_eq!(book.take(9), [report]);
    }

    #[test]
    fn reports_without_a_verdict_outlive_a_restart_and_numbers_rise() {
        let mut book = Book::open(1, Vec::new());
        book.note(note("a"));
        let kept: Vec<_> = book.unsaved().into_iter().filter_map(|(_, report)| report).collect();
        let mut book = Book::open(2, kept.clone());
        assert_eq!(book.take(9), kept);
        book.note(note("b"));
        assert!(book.take(9)[0].seq > kept[0].seq);
        book.verdict(&verdict(2 << 32 | 1));
        assert_eq!(book.unsaved(), [(key(), None)]);
    }

    #[test]
    fn a_report_of_a_removed_entry_goes_with_its_verdict() {
        let mut book = Book::open(1, Vec::new());
        book.note(note("a"));
        book.retain(|_| false);
        let seq = book.take(9)[0].seq;
        book.verdict(&verdict(seq));
        assert_eq!(book.snapshot(), (vec![], 0));
    }
}
