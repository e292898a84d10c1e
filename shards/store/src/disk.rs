//! Every operation on the spool's files, each asked for at a gate first.
//!
//! The gate is open in a server. A test puts one there that answers in the kernel's place, so that each operation can be
//! seen to fail by itself, with any error, and nothing else knows the difference.

use crate::error::{StoreError, io_error, runtime_error};
use glommio::io::{BufferedFile, Directory, DmaBuffer, DmaFile, OpenOptions, ReadResult};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// An operation, as the gate is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Makes a segment file and gives it its size.
    SegmentCreate,
    SegmentOpen,
    SegmentWrite,
    SegmentSync,
    SegmentRead,
    SegmentRemove,
    BodyCreate,
    BodyWrite,
    BodySync,
    BodyRemove,
    /// Makes another name for a body file.
    BodyLink,
    /// Writes a small file under another name, before it is renamed.
    NoteWrite,
    Rename,
    /// Removes a file of a log that was taken over.
    RetiredRemove,
    DirectorySync,
}

/// Asked before each operation, with the bytes of the file that it concerns if it is a read. An error it gives is the
/// operation's outcome, in place of what the kernel would say.
pub(crate) type Gate = Rc<dyn Fn(Operation, &Path, Range<u64>) -> io::Result<()>>;

/// The disk, as the spool uses it.
#[derive(Clone)]
pub(crate) struct Disk {
    gate: Gate,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::behind(Rc::new(|_, _, _| Ok(())))
    }

    pub(crate) fn behind(gate: Gate) -> Self {
        Self { gate }
    }

    fn pass(&self, operation: Operation, path: &Path) -> Result<(), StoreError> {
        (self.gate)(operation, path, 0..0).map_err(|error| io_error(path, error))
    }

    /// Makes a segment file with room for `size` bytes.
    pub(crate) async fn create_segment(&self, path: &Path, size: u64) -> Result<DmaFile, StoreError> {
        self.pass(Operation::SegmentCreate, path)?;
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(true).dma_open(path).await;
        let file = opened.map_err(|error| io_error(path, error))?;
        file.pre_allocate(size, false).await.map_err(|error| io_error(path, error))?;
        Ok(file)
    }

    pub(crate) async fn open_segment(&self, path: &Path) -> Result<DmaFile, StoreError> {
        self.pass(Operation::SegmentOpen, path)?;
        let opened = OpenOptions::new().read(true).write(true).dma_open(path).await;
        opened.map_err(|error| runtime_error(path, error))
    }

    pub(crate) async fn write_segment(
        &self,
        file: &DmaFile,
        path: &Path,
        buffer: DmaBuffer,
        at: u64,
    ) -> Result<(), StoreError> {
        self.pass(Operation::SegmentWrite, path)?;
        let want = buffer.len();
        let wrote = file.write_at(buffer, at).await.map_err(|error| io_error(path, error))?;
        // The file has its blocks already: what falls short here is not for want of room.
        whole(path, wrote, want, false)
    }

    pub(crate) async fn sync_segment(&self, file: &DmaFile, path: &Path) -> Result<(), StoreError> {
        self.pass(Operation::SegmentSync, path)?;
        file.fdatasync().await.map_err(|error| io_error(path, error))
    }

    pub(crate) async fn read_segment(
        &self,
        file: &DmaFile,
        path: &Path,
        at: u64,
        len: usize,
    ) -> Result<ReadResult, StoreError> {
        let bytes = at..at + len as u64;
        (self.gate)(Operation::SegmentRead, path, bytes).map_err(|error| io_error(path, error))?;
        file.read_at(at, len).await.map_err(|error| runtime_error(path, error))
    }

    pub(crate) fn remove_segment(&self, path: &Path) -> Result<(), StoreError> {
        self.pass(Operation::SegmentRemove, path)?;
        std::fs::remove_file(path).map_err(|error| io_error(path, error))
    }

    pub(crate) async fn create_body(&self, path: &Path) -> Result<BufferedFile, StoreError> {
        self.pass(Operation::BodyCreate, path)?;
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(true).buffered_open(path).await;
        opened.map_err(|error| io_error(path, error))
    }

    pub(crate) async fn write_body(
        &self,
        file: &BufferedFile,
        path: &Path,
        bytes: Vec<u8>,
        at: u64,
    ) -> Result<(), StoreError> {
        self.pass(Operation::BodyWrite, path)?;
        let want = bytes.len();
        let wrote = file.write_at(bytes, at).await.map_err(|error| io_error(path, error))?;
        whole(path, wrote, want, true)
    }

    pub(crate) async fn sync_body(&self, file: &BufferedFile, path: &Path) -> Result<(), StoreError> {
        self.pass(Operation::BodySync, path)?;
        file.fdatasync().await.map_err(|error| io_error(path, error))
    }

    pub(crate) fn remove_body(&self, path: &Path) -> Result<(), StoreError> {
        self.pass(Operation::BodyRemove, path)?;
        std::fs::remove_file(path).map_err(|error| io_error(path, error))
    }

    pub(crate) fn link_body(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.pass(Operation::BodyLink, to)?;
        std::fs::hard_link(from, to).map_err(|error| io_error(from, error))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.pass(Operation::Rename, from)?;
        std::fs::rename(from, to).map_err(|error| io_error(from, error))
    }

    pub(crate) fn remove_retired(&self, path: &Path) -> Result<(), StoreError> {
        self.pass(Operation::RetiredRemove, path)?;
        std::fs::remove_file(path).map_err(|error| io_error(path, error))
    }

    /// Writes a small file, durably, all of it or nothing.
    pub(crate) async fn write_note(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let fresh = path.with_extension("new");
        self.pass(Operation::NoteWrite, &fresh)?;
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).buffered_open(&fresh).await;
        let file = opened.map_err(|error| io_error(&fresh, error))?;
        let wrote = file.write_at(bytes.to_vec(), 0).await.map_err(|error| io_error(&fresh, error))?;
        whole(&fresh, wrote, bytes.len(), true)?;
        file.fdatasync().await.map_err(|error| io_error(&fresh, error))?;
        let _ = file.close().await;
        self.rename(&fresh, path)?;
        match path.parent() {
            Some(directory) => self.sync_directory(directory).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn sync_directory(&self, path: &Path) -> Result<(), StoreError> {
        self.pass(Operation::DirectorySync, path)?;
        let directory = Directory::open(path).await.map_err(|error| io_error(path, error))?;
        let synced = directory.sync().await.map_err(|error| io_error(path, error));
        let _ = directory.close().await;
        synced
    }
}

/// A regular file takes less than it was given where the next write would fail: for want of room, if the file was growing.
fn whole(path: &Path, wrote: usize, want: usize, growing: bool) -> Result<(), StoreError> {
    if wrote == want {
        return Ok(());
    }
    let reason = format!("wrote {wrote} of {want} bytes");
    Err(StoreError::File { path: path.to_owned(), reason, full: growing, broken: false })
}
