//! Reading every message in the spool and holding it against its checksum, while the server serves.
//!
//! Messages are read in the order in which they lie, several with one read, and the shard's other work has its turn between
//! reads. What is damaged stays where it is: delivery says so at every attempt, and the operator decides.

use crate::error::StoreError;
use crate::recover::Progress;
use crate::store::Store;
use glommio::io::DmaFile;
use ringpost_base::SpoolId;
use ringpost_runtime::Pace;
use ringpost_spool::{BodyFile, Content, Location, parse_message};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Most bytes of the log read at once, unless a single record is longer.
const WINDOW_MAX: u64 = 1 << 20;

/// Bytes of a body file read at once.
const PIECE: usize = 256 << 10;

/// Most messages that a verification names. A disk that is gone damages them all, and each costs some memory and a line to
/// whoever asked; further ones are counted.
const DAMAGED_MAX: usize = 10_000;

/// Most damaged messages of one verification that are logged.
const LOGGED_MAX: usize = 100;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Damaged messages, 10,000 at most.
    pub damaged: Vec<Damaged>,
    /// How many more there are.
    pub more: u64,
}

impl Verified {
    fn add(&mut self, damaged: Damaged) {
        if self.damaged.len() < LOGGED_MAX {
            let Damaged { id, path, offset, reason } = &damaged;
            tracing::error!(%id, path = %path.display(), offset, reason, "message is damaged in the spool");
        }
        if self.damaged.len() < DAMAGED_MAX {
            self.damaged.push(damaged);
        } else {
            self.more += 1;
        }
    }

    /// Says how many were not logged.
    fn tell_rest(&self) {
        let all = self.damaged.len() as u64 + self.more;
        if let Some(messages) = all.checked_sub(LOGGED_MAX as u64).filter(|rest| *rest > 0) {
            tracing::error!(messages, "more messages are damaged in the spool");
        }
    }
}

/// A message that is not what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The message.
    pub id: SpoolId,
    /// The file that is damaged, or can't be read.
    pub path: PathBuf,
    /// Where in it the message begins, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

/// Counts what is read.
struct Meter<'a> {
    state: Cell<Progress>,
    tell: &'a dyn Fn(Progress),
}

impl Meter<'_> {
    fn add(&self, bytes: u64, messages: usize) {
        let before = self.state.get();
        let state = Progress { read: before.read + bytes, found: before.found + messages, ..before };
        self.state.set(state);
        (self.tell)(state);
    }
}

impl Store {
    /// Checks every message that is in the log when it is called, and is still there when its turn comes. `progress` is told
    /// after every read: bytes of records, and messages looked at. What is damaged is logged, the first hundred of it.
    pub async fn verify(self: &Rc<Self>, progress: impl Fn(Progress)) -> Verified {
        let all = self.by_place();
        let total = all.iter().map(|(_, location)| u64::from(location.len)).sum();
        let meter = Meter { state: Cell::new(Progress { total, ..Progress::default() }), tell: &progress };
        let mut verified = Verified::default();
        let mut pace = Pace::default();
        let mut rest = all.as_slice();
        while let Some(count) = window(rest) {
            let (together, behind) = rest.split_at(count);
            self.verify_together(together, &mut verified).await;
            meter.add(together.iter().map(|(_, location)| u64::from(location.len)).sum(), together.len());
            rest = behind;
            pace.breathe().await;
        }
        verified.tell_rest();
        verified
    }

    /// The messages in the log, by where they lie.
    fn by_place(&self) -> Vec<(SpoolId, Location)> {
        let spool = self.spool.borrow();
        let mut all: Vec<_> = spool.ids().filter_map(|id| Some((id, spool.locate(id)?))).collect();
        all.sort_unstable_by_key(|(_, location)| (location.sequence, location.offset));
        all
    }

    /// Reads messages that lie near each other, and checks each.
    async fn verify_together(self: &Rc<Self>, together: &[(SpoolId, Location)], verified: &mut Verified) {
        let (Some((_, first)), Some((_, last))) = (together.first(), together.last()) else { return };
        let len = last.offset + u64::from(last.len) - first.offset;
        let read = self.segments.read(first.slot, first.offset, len as usize).await;
        for (id, location) in together {
            let at = (location.offset - first.offset) as usize;
            let record = read.as_ref().ok().and_then(|bytes| bytes.get(at..at + location.len as usize));
            let looked = match record.map(|record| content_of(*id, record, location.key)) {
                Some(Ok(body)) => Ok(body),
                // Moved or settled meanwhile, or among others that could not be read: looked at alone.
                _ => self.look_alone(*id).await,
            };
            let (checked, path) = match looked {
                Ok(Some(body)) => (self.verify_body(*id, body).await, Some(self.body_path(*id))),
                Ok(None) => (Ok(()), None),
                Err(error) => (Err(error), None),
            };
            // Settled while it was looked at: then it may be gone, or another in its place.
            if let (Err(error), Some(now)) = (checked, self.locate(*id)) {
                verified.add(self.describe(*id, path, now, &error));
            }
        }
    }

    /// Reads one message from where it is now; gives its body file, if it has one.
    async fn look_alone(&self, id: SpoolId) -> Result<Option<BodyFile>, StoreError> {
        loop {
            let Some(location) = self.locate(id) else { return Ok(None) };
            let read = self.segments.read(location.slot, location.offset, location.len as usize).await;
            let looked = read.and_then(|record| content_of(id, &record, location.key));
            if looked.is_ok() || self.locate(id) == Some(location) {
                return looked;
            }
        }
    }

    async fn verify_body(&self, id: SpoolId, stored: BodyFile) -> Result<(), StoreError> {
        let path = self.body_path(id);
        let file = self.disk.open_segment(&path).await?;
        let read = self.sum(&file, &path).await;
        let _ = file.close().await;
        if read? == (stored.len, stored.crc) { Ok(()) } else { Err(StoreError::Damaged(id)) }
    }

    /// Length and checksum of a file, read past the page cache.
    async fn sum(&self, file: &DmaFile, path: &Path) -> Result<(u64, u32), StoreError> {
        let (mut len, mut crc) = (0, 0);
        let mut pace = Pace::default();
        loop {
            let piece = self.disk.read_segment(file, path, len, PIECE).await?;
            len += piece.len() as u64;
            crc = ringpost_spool::checksum(crc, &piece);
            // Only the end is shorter. It is not read from again: direct reads begin at whole blocks.
            if piece.len() < PIECE {
                return Ok((len, crc));
            }
            pace.breathe().await;
        }
    }

    /// Says what is wrong with a message: with its body file, where that is given, or with its record.
    fn describe(&self, id: SpoolId, body: Option<PathBuf>, location: Location, error: &StoreError) -> Damaged {
        let reason = match error {
            StoreError::File { reason, .. } => reason.clone(),
            _ => "its checksum does not hold".to_owned(),
        };
        match body {
            Some(path) => Damaged { id, path, offset: 0, reason },
            None => Damaged { id, path: self.segments.path(location.slot), offset: location.offset, reason },
        }
    }
}

/// How many of the messages at the front are read together; nothing if there are none.
fn window(rest: &[(SpoolId, Location)]) -> Option<usize> {
    let (_, first) = rest.first()?;
    let near = |location: &Location| {
        location.sequence == first.sequence && location.offset + u64::from(location.len) <= first.offset + WINDOW_MAX
    };
    Some(rest.iter().take_while(|(_, location)| near(location)).count().max(1))
}

/// Checks a record; gives its message's body file, if it has one.
fn content_of(id: SpoolId, record: &[u8], key: u64) -> Result<Option<BodyFile>, StoreError> {
    let record = parse_message(record, key).ok().filter(|record| record.id == id).ok_or(StoreError::Damaged(id))?;
    Ok(match record.content {
        Content::Inline(_) => None,
        Content::File(file) => Some(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is gone: a million messages are damaged at once.
    #[test]
    fn as_many_lines_as_there_are_damaged_messages() {
        let mut verified = Verified::default();
        for number in 0..DAMAGED_MAX as u64 + 50 {
            let id = SpoolId::from_bytes(u128::from(number).to_be_bytes());
            verified.add(Damaged { id, path: PathBuf::new(), offset: number, reason: String::new() });
        }
        assert_eq!((verified.damaged.len(), verified.more), (10_000, 50));
        assert_eq!(verified.damaged[9_999].offset, 9_999);
    }
}
