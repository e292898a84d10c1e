//! The file of acknowledged messages: one id a line, written before the message is counted.
//!
//! It is the other half of a crash test: what stands here, a server that was killed must still have. Lines wait in a
//! buffer for up to the flush interval of the run, so a generator that is itself killed may have left out the last of
//! them; it never names a message that wasn't acknowledged.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::message::MessageId;

/// The file that `--acked` names, shared by all workers.
pub(crate) struct AckedFile {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: BufWriter<File>,
    line: Vec<u8>,
    error: Option<std::io::Error>,
}

impl AckedFile {
    /// Opens the file to append to it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let what = || format!("can't open {} of --acked", path.display());
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).with_context(what)?;
        drop_torn_line(&file).with_context(what)?;
        let inner = Inner { file: BufWriter::with_capacity(64 * 1024, file), line: Vec::new(), error: None };
        Ok(Self { path: path.to_owned(), inner: Mutex::new(inner) })
    }

    /// Notes an acknowledged message. A failure is kept for [`AckedFile::flush`].
    pub(crate) fn append(&self, id: MessageId) {
        let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        inner.line.clear();
        id.write(&mut inner.line);
        inner.line.push(b'\n');
        if let Err(error) = inner.file.write_all(&inner.line) {
            inner.error.get_or_insert(error);
        }
    }

    /// Hands everything noted so far to the system; fails if that, or any earlier write, failed.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = inner.file.flush();
        let result = inner.error.take().map_or(flushed, Err);
        result.with_context(|| format!("can't write {} of --acked", self.path.display()))
    }
}

/// Cuts off what a killed generator left of its last line, so that the next line stands on its own.
fn drop_torn_line(file: &File) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    let mut tail = [0; 64];
    let tail_start = size.saturating_sub(tail.len() as u64);
    let tail = &mut tail[..(size - tail_start) as usize];
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    file.read_exact_at(tail, tail_start)?;
    match tail.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => file.set_len(tail_start + end as u64 + 1),
        None if tail_start == 0 => file.set_len(0),
        None => Err(std::io::Error::other("it doesn't hold message ids")),
    }
}

/// Reads the ids that a run noted. A torn last line, from a generator that was killed, is passed over.
pub(crate) fn read_acked(path: &Path) -> Result<Vec<MessageId>> {
    let what = || format!("can't read {}", path.display());
    let mut reader = BufReader::new(File::open(path).with_context(what)?);
    let mut ids = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).with_context(what)? == 0 || !line.ends_with('\n') {
            return Ok(ids);
        }
        let id = line.trim_end().parse();
        ids.push(id.map_err(|()| anyhow::anyhow!("{}: '{}' is not a message id", path.display(), line.trim_end()))?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("acked");
        for run in [1, 2] {
            let file = AckedFile::open(&path).expect("opens");
            file.append(MessageId { run, sequence: 7 });
            file.flush().expect("flushes");
            let mut torn = OpenOptions::new().append(true).open(&path).expect("opens");
            torn.write_all(b"00000000000").expect("writes");
        }
        let ids: Vec<_> = read_acked(&path).expect("reads").iter().map(|id| (id.run, id.sequence)).collect();
        assert_eq!(ids, [(1, 7), (2, 7)]);
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("acked");
        std::fs::write(&path, "hello\n").expect("writes");
        assert!(read_acked(&path).is_err());
    }

    #[test]
    fn a_full_disk_is_reported() {
        let file = AckedFile::open(Path::new("/dev/full")).expect("opens");
        file.append(MessageId { run: 1, sequence: 1 });
        assert!(file.flush().is_err());
    }
}
