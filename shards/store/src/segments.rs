//! Segment files: made full of zeros, written past the page cache, synced.

use crate::disk::Disk;
use crate::error::StoreError;
use glommio::io::{DmaFile, ReadResult};
use ringpost_spool::Slot;
use std::ops::Deref;
use std::{cell::RefCell, collections::HashMap, path::Path, path::PathBuf, rc::Rc};

/// Zeros written at a time when a segment is made, in bytes.
const ZEROS: usize = 1 << 20;

/// Most bytes read at once; longer ones come in pieces. A segment of the usual size is one read.
const READ_MAX: usize = 32 << 20;

/// The open segment files of one shard.
pub(crate) struct Segments {
    disk: Disk,
    directory: PathBuf,
    size: u64,
    open: RefCell<HashMap<Slot, Rc<DmaFile>>>,
}

impl Segments {
    pub(crate) fn new(disk: &Disk, directory: &Path, size: u64) -> Self {
        Self { disk: disk.clone(), directory: directory.to_owned(), size, open: RefCell::default() }
    }

    pub(crate) fn path(&self, slot: Slot) -> PathBuf {
        self.directory.join(segment_name(slot))
    }

    /// Makes the file, all of it zeros on the disk: writing into it later changes no metadata, so that a sync is one
    /// flush. What was half made is taken away again.
    pub(crate) async fn create(&self, slot: Slot) -> Result<(), StoreError> {
        let path = self.path(slot);
        let made = self.fill(&path).await;
        match made {
            Ok(file) => {
                self.open.borrow_mut().insert(slot, Rc::new(file));
                Ok(())
            }
            Err(error) => {
                // Where this fails too, the next start takes the file for an unused segment.
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    async fn fill(&self, path: &Path) -> Result<DmaFile, StoreError> {
        let file = self.disk.create_segment(path, self.size).await?;
        let mut at = 0;
        while at < self.size {
            let len = ZEROS.min((self.size - at) as usize);
            let mut zeros = file.alloc_dma_buffer(len);
            zeros.as_bytes_mut().fill(0);
            self.disk.write_segment(&file, path, zeros, at).await?;
            at += len as u64;
        }
        self.disk.sync_segment(&file, path).await?;
        self.disk.sync_directory(&self.directory).await?;
        Ok(file)
    }

    pub(crate) async fn file(&self, slot: Slot) -> Result<Rc<DmaFile>, StoreError> {
        if let Some(file) = self.open.borrow().get(&slot) {
            return Ok(file.clone());
        }
        let file = Rc::new(self.disk.open_segment(&self.path(slot)).await?);
        self.open.borrow_mut().insert(slot, file.clone());
        Ok(file)
    }

    /// Writes whole blocks and syncs them.
    ///
    /// A failure is final for these bytes: nobody may sync again and believe the answer. Through the page cache, the
    /// kernel marks the pages clean that it could not write and tells of it once. Direct I/O has no such pages, and yet
    /// what fdatasync(2) flushes there is the cache of the device, which may have dropped what it held when it failed, so
    /// that a second flush succeeds and says nothing of it; and a file system without direct I/O goes through the
    /// page cache after all. So the log gives up the rest of the segment.
    pub(crate) async fn write(&self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(slot);
        let file = self.file(slot).await?;
        let mut buffer = file.alloc_dma_buffer(bytes.len());
        buffer.as_bytes_mut().copy_from_slice(bytes);
        self.disk.write_segment(&file, &path, buffer, offset).await?;
        self.disk.sync_segment(&file, &path).await
    }

    pub(crate) async fn read(&self, slot: Slot, offset: u64, len: usize) -> Result<ReadResult, StoreError> {
        let file = self.file(slot).await?;
        self.disk.read_segment(&file, &self.path(slot), offset, len).await
    }

    /// Makes sure that what was written to a segment by an earlier run is on the disk.
    pub(crate) async fn sync(&self, slot: Slot) -> Result<(), StoreError> {
        let file = self.file(slot).await?;
        self.disk.sync_segment(&file, &self.path(slot)).await
    }

    /// Reads a segment from its beginning to `len`, or to its end if that comes first.
    pub(crate) async fn read_whole(&self, slot: Slot, len: usize) -> Result<WholeSegment, StoreError> {
        if len <= READ_MAX {
            return Ok(WholeSegment::AtOnce(self.read(slot, 0, len).await?));
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let piece = self.read(slot, bytes.len() as u64, READ_MAX.min(len - bytes.len())).await?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(WholeSegment::InPieces(bytes))
    }

    pub(crate) fn remove(&self, slot: Slot) {
        self.open.borrow_mut().remove(&slot);
        if let Err(error) = self.disk.remove_segment(&self.path(slot)) {
            tracing::warn!(%error, slot = slot.0, "surplus spool segment can't be removed");
        }
    }

    /// Closes one file; the next use opens it again.
    pub(crate) async fn close_one(&self, slot: Slot) {
        let file = self.open.borrow_mut().remove(&slot);
        if let Some(file) = file {
            let _ = file.close_rc().await;
        }
    }

    /// Closes all files; at the end.
    pub(crate) async fn close(&self) {
        let files: Vec<_> = self.open.borrow_mut().drain().map(|(_, file)| file).collect();
        for file in files {
            let _ = file.close_rc().await;
        }
    }
}

/// The bytes of a segment.
pub(crate) enum WholeSegment {
    AtOnce(ReadResult),
    InPieces(Vec<u8>),
}

impl Deref for WholeSegment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::AtOnce(bytes) => bytes,
            Self::InPieces(bytes) => bytes,
        }
    }
}

pub(crate) fn segment_name(slot: Slot) -> String {
    format!("segment-{:08}.log", slot.0)
}

/// The number in a segment file's name.
pub(crate) fn slot_of(name: &str) -> Option<Slot> {
    name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok().map(Slot)
}
