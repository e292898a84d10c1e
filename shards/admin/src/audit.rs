//! The audit log: who changed what, from what and to what, and what was refused.
//!
//! Invariants: [`Audit::note`] never waits, whatever the disk does; a thread of its own writes, one line of JSON an entry, and
//! syncs what it has written. At most [`WAITING_MAX`] entries wait for it, of those that were refused [`REFUSED_WAITING_MAX`],
//! so that there is room for what was done. [`Lines`] are kept in memory to be shown; where another process has written to
//! the file too, as the one that was taken over from does at its end, they are read again. What can't be written is
//! counted and logged, and the server goes on. It refuses to leave half a line where a whole one is to follow.

mod file;
mod lines;

use crate::accounts;
use crate::api::{AuditEntry, AuditWho, Moment};
use crate::clock::wall;
use file::AuditFile;
use lines::Lines;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Entries that wait for the disk: orders come from people and scripts, so this is minutes of a disk that hangs.
const WAITING_MAX: usize = 1_024;

/// Of these, entries of what was refused.
const REFUSED_WAITING_MAX: usize = WAITING_MAX / 4;

/// Entries that are written and synced together.
const TOGETHER_MAX: usize = 256;

/// How long the end of the server waits for a disk that is slow.
const FINISH_PATIENCE: Duration = Duration::from_secs(2);

/// How long whoever looks waits for the disk before what is in memory is shown.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);

/// Users whose names are remembered.
const NAMES_MAX: usize = 256;

/// The outcome of what was not refused.
const DONE: &str = "done";

/// What is to be noted.
#[derive(Clone, Debug)]
pub struct Note {
    /// Who ordered it.
    pub who: AuditWho,
    /// What was ordered: `ban`, `reload`, ...
    pub what: &'static str,
    /// What it was ordered for; may be empty.
    pub subject: String,
    /// What it was like before.
    pub before: Value,
    /// What it is like since; nothing if it was refused.
    pub after: Value,
    /// Why it was refused, if it was.
    pub refused: Option<String>,
}

impl Note {
    /// What a signal has had done.
    pub fn of_signal(what: &'static str, signal: &str, before: Value, after: Value) -> Self {
        let who = AuditWho { via: "signal".to_owned(), ..AuditWho::default() };
        Self { who, what, subject: signal.to_owned(), before, after, refused: None }
    }

    fn entry(self) -> AuditEntry {
        let Self { who, what, subject, before, after, refused } = self;
        let outcome = refused.map_or_else(|| DONE.to_owned(), |reason| format!("refused: {reason}"));
        AuditEntry { at: Moment(wall()), who, what: what.to_owned(), subject, before, after, outcome }
    }
}

/// Takes notes, from any thread.
#[derive(Clone, Default)]
pub struct Audit {
    book: Option<Book>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("on", &self.book.is_some()).field("lost", &self.lost()).finish()
    }
}

/// What those who note have.
#[derive(Clone)]
struct Book {
    sender: SyncSender<Message>,
    recent: Arc<Recent>,
}

/// What they share with the thread.
struct Recent {
    lost: AtomicU64,
    /// Entries of what was refused that wait.
    refused: AtomicUsize,
    lines: Mutex<Lines>,
}

enum Message {
    Entry(Box<AuditEntry>),
    /// Tells when all that came before has been written.
    Flush(Sender<()>),
    /// Tells when what others have written is known.
    Look(oneshot::Sender<()>),
}

impl Audit {
    /// One that forgets.
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens the file, reads its last entries, and starts the thread that writes. It ends with the last of those who note.
    ///
    /// # Errors
    /// If the file can't be opened for a reason that is not the disk's: a directory that is missing or may not be written
    /// to. Or if there is no thread.
    pub fn start(path: PathBuf) -> io::Result<Self> {
        let mut file = AuditFile::open(path)?;
        let (sender, messages) = sync_channel(WAITING_MAX);
        let recent = Recent {
            lost: AtomicU64::new(0),
            refused: AtomicUsize::new(0),
            lines: Mutex::new(file.last_lines().unwrap_or_default()),
        };
        let recent = Arc::new(recent);
        let writer = Writer { recent: Arc::clone(&recent), file, names: BTreeMap::new(), failing: false };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&messages))?;
        Ok(Self { book: Some(Book { sender, recent }) })
    }

    /// Notes something; at once, also if the disk hangs or is full.
    pub fn note(&self, note: Note) {
        let Some(book) = &self.book else { return };
        let is_refused = note.refused.is_some();
        let entry = Box::new(note.entry());
        if is_refused && book.recent.refused.fetch_add(1, Relaxed) >= REFUSED_WAITING_MAX {
            book.recent.refused.fetch_sub(1, Relaxed);
            return book.recent.tell_lost(&entry);
        }
        match book.sender.try_send(Message::Entry(entry)) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if is_refused {
                    book.recent.refused.fetch_sub(1, Relaxed);
                }
                if let Message::Entry(entry) = message {
                    book.recent.tell_lost(&entry);
                }
            }
        }
    }

    /// The last entries as JSON, the newest first; nothing if there is no audit log.
    pub(crate) async fn recent(&self, limit: usize) -> Option<Vec<Arc<str>>> {
        let book = self.book.as_ref()?;
        let (known, looked) = oneshot::channel();
        if book.sender.try_send(Message::Look(known)).is_ok() {
            // A disk that hangs has what is in memory shown.
            let _ = timeout(LOOK_PATIENCE, looked).await;
        }
        Some(book.recent.lines().newest(limit))
    }

    /// Entries that could not be written, since the start.
    pub fn lost(&self) -> u64 {
        self.book.as_ref().map_or(0, |book| book.recent.lost.load(Relaxed))
    }

    /// Waits until what was noted so far has been written; for a disk that hangs, two seconds.
    pub fn finish(&self) {
        let Some(book) = &self.book else { return };
        let (done, written) = channel();
        let told = book.sender.try_send(Message::Flush(done)).is_ok();
        if !told || written.recv_timeout(FINISH_PATIENCE).is_err() {
            tracing::error!("the disk of the audit log does not answer; entries that wait for it are perhaps lost");
        }
    }
}

impl Recent {
    fn lose(&self, count: u64) -> u64 {
        self.lost.fetch_add(count, Relaxed) + count
    }

    fn tell_lost(&self, entry: &AuditEntry) {
        let lost = self.lose(1);
        tracing::error!(
            what = entry.what,
            subject = entry.subject,
            uid = entry.who.uid,
            outcome = entry.outcome,
            lost,
            "an entry of the audit log is lost: the log is not written fast enough"
        );
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has.
struct Writer {
    recent: Arc<Recent>,
    file: AuditFile,
    /// Names of users that were asked for.
    names: BTreeMap<u32, Option<String>>,
    /// Whether the last entries could not be written.
    failing: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let (mut entries, mut waiting, mut looking) = (Vec::new(), Vec::new(), Vec::new());
            for message in std::iter::once(first).chain(messages.try_iter()).take(TOGETHER_MAX) {
                match message {
                    Message::Entry(entry) => entries.push(self.named(*entry)),
                    Message::Flush(done) => waiting.push(done),
                    Message::Look(known) => looking.push(known),
                }
            }
            self.write(&entries);
            if !looking.is_empty() {
                self.look();
            }
            // Who waited may have given up.
            for done in waiting {
                let _ = done.send(());
            }
            for known in looking {
                let _ = known.send(());
            }
        }
    }

    /// The same with the user's name.
    fn named(&mut self, mut entry: AuditEntry) -> AuditEntry {
        if let (Some(uid), None) = (entry.who.uid, &entry.who.user) {
            if self.names.len() >= NAMES_MAX {
                self.names.clear();
            }
            entry.who.user = self.names.entry(uid).or_insert_with(|| accounts::name_of_user(uid)).clone();
        }
        entry
    }

    /// Reads what is shown again if others have written.
    fn look(&mut self) {
        if let Some(lines) = self.file.last_lines() {
            *self.recent.lines() = lines;
        }
    }

    fn write(&mut self, entries: &[AuditEntry]) {
        let refused = entries.iter().filter(|entry| entry.outcome != DONE).count();
        self.recent.refused.fetch_sub(refused, Relaxed);
        let lines: String = entries.iter().map(line).collect();
        lines.lines().for_each(|line| self.recent.lines().push(line));
        match self.file.append(lines.as_bytes()) {
            Ok(()) => {
                if std::mem::replace(&mut self.failing, false) {
                    let lost = self.recent.lost.load(Relaxed);
                    tracing::warn!(path = %self.file.path().display(), lost, "the audit log is written again");
                }
            }
            Err(error) => {
                self.failing = true;
                let lost = self.recent.lose(entries.len() as u64);
                tracing::error!(path = %self.file.path().display(), %error, lost, "the audit log can't be written; entries are lost");
            }
        }
    }
}

fn line(entry: &AuditEntry) -> String {
    // It fails only for maps whose keys are no text, and there are none.
    let mut line = serde_json::to_string(entry).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests;
