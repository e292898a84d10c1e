//! A file of records behind a header, each at its place, so that nothing behind a failed write is out of step.

use ringpost_policy::{GreyRecord, GreySecret};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"RPgrey1\n";

/// The magic number, and the secret that triplets are hashed with.
pub(super) const HEADER_LEN: usize = 24;

/// Records that are read or copied at a time, 200 KB.
const BLOCK: usize = 4096;

/// A stored record.
pub(super) type Stored = [u8; GreyRecord::LEN];

/// The file, and how many whole records it has.
pub(super) struct Records {
    pub(super) file: File,
    pub(super) count: u64,
}

/// What is found in the place of a file of records.
pub(super) enum Found {
    Records(Records, GreySecret),
    Nothing,
    /// A file that does not begin as one of records does.
    Damaged,
}

impl Records {
    /// Opens a file for reading.
    pub(super) fn find(path: &Path) -> io::Result<Found> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        let Some(behind) = len.checked_sub(HEADER_LEN as u64) else {
            return Ok(if len == 0 { Found::Nothing } else { Found::Damaged });
        };
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0)?;
        let secret = header.strip_prefix(MAGIC).and_then(|secret| secret.first_chunk());
        let Some(secret) = secret.copied().map(GreySecret) else { return Ok(Found::Damaged) };
        // A torn record at the end is none.
        Ok(Found::Records(Self { file, count: behind / GreyRecord::LEN as u64 }, secret))
    }

    /// Makes a file without records, in place of what is there.
    pub(super) fn create(path: &Path, secret: &GreySecret) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(MAGIC, 0)?;
        file.write_all_at(&secret.0, MAGIC.len() as u64)?;
        Ok(Self { file, count: 0 })
    }

    /// Appends records. What was written when it failed half way is taken back.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = place(self.count);
        if let Err(error) = self.file.write_all_at(bytes, end) {
            // If this fails too, a torn record stays behind the last, in the place of the next that is written.
            let _ = self.file.set_len(end);
            return Err(error);
        }
        self.count += (bytes.len() / GreyRecord::LEN) as u64;
        Ok(())
    }

    /// Reads records, a block at a time, the last block first.
    pub(super) fn backwards(
        &self,
        range: Range<u64>,
        mut take: impl FnMut(u64, &[Stored]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut end = range.end;
        let mut bytes = vec![0; BLOCK * GreyRecord::LEN];
        while end > range.start {
            let first = range.start.max(end.saturating_sub(BLOCK as u64));
            take(first, self.read(first..end, &mut bytes)?)?;
            end = first;
        }
        Ok(())
    }

    /// Reads records, a block at a time.
    pub(super) fn forwards(
        &self,
        range: Range<u64>,
        mut take: impl FnMut(u64, &[Stored]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut first = range.start;
        let mut bytes = vec![0; BLOCK * GreyRecord::LEN];
        while first < range.end {
            let end = range.end.min(first + BLOCK as u64);
            take(first, self.read(first..end, &mut bytes)?)?;
            first = end;
        }
        Ok(())
    }

    /// Appends records of another file.
    pub(super) fn append_from(&mut self, other: &Self, range: Range<u64>) -> io::Result<()> {
        other.forwards(range, |_, records| self.append(records.as_flattened()))
    }

    fn read<'a>(&self, range: Range<u64>, bytes: &'a mut [u8]) -> io::Result<&'a [Stored]> {
        let bytes = &mut bytes[..(range.end - range.start) as usize * GreyRecord::LEN];
        self.file.read_exact_at(bytes, place(range.start))?;
        Ok(bytes.as_chunks().0)
    }
}

fn place(record: u64) -> u64 {
    HEADER_LEN as u64 + record * GreyRecord::LEN as u64
}
