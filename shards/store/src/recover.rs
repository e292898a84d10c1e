//! Opening a spool: reading its log back, throwing out what no record names, taking over logs of shards that are no more.
//!
//! ```text
//! STATE/spool/shard-0000/segment-00000000.log ...
//!                        body/ID.body ...
//! ```

use crate::error::{StoreError, file_error};
use crate::segments::{Segments, slot_of, sync_directory};
use crate::store::{Budget, Store, Waiting};
use ringpost_base::{Entropy, SpoolId};
use ringpost_metrics::{Block, Counter};
use ringpost_runtime::local::promise;
use ringpost_runtime::{Pace, tick};
use ringpost_spool::{BLOCK, Options, Recovered, Recovery, Slot};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What a directory's name begins with whose messages are taken over and which is about to be removed.
const RETIRED: &str = "retired-";

/// An opened spool.
pub struct Opened {
    /// The store.
    pub store: Rc<Store>,
    /// Messages accepted in an earlier run and not settled, oldest first.
    pub recovered: Vec<Recovered>,
}

/// Directories of shards that this run does not have, whose messages a shard takes over.
pub type Orphans = Vec<PathBuf>;

/// The directory of each of `shards` shards under `spool`, and, for each, the directories it is to take over because an
/// earlier run had more shards.
pub fn shard_directories(spool: &Path, shards: usize) -> Result<Vec<(PathBuf, Orphans)>, StoreError> {
    let own = |shard: usize| spool.join(format!("shard-{shard:04}"));
    let mut plan: Vec<(PathBuf, Orphans)> = (0..shards).map(|shard| (own(shard), Vec::new())).collect();
    for (directory, _) in &plan {
        let body = directory.join("body");
        fs::create_dir_all(&body).map_err(|error| file_error(&body, error))?;
    }
    for entry in fs::read_dir(spool).map_err(|error| file_error(spool, error))? {
        let path = entry.map_err(|error| file_error(spool, error))?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(RETIRED.as_bytes())) {
            fs::remove_dir_all(&path).map_err(|error| file_error(&path, error))?;
            continue;
        }
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("shard-")?.parse::<usize>().ok());
        if let Some(number) = number.filter(|number| *number >= shards) {
            plan[number % shards].1.push(path);
        }
    }
    Ok(plan)
}

/// Opens a shard's spool.
pub async fn open(
    directory: &Path,
    orphans: Orphans,
    options: Options,
    entropy: Entropy,
    block: Arc<Block>,
    budget: Budget,
) -> Result<Opened, StoreError> {
    let recovery = read(directory, options, &block).await?;
    let (spool, live) = recovery.finish(options, entropy);
    let store = Store::new(directory, options, spool, block, budget);
    let mut recovered = Vec::with_capacity(live.len());
    for message in live {
        if message.body_file.is_none() || is_there(&store.body_path(message.id))? {
            store.hold(message.id, message.size, message.body_file, None);
            recovered.push(message);
        } else {
            // Its body file goes only when it is settled: the settlement itself was not yet on the disk. A file that is
            // there and not what it should be is another matter: delivery finds out, and the message stays.
            store.spool.borrow_mut().settle(message.id);
        }
    }
    ringpost_runtime::spawn_vital(store.clone().pump());
    for orphan in orphans {
        recovered.extend(adopt(&store, &orphan, options).await?);
    }
    // Only now: a crash while a former shard's mail was taken over left body files here whose records were still there.
    remove_strays(&store, &recovered)?;
    store.block.add(Counter::SpoolRecovered, recovered.len() as u64);
    if !recovered.is_empty() {
        tracing::info!(messages = recovered.len() as u64, "messages found in the spool");
    }
    Ok(Opened { store, recovered })
}

/// Reads a log back.
async fn read(directory: &Path, options: Options, block: &Block) -> Result<Recovery, StoreError> {
    let segments = Segments::new(directory, options.segment_size.0);
    let mut recovery = Recovery::new();
    let mut pace = Pace::default();
    for slot in slots(directory)? {
        // A file cut short was never used: its making was interrupted. It is made anew when it is needed.
        let path = segments.path(slot);
        let len = fs::metadata(&path).map_err(|error| file_error(&path, error))?.len();
        if len < BLOCK as u64 {
            fs::remove_file(&path).map_err(|error| file_error(&path, error))?;
            continue;
        }
        recovery.header(slot, &segments.read(slot, 0, BLOCK).await?);
    }
    let order = recovery.order();
    // Empty, and perhaps of another size than is wanted now: new ones are made when they are needed.
    for slot in recovery.take_unused() {
        segments.remove(slot);
    }
    for (slot, header) in order {
        let bytes = segments.read(slot, 0, header.size as usize).await?;
        recovery.segment(slot, &header, &bytes);
        pace.breathe().await;
    }
    for damage in recovery.damage() {
        block.add(Counter::SpoolDamaged, 1);
        let path = segments.path(damage.slot);
        tracing::error!(path = %path.display(), offset = damage.offset, "spool record is damaged; reading went on behind it");
    }
    segments.close().await;
    Ok(recovery)
}

fn slots(directory: &Path) -> Result<Vec<Slot>, StoreError> {
    let entries = fs::read_dir(directory).map_err(|error| file_error(directory, error))?;
    let mut slots = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| file_error(directory, error))?.file_name();
        slots.extend(name.to_str().and_then(slot_of));
    }
    Ok(slots)
}

/// Whether a file is there. That it can't be found out is an error: a message must not be taken for settled by that.
fn is_there(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|error| file_error(path, error))
}

/// Removes body files that no live record names: of messages that were never acknowledged, or are settled.
fn remove_strays(store: &Store, recovered: &[Recovered]) -> Result<(), StoreError> {
    let named: HashSet<PathBuf> = recovered.iter().map(|message| store.body_path(message.id)).collect();
    for entry in fs::read_dir(&store.bodies).map_err(|error| file_error(&store.bodies, error))? {
        let path = entry.map_err(|error| file_error(&store.bodies, error))?.path();
        if !named.contains(&path) {
            fs::remove_file(&path).map_err(|error| file_error(&path, error))?;
        }
    }
    Ok(())
}

/// Takes the messages of a shard that is no more into this one's log; its directory is removed when they are durable
/// here. A crash in between leaves them in both, and the next start finds out by their ids.
async fn adopt(store: &Rc<Store>, orphan: &Path, options: Options) -> Result<Vec<Recovered>, StoreError> {
    let recovery = read(orphan, options, &store.block).await?;
    let segments = Segments::new(orphan, options.segment_size.0);
    let (foreign, live) = recovery.finish(options, Entropy([0; 16]));
    let mut taken = Vec::new();
    for message in live {
        if take(store, orphan, &segments, &foreign, &message).await? {
            taken.push(message);
        }
    }
    segments.close().await;
    retire(orphan).await?;
    tracing::info!(from = %orphan.display(), messages = taken.len() as u64, "spool of a former shard taken over");
    Ok(taken)
}

/// Removes the directory of a shard that is no more. Renamed first, in one step: half removed, it would be read as a log whose
/// settlements are gone.
async fn retire(orphan: &Path) -> Result<(), StoreError> {
    let (Some(spool), Some(name)) = (orphan.parent(), orphan.file_name().and_then(|name| name.to_str())) else {
        return Err(file_error(orphan, "has no parent"));
    };
    let retired = spool.join(format!("{RETIRED}{name}"));
    fs::rename(orphan, &retired).map_err(|error| file_error(orphan, error))?;
    sync_directory(spool).await?;
    fs::remove_dir_all(&retired).map_err(|error| file_error(&retired, error))
}

async fn take(
    store: &Rc<Store>,
    orphan: &Path,
    segments: &Segments,
    foreign: &ringpost_spool::Spool,
    message: &Recovered,
) -> Result<bool, StoreError> {
    let id: SpoolId = message.id;
    let Some(location) = foreign.locate(id) else { return Ok(false) };
    if message.body_file.is_some() {
        let (from, to) = (orphan.join("body").join(format!("{id}.body")), store.body_path(id));
        if is_there(&from)? && !is_there(&to)? {
            // Linked, not moved: until the record is durable here, the old log must find its file.
            fs::hard_link(&from, &to).map_err(|error| file_error(&from, error))?;
            sync_directory(&store.bodies).await?;
        }
        if !is_there(&to)? {
            return Ok(false);
        }
    }
    if store.spool.borrow().locate(id).is_some() {
        return Ok(false);
    }
    let bytes = segments.read(location.slot, location.offset, location.len as usize).await?;
    let (promise, answer) = promise();
    let token = store.await_token(Waiting { promise, since: tick() });
    if !store.spool.borrow_mut().adopt(token, &bytes, location.key, &message.done) {
        store.waiting.borrow_mut().remove(&token.0);
        return Err(file_error(orphan, format!("the record of message {id} is not whole")));
    }
    store.work.ring();
    match answer.wait().await {
        Some(Ok(_)) => {
            store.hold(id, message.size, message.body_file, None);
            Ok(true)
        }
        _ => Err(file_error(orphan, format!("message {id} could not be taken over"))),
    }
}
