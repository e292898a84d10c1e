//! The thread beside a shard that writes Maildirs and files.
//!
//! Making, linking and syncing small files are operations that io_uring hands to kernel worker threads one by one; a
//! thread of our own does them for a whole batch of messages, with two syncs for all of them. It gets [`Job`]s through a
//! channel and answers each with a [`JobDone`] through the shard's inbox.

use crate::file_target;
use crate::maildir::{self, Maildirs};
use crossbeam::channel::{Receiver, Sender, unbounded};
use ringpost_base::{ShardId, SpoolId};
use ringpost_runtime::InboxSender;
use ringpost_spool::BodyFile;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Messages delivered together, at most.
const BATCH_MAX: usize = 256;

/// One message for some Maildirs.
pub struct Job {
    /// Comes back with the outcome, to tell jobs of one message apart.
    pub number: u64,
    /// The message.
    pub id: SpoolId,
    /// What is to be written.
    pub kind: JobKind,
    /// The message.
    pub content: JobContent,
    /// Whether an earlier attempt, or an earlier run, may have delivered it already.
    pub again: bool,
}

/// What a job writes.
pub enum JobKind {
    /// A copy into each of some Maildirs.
    Maildirs {
        /// The file's name, the same at every attempt.
        name: String,
        /// The Maildirs, each with the header that goes in front of its copy, and a number that comes back with its
        /// outcome.
        places: Vec<(PathBuf, Vec<u8>, usize)>,
    },
    /// A file with the message, and one with its envelope. Its one outcome has the number 0.
    File {
        /// Where.
        directory: PathBuf,
        /// The envelope as it is to be written.
        envelope: Vec<u8>,
    },
}

impl Job {
    /// The name of its file in a Maildir; none where it goes into none.
    pub(crate) fn name(&self) -> &str {
        match &self.kind {
            JobKind::Maildirs { name, .. } => name,
            JobKind::File { .. } => "",
        }
    }

    /// The Maildirs that it goes into.
    pub(crate) fn places(&self) -> &[(PathBuf, Vec<u8>, usize)] {
        match &self.kind {
            JobKind::Maildirs { places, .. } => places,
            JobKind::File { .. } => &[],
        }
    }

    /// The numbers of all its outcomes.
    fn numbers(&self) -> Vec<usize> {
        match &self.kind {
            JobKind::Maildirs { places, .. } => places.iter().map(|place| place.2).collect(),
            JobKind::File { .. } => vec![0],
        }
    }
}

/// A message's bytes for a job.
#[derive(Clone)]
pub enum JobContent {
    /// Here.
    Memory(Arc<Vec<u8>>),
    /// In this file.
    File(PathBuf, BodyFile),
}

/// What became of a job.
pub struct JobDone {
    /// The job's number.
    pub number: u64,
    /// The message.
    pub id: SpoolId,
    /// For each place its number, and why it failed if it did.
    pub places: Vec<(usize, Result<(), String>)>,
    /// Syncs made for the batch, told with its first job.
    pub syncs: u64,
}

/// The files thread of one shard.
pub struct FilesThread {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl FilesThread {
    /// Starts it. Called before the shard is pinned, so that the thread may run wherever there is room.
    pub fn start(shard: ShardId, done: InboxSender<JobDone>) -> std::io::Result<Self> {
        let (jobs, queue) = unbounded();
        let work = move || run(&queue, &done);
        let thread = std::thread::Builder::new().name(format!("files-{shard}")).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Hands a job over. The queue's bound is the number of attempts that the shard has under way.
    pub fn submit(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only when this sender is dropped.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for FilesThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run(queue: &Receiver<Job>, done: &InboxSender<JobDone>) {
    let mut maildirs = Maildirs::new();
    while let Ok(first) = queue.recv() {
        let batch: Vec<Job> = std::iter::once(first).chain(queue.try_iter().take(BATCH_MAX - 1)).collect();
        let work = AssertUnwindSafe(|| deliver(&mut maildirs, &batch));
        let (results, syncs) = catch_unwind(work).unwrap_or_else(|_| {
            // The shard waits for an answer to each job; after a panic, whose hook has reported it, none is done.
            maildirs = Maildirs::new();
            let failed =
                |job: &Job| job.numbers().into_iter().map(|number| (number, Err("panic".to_owned()))).collect();
            (batch.iter().map(failed).collect(), 0)
        });
        // The jobs go first: the shard may want the messages' memory back.
        let ids: Vec<(u64, SpoolId)> = batch.into_iter().map(|job| (job.number, job.id)).collect();
        for (at, ((number, id), places)) in ids.into_iter().zip(results).enumerate() {
            done.send(JobDone { number, id, places, syncs: if at == 0 { syncs } else { 0 } });
        }
    }
}

/// Delivers a batch: what goes into Maildirs together, the rest one by one.
fn deliver(maildirs: &mut Maildirs, batch: &[Job]) -> (Vec<maildir::Places>, u64) {
    let (mut results, mut syncs) = maildir::deliver(maildirs, batch);
    for (job, outcomes) in batch.iter().zip(&mut results) {
        if let JobKind::File { directory, envelope } = &job.kind {
            let written = file_target::deliver(job.id, directory, envelope, &job.content);
            outcomes.push((0, written.map_err(|error| format!("{}: {error}", directory.display()))));
            syncs += file_target::SYNCS;
        }
    }
    (results, syncs)
}
