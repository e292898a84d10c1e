//! Taking over the logs of shards that are no more, at a start or while the store serves.
//!
//! Each message is appended to this shard's log and durable there, its body file linked here, before the old directory goes;
//! and that goes by one rename. A crash in between leaves messages in both logs, and whoever plans anew finds out by what the
//! old directory says of its heir ([`crate::directories`]) and by the ids. Nobody may be given a message of it, to deliver and
//! settle it, before the old directory is gone: otherwise it would be found there again.
//!
//! A message that was written when segments were larger gets a body file here. Where a message can't be taken over, or the old
//! log is damaged, the old directory is not removed but kept aside ([`crate::lost`]), with everything that is in it.

use crate::directories::{claim, retired};
use crate::error::{StoreError, file_error, io_error};
use crate::lost::{LOST, LostFiles};
use crate::recover::{ReadBack, Reader, count_lost, is_there};
use crate::segments::Segments;
use crate::space::free_bytes;
use crate::store::{Store, Waiting};
use ringpost_base::SpoolId;
use ringpost_metrics::Counter;
use ringpost_runtime::local::{Answer, promise};
use ringpost_runtime::{Pace, tick};
use ringpost_spool::{BodyFile, Content, Failure, Live, Location, Receipt, Recovered, checksum, parse_message};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Messages staged side by side, at most, so that they share their syncs.
const SIDE_BY_SIDE_MAX: usize = 128;

/// Of larger ones fewer: what fills so many batches, so that a client's message waits behind no more than that.
const BATCHES_MAX: u64 = 2;

/// A message that waits to be durable here.
type Staged<D> = (Recovered<D>, Answer<Result<Receipt, Failure>>);

/// Takes the messages of shards that are no more into this one's log; a directory is removed when all of it is durable here. So
/// many bytes are left free. Gives whether something was damaged, or could not be taken over. What is in `taken` afterwards is
/// durable here, also after an error.
pub(crate) async fn adopt_all<D>(
    store: &Rc<Store>,
    orphans: &[PathBuf],
    reader: &mut Reader<'_, D>,
    lost: &LostFiles,
    (spare, taken): (u64, &mut Vec<Recovered<D>>),
) -> Result<bool, StoreError> {
    let mut logs = Vec::with_capacity(orphans.len());
    for orphan in orphans {
        // One of an earlier try may be taken over already.
        if is_there(orphan)? {
            logs.push((orphan.as_path(), reader.read(orphan).await?));
        }
    }
    find_room(store, logs.iter().map(|(_, log)| log.recovery.live_bytes()).sum(), spare)?;
    let there: Vec<&Path> = logs.iter().map(|(orphan, _)| *orphan).collect();
    claim(&store.disk, store.directory(), &there).await?;
    let mut damaged = false;
    for (orphan, log) in logs {
        let from = Orphan { path: orphan, segments: reader.segments(orphan), left: Cell::new(false) };
        damaged |= from.adopt(store, log, lost, taken).await?;
    }
    Ok(damaged)
}

/// An error if copies of so many bytes leave less free than that. Better none is made than half of them: another start can
/// still go on with the logs as they are.
fn find_room(store: &Store, needed: u64, spare: u64) -> Result<(), StoreError> {
    let path = store.directory();
    let Some(free) = free_bytes(path).filter(|free| needed > 0 && *free < needed.saturating_add(spare)) else {
        return Ok(());
    };
    let reason = format!(
        "taking over the logs of former cores needs {needed} bytes and should leave {spare}, and {free} are free: make \
         room, or run it with as many cores as before"
    );
    Err(StoreError::File { path: path.to_owned(), reason, full: true, broken: false })
}

struct Orphan<'a> {
    path: &'a Path,
    segments: Rc<Segments>,
    /// Whether a message stays there.
    left: Cell<bool>,
}

impl Orphan<'_> {
    async fn adopt<D>(
        &self,
        store: &Rc<Store>,
        log: ReadBack<D>,
        lost: &LostFiles,
        taken: &mut Vec<Recovered<D>>,
    ) -> Result<bool, StoreError> {
        let (before, mut pace) = (taken.len(), Pace::default());
        let mut live = log.recovery.into_live();
        loop {
            let some = next_few(store, &mut live);
            if some.is_empty() {
                break;
            }
            let some = self.link_bodies(store, some).await?;
            let mut staged = Vec::with_capacity(some.len());
            let outcome = self.stage_all(store, some, &mut staged, &mut pace).await;
            // What is staged becomes durable, whatever came then.
            self.arrive(store, staged, taken).await?;
            outcome?;
        }
        self.segments.close().await;
        let damaged = log.damaged || self.left.get();
        if damaged {
            lost.keep(self.path)?;
            lost.sync(self.path.parent()).await?;
        } else {
            lost.carry(&self.path.join(LOST)).await?;
            retire(store, self.path).await?;
        }
        let messages = (taken.len() - before) as u64;
        tracing::info!(from = %self.path.display(), messages, damaged, "spool of a former shard taken over");
        Ok(damaged)
    }

    /// Links body files here, and gives the messages that can be taken over then: those whose file is nowhere are settled.
    async fn link_bodies<D>(
        &self,
        store: &Rc<Store>,
        mut some: Vec<(Recovered<D>, Location)>,
    ) -> Result<Vec<(Recovered<D>, Location)>, StoreError> {
        let mut gone = Vec::new();
        for (message, _) in some.iter().filter(|(message, _)| message.has_body_file) {
            if !self.link_body(store, message.id)? {
                count_lost(store, message.id);
                gone.push(message.id);
            }
        }
        some.retain(|(message, _)| !gone.contains(&message.id));
        if some.iter().any(|(message, _)| message.has_body_file) {
            store.disk.sync_directory(&store.bodies).await?;
        }
        Ok(some)
    }

    /// False if the file is nowhere.
    fn link_body(&self, store: &Store, id: SpoolId) -> Result<bool, StoreError> {
        let (from, to) = (self.path.join("body").join(format!("{id}.body")), store.body_path(id));
        if is_there(&to)? {
            return Ok(true);
        }
        if !is_there(&from)? {
            return Ok(false);
        }
        // Linked, not moved: until the record is durable here, the old log must find its file.
        store.disk.link_body(&from, &to)?;
        Ok(true)
    }

    async fn stage_all<D>(
        &self,
        store: &Rc<Store>,
        some: Vec<(Recovered<D>, Location)>,
        staged: &mut Vec<Staged<D>>,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        for (mut message, location) in some {
            if let Some(answer) = self.stage(store, &mut message, location).await? {
                staged.push((message, answer));
            }
            pace.breathe().await;
        }
        Ok(())
    }

    /// Stages a message for this shard's log; nothing if it can't be taken over.
    async fn stage<D>(
        &self,
        store: &Rc<Store>,
        message: &mut Recovered<D>,
        location: Location,
    ) -> Result<Option<Answer<Result<Receipt, Failure>>>, StoreError> {
        let id = message.id;
        let record = match self.segments.read(location.slot, location.offset, location.len as usize).await {
            Ok(record) => record,
            Err(error) if error.is_broken() => return Ok(self.leave(store, id, &error)),
            Err(error) => return Err(error),
        };
        if let Some(answer) = stage_record(store, message, &record, location, None) {
            return Ok(Some(answer));
        }
        let content = parse_message(&record, location.key).ok().filter(|found| found.id == id);
        let Some(content) = content.map(|found| found.content) else {
            return Ok(self.leave(store, id, &"its checksum does not hold"));
        };
        if let Content::Inline(content) = content {
            let file = write_body(store, id, content).await?;
            if let Some(answer) = stage_record(store, message, &record, location, Some(file)) {
                message.has_body_file = true;
                return Ok(Some(answer));
            }
        }
        Ok(self.leave(store, id, &"its envelope is larger than spool.segment_size"))
    }

    /// A message is not taken over: it stays in its log, which is kept aside.
    fn leave<T>(&self, store: &Store, id: SpoolId, reason: &dyn std::fmt::Display) -> Option<T> {
        self.left.set(true);
        store.block.add(Counter::SpoolDamaged, 1);
        tracing::error!(%id, %reason, from = %self.path.display(), "a message of a former shard can't be taken over; it is kept aside");
        None
    }

    /// Waits until what is staged is durable here, or has failed.
    async fn arrive<D>(
        &self,
        store: &Rc<Store>,
        staged: Vec<Staged<D>>,
        taken: &mut Vec<Recovered<D>>,
    ) -> Result<(), StoreError> {
        let mut failed = None;
        for (message, answer) in staged {
            match answer.wait().await {
                Some(Ok(_)) => {
                    store.count_in(message.size);
                    taken.push(message);
                }
                Some(Err(failure)) => failed = Some((message.id, failure)),
                None => failed = Some((message.id, Failure::Io)),
            }
        }
        let Some((id, failure)) = failed else { return Ok(()) };
        let reason = format!("message {id} could not be taken over: {failure}");
        Err(StoreError::File { path: self.path.to_owned(), reason, full: failure == Failure::Full, broken: false })
    }
}

/// The next messages of a log that are not here yet.
fn next_few<D>(store: &Store, live: &mut Live<D>) -> Vec<(Recovered<D>, Location)> {
    let (mut some, mut bytes) = (Vec::new(), 0);
    while some.len() < SIDE_BY_SIDE_MAX && bytes < BATCHES_MAX * store.options.batch_max.0 {
        let Some((message, location)) = live.next() else { break };
        if store.locate(message.id).is_none() {
            bytes += u64::from(location.len);
            some.push((message, location));
        }
    }
    some
}

/// Stages a message for this shard's log, with its bytes in a body file where that is given; nothing if the log does not take
/// it.
fn stage_record<D>(
    store: &Store,
    message: &Recovered<D>,
    record: &[u8],
    location: Location,
    file: Option<BodyFile>,
) -> Option<Answer<Result<Receipt, Failure>>> {
    let (promise, answer) = promise();
    let token = store.await_token(Waiting { promise, since: tick() });
    let (mut log, key) = (store.spool.borrow_mut(), location.key);
    let adopted = match file {
        None if message.legacy_done.is_empty() => log.adopt(token, record, key, &message.state),
        None => log.adopt_legacy(token, record, key, &message.legacy_done),
        Some(file) => log.adopt_into_file(token, record, key, (&message.state, &message.legacy_done), file),
    };
    drop(log);
    if !adopted {
        store.waiting.borrow_mut().remove(&token.0);
        return None;
    }
    store.work.ring();
    Some(answer)
}

/// Puts a message that was in its record into a body file, as a draft does.
async fn write_body(store: &Store, id: SpoolId, content: &[u8]) -> Result<BodyFile, StoreError> {
    let path = store.body_path(id);
    let file = store.disk.create_body(&path).await?;
    store.disk.write_body(&file, &path, content.to_vec(), 0).await?;
    store.disk.sync_body(&file, &path).await?;
    let _ = file.close().await;
    store.disk.sync_directory(&store.bodies).await?;
    Ok(BodyFile { len: content.len() as u64, crc: checksum(0, content) })
}

/// Removes the directory of a shard that is no more. Renamed first, in one step: half removed, it would be read as a log whose
/// settlements are gone.
async fn retire(store: &Store, orphan: &Path) -> Result<(), StoreError> {
    let (Some(spool), Some(retired)) = (orphan.parent(), retired(orphan)) else {
        return Err(file_error(orphan, "has no parent"));
    };
    if is_there(&retired)? {
        fs::remove_dir_all(&retired).map_err(|error| io_error(&retired, error))?;
    }
    store.disk.rename(orphan, &retired)?;
    store.disk.sync_directory(spool).await?;
    // The messages are safe by now; what is left of it the next start removes.
    if let Err(error) = remove_slowly(store, &retired, &mut Pace::default()).await {
        tracing::warn!(%error, "the spool of a former shard can't be removed");
    }
    Ok(())
}

/// Removes a directory file by file, which takes long where there are many.
async fn remove_slowly(store: &Store, directory: &Path, pace: &mut Pace) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(|error| io_error(directory, error))? {
        let entry = entry.map_err(|error| io_error(directory, error))?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            Box::pin(remove_slowly(store, &path, pace)).await?;
        } else {
            store.disk.remove_retired(&path)?;
        }
        pace.breathe().await;
    }
    fs::remove_dir(directory).map_err(|error| io_error(directory, error))
}
