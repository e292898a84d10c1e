//! Looking through a spool's files without a runtime and without changing anything: every record and every body file held
//! against its checksum.
//!
//! Beside a running server it sees the log as it changes: what is being written looks torn, and body files come and go. A segment
//! that is used anew while the log is looked through is left out and counted, and what looks damaged is read again before it is
//! said to be.

use crate::directories::shard_number;
use crate::recover::body_id;
use crate::segments::slot_of;
use crate::{StoreError, error};
use error::{file_error, io_error, is_broken};
use ringpost_base::{Entropy, SpoolId};
use ringpost_spool::{BLOCK, BodyFile, Content, Lost, Options, Recovery, Seen, SegmentHeader, Slot, checksum, inspect};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a file read at a time.
const PIECE: usize = 1 << 20;
const _: () = assert!(PIECE.is_multiple_of(BLOCK));

/// Times that something is read again because a server may have been writing it.
const LOOKS_MAX: usize = 10;

/// What was found in a spool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Each log.
    pub shards: Vec<ShardReport>,
}

impl CheckReport {
    /// Places that are damaged, in all logs.
    pub fn damaged(&self) -> usize {
        self.shards.iter().map(|shard| shard.damage.len()).sum()
    }
}

/// What was found in one log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    /// Its directory.
    pub directory: PathBuf,
    /// Segments that hold part of the log.
    pub segments: usize,
    /// Segment files kept for reuse.
    pub spare: usize,
    /// Bytes of all segment files.
    pub bytes: u64,
    /// Versions of the format that the segments are in.
    pub versions: Vec<u8>,
    /// Messages that the next start would find.
    pub live: usize,
    /// Bytes of these messages.
    pub live_bytes: u64,
    /// Records of messages, dead ones included.
    pub records: usize,
    /// Settlements.
    pub settled: usize,
    /// Segments that were used anew while the log was looked through, and are left out of everything here.
    pub changed: usize,
    /// Segments whose end was cut off by a crash, or is being written; nothing that was acknowledged is missing there.
    pub torn: usize,
    /// Body files of live messages.
    pub bodies: usize,
    /// What is damaged.
    pub damage: Vec<DamagedPlace>,
    /// Body files that are not there or not named by any live message.
    pub body_troubles: Vec<BodyTrouble>,
}

/// A place that fails its checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedPlace {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many bytes; 0 where that is not known.
    pub len: u64,
    /// What is wrong.
    pub what: String,
}

/// A body file that the log and the directory do not agree on. A crash leaves such, and the next start clears them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyTrouble {
    /// A live record names it and it is not there: the message counts as settled.
    Missing(PathBuf),
    /// It is there and no live record names it: the next start removes it.
    Extra(PathBuf),
}

/// Looks through all logs below a spool's directory.
pub fn check(spool: &Path) -> Result<CheckReport, StoreError> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(spool).map_err(|error| io_error(spool, error))? {
        let path = entry.map_err(|error| io_error(spool, error))?.path();
        directories.extend(shard_number(&path).map(|number| (number, path)));
    }
    if directories.is_empty() {
        let reason = "no spool is here: it has directories by the name of shard-0000, one for each core; name the directory \
                      `spool` below the state directory";
        return Err(file_error(spool, reason));
    }
    directories.sort();
    let mut shards = Vec::with_capacity(directories.len());
    for (_, directory) in directories {
        match check_shard(&directory) {
            // Another log has taken it over meanwhile.
            Err(_) if !directory.exists() => {}
            report => shards.push(report?),
        }
    }
    Ok(CheckReport { shards })
}

fn check_shard(directory: &Path) -> Result<ShardReport, StoreError> {
    let mut report = ShardReport { directory: directory.to_owned(), ..ShardReport::default() };
    let mut recovery: Recovery<()> = Recovery::new();
    let files = headers(directory)?;
    for (slot, file) in &files {
        report.bytes += file.len;
        match &file.block {
            Some(block) => {
                let known = recovery.header(*slot, block);
                known.map_err(|error| file_error(&segment_path(directory, *slot), error))?;
            }
            None if file.len < BLOCK as u64 => {}
            None => recovery.unreadable_header(*slot),
        }
    }
    let order = recovery.order();
    (report.segments, report.spare) = (order.len(), files.len() - order.len());
    let mut log = Log { directory, recovery, bodies: HashMap::new(), report };
    for (index, (slot, header)) in order.iter().enumerate() {
        let next = order.get(index + 1).filter(|(_, next)| next.previous == header.sequence);
        log.look_through(*slot, header, next.map_or(0, |(_, next)| next.previous_end));
    }
    log.judge()
}

/// A segment file as it was found: its length, and its first block.
#[derive(PartialEq, Eq)]
struct HeaderFound {
    len: u64,
    /// Nothing where it is shorter, which is one whose making was interrupted, or can't be read.
    block: Option<Vec<u8>>,
}

/// The headers of a log at one moment: read until they are the same twice. Read only once, beside a running server, they could
/// speak of segments whose files were looked at before.
fn headers(directory: &Path) -> Result<BTreeMap<Slot, HeaderFound>, StoreError> {
    let mut before = headers_once(directory)?;
    for _ in 0..LOOKS_MAX {
        let now = headers_once(directory)?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(before)
}

fn headers_once(directory: &Path) -> Result<BTreeMap<Slot, HeaderFound>, StoreError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(|error| io_error(directory, error))? {
        let path = entry.map_err(|error| io_error(directory, error))?.path();
        let Some(slot) = path.file_name().and_then(|name| slot_of(name.to_str()?)) else { continue };
        // A running server removes what it does not need.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let mut block = vec![0; BLOCK];
        let block = match File::open(&path).and_then(|file| file.read_exact_at(&mut block, 0)) {
            Ok(()) => Some(block),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || is_broken(error.raw_os_error()) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error(&path, error)),
        };
        found.insert(slot, HeaderFound { len: metadata.len(), block });
    }
    Ok(found)
}

fn segment_path(directory: &Path, slot: Slot) -> PathBuf {
    directory.join(crate::segments::segment_name(slot))
}

fn unreadable(path: &Path, error: &io::Error) -> DamagedPlace {
    DamagedPlace { path: path.to_owned(), offset: 0, len: 0, what: format!("can't be read: {error}") }
}

fn place(path: PathBuf, offset: u64, len: u64, what: &str) -> DamagedPlace {
    DamagedPlace { path, offset, len, what: what.to_owned() }
}

/// A segment's bytes, as far as they can be read.
#[derive(PartialEq, Eq)]
struct SegmentRead {
    bytes: Vec<u8>,
    /// Blocks that can't be read, and are zeros.
    holes: Vec<u64>,
}

/// Reads a segment; nothing if the file is gone.
fn read_segment(path: &Path, size: u64) -> io::Result<Option<SegmentRead>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let len = file.metadata()?.len().min(size);
    let mut read = SegmentRead { bytes: vec![0; len as usize], holes: Vec::new() };
    for (number, piece) in (0..).zip(read.bytes.chunks_mut(PIECE)) {
        let at = number * PIECE as u64;
        match file.read_exact_at(piece, at) {
            Err(error) if is_broken(error.raw_os_error()) => read_blocks(&file, piece, at, &mut read.holes)?,
            outcome => outcome?,
        }
    }
    Ok(Some(read))
}

/// Reads a piece of a file block by block, around those that can't be read.
fn read_blocks(file: &File, piece: &mut [u8], at: u64, holes: &mut Vec<u64>) -> io::Result<()> {
    for (number, block) in (0..).zip(piece.chunks_mut(BLOCK)) {
        let at = at + number * BLOCK as u64;
        match file.read_exact_at(block, at) {
            Err(error) if is_broken(error.raw_os_error()) => {
                block.fill(0);
                holes.push(at);
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// One log, as far as it was looked through.
struct Log<'a> {
    directory: &'a Path,
    recovery: Recovery<()>,
    /// What the records say of body files.
    bodies: HashMap<SpoolId, BodyFile>,
    report: ShardReport,
}

impl Log<'_> {
    /// Reads one segment, and counts what is in it. `sealed` is up to where the header of the next one says that it was synced.
    fn look_through(&mut self, slot: Slot, header: &SegmentHeader, sealed: u64) {
        let path = segment_path(self.directory, slot);
        let read = match steady_segment(&path, header) {
            Ok(Some(read)) => read,
            Ok(None) => {
                self.report.changed += 1;
                return;
            }
            Err(error) => {
                self.report.damage.push(unreadable(&path, &error));
                return;
            }
        };
        let report = &mut self.report;
        if !report.versions.contains(&header.version) {
            report.versions.push(header.version);
        }
        let mut torn = false;
        let end = inspect(header, &read.bytes, &mut |seen| match seen {
            Seen::Message { record, .. } => {
                report.records += 1;
                if let Content::File(file) = record.content {
                    self.bodies.insert(record.id, file);
                }
            }
            Seen::Settled { .. } => report.settled += 1,
            Seen::TornTail { .. } => torn = true,
            _ => {}
        });
        // What was synced once and is no record any more is damage, which the recovery tells.
        report.torn += usize::from(torn && end >= sealed);
        for hole in &read.holes {
            self.recovery.unreadable(slot, *hole, BLOCK as u64);
        }
        self.recovery.segment(slot, header, &read.bytes, &mut |_, _| ());
    }

    /// What the log comes to, once all of it is read.
    fn judge(mut self) -> Result<ShardReport, StoreError> {
        let (directory, report) = (self.directory, &mut self.report);
        for damage in self.recovery.damage() {
            let what = if damage.offset == 0 { "no header that can be read" } else { "no record that can be read" };
            report.damage.push(place(segment_path(directory, damage.slot), damage.offset, damage.len, what));
        }
        for sequence in self.recovery.missing() {
            let what = format!("the log's segment of sequence {sequence} is not there");
            report.damage.push(place(directory.to_owned(), 0, 0, &what));
        }
        // A segment that was left out may be where the message is, or its settlement.
        for Lost { id, slot, offset } in self.recovery.lost().filter(|_| report.changed == 0) {
            let what = format!("message {id} is not where this record says it is");
            report.damage.push(place(segment_path(directory, slot), offset, 0, &what));
        }
        // Nothing is written to the log that this makes.
        let (_, live) = self.recovery.finish(Options::default(), Entropy([0; 16]));
        report.live = live.len();
        let mut named = HashSet::new();
        for message in live {
            report.live_bytes += message.size;
            if !message.has_body_file {
                continue;
            }
            named.insert(message.id);
            let path = directory.join("body").join(format!("{}.body", message.id));
            match sum(&path) {
                Ok(found) if self.bodies.get(&message.id) == Some(&found) => report.bodies += 1,
                Ok(_) => report.damage.push(place(path, 0, 0, "not what was stored: its checksum does not hold")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    report.body_troubles.push(BodyTrouble::Missing(path));
                }
                Err(error) => report.damage.push(unreadable(&path, &error)),
            }
        }
        if report.changed == 0 {
            extra_bodies(&directory.join("body"), &named, report)?;
        }
        Ok(self.report)
    }
}

/// A segment's bytes; nothing if it is gone or used anew. Where something in it looks damaged it is read again: a server may have
/// been writing just there, and then the damage is not there a second time.
fn steady_segment(path: &Path, header: &SegmentHeader) -> io::Result<Option<SegmentRead>> {
    let mut before: Option<SegmentRead> = None;
    for _ in 0..LOOKS_MAX {
        let Some(read) = read_segment(path, header.size)? else { return Ok(None) };
        if SegmentHeader::parse(&read.bytes) != Some(*header) {
            return Ok(None);
        }
        let mut damaged = false;
        inspect(header, &read.bytes, &mut |seen| damaged |= matches!(seen, Seen::Damage { .. }));
        if !damaged || before.as_ref() == Some(&read) {
            return Ok(Some(read));
        }
        before = Some(read);
    }
    Ok(before)
}

fn extra_bodies(directory: &Path, named: &HashSet<SpoolId>, report: &mut ShardReport) -> Result<(), StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(directory, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| io_error(directory, error))?.path();
        if !body_id(&path).is_some_and(|id| named.contains(&id)) {
            report.body_troubles.push(BodyTrouble::Extra(path));
        }
    }
    Ok(())
}

/// Length and checksum of a file.
fn sum(path: &Path) -> io::Result<BodyFile> {
    let mut file = File::open(path)?;
    let (mut piece, mut sum) = (vec![0; PIECE], BodyFile { len: 0, crc: 0 });
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(sum);
        }
        sum = BodyFile { len: sum.len + read as u64, crc: checksum(sum.crc, &piece[..read]) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_spool::{MessageParts, Op, Spool, Token};

    /// The file of a segment is used for another one between the look at its header and the reading of it.
    #[test]
    fn a_segment_that_was_used_anew_is_read_as_the_one_before() {
        let root = tempfile::tempdir().expect("a directory");
        let (path, options) = (root.path().join("segment"), Options::default());
        let mut headers = Vec::new();
        for entropy in 1..=2 {
            let mut spool = Spool::new(options, Entropy([entropy; 16]));
            let id = SpoolId::from_bytes([entropy; 16]);
            assert!(spool.append(Token(1), &MessageParts { id, envelope: b"env", bytes: b"bytes", body_file: None }));
            while let Some(op) = spool.poll_op() {
                match op {
                    Op::Create(slot) => {
                        fs::write(&path, vec![0; options.segment_size.as_len()]).expect("made");
                        spool.created(slot, Ok(()));
                    }
                    Op::Write { offset, bytes, .. } => {
                        let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
                        file.write_all_at(&bytes, offset).expect("written");
                        spool.written(Ok(()));
                    }
                    Op::Copy { .. } | Op::Remove(_) => {}
                }
            }
            headers.push(SegmentHeader::parse(&fs::read(&path).expect("a file")).expect("a header"));
        }
        let read = |header| steady_segment(&path, header).expect("read").is_some();
        assert_eq!((read(&headers[0]), read(&headers[1])), (false, true));
        fs::remove_file(&path).expect("removed");
        assert!(!read(&headers[1]));
    }
}
