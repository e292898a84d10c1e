//! Opening a spool: reading its log back, throwing out what no record names, taking over logs of shards that are no more.
//!
//! ```text
//! STATE/spool/shard-0000/segment-00000000.log ...
//!                        body/ID.body ...
//!                        lost/ ...
//! ```
//!
//! All headers of a log are read before anything of it is changed, and all segments before anything is removed. What the disk
//! does not give back is damage like any other: counted, logged, and passed over. While there is any, body files of no message
//! and segments with an empty header are moved into `lost` instead of being removed ([`crate::lost`]); a segment whose
//! header can't be read stays where it is.
//!
//! A segment is one read, and the next is read while one is looked through. What a message needs in memory afterwards is the
//! caller's digest of its envelope and the log's entry; the envelopes themselves are let go with their segment.

use crate::adopt::adopt_all;
use crate::directories::Orphans;
use crate::disk::Disk;
use crate::error::{StoreError, file_error, io_error};
use crate::lost::{LostFiles, is_all_zeros};
use crate::segments::{Segments, WholeSegment, slot_of};
use crate::space::SpaceLimits;
use crate::store::{Budget, Parts, Store};
use glommio::Task;
use ringpost_base::{Entropy, SpoolId, Tick};
use ringpost_metrics::{Block, Counter};
use ringpost_runtime::{Pace, tick};
use ringpost_spool::{BLOCK, Lost, Options, Recovered, Recovery, SegmentHeader, Slot};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often the caller is told how far the reading has come, at most.
const TELL: Duration = Duration::from_millis(250);

/// How often the log is told, where reading takes long.
const NEWS: Duration = Duration::from_secs(5);

/// What a store is opened with.
pub struct Setup {
    /// The shard's directory.
    pub directory: PathBuf,
    /// Directories of former shards that it takes over.
    pub orphans: Orphans,
    /// The log's options.
    pub options: Options,
    /// From which the keys of segments are drawn.
    pub entropy: Entropy,
    /// Where it counts.
    pub block: Arc<Block>,
    /// What it may hold in memory.
    pub budget: Budget,
    /// Its marks of free space.
    pub space: SpaceLimits,
}

/// An opened spool.
pub struct Opened<D> {
    /// The store. Its tasks run.
    pub store: Rc<Store>,
    /// Messages accepted in an earlier run and not settled, oldest first.
    pub recovered: Vec<Recovered<D>>,
}

/// How far the reading of one log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub read: u64,
    /// Bytes to read in all.
    pub total: u64,
    /// Messages found alive so far; later segments may settle them.
    pub found: usize,
}

/// Opens a shard's spool. `digest` makes of each envelope what the caller wants to keep of it; a message whose record is
/// found more than once is digested more than once. `progress` is called a few times a second.
pub async fn open<D>(
    setup: Setup,
    mut digest: impl FnMut(SpoolId, &[u8]) -> D,
    progress: impl Fn(Progress),
) -> Result<Opened<D>, StoreError> {
    open_on(Disk::new(), setup, &mut digest, &progress).await
}

pub(crate) async fn open_on<D>(
    disk: Disk,
    setup: Setup,
    digest: &mut dyn FnMut(SpoolId, &[u8]) -> D,
    progress: &dyn Fn(Progress),
) -> Result<Opened<D>, StoreError> {
    let Setup { directory, orphans, options, entropy, block, budget, space } = setup;
    let mut reader = Reader::new(&disk, &block, digest, progress);
    let (log, lost) = (reader.read(&directory).await?, LostFiles::new(&disk, &directory));
    log.remove_unused(&reader.segments(&directory), &lost)?;
    let damaged = log.damaged;
    let (spool, live) = log.recovery.finish(options, entropy);
    let parts = Parts { disk: disk.clone(), options, block: block.clone(), budget, space };
    let store = Store::new(&directory, parts, spool);
    let mut recovered = enter(&store, live).await?;
    ringpost_runtime::spawn_vital(store.clone().pump());
    ringpost_runtime::spawn_vital(store.clone().watch_space());
    let damaged = damaged | adopt_all(&store, &orphans, &mut reader, &lost, (0, &mut recovered)).await?;
    // Only now: a crash while a former shard's mail was taken over left body files here whose records were still there.
    remove_strays(&store, damaged.then_some(&lost))?;
    lost.tell();
    store.block.add(Counter::SpoolRecovered, recovered.len() as u64);
    if !recovered.is_empty() {
        tracing::info!(messages = recovered.len() as u64, "messages found in the spool");
    }
    Ok(Opened { store, recovered })
}

/// Counts what was found, and settles what has no body file any more.
async fn enter<D>(store: &Store, mut live: Vec<Recovered<D>>) -> Result<Vec<Recovered<D>>, StoreError> {
    let mut pace = Pace::default();
    let mut gone = Vec::new();
    for message in &live {
        if !message.has_body_file || is_there(&store.body_path(message.id))? {
            store.count_in(message.size);
        } else {
            // Its body file goes only when it is settled: the settlement itself was not yet on the disk. A file that is
            // there and not what it should be is another matter: delivery finds out, and the message stays.
            store.spool.borrow_mut().settle(message.id);
            count_lost(store, message.id);
            gone.push(message.id);
        }
        pace.breathe().await;
    }
    // Both are in order of their ids.
    live.retain(|message| gone.binary_search(&message.id).is_err());
    Ok(live)
}

/// A message's body file is gone. After a crash that is as it should be for those that were settled just before it.
pub(crate) fn count_lost(store: &Store, id: SpoolId) {
    store.block.add(Counter::SpoolLost, 1);
    tracing::warn!(%id, "the body file of a message is gone; the message counts as settled");
}

/// A log that was read back.
pub(crate) struct ReadBack<D> {
    pub(crate) recovery: Recovery<D>,
    /// Files with a header of zeros, or shorter than a header.
    blank: Vec<Slot>,
    /// Files that the newest header does not need.
    let_go: Vec<Slot>,
    /// Whether any of it is damaged, is missing, or could not be read.
    pub(crate) damaged: bool,
}

impl<D> ReadBack<D> {
    /// Removes the files that hold nothing of the log. They may be of another size than is wanted now: new ones are made when
    /// they are needed.
    fn remove_unused(&self, segments: &Segments, lost: &LostFiles) -> Result<(), StoreError> {
        self.let_go.iter().for_each(|slot| segments.remove(*slot));
        for slot in &self.blank {
            let path = segments.path(*slot);
            if self.damaged && !is_all_zeros(&path) {
                lost.keep(&path)?;
            } else {
                segments.remove(*slot);
            }
        }
        Ok(())
    }
}

/// Reads logs back.
pub(crate) struct Reader<'a, D> {
    disk: &'a Disk,
    pub(crate) block: &'a Block,
    digest: &'a mut dyn FnMut(SpoolId, &[u8]) -> D,
    progress: &'a dyn Fn(Progress),
}

impl<'a, D> Reader<'a, D> {
    pub(crate) fn new(
        disk: &'a Disk,
        block: &'a Block,
        digest: &'a mut dyn FnMut(SpoolId, &[u8]) -> D,
        progress: &'a dyn Fn(Progress),
    ) -> Self {
        Self { disk, block, digest, progress }
    }

    pub(crate) fn segments(&self, directory: &Path) -> Rc<Segments> {
        // Nothing is made in the logs that are read, so the size of new segments is of no account.
        Rc::new(Segments::new(self.disk, directory, 0))
    }

    /// Reads the log in a directory back, and changes nothing there.
    pub(crate) async fn read(&mut self, directory: &Path) -> Result<ReadBack<D>, StoreError> {
        let segments = self.segments(directory);
        let mut recovery = Recovery::new();
        let mut blank = read_headers(&segments, directory, &mut recovery).await?;
        blank.extend(recovery.take_unused());
        let order = recovery.order();
        let let_go = recovery.take_unused();
        // The newest header is what says that the others are not needed, and its writer may have died before it was synced.
        if let Some((newest, _)) = order.last() {
            segments.sync(*newest).await?;
        }
        let total = order.iter().map(|(_, header)| header.size).sum();
        let news = News::new(directory, self.progress, total);
        let mut pace = Pace::default();
        let mut ahead = read_ahead(&segments, order.first());
        for (index, (slot, header)) in order.iter().enumerate() {
            let Some(read) = ahead.take() else { break };
            let bytes = read.await?;
            ahead = read_ahead(&segments, order.get(index + 1));
            // Once around, so that the next read is on its way to the disk before this segment takes the core.
            ringpost_runtime::yield_now().await;
            for hole in bytes.holes() {
                recovery.unreadable(*slot, hole.start, hole.end - hole.start);
            }
            let mut reading = recovery.begin(*slot, header);
            while recovery.go_on(&mut reading, &bytes, self.digest) {
                pace.breathe().await;
            }
            // A batch whose sync failed in the last run may be read from the device's cache, and be gone with the next loss
            // of power: what is believed from here on has to be on the disk.
            segments.sync(*slot).await?;
            segments.close_one(*slot).await;
            news.tell(header.size, recovery.found());
            pace.breathe().await;
        }
        segments.close().await;
        let damaged = self.tell_damage(directory, &segments, &recovery);
        Ok(ReadBack { recovery, blank, let_go, damaged })
    }

    /// Counts and logs what is wrong with a log; whether anything is.
    fn tell_damage(&self, directory: &Path, segments: &Segments, recovery: &Recovery<D>) -> bool {
        let before = self.block.counter(Counter::SpoolDamaged);
        for damage in recovery.damage() {
            self.block.add(Counter::SpoolDamaged, 1);
            let path = segments.path(damage.slot);
            tracing::error!(path = %path.display(), offset = damage.offset, bytes = damage.len, "the spool is damaged here; reading went on behind it");
        }
        for sequence in recovery.missing() {
            self.block.add(Counter::SpoolDamaged, 1);
            tracing::error!(directory = %directory.display(), sequence, "a segment of the spool is not there");
        }
        for Lost { id, slot, offset } in recovery.lost() {
            self.block.add(Counter::SpoolDamaged, 1);
            let path = segments.path(slot);
            tracing::error!(%id, path = %path.display(), offset, "a message is not where the spool says it is");
        }
        self.block.counter(Counter::SpoolDamaged) > before
    }
}

/// Reads the headers of all segments; gives the files that are cut short. These were never used: their making was interrupted.
async fn read_headers<D>(
    segments: &Segments,
    directory: &Path,
    recovery: &mut Recovery<D>,
) -> Result<Vec<Slot>, StoreError> {
    let mut cut_short = Vec::new();
    for slot in slots(directory)? {
        let path = segments.path(slot);
        let len = fs::metadata(&path).map_err(|error| io_error(&path, error))?.len();
        if len < BLOCK as u64 {
            cut_short.push(slot);
            continue;
        }
        match segments.read_header(slot).await {
            Ok(Some(block)) => recovery.header(slot, &block).map_err(|error| file_error(&path, error))?,
            Ok(None) => recovery.unreadable_header(slot),
            Err(error) if error.is_broken() => recovery.unreadable_header(slot),
            Err(error) => return Err(error),
        }
        segments.close_one(slot).await;
    }
    Ok(cut_short)
}

/// Begins to read a segment.
fn read_ahead(
    segments: &Rc<Segments>,
    segment: Option<&(Slot, SegmentHeader)>,
) -> Option<Task<Result<WholeSegment, StoreError>>> {
    let (slot, header) = *segment?;
    let segments = segments.clone();
    Some(glommio::spawn_local(async move { segments.read_whole(slot, header.size as usize).await }))
}

/// Tells how far the reading has come.
struct News<'a> {
    directory: &'a Path,
    progress: &'a dyn Fn(Progress),
    state: Cell<Progress>,
    told: Cell<Tick>,
    logged: Cell<Tick>,
}

impl<'a> News<'a> {
    fn new(directory: &'a Path, progress: &'a dyn Fn(Progress), total: u64) -> Self {
        let state = Progress { total, ..Progress::default() };
        progress(state);
        Self { directory, progress, state: Cell::new(state), told: Cell::new(tick()), logged: Cell::new(tick()) }
    }

    fn tell(&self, more: u64, found: usize) {
        let before = self.state.get();
        let state = Progress { read: before.read + more, found, ..before };
        self.state.set(state);
        let now = tick();
        if now.since(self.told.get()) >= TELL || state.read == state.total {
            self.told.set(now);
            (self.progress)(state);
        }
        if now.since(self.logged.get()) >= NEWS {
            self.logged.set(now);
            let (directory, found) = (self.directory.display(), found as u64);
            tracing::info!(%directory, read = state.read, of = state.total, messages = found, "reading the spool back");
        }
    }
}

fn slots(directory: &Path) -> Result<Vec<Slot>, StoreError> {
    let entries = fs::read_dir(directory).map_err(|error| io_error(directory, error))?;
    let mut slots = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| io_error(directory, error))?.file_name();
        slots.extend(name.to_str().and_then(slot_of));
    }
    Ok(slots)
}

/// Whether a file is there. That it can't be found out is an error: a message must not be taken for settled by that.
pub(crate) fn is_there(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|error| io_error(path, error))
}

/// Removes body files that no live record names: of messages that were never acknowledged, or are settled. Where records may
/// have been lost they are kept aside.
fn remove_strays(store: &Store, lost: Option<&LostFiles>) -> Result<(), StoreError> {
    for entry in fs::read_dir(&store.bodies).map_err(|error| io_error(&store.bodies, error))? {
        let path = entry.map_err(|error| io_error(&store.bodies, error))?.path();
        let named = body_id(&path).and_then(|id| store.entry(id)).is_some_and(|entry| entry.has_body_file);
        match lost {
            _ if named => {}
            Some(lost) => lost.keep(&path)?,
            None => fs::remove_file(&path).map_err(|error| io_error(&path, error))?,
        }
    }
    Ok(())
}

/// The message whose body file has this name.
pub(crate) fn body_id(path: &Path) -> Option<SpoolId> {
    let name = path.file_name()?.to_str()?.strip_suffix(".body")?;
    // An id is also read in small letters, which its file's name is never in.
    name.parse().ok().filter(|id: &SpoolId| id.to_string() == name)
}
