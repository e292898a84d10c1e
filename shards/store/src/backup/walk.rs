//! Copying the log of a shard that may be writing it, so that no message is missed.
//!
//! Segments are copied in the order of the log, and the log is looked at again until a look finds nothing new. What makes that
//! enough:
//!
//! - A look is of one moment ([`Walk::look`]), and what a segment's header says never comes again: it is overwritten
//!   first, before any record, when the file is reused. So a segment that a later look still finds was copied as it was.
//! - A message that is live has its record in some segment. It leaves that segment only by being copied forward, and the copy
//!   is durable before the segment is let go. So a segment that a look finds gone has handed on what was live in it to others
//!   that the same look finds.
//! - Older segments do not grow. What was copied of the youngest is forgotten when one is found gone, and copied again: it may
//!   have been copied before the messages came.
//! - The walk ends with a look that finds nothing gone since the last one that did, or since the first, and everything
//!   copied up to the segment that was the youngest then. A message that was live all the while was in one of these segments
//!   then; it still is, or the segment would be gone; and it was there before the segment was copied.
//!
//! Nor is a message missed by a settlement that is copied without it: that settles nothing. The other way round, a message
//! may come back that was settled while the backup was made, which delivery must bear. One whose settlement was on the disk
//! before does not: segments are let go oldest first, so the one with the message is gone with the one that has the
//! settlement, and what is gone is forgotten.
//!
//! Segments are read past the page cache, as the server writes them: the two would otherwise have to be kept in step by the
//! kernel, page by page.
//!
//! A segment that the disk does not give back is passed over and told, and the others are copied: a backup that lacks it is
//! better than none. What is wrong with headers, or is missing, is told as well.

use super::manifest::{Saved, SavedSegment};
use super::objects::{CopyError, Objects};
use super::{BackupError, file_error};
use crate::error::is_broken;
use crate::segments::{segment_name, slot_of};
use ringpost_spool::{BLOCK, Recovery, SegmentHeader, Slot};
use rustix::fs::OFlags;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Looks at a log, at most, and readings of all headers for one look. Each but the last means that the server let go of a segment or
/// filled one meanwhile.
const LOOKS_MAX: usize = 1000;

/// Bytes read at a time, a multiple of [`BLOCK`].
const PIECE: usize = 1 << 20;
const _: () = assert!(PIECE.is_multiple_of(BLOCK));

/// Why a log was not copied.
pub(super) enum WalkError {
    /// Its directory is not there any more: another log has taken it over.
    Gone,
    Backup(BackupError),
}

impl From<BackupError> for WalkError {
    fn from(error: BackupError) -> Self {
        Self::Backup(error)
    }
}

/// A segment that an earlier backup holds, and that no longer grew then.
pub(super) struct Known(SavedSegment, Saved);

impl Known {
    pub(super) fn of(saved: &Saved, shard: &str) -> Option<Self> {
        let segment = saved.segment.filter(|segment| segment.sealed)?;
        let below = saved.path.strip_prefix("spool/")?.strip_prefix(shard)?;
        below.starts_with('/').then(|| Self(segment, saved.clone()))
    }
}

/// The copying of one log.
pub(super) struct Walk<'a> {
    directory: &'a Path,
    objects: &'a mut Objects,
    known: Vec<Known>,
    /// What is copied, by its place in the log.
    copied: BTreeMap<u64, (SavedSegment, Saved)>,
    /// What can't be read, by its place in the log: its key, its file, and why.
    unread: BTreeMap<u64, (u64, String, String)>,
    /// Whether a segment was gone when it was to be copied.
    missed: bool,
    /// Called between any two reads: a test has the log change there.
    between: &'a mut dyn FnMut(),
}

/// A segment as a look found it.
type Found = (Slot, SegmentHeader);

/// What a look found.
#[derive(PartialEq, Eq)]
struct Look {
    /// What the log needs, oldest first.
    order: Vec<Found>,
    /// Files, and what is wrong with them.
    wrong: Vec<(String, String)>,
}

/// What was copied of a log.
pub(super) struct Copied {
    /// Its segments, oldest first.
    pub(super) segments: Vec<Saved>,
    /// Files that are not among them, or not as they should be, and why.
    pub(super) wrong: Vec<(String, String)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        directory: &'a Path,
        objects: &'a mut Objects,
        known: Vec<Known>,
        between: &'a mut dyn FnMut(),
    ) -> Self {
        Self { directory, objects, known, copied: BTreeMap::new(), unread: BTreeMap::new(), missed: false, between }
    }

    /// Copies the log.
    pub(super) fn run(mut self) -> Result<Copied, WalkError> {
        // The youngest segment at the last look that found one gone.
        let mut until = None;
        for _ in 0..LOOKS_MAX {
            let Look { order, mut wrong } = self.look()?;
            let youngest = order.last().map_or(0, |(_, header)| header.sequence);
            let gone = self.forget_gone(&order) || std::mem::take(&mut self.missed);
            if gone || until.is_none() {
                self.copied.retain(|_, (segment, _)| segment.sealed);
                until = Some(youngest);
            }
            let wanted = order.iter().filter(|(_, header)| until.is_some_and(|until| header.sequence <= until));
            let missing: Vec<Found> = wanted.filter(|found| !self.has(found, youngest)).copied().collect();
            if missing.is_empty() {
                wrong.extend(self.unread.into_values().map(|(_, file, why)| (file, why)));
                let segments = self.copied.into_values().map(|(_, saved)| saved).collect();
                return Ok(Copied { segments, wrong });
            }
            for found in missing {
                self.copy(found, youngest)?;
            }
        }
        Err(self.too_fast())
    }

    fn too_fast(&self) -> WalkError {
        let reason = format!(
            "{}: the log changed faster than it could be copied; try again when less mail comes, or to a faster disk",
            self.directory.display()
        );
        BackupError::Refused(reason).into()
    }

    /// What the log needs, oldest first, at one moment: headers are read until they are the same twice. What a file is used
    /// for never comes again, so at the moment between the two all of them were as they were read.
    fn look(&mut self) -> Result<Look, WalkError> {
        let mut before = self.look_once()?;
        for _ in 0..LOOKS_MAX {
            let now = self.look_once()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
        Err(self.too_fast())
    }

    fn look_once(&mut self) -> Result<Look, WalkError> {
        let entries = match fs::read_dir(self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(WalkError::Gone),
            Err(error) => return Err(file_error(self.directory)(error).into()),
        };
        let mut recovery: Recovery<()> = Recovery::new();
        for entry in entries {
            let entry = entry.map_err(file_error(self.directory))?;
            let Some(slot) = entry.file_name().to_str().and_then(slot_of) else { continue };
            let path = entry.path();
            (self.between)();
            let block = SegmentFile::open(&path).and_then(|mut file| file.block());
            let block = match block {
                Ok(block) => block,
                // Removed, or just being made.
                Err(error) if is_absent(&error) => continue,
                Err(error) if is_broken(error.raw_os_error()) => {
                    recovery.unreadable_header(slot);
                    continue;
                }
                Err(error) => return Err(file_error(&path)(error).into()),
            };
            recovery.header(slot, &block).map_err(|error| BackupError::Refused(error.to_string()))?;
        }
        let order = recovery.order();
        let damaged = recovery.damage().iter().map(|damage| {
            (segment_name(damage.slot), "has no header that can be read; what is in it is not in the backup".to_owned())
        });
        let missing = recovery.missing().into_iter().map(|sequence| {
            let what = format!("the log's segment of sequence {sequence}");
            (what, "is not there".to_owned())
        });
        let mut wrong: Vec<_> = damaged.chain(missing).collect();
        wrong.sort();
        Ok(Look { order, wrong })
    }

    /// Forgets copies whose segments the log has let go; tells whether there were any.
    fn forget_gone(&mut self, order: &[Found]) -> bool {
        let before = self.copied.len();
        let still =
            |sequence: u64, key: u64| order.iter().any(|(_, header)| (header.sequence, header.key) == (sequence, key));
        self.copied.retain(|_, (segment, _)| still(segment.sequence, segment.key));
        self.unread.retain(|sequence, (key, ..)| still(*sequence, *key));
        self.copied.len() < before
    }

    /// Whether a segment is copied, and not in a state that it has grown out of, or can't be.
    fn has(&self, (_, header): &Found, youngest: u64) -> bool {
        if self.unread.contains_key(&header.sequence) {
            return true;
        }
        let copied = self.copied.get(&header.sequence);
        copied.is_some_and(|(segment, _)| segment.sealed || header.sequence == youngest)
    }

    /// Copies a segment, unless it is gone.
    fn copy(&mut self, (slot, header): Found, youngest: u64) -> Result<(), WalkError> {
        // The next one is begun only when nothing more is written to this one. That was so before it is read here.
        let sealed = header.sequence < youngest;
        let segment = SavedSegment { slot: slot.0, sequence: header.sequence, key: header.key, sealed };
        let known = self.known.iter().find(|Known(known, saved)| {
            (known.sequence, known.key) == (segment.sequence, segment.key) && self.objects.has(saved)
        });
        if let Some(Known(_, saved)) = known {
            let saved = Saved { segment: Some(SavedSegment { sealed: true, ..segment }), ..saved.clone() };
            self.objects.known += saved.stored();
            self.copied.insert(header.sequence, (segment, saved));
            return Ok(());
        }
        let path = self.directory.join(segment_name(slot));
        (self.between)();
        match self.read(&path, &header) {
            Ok(Some(saved)) => {
                let saved = Saved { segment: Some(segment), ..saved };
                self.copied.insert(header.sequence, (segment, saved));
            }
            Ok(None) => self.missed = true,
            Err(CopyError::Read(error)) if is_absent(&error) => self.missed = true,
            Err(CopyError::Read(error)) if is_broken(error.raw_os_error()) => {
                let why = format!("can't be read: {error}");
                self.unread.insert(header.sequence, (header.key, segment_name(slot), why));
            }
            Err(CopyError::Read(error)) => return Err(file_error(&path)(error).into()),
            Err(CopyError::Write(error)) => return Err(file_error(self.objects.directory())(error).into()),
        }
        Ok(())
    }

    /// Stores the bytes of a segment; nothing if it was reused meanwhile.
    fn read(&mut self, path: &Path, header: &SegmentHeader) -> Result<Option<Saved>, CopyError> {
        let mut file = SegmentFile::open(path).map_err(CopyError::Read)?;
        if SegmentHeader::parse(&file.block().map_err(CopyError::Read)?) != Some(*header) {
            return Ok(None);
        }
        (self.between)();
        file.end = file.used(header.size).map_err(CopyError::Read)?;
        (self.between)();
        let object = self.objects.store(&mut file)?;
        let stored = Some(object.len);
        Ok(Some(Saved { len: header.size, stored, ..Saved::of(String::new(), object) }))
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

/// A segment's file, read past the page cache where the file system can.
struct SegmentFile {
    file: File,
    /// Direct reads go to memory that begins at a multiple of the block: the part of this from `aligned` on.
    buffer: Vec<u8>,
    aligned: usize,
    /// What of the file is in it, and how much of that has been handed out.
    filled: usize,
    handed: usize,
    at: u64,
    end: u64,
}

impl SegmentFile {
    fn open(path: &Path) -> io::Result<Self> {
        let open = |flags: OFlags| OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
        let file = match open(OFlags::DIRECT | OFlags::CLOEXEC) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::CLOEXEC)?,
            opened => opened?,
        };
        Ok(Self { file, buffer: Vec::new(), aligned: 0, filled: 0, handed: 0, at: 0, end: 0 })
    }

    /// Reads up to `len` bytes at a place, both multiples of the block; less only at the end of the file.
    fn fill(&mut self, at: u64, len: usize) -> io::Result<usize> {
        if self.buffer.len() < len + BLOCK {
            self.buffer = vec![0; len + BLOCK];
            self.aligned = self.buffer.as_ptr().align_offset(BLOCK);
        }
        let (mut filled, room) = (0, &mut self.buffer[self.aligned..][..len]);
        while filled < len {
            match self.file.read_at(&mut room[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Only the end of the file is read in parts that are no blocks.
            if !filled.is_multiple_of(BLOCK) {
                break;
            }
        }
        Ok(filled)
    }

    fn filled(&self, len: usize) -> &[u8] {
        &self.buffer[self.aligned..][..len]
    }

    /// The first block.
    fn block(&mut self) -> io::Result<Vec<u8>> {
        match self.fill(0, BLOCK)? {
            BLOCK => Ok(self.filled(BLOCK).to_vec()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// How far the file is used: behind it are zeros to `size`. What is written meanwhile lies behind it.
    fn used(&mut self, size: u64) -> io::Result<u64> {
        let mut end = size;
        while end > 0 {
            let start = (end - 1) / PIECE as u64 * PIECE as u64;
            let len = self.fill(start, PIECE)?.min((end - start) as usize);
            if let Some(last) = self.filled(len).iter().rposition(|byte| *byte != 0) {
                return Ok((start + last as u64 + 1).next_multiple_of(BLOCK as u64).min(size));
            }
            end = start;
        }
        Ok(0)
    }
}

impl Read for SegmentFile {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.handed == self.filled {
            let left = (self.end - self.at).min(PIECE as u64) as usize;
            if left == 0 {
                return Ok(0);
            }
            self.filled = self.fill(self.at, left.next_multiple_of(BLOCK))?.min(left);
            self.handed = 0;
            self.at += self.filled as u64;
        }
        let len = to.len().min(self.filled - self.handed);
        to[..len].copy_from_slice(&self.buffer[self.aligned + self.handed..][..len]);
        self.handed += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
