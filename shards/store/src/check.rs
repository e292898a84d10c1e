//! Looking through a spool's files without a runtime and without changing anything: every record and every body file held
//! against its checksum.
//!
//! Beside a running server it sees the log as it changes: what is being written looks torn, and body files come and go.

use crate::recover::{body_id, shard_number};
use crate::segments::slot_of;
use crate::{StoreError, error};
use error::{file_error, io_error};
use ringpost_base::{Entropy, SpoolId};
use ringpost_spool::{
    BLOCK, BodyFile, Content, Options, Recovery, Seen, SegmentHeader, Slot, checksum, inspect, parse_message,
};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a body file read at a time.
const PIECE: usize = 1 << 20;

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
    directories.sort();
    let shards = directories.iter().map(|(_, directory)| check_shard(directory)).collect::<Result<_, _>>()?;
    Ok(CheckReport { shards })
}

fn check_shard(directory: &Path) -> Result<ShardReport, StoreError> {
    let mut report = ShardReport { directory: directory.to_owned(), ..ShardReport::default() };
    let mut recovery: Recovery<()> = Recovery::new();
    for entry in fs::read_dir(directory).map_err(|error| io_error(directory, error))? {
        let path = entry.map_err(|error| io_error(directory, error))?.path();
        let Some(slot) = path.file_name().and_then(|name| slot_of(name.to_str()?)) else { continue };
        // A running server removes what it does not need.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        report.bytes += metadata.len();
        report.spare += 1;
        let mut block = vec![0; BLOCK];
        match File::open(&path).and_then(|file| file.read_exact_at(&mut block, 0)) {
            Ok(()) => recovery.header(slot, &block).map_err(|error| file_error(&path, error))?,
            // Its making was interrupted.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => report.damage.push(unreadable(&path, &error)),
        }
    }
    let order = recovery.order();
    report.segments = order.len();
    report.spare -= order.len();
    for (slot, header) in &order {
        look_through(directory, *slot, header, &mut recovery, &mut report);
    }
    judge(directory, recovery, &mut report)?;
    Ok(report)
}

fn segment_path(directory: &Path, slot: Slot) -> PathBuf {
    directory.join(crate::segments::segment_name(slot))
}

fn unreadable(path: &Path, error: &io::Error) -> DamagedPlace {
    DamagedPlace { path: path.to_owned(), offset: 0, len: 0, what: format!("can't be read: {error}") }
}

/// Reads one segment, and counts what is in it.
fn look_through(
    directory: &Path,
    slot: Slot,
    header: &SegmentHeader,
    recovery: &mut Recovery<()>,
    report: &mut ShardReport,
) {
    let path = segment_path(directory, slot);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(header.size).read_to_end(&mut bytes));
    if let Err(error) = read {
        report.damage.push(unreadable(&path, &error));
    }
    if !report.versions.contains(&header.version) {
        report.versions.push(header.version);
    }
    inspect(header, &bytes, &mut |seen| match seen {
        Seen::Message { .. } => report.records += 1,
        Seen::Settled { .. } => report.settled += 1,
        Seen::TornTail { .. } => report.torn += 1,
        _ => {}
    });
    recovery.segment(slot, header, &bytes, &mut |_, _| ());
}

/// What the log comes to, once all of it is read.
fn judge(directory: &Path, recovery: Recovery<()>, report: &mut ShardReport) -> Result<(), StoreError> {
    let place = |path: PathBuf, offset, len, what: &str| DamagedPlace { path, offset, len, what: what.to_owned() };
    for damage in recovery.damage() {
        let what = if damage.offset == 0 { "no header that can be read" } else { "no record that can be read" };
        report.damage.push(place(segment_path(directory, damage.slot), damage.offset, damage.len, what));
    }
    for sequence in recovery.missing() {
        let what = format!("the log's segment of sequence {sequence} is not there");
        report.damage.push(place(directory.to_owned(), 0, 0, &what));
    }
    // Nothing is written to the log that this makes.
    let (spool, live) = recovery.finish(Options::default(), Entropy([0; 16]));
    report.live = live.len();
    let mut named = HashSet::new();
    for message in live {
        report.live_bytes += message.size;
        let Some(location) = spool.locate(message.id).filter(|_| message.has_body_file) else { continue };
        let path = directory.join("body").join(format!("{}.body", message.id));
        named.insert(message.id);
        let segment = segment_path(directory, location.slot);
        let stored = stored_body(&segment, location.offset, location.len, location.key);
        match stored.and_then(|stored| sum(&path).map(|found| (stored, found))) {
            Ok((Some(stored), found)) if found == stored => report.bodies += 1,
            Ok((None, _)) => report.damage.push(place(segment, location.offset, 0, "the record can't be read again")),
            Ok(_) => report.damage.push(place(path, 0, 0, "not what was stored: its checksum does not hold")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.body_troubles.push(BodyTrouble::Missing(path));
            }
            Err(error) => report.damage.push(unreadable(&path, &error)),
        }
    }
    extra_bodies(&directory.join("body"), &named, report)
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

/// What a record says of its body file.
fn stored_body(segment: &Path, offset: u64, len: u32, key: u64) -> io::Result<Option<BodyFile>> {
    let mut record = vec![0; len as usize];
    File::open(segment)?.read_exact_at(&mut record, offset)?;
    Ok(match parse_message(&record, key).map(|record| record.content) {
        Ok(Content::File(stored)) => Some(stored),
        _ => None,
    })
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
