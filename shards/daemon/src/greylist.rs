//! The greylist on disk: one file for all shards, appended to, and compacted now and then.
//!
//! A torn record at the end, from a crash, is passed over. What was not written yet is lost with a crash: a sender then
//! waits once more. What is written is bounded, whoever asks for it: the file is compacted when it has grown by half,
//! and takes nothing more when it has doubled before that is done, which costs its memory after a restart and nothing else.

mod compaction;
mod records;

use anyhow::{Context, Result, anyhow, bail};
use compaction::{Compacted, Compaction, Running};
use records::{Found, Records};
use ringpost_base::Timestamp;
use ringpost_policy::{GreyRecord, GreySecret, GreySieve};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Records that come at least between two compactions: half a megabyte, less than which is not worth it.
const GROWTH_MIN: u64 = 10_000;

/// How often a compaction that is waited for is looked at.
const SETTLE_LOOK: Duration = Duration::from_millis(2);

/// How long a compaction that failed is not tried again.
const COMPACTION_RETRY: Duration = Duration::from_secs(60);

/// The file, open for appending.
pub(crate) struct GreylistFile {
    path: PathBuf,
    secret: GreySecret,
    records: Records,
    /// Records that the last compaction left.
    kept: u64,
    running: Option<Running>,
    not_before: Option<Instant>,
    writing: Fault,
    compacting: Fault,
}

/// What a file had.
pub(crate) struct Stored {
    pub(crate) secret: GreySecret,
    pub(crate) records: Vec<GreyRecord>,
}

impl GreylistFile {
    /// Compacts the file, reads it, and opens it for appending. `fresh`: the secret of a file that is not there yet.
    pub(crate) fn open(path: PathBuf, fresh: GreySecret, sieve: GreySieve, now: Timestamp) -> Result<(Self, Stored)> {
        let found = Records::find(&path).with_context(|| format!("{}: the greylist can't be read", path.display()))?;
        let beside = path.with_extension("new");
        let records_max = 2 * (sieve.records_max() as u64).saturating_add(GROWTH_MIN);
        let written = match found {
            Found::Records(old, secret) => {
                let compaction = Compaction { old, beside: beside.clone(), secret, sieve, records_max };
                compaction.run().map(|compacted| (compacted, secret))
            }
            Found::Nothing => begin(&beside, fresh),
            Found::Damaged => {
                tracing::error!(file = %path.display(), "the greylist is damaged at its beginning, and begins anew");
                begin(&beside, fresh)
            }
        };
        let placed = written.and_then(|written| fs::rename(&beside, &path).map(|()| written));
        // On a full disk there is no room to write it anew, and nobody would be served for want of a smaller greylist.
        let placed = placed.or_else(|error| {
            // What was written of it, if anything was.
            let _ = fs::remove_file(&beside);
            as_it_is(&path, &error).ok_or(error)
        });
        let (Compacted { new, damaged }, secret) =
            placed.with_context(|| format!("{}: the greylist can't be written", path.display()))?;
        tell_damaged(&path, damaged);
        let records = all(&new, records_max, now).with_context(|| format!("{}", path.display()))?;
        let stored = Stored { secret, records };
        let kept = new.count;
        let (writing, compacting) = Default::default();
        let file = Self { path, secret, records: new, kept, running: None, not_before: None, writing, compacting };
        file.sync_directory()?;
        Ok((file, stored))
    }

    /// Appends records. Not synced: what a power cut takes is put off once more. `sieve`: what a compaction that begins
    /// now would keep.
    pub(crate) fn append(&mut self, records: &[GreyRecord], sieve: GreySieve) {
        self.finish();
        let written = self.write(records);
        self.writing.note(written);
        let waits = self.not_before.is_some_and(|time| Instant::now() < time);
        if self.records.count >= self.kept + self.growth() && self.running.is_none() && !waits {
            match self.begin_compaction(sieve) {
                Ok(running) => self.running = Some(running),
                Err(error) => self.compaction_failed(error),
            }
        }
    }

    fn write(&mut self, records: &[GreyRecord]) -> Result<()> {
        let room = (self.kept + 2 * self.growth()).saturating_sub(self.records.count);
        let fitting = &records[..records.len().min(room as usize)];
        let bytes: Vec<u8> = fitting.iter().flat_map(GreyRecord::encode).collect();
        self.records.append(&bytes).with_context(|| self.words("can't be written"))?;
        if fitting.len() < records.len() {
            bail!(self.words("has no room left until it is compacted"));
        }
        Ok(())
    }

    /// Records that come before the next compaction.
    fn growth(&self) -> u64 {
        GROWTH_MIN.max(self.kept / 2)
    }

    fn begin_compaction(&self, sieve: GreySieve) -> Result<Running> {
        let (beside, secret, count) = (self.path.with_extension("new"), self.secret, self.records.count);
        let cloned = self.records.file.try_clone().with_context(|| self.words("can't be compacted"))?;
        let old = Records { file: cloned, count };
        let started = Compaction { old, beside, secret, sieve, records_max: count }.start();
        started.with_context(|| self.words("can't be compacted"))
    }

    /// Waits for a compaction that is under way, and takes it into use: after this nothing touches the file by itself.
    pub(crate) fn settle(&mut self) {
        while self.running.is_some() {
            self.finish();
            std::thread::sleep(SETTLE_LOOK);
        }
    }

    /// Takes a compaction that is done into use.
    pub(crate) fn finish(&mut self) {
        let Some(Running { thread, looked_at }) = self.running.take_if(|running| running.thread.is_finished()) else {
            return;
        };
        let joined = thread.join().map_err(|_| anyhow!(self.words("can't be compacted: a bug")));
        let compacted = joined.and_then(|result| result.with_context(|| self.words("can't be compacted")));
        match compacted.and_then(|compacted| self.adopt(compacted, looked_at)) {
            Ok(()) => self.compacting.note(Ok(())),
            Err(error) => self.compaction_failed(error),
        }
    }

    /// Puts the new file in the place of the old one, with what came meanwhile.
    fn adopt(&mut self, compacted: Compacted, looked_at: u64) -> Result<()> {
        let Compacted { mut new, damaged } = compacted;
        let kept = new.count;
        let moved = new.append_from(&self.records, looked_at..self.records.count);
        let placed = moved.and_then(|()| fs::rename(self.path.with_extension("new"), &self.path));
        placed.with_context(|| self.words("can't be compacted"))?;
        (self.records, self.kept) = (new, kept);
        tell_damaged(&self.path, damaged);
        self.sync_directory()
    }

    fn compaction_failed(&mut self, error: anyhow::Error) {
        self.not_before = Some(Instant::now() + COMPACTION_RETRY);
        self.compacting.note(Err(error));
    }

    fn sync_directory(&self) -> Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.with_context(|| self.words("can't be written"))
    }

    fn words(&self, what: &str) -> String {
        format!("{}: the greylist {what}", self.path.display())
    }
}

/// A file without records.
fn begin(path: &Path, secret: GreySecret) -> std::io::Result<(Compacted, GreySecret)> {
    let new = Records::create(path, &secret)?;
    new.file.sync_all()?;
    Ok((Compacted { new, damaged: 0 }, secret))
}

/// A file that could not be written anew; nothing if it can't be appended to either.
fn as_it_is(path: &Path, error: &std::io::Error) -> Option<(Compacted, GreySecret)> {
    let Ok(Found::Records(Records { count, .. }, secret)) = Records::find(path) else { return None };
    let file = File::options().read(true).write(true).open(path).ok()?;
    tracing::error!(file = %path.display(), %error, "the greylist can't be compacted, and goes on as it is");
    Some((Compacted { new: Records { file, count }, damaged: 0 }, secret))
}

/// All records, or so many of them, the newest. None is from the future, where a clock that was wrong has put it: it would
/// stay until then.
fn all(records: &Records, records_max: u64, now: Timestamp) -> std::io::Result<Vec<GreyRecord>> {
    let first = records.count.saturating_sub(records_max);
    let mut all = Vec::with_capacity((records.count - first) as usize);
    records.forwards(first..records.count, |_, stored| {
        let decoded = stored.iter().filter_map(GreyRecord::decode);
        all.extend(decoded.map(|record| GreyRecord { at: record.at.min(now), ..record }));
        Ok(())
    })?;
    Ok(all)
}

fn tell_damaged(path: &Path, damaged: u64) {
    if damaged > 0 {
        tracing::warn!(file = %path.display(), records = damaged, "records of the greylist are damaged, and left out");
    }
}

/// Whether something fails: said once, and when it is over.
#[derive(Default)]
struct Fault(bool);

impl Fault {
    fn note(&mut self, result: Result<()>) {
        let failed = std::mem::replace(&mut self.0, result.is_err());
        match result {
            Err(error) if !failed => tracing::error!(error = format!("{error:#}"), "greylist is not written down"),
            Ok(()) if failed => tracing::info!("greylist is written down again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
