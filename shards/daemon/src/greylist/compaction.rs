//! Writing the file anew, without what has been overtaken or has ended: from the file itself, a block at a time.
//!
//! It is read twice. Backwards, to mark what is kept, since the newest record of a triplet is the one that counts; and
//! forwards, to write that in its order. In memory are a byte for each record that is looked at, and what the
//! sieve remembers of those it keeps.

use super::records::{Records, Stored};
use ringpost_policy::{GreyRecord, GreySecret, GreySieve};
use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;

/// What is to be compacted, and into which file.
pub(super) struct Compaction {
    pub(super) old: Records,
    pub(super) beside: PathBuf,
    pub(super) secret: GreySecret,
    pub(super) sieve: GreySieve,
    /// Records that are looked at, the newest: as many as the file can have come to have.
    pub(super) records_max: u64,
}

/// The file written anew, and synced.
pub(super) struct Compacted {
    pub(super) new: Records,
    /// Records that could not be read.
    pub(super) damaged: u64,
}

impl Compaction {
    pub(super) fn run(mut self) -> io::Result<Compacted> {
        let first = self.old.count.saturating_sub(self.records_max);
        let (marks, damaged) = self.mark(first)?;
        let mut new = Records::create(&self.beside, &self.secret)?;
        let mut kept = Vec::new();
        self.old.forwards(first..self.old.count, |begin, records| {
            let marks = &marks[(begin - first) as usize..];
            kept.clear();
            let marked = records.iter().zip(marks).filter(|(_, mark)| **mark);
            marked.for_each(|(record, _)| kept.extend_from_slice(record));
            new.append(&kept)
        })?;
        new.file.sync_all()?;
        Ok(Compacted { new, damaged })
    }

    /// Which of the records from the first on are kept, and how many are damaged.
    fn mark(&mut self, first: u64) -> io::Result<(Vec<bool>, u64)> {
        let mut marks = vec![false; (self.old.count - first) as usize];
        let mut damaged = 0;
        let sieve = &mut self.sieve;
        self.old.backwards(first..self.old.count, |begin, records: &[Stored]| {
            let marks = &mut marks[(begin - first) as usize..];
            for (record, mark) in records.iter().zip(marks).rev() {
                match GreyRecord::decode(record) {
                    Some(record) => *mark = sieve.keeps(&record),
                    None => damaged += 1,
                }
            }
            Ok(())
        })?;
        Ok((marks, damaged))
    }

    /// Starts a thread for it, since it may take seconds.
    pub(super) fn start(self) -> io::Result<Running> {
        let looked_at = self.old.count;
        let thread = std::thread::Builder::new().name("greylist".into()).spawn(move || self.run())?;
        Ok(Running { thread, looked_at })
    }
}

/// A compaction under way.
pub(super) struct Running {
    pub(super) thread: JoinHandle<io::Result<Compacted>>,
    /// Records of the old file that it takes into account.
    pub(super) looked_at: u64,
}
