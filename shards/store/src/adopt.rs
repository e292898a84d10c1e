//! Taking over the logs of shards that are no more.
//!
//! Each message is appended to this shard's log and durable there, its body file linked here, before the old directory goes;
//! and that goes by one rename. A crash in between leaves messages in both logs, and the next start finds out by their ids.
//!
//! A message that was written when segments were larger gets a body file here. Where a message can't be taken over, or the old
//! log is damaged, the old directory is not removed but kept aside ([`crate::lost`]), with everything that is in it.

use crate::error::{StoreError, file_error, io_error};
use crate::lost::{LOST, LostFiles};
use crate::recover::{RETIRED, Reader, count_lost, is_there};
use crate::segments::Segments;
use crate::store::{Store, Waiting};
use ringpost_base::{Entropy, SpoolId};
use ringpost_metrics::Counter;
use ringpost_runtime::local::{Answer, promise};
use ringpost_runtime::tick;
use ringpost_spool::{BodyFile, Content, Failure, Location, Receipt, Recovered, Spool, checksum, parse_message};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// Messages staged side by side, so that they share their syncs, and what is staged is bounded.
const SIDE_BY_SIDE_MAX: usize = 128;

/// A message that waits to be durable here.
type Staged<D> = (Recovered<D>, Answer<Result<Receipt, Failure>>);

/// What came of taking over a log.
pub(crate) struct Taken<D> {
    pub(crate) messages: Vec<Recovered<D>>,
    /// Whether something of it was damaged, or could not be taken over.
    pub(crate) damaged: bool,
}

/// Takes the messages of a shard that is no more into this one's log; its directory is removed when they are durable here.
pub(crate) async fn adopt<D>(
    store: &Rc<Store>,
    orphan: &Path,
    reader: &mut Reader<'_, D>,
    lost: &LostFiles,
) -> Result<Taken<D>, StoreError> {
    let read = reader.read(orphan).await?;
    let (foreign, live) = read.recovery.finish(store.options, Entropy([0; 16]));
    let from = Orphan { path: orphan, segments: reader.segments(orphan), log: foreign, left: Cell::new(false) };
    let mut taken = Vec::with_capacity(live.len());
    let mut staged = Vec::with_capacity(SIDE_BY_SIDE_MAX);
    for mut message in live {
        if let Some(answer) = from.stage(store, &mut message).await? {
            staged.push((message, answer));
        }
        if staged.len() == SIDE_BY_SIDE_MAX {
            from.arrive(store, &mut staged, &mut taken).await?;
        }
    }
    from.arrive(store, &mut staged, &mut taken).await?;
    from.segments.close().await;
    let damaged = read.damaged || from.left.get();
    if damaged || is_there(&orphan.join(LOST))? {
        lost.keep(orphan)?;
    } else {
        retire(store, orphan).await?;
    }
    tracing::info!(from = %orphan.display(), messages = taken.len() as u64, "spool of a former shard taken over");
    Ok(Taken { messages: taken, damaged })
}

struct Orphan<'a> {
    path: &'a Path,
    segments: Rc<Segments>,
    log: Spool,
    /// Whether a message stays there.
    left: Cell<bool>,
}

impl Orphan<'_> {
    /// Stages a message for this shard's log; nothing if it is here already, or its body file is gone.
    async fn stage<D>(
        &self,
        store: &Rc<Store>,
        message: &mut Recovered<D>,
    ) -> Result<Option<Answer<Result<Receipt, Failure>>>, StoreError> {
        let id = message.id;
        let Some(location) = self.log.locate(id).filter(|_| store.locate(id).is_none()) else { return Ok(None) };
        if message.has_body_file && !self.link_body(store, id).await? {
            count_lost(store, id);
            return Ok(None);
        }
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

    /// Links a body file here; false if it is nowhere.
    async fn link_body(&self, store: &Rc<Store>, id: SpoolId) -> Result<bool, StoreError> {
        let (from, to) = (self.path.join("body").join(format!("{id}.body")), store.body_path(id));
        if is_there(&to)? {
            return Ok(true);
        }
        if !is_there(&from)? {
            return Ok(false);
        }
        // Linked, not moved: until the record is durable here, the old log must find its file.
        fs::hard_link(&from, &to).map_err(|error| io_error(&from, error))?;
        store.disk.sync_directory(&store.bodies).await?;
        Ok(true)
    }

    /// Waits until what is staged is durable here.
    async fn arrive<D>(
        &self,
        store: &Rc<Store>,
        staged: &mut Vec<Staged<D>>,
        taken: &mut Vec<Recovered<D>>,
    ) -> Result<(), StoreError> {
        for (message, answer) in staged.drain(..) {
            match answer.wait().await {
                Some(Ok(_)) => {
                    store.count_in(message.size);
                    taken.push(message);
                }
                _ => return Err(file_error(self.path, format!("message {} could not be taken over", message.id))),
            }
        }
        Ok(())
    }
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
    let (Some(spool), Some(name)) = (orphan.parent(), orphan.file_name().and_then(|name| name.to_str())) else {
        return Err(file_error(orphan, "has no parent"));
    };
    let retired = spool.join(format!("{RETIRED}{name}"));
    fs::rename(orphan, &retired).map_err(|error| io_error(orphan, error))?;
    store.disk.sync_directory(spool).await?;
    fs::remove_dir_all(&retired).map_err(|error| io_error(&retired, error))
}
