//! Segment files: made full of zeros, written past the page cache, synced.

use crate::error::{StoreError, file_error};
use glommio::io::{Directory, DmaBuffer, DmaFile, OpenOptions};
use ringpost_spool::Slot;
use std::{cell::RefCell, collections::HashMap, path::Path, path::PathBuf, rc::Rc};

/// Zeros written at a time when a segment is made, in bytes.
const ZEROS: usize = 1 << 20;

/// The open segment files of one shard.
pub(crate) struct Segments {
    directory: PathBuf,
    size: u64,
    open: RefCell<HashMap<Slot, Rc<DmaFile>>>,
}

impl Segments {
    pub(crate) fn new(directory: &Path, size: u64) -> Self {
        Self { directory: directory.to_owned(), size, open: RefCell::default() }
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
        let wrong = |error| file_error(path, error);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).dma_open(path).await.map_err(wrong)?;
        file.pre_allocate(self.size, false).await.map_err(wrong)?;
        let mut at = 0;
        while at < self.size {
            let len = ZEROS.min((self.size - at) as usize);
            let mut zeros = file.alloc_dma_buffer(len);
            zeros.as_bytes_mut().fill(0);
            write_all(&file, zeros, at).await.map_err(|error| file_error(path, error))?;
            at += len as u64;
        }
        file.fdatasync().await.map_err(wrong)?;
        sync_directory(&self.directory).await?;
        Ok(file)
    }

    pub(crate) async fn file(&self, slot: Slot) -> Result<Rc<DmaFile>, StoreError> {
        if let Some(file) = self.open.borrow().get(&slot) {
            return Ok(file.clone());
        }
        let path = self.path(slot);
        let file = OpenOptions::new().read(true).write(true).dma_open(&path).await;
        let file = Rc::new(file.map_err(|error| file_error(&path, error))?);
        self.open.borrow_mut().insert(slot, file.clone());
        Ok(file)
    }

    /// Writes whole blocks and syncs them.
    pub(crate) async fn write(&self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(slot);
        let file = self.file(slot).await?;
        let mut buffer = file.alloc_dma_buffer(bytes.len());
        buffer.as_bytes_mut().copy_from_slice(bytes);
        write_all(&file, buffer, offset).await.map_err(|error| file_error(&path, error))?;
        file.fdatasync().await.map_err(|error| file_error(&path, error))
    }

    pub(crate) async fn read(&self, slot: Slot, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let path = self.path(slot);
        let file = self.file(slot).await?;
        let read = file.read_at(offset, len).await.map_err(|error| file_error(&path, error))?;
        Ok(read.to_vec())
    }

    pub(crate) fn remove(&self, slot: Slot) {
        self.open.borrow_mut().remove(&slot);
        if let Err(error) = std::fs::remove_file(self.path(slot)) {
            tracing::warn!(%error, slot = slot.0, "surplus spool segment can't be removed");
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

/// A short write of a regular file means that the disk is full or failing.
async fn write_all(file: &DmaFile, buffer: DmaBuffer, at: u64) -> Result<(), String> {
    let want = buffer.len();
    let wrote = file.write_at(buffer, at).await.map_err(|error| error.to_string())?;
    if wrote == want { Ok(()) } else { Err(format!("wrote {wrote} of {want} bytes")) }
}

pub(crate) async fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = Directory::open(path).await.map_err(|error| file_error(path, error))?;
    let synced = directory.sync().await.map_err(|error| file_error(path, error));
    let _ = directory.close().await;
    synced
}

pub(crate) fn segment_name(slot: Slot) -> String {
    format!("segment-{:08}.log", slot.0)
}

/// The number in a segment file's name.
pub(crate) fn slot_of(name: &str) -> Option<Slot> {
    name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok().map(Slot)
}
