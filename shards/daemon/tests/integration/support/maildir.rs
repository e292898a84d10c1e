//! Reading Maildirs.

use super::wait_until;
use std::path::{Path, PathBuf};

/// A delivered message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// Where a message's parts begin: `Return-Path`, then `Delivered-To` for each recipient, then one folded `Received` are
/// the server's; what follows is the sender's.
impl Message {
    /// The message as it was sent.
    pub(crate) fn sent(&self) -> &[u8] {
        &self.bytes[self.trace().len()..]
    }

    /// The header fields that the server put in front.
    pub(crate) fn trace(&self) -> &str {
        let mut end = 0;
        let fields = ["Return-Path:", "Delivered-To:", "Received:"];
        let mut received = false;
        for line in self.bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = std::str::from_utf8(line).unwrap_or_default();
            let folded = text.starts_with('\t') && received;
            if !folded && (received || !fields.iter().any(|field| text.starts_with(field))) {
                break;
            }
            received |= text.starts_with("Received:");
            end += line.len();
        }
        std::str::from_utf8(&self.bytes[..end]).expect("trace fields are text")
    }

    /// What comes after the first empty line.
    pub(crate) fn body(&self) -> &[u8] {
        let at = self.bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an empty line");
        &self.bytes[at + 4..]
    }
}

/// A Maildir, whether it is there already or not.
pub(crate) struct Maildir(pub(crate) PathBuf);

impl Maildir {
    /// The messages in `new`, by name.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let mut files = files_in(&self.0.join("new"));
        files.sort();
        let read = |path: PathBuf| Message { bytes: std::fs::read(&path).expect("a message"), path };
        files.into_iter().map(read).collect()
    }

    /// How many messages are in `new`.
    pub(crate) fn count(&self) -> usize {
        files_in(&self.0.join("new")).len()
    }

    /// Waits for exactly this many messages.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Message> {
        wait_until(&format!("{count} messages in {}", self.0.display()), || self.count() >= count);
        let messages = self.messages();
        assert_eq!(messages.len(), count, "messages in {}", self.0.display());
        messages
    }

    /// Waits for exactly one message.
    #[track_caller]
    pub(crate) fn only(&self) -> Message {
        self.wait_for(1).remove(0)
    }
}

/// All messages in the `new` of any Maildir below a folder.
pub(crate) fn delivered_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        match path.file_name() {
            Some(name) if name == "new" => found.extend(files_in(&path)),
            Some(name) if name == "tmp" || name == "cur" => {}
            _ => found.extend(delivered_below(&path)),
        }
    }
    found
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}
