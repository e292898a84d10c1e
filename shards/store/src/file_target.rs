//! Delivery into plain files: `ID.eml` with the message as it is stored, `ID.json` with its envelope.
//!
//! Both are written beside themselves, synced and renamed, the envelope first: whoever sees the message finds its envelope
//! beside it. A repetition writes the same again.

use crate::files::JobContent;
use crate::maildir::{copy_body, make_directory};
use ringpost_base::SpoolId;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Syncs that one delivery takes: of two files and of the directory.
pub(crate) const SYNCS: u64 = 3;

/// Writes a message and its envelope.
pub(crate) fn deliver(id: SpoolId, directory: &Path, envelope: &[u8], content: &JobContent) -> io::Result<()> {
    make_directory(directory)?;
    write(directory, &format!("{id}.json"), |file| file.write_all(envelope))?;
    write(directory, &format!("{id}.eml"), |file| match content {
        JobContent::Memory(bytes) => file.write_all(bytes),
        JobContent::File(body, stored) => copy_body(body, stored.crc, stored.len, file),
    })?;
    File::open(directory)?.sync_all()
}

fn write(directory: &Path, name: &str, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let beside = directory.join(format!(".{name}.tmp"));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let written = fill(&mut file).and_then(|()| file.sync_data());
    let renamed = written.and_then(|()| std::fs::rename(&beside, directory.join(name)));
    if renamed.is_err() {
        // What is left of it begins with a dot, and the next try writes over it.
        let _ = std::fs::remove_file(&beside);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_spool::BodyFile;
    use std::sync::Arc;

    const ID: SpoolId = SpoolId::from_bytes([3; 16]);

    #[test]
    fn a_message_and_its_envelope_are_written_and_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("a/b");
        for text in ["one", "two"] {
            let content = JobContent::Memory(Arc::new(text.into()));
            deliver(ID, &directory, b"{}", &content).expect("written");
            assert_eq!(std::fs::read(directory.join(format!("{ID}.eml"))).expect("there"), text.as_bytes());
            assert_eq!(std::fs::read(directory.join(format!("{ID}.json"))).expect("there"), b"{}");
        }
        assert_eq!(std::fs::read_dir(&directory).expect("a folder").count(), 2);
    }

    #[test]
    fn a_damaged_body_is_not_delivered() {
        let folder = tempfile::tempdir().expect("a folder");
        let body = folder.path().join("body");
        std::fs::write(&body, b"message").expect("written");
        let stored = BodyFile { len: 7, crc: ringpost_spool::checksum(0, b"massage") };
        let directory = folder.path().join("mail");
        deliver(ID, &directory, b"{}", &JobContent::File(body, stored)).expect_err("the checksum does not hold");
        assert!(!directory.join(format!("{ID}.eml")).exists());
    }
}
