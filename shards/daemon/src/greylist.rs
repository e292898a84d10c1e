//! The greylist on disk: one file for all shards, appended to, and written anew when the server starts.
//!
//! It begins with a magic number and the secret that triplets are hashed with; records follow. A torn record at the end,
//! from a crash, is passed over. What was not written yet is lost with a crash: a sender then waits
//! once more.

use anyhow::{Context, Result};
use ringpost_policy::{GreyRecord, GreySecret};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"RPgrey1\n";

/// Records that are read; of a longer file the last ones.
const RECORDS_MAX: usize = 20_000_000;

/// The file, open for appending.
pub(crate) struct GreylistFile {
    path: PathBuf,
    file: File,
}

/// What a file had.
pub(crate) struct Stored {
    pub(crate) secret: GreySecret,
    pub(crate) records: Vec<GreyRecord>,
}

impl GreylistFile {
    /// Reads the file, writes it anew without what has been overtaken, and opens it for appending. `fresh`: the secret
    /// of a file that is not there yet.
    pub(crate) fn open(path: PathBuf, fresh: GreySecret) -> Result<(Self, Stored)> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("{}: the greylist can't be read", path.display())),
        };
        let stored = read(&path, &bytes, fresh);
        let file =
            write_anew(&path, &stored).with_context(|| format!("{}: the greylist can't be written", path.display()))?;
        Ok((Self { path, file }, stored))
    }

    /// Appends records. Not synced: what a power cut takes is put off once more.
    pub(crate) fn append(&mut self, records: &[GreyRecord]) -> Result<()> {
        let bytes: Vec<u8> = records.iter().flat_map(GreyRecord::encode).collect();
        self.file.write_all(&bytes).with_context(|| format!("{}: the greylist can't be written", self.path.display()))
    }
}

fn read(path: &Path, bytes: &[u8], fresh: GreySecret) -> Stored {
    let parts = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<16>());
    let Some((secret, rest)) = parts else {
        if !bytes.is_empty() {
            tracing::error!(file = %path.display(), "the greylist is damaged at its beginning, and begins anew");
        }
        return Stored { secret: fresh, records: Vec::new() };
    };
    let (records, _torn) = rest.as_chunks::<{ GreyRecord::LEN }>();
    let damaged = records.iter().filter(|bytes| GreyRecord::decode(bytes).is_none()).count();
    if damaged > 0 {
        tracing::warn!(file = %path.display(), records = damaged as u64, "records of the greylist are damaged, and left out");
    }
    let newest = records.len().saturating_sub(RECORDS_MAX);
    Stored { secret: GreySecret(*secret), records: overtaking(records[newest..].iter().filter_map(GreyRecord::decode)) }
}

/// The last record of each triplet, in order.
fn overtaking(records: impl Iterator<Item = GreyRecord>) -> Vec<GreyRecord> {
    let mut places = std::collections::HashMap::new();
    let mut kept: Vec<Option<GreyRecord>> = Vec::new();
    for record in records {
        if let Some(place) = places.insert(record.key, kept.len()) {
            let before: &mut Option<GreyRecord> = &mut kept[place];
            *before = None;
        }
        kept.push(Some(record));
    }
    kept.into_iter().flatten().collect()
}

fn write_anew(path: &Path, stored: &Stored) -> std::io::Result<File> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
    let mut bytes = Vec::with_capacity(24 + stored.records.len() * GreyRecord::LEN);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&stored.secret.0);
    bytes.extend(stored.records.iter().flat_map(GreyRecord::encode));
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::{Network, Timestamp};
    use ringpost_policy::{GreyKey, RecordKind};

    fn record(sender: &str, micros: u64) -> GreyRecord {
        let network: Network = "192.0.2.0/24".parse().expect("network");
        let key = GreyKey::new(&GreySecret([1; 16]), network, sender, "you@example.com");
        GreyRecord { kind: RecordKind::Waiting, key, network, at: Timestamp::from_unix_micros(micros) }
    }

    #[test]
    fn what_was_appended_is_read_again_without_what_was_overtaken() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("greylist");
        let (mut file, stored) = GreylistFile::open(path.clone(), GreySecret([1; 16])).expect("opens");
        assert!(stored.records.is_empty() && stored.secret == GreySecret([1; 16]));
        file.append(&[record("a", 1), record("b", 2)]).expect("written");
        file.append(&[record("a", 3)]).expect("written");
        // A torn record at the end.
        file.file.write_all(&[7; 20]).expect("written");
        let (mut file, stored) = GreylistFile::open(path.clone(), GreySecret([2; 16])).expect("opens");
        assert!(stored.secret == GreySecret([1; 16]), "the secret is that of the file");
        assert_eq!(stored.records, [record("b", 2), record("a", 3)]);
        file.append(&[record("c", 4)]).expect("written");
        let (_, stored) = GreylistFile::open(path, GreySecret([2; 16])).expect("opens");
        assert_eq!(stored.records.len(), 3, "the torn record is gone, and nothing behind it is out of step");
    }

    #[test]
    fn a_damaged_beginning_begins_anew() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("greylist");
        fs::write(&path, b"something else").expect("written");
        let (_, stored) = GreylistFile::open(path, GreySecret([2; 16])).expect("opens");
        assert!(stored.records.is_empty() && stored.secret == GreySecret([2; 16]));
    }
}
