//! Segment files: made full of zeros, written past the page cache, synced.

use crate::disk::Disk;
use crate::error::{StoreError, io_error};
use glommio::io::{DmaFile, ReadResult};
use ringpost_spool::{BLOCK, SegmentHeader, Slot};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Zeros written at a time when a segment is made, in bytes.
const ZEROS: usize = 1 << 20;

/// Most bytes read at once; longer ones come in pieces. A segment of the usual size is one read.
const READ_MAX: usize = 32 << 20;

/// Bytes read at once where the disk did not give back more: the next size is tried around each place that can't be read. All
/// are whole blocks, and each is a multiple of the next.
const STEPS: [usize; 3] = [1 << 20, 64 << 10, BLOCK];
const _: () = assert!(STEPS[0].is_multiple_of(STEPS[1]) && STEPS[1].is_multiple_of(STEPS[2]));

/// What a disk reads at least: the two copies of a segment's header are in different ones.
const SECTOR: usize = 512;

/// Most segment files that are open at a time, but for those that are being read from. A log of a backlog has thousands, and a
/// process may not have as many files open; what is written, read for delivery and copied at a time is in a few.
const OPEN_MAX: usize = 64;

/// The segment files of one shard, some of them open.
pub(crate) struct Segments {
    disk: Disk,
    directory: PathBuf,
    size: u64,
    open: RefCell<HashMap<Slot, OpenFile>>,
    /// Uses of files so far: by it the one is known whose last use is the longest ago.
    uses: Cell<u64>,
}

struct OpenFile {
    file: Rc<DmaFile>,
    used: u64,
}

impl Segments {
    pub(crate) fn new(disk: &Disk, directory: &Path, size: u64) -> Self {
        Self { disk: disk.clone(), directory: directory.to_owned(), size, open: RefCell::default(), uses: Cell::new(0) }
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
                self.keep_open(slot, Rc::new(file)).await;
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
        if let Some(open) = self.open.borrow_mut().get_mut(&slot) {
            open.used = self.next_use();
            return Ok(open.file.clone());
        }
        let file = Rc::new(self.disk.open_segment(&self.path(slot)).await?);
        self.keep_open(slot, file.clone()).await;
        Ok(file)
    }

    fn next_use(&self) -> u64 {
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }

    /// Keeps a file open, and closes the one whose last use is the longest ago where there are too many.
    async fn keep_open(&self, slot: Slot, file: Rc<DmaFile>) {
        for open in self.enter(slot, file) {
            // Whoever reads from it still has it, and the last of them closes it.
            let _ = open.file.close_rc().await;
        }
    }

    /// Gives what is to be closed.
    fn enter(&self, slot: Slot, file: Rc<DmaFile>) -> impl Iterator<Item = OpenFile> + use<> {
        let used = self.next_use();
        let mut open = self.open.borrow_mut();
        let former = open.insert(slot, OpenFile { file, used });
        let oldest = open.iter().min_by_key(|(_, open)| open.used).map(|(slot, _)| *slot);
        let surplus = oldest.filter(|_| open.len() > OPEN_MAX).and_then(|slot| open.remove(&slot));
        former.into_iter().chain(surplus)
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

    /// Reads the first block of a segment. Where not all of it can be read it is given all the same if its header is there;
    /// nothing otherwise.
    pub(crate) async fn read_header(&self, slot: Slot) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read(slot, 0, BLOCK).await {
            Ok(block) => return Ok(Some(block.to_vec())),
            Err(error) if !error.is_broken() => return Err(error),
            Err(_) => {}
        }
        let mut block = vec![0; BLOCK];
        for (at, sector) in (0..).step_by(SECTOR).zip(block.chunks_mut(SECTOR)) {
            match self.read(slot, at, SECTOR).await {
                Ok(read) => sector[..read.len()].copy_from_slice(&read),
                Err(error) if !error.is_broken() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(SegmentHeader::parse(&block).map(|_| block))
    }

    /// Reads a segment from its beginning to `len`, or to its end if that comes first. What the disk does not give back is zeros.
    pub(crate) async fn read_whole(&self, slot: Slot, len: usize) -> Result<WholeSegment, StoreError> {
        match self.read_smoothly(slot, len).await {
            Err(error) if error.is_broken() => {
                tracing::error!(%error, "a segment of the spool can't be read; reading around it");
                self.read_around(slot, len).await
            }
            read => read,
        }
    }

    async fn read_smoothly(&self, slot: Slot, len: usize) -> Result<WholeSegment, StoreError> {
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
        Ok(WholeSegment::InPieces { bytes, holes: Vec::new() })
    }

    /// Reads a segment in steps that become smaller at a place that can't be read, down to a block.
    async fn read_around(&self, slot: Slot, len: usize) -> Result<WholeSegment, StoreError> {
        let path = self.path(slot);
        let end = std::fs::metadata(&path).map_err(|error| io_error(&path, error))?.len().min(len as u64) as usize;
        let (mut bytes, mut holes) = (Vec::with_capacity(end), Vec::<Range<u64>>::new());
        let mut step = 0;
        while bytes.len() < end {
            let (at, most) = (bytes.len() as u64, end - bytes.len());
            // Whole blocks always: a read that ends within the last one is not what the runtime says it is.
            match self.read(slot, at, STEPS[step]).await {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => bytes.extend_from_slice(&piece[..piece.len().min(most)]),
                Err(error) if !error.is_broken() => return Err(error),
                Err(_) if step + 1 < STEPS.len() => {
                    step += 1;
                    continue;
                }
                Err(_) => {
                    let hole = at..at + BLOCK.min(most) as u64;
                    bytes.resize(hole.end as usize, 0);
                    match holes.last_mut().filter(|last| last.end == at) {
                        Some(last) => last.end = hole.end,
                        None => holes.push(hole),
                    }
                }
            }
            while step > 0 && bytes.len().is_multiple_of(STEPS[step - 1]) {
                step -= 1;
            }
        }
        Ok(WholeSegment::InPieces { bytes, holes })
    }

    pub(crate) fn remove(&self, slot: Slot) {
        self.open.borrow_mut().remove(&slot);
        if let Err(error) = self.disk.remove_segment(&self.path(slot)) {
            tracing::warn!(%error, slot = slot.0, "surplus spool segment can't be removed");
        }
    }

    /// Closes one file; the next use opens it again.
    pub(crate) async fn close_one(&self, slot: Slot) {
        let open = self.open.borrow_mut().remove(&slot);
        if let Some(open) = open {
            let _ = open.file.close_rc().await;
        }
    }

    /// Closes all files; at the end.
    pub(crate) async fn close(&self) {
        let files: Vec<_> = self.open.borrow_mut().drain().map(|(_, open)| open.file).collect();
        for file in files {
            let _ = file.close_rc().await;
        }
    }
}

/// The bytes of a segment.
pub(crate) enum WholeSegment {
    AtOnce(ReadResult),
    InPieces {
        bytes: Vec<u8>,
        /// What could not be read, and is zeros.
        holes: Vec<Range<u64>>,
    },
}

impl WholeSegment {
    /// What could not be read, and is zeros.
    pub(crate) fn holes(&self) -> &[Range<u64>] {
        match self {
            Self::AtOnce(_) => &[],
            Self::InPieces { holes, .. } => holes,
        }
    }
}

impl Deref for WholeSegment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::AtOnce(bytes) => bytes,
            Self::InPieces { bytes, .. } => bytes,
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
