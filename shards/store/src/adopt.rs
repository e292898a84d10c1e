//! Taking over the logs of shards that are no more.
//!
//! Each message is appended to this shard's log and durable there, its body file linked here, before the old directory goes;
//! and that goes by one rename. A crash in between leaves messages in both logs, and the next start finds out by their ids.

use crate::error::{StoreError, file_error, io_error};
use crate::recover::{RETIRED, Reader, is_there};
use crate::segments::Segments;
use crate::store::{Store, Waiting};
use ringpost_base::{Entropy, SpoolId};
use ringpost_runtime::local::{Answer, promise};
use ringpost_runtime::tick;
use ringpost_spool::{Failure, Receipt, Recovered, Spool};
use std::fs;
use std::path::Path;
use std::rc::Rc;

/// Messages staged side by side, so that they share their syncs, and what is staged is bounded.
const SIDE_BY_SIDE_MAX: usize = 128;

/// A message that waits to be durable here.
type Staged<D> = (Recovered<D>, Answer<Result<Receipt, Failure>>);

/// Takes the messages of a shard that is no more into this one's log; its directory is removed when they are durable here.
pub(crate) async fn adopt<D>(
    store: &Rc<Store>,
    orphan: &Path,
    reader: &mut Reader<'_, D>,
) -> Result<Vec<Recovered<D>>, StoreError> {
    let recovery = reader.read(orphan).await?;
    let (foreign, live) = recovery.finish(store.options, Entropy([0; 16]));
    let from = Orphan { path: orphan, segments: reader.segments(orphan), log: foreign };
    let mut taken = Vec::with_capacity(live.len());
    let mut staged = Vec::with_capacity(SIDE_BY_SIDE_MAX);
    for message in live {
        if let Some(answer) = from.stage(store, &message).await? {
            staged.push((message, answer));
        }
        if staged.len() == SIDE_BY_SIDE_MAX {
            from.arrive(store, &mut staged, &mut taken).await?;
        }
    }
    from.arrive(store, &mut staged, &mut taken).await?;
    from.segments.close().await;
    retire(store, orphan).await?;
    tracing::info!(from = %orphan.display(), messages = taken.len() as u64, "spool of a former shard taken over");
    Ok(taken)
}

struct Orphan<'a> {
    path: &'a Path,
    segments: Rc<Segments>,
    log: Spool,
}

impl Orphan<'_> {
    /// Stages a message for this shard's log; nothing if it is here already, or its body file is gone.
    async fn stage<D>(
        &self,
        store: &Rc<Store>,
        message: &Recovered<D>,
    ) -> Result<Option<Answer<Result<Receipt, Failure>>>, StoreError> {
        let id = message.id;
        let Some(location) = self.log.locate(id) else { return Ok(None) };
        if message.has_body_file && !self.link_body(store, id).await? {
            return Ok(None);
        }
        if store.locate(id).is_some() {
            return Ok(None);
        }
        let bytes = self.segments.read(location.slot, location.offset, location.len as usize).await?;
        let (promise, answer) = promise();
        let token = store.await_token(Waiting { promise, since: tick() });
        let (mut log, key) = (store.spool.borrow_mut(), location.key);
        let adopted = if message.legacy_done.is_empty() {
            log.adopt(token, &bytes, key, &message.state)
        } else {
            log.adopt_legacy(token, &bytes, key, &message.legacy_done)
        };
        drop(log);
        if !adopted {
            store.waiting.borrow_mut().remove(&token.0);
            return Err(file_error(self.path, format!("the record of message {id} is not whole")));
        }
        store.work.ring();
        Ok(Some(answer))
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
