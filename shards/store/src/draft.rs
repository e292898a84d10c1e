//! A message as it arrives: in memory up to a size, in a body file beyond it.

use crate::error::StoreError;
use crate::recent::Stamp;
use crate::store::{LoadedContent, Store};
use glommio::io::BufferedFile;
use ringpost_base::SpoolId;
use ringpost_metrics::{Counter, Gauge};
use ringpost_runtime::tick;
use ringpost_spool::BodyFile;
use std::{path::PathBuf, rc::Rc, sync::Arc};

/// Bytes gathered before they are written to the body file. With what one read brings, this bounds a session's memory.
const SPILL: usize = 64 << 10;

/// The same while the core is at its limit of memory for messages.
const SPILL_TIGHT: usize = 16 << 10;

const _: () = assert!(SPILL_TIGHT < SPILL);

struct Spill {
    file: BufferedFile,
    path: PathBuf,
    len: u64,
    crc: u32,
}

/// A message being received. Dropped, it is gone.
pub struct Draft {
    store: Rc<Store>,
    id: SpoolId,
    bytes: Vec<u8>,
    /// What of `bytes` the memory gauge has been told.
    counted: usize,
    /// When it grew last.
    stamp: Stamp,
    /// Boxed: most messages have none, and drafts are handed about.
    spill: Option<Box<Spill>>,
    /// The bytes, while they are lent.
    lent: Option<Arc<Vec<u8>>>,
}

impl Draft {
    pub(crate) fn new(store: Rc<Store>, id: SpoolId) -> Self {
        let bytes = store.buffers.take();
        let mut stamp = Stamp::default();
        store.recent.moved(&mut stamp, tick());
        Self { store, id, bytes, counted: 0, stamp, spill: None, lent: None }
    }

    /// The message's id.
    pub fn id(&self) -> SpoolId {
        self.id
    }

    /// Where the message's bytes are to be appended. Look at [`Draft::is_heavy`] after each piece.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is in memory of the message: all of it, unless it is large.
    pub fn in_memory(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of the message so far, in bytes.
    pub fn len(&self) -> u64 {
        self.spill.as_ref().map_or(0, |spill| spill.len) + self.bytes.len() as u64
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether so much is in memory that [`Draft::lighten`] must be called before more comes.
    pub fn is_heavy(&self) -> bool {
        let limit = match self.spill {
            _ if self.store.is_tight() => SPILL_TIGHT,
            Some(_) => SPILL,
            None => self.store.options.inline_max.as_len(),
        };
        self.bytes.len() > limit
    }

    /// Whether its bytes, or some of them, are in a body file, or will be once it is whole.
    pub fn is_large(&self) -> bool {
        self.spill.is_some() || self.bytes.len() > self.store.options.inline_max.as_len()
    }

    /// Tells the memory gauge what has come since, and the store that this message moves.
    pub fn account(&mut self) {
        if self.bytes.len() > self.counted {
            self.store.recent.moved(&mut self.stamp, tick());
        }
        let block = &self.store.block;
        match self.bytes.len().checked_sub(self.counted) {
            Some(more) => block.raise(Gauge::MessageMemory, more as u64),
            None => block.lower(Gauge::MessageMemory, (self.counted - self.bytes.len()) as u64),
        }
        self.counted = self.bytes.len();
    }

    /// Writes what is in memory to the body file, which is made if there is none yet.
    pub async fn lighten(&mut self) -> Result<(), StoreError> {
        if self.spill.is_none() {
            let path = self.store.body_path(self.id);
            let file = self.store.disk.create_body(&path).await?;
            self.spill = Some(Box::new(Spill { file, path, len: 0, crc: 0 }));
        }
        self.flush().await?;
        self.account();
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let Some(spill) = &mut self.spill else { return Ok(()) };
        if self.bytes.is_empty() {
            return Ok(());
        }
        let room = if self.store.is_tight() { 2 * SPILL_TIGHT } else { 2 * SPILL };
        // Of the right size at once: growing step by step would leave a trail of freed blocks of every size.
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(room));
        let len = bytes.len();
        let crc = ringpost_spool::checksum(spill.crc, &bytes);
        self.store.disk.write_body(&spill.file, &spill.path, bytes, spill.len).await?;
        spill.crc = crc;
        spill.len += len as u64;
        Ok(())
    }

    /// Lends the message to somebody who reads it before it is durable anywhere. Until [`Draft::take_back`] nothing may be
    /// added, and it can't be committed.
    pub async fn lend(&mut self) -> Result<LoadedContent, StoreError> {
        if self.spill.is_some() {
            self.flush().await?;
            self.account();
        }
        if let Some(spill) = &self.spill {
            let file = BodyFile { len: spill.len, crc: spill.crc };
            return Ok(LoadedContent::File(spill.path.clone(), file));
        }
        let bytes = Arc::new(std::mem::take(&mut self.bytes));
        self.lent = Some(bytes.clone());
        Ok(LoadedContent::Memory(bytes))
    }

    /// Takes back what was lent. Copied only if the borrower still has it.
    pub fn take_back(&mut self) {
        if let Some(bytes) = self.lent.take() {
            self.bytes = Arc::try_unwrap(bytes).unwrap_or_else(|shared| Vec::clone(&shared));
        }
    }

    /// The body file, whole, synced, and found in its directory after a crash; nothing if the message is in memory.
    ///
    /// After a sync that failed the draft is of no use, and is not synced again: see [`crate::segments::Segments::write`].
    pub(crate) async fn seal(&mut self) -> Result<Option<BodyFile>, StoreError> {
        self.store.recent.ended(&mut self.stamp, tick());
        // What came with the last read may have made it large without anybody looking.
        if self.spill.is_none() && self.is_large() {
            self.lighten().await?;
        }
        self.flush().await?;
        let Some(spill) = &self.spill else { return Ok(None) };
        self.store.disk.sync_body(&spill.file, &spill.path).await?;
        self.store.block.add(Counter::SpoolSyncs, 1);
        self.store.disk.sync_directory(&self.store.bodies).await?;
        Ok(Some(BodyFile { len: spill.len, crc: spill.crc }))
    }

    /// The bytes in memory; the draft has no claim on the body file any more.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.spill = None;
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.store.recent.ended(&mut self.stamp, tick());
        self.store.block.lower(Gauge::MessageMemory, self.counted as u64);
        self.store.buffers.give(std::mem::take(&mut self.bytes));
        if let Some(spill) = self.spill.take() {
            // Not committed: nothing refers to the file. Where it can't be removed, the next start does.
            let _ = self.store.disk.remove_body(&spill.path);
        }
    }
}
