//! Finds the run's messages in Maildirs, and looks whether each is whole.
//!
//! A Maildir is any directory that has a `new` or a `cur` in it; they may lie at any depth below the directories given.
//! `tmp` is never looked at, since what lies there hasn't arrived. Symbolic links below the given directories aren't
//! followed. A scan may be repeated: files seen before are passed over, also when a reader moved them from `new` to
//! `cur`. Nothing is ever changed or removed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::message::{DIGEST_HEADER, ID_HEADER, MessageId, SIZE_HEADER};

/// One file that carries a message of some run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Copy {
    pub(crate) id: MessageId,
    /// Index into [`Scanner::maildirs`].
    pub(crate) maildir: u32,
    pub(crate) damaged: bool,
}

/// What has been found so far.
pub(crate) struct Scanner {
    roots: Vec<PathBuf>,
    pub(crate) maildirs: Vec<PathBuf>,
    indexes: HashMap<PathBuf, u32>,
    seen: HashSet<(u32, Box<str>)>,
    pub(crate) copies: Vec<Copy>,
    /// Files that carry no id of this tool.
    pub(crate) other_files: u64,
    buffer: Vec<u8>,
}

impl Scanner {
    pub(crate) fn new(roots: &[PathBuf]) -> Self {
        Self {
            roots: roots.to_vec(),
            maildirs: Vec::new(),
            indexes: HashMap::new(),
            seen: HashSet::new(),
            copies: Vec::new(),
            other_files: 0,
            buffer: Vec::new(),
        }
    }

    /// Looks once through everything; what is new stands at the end of `copies`.
    pub(crate) fn scan(&mut self) -> Result<()> {
        let mut open: Vec<PathBuf> = self.roots.clone();
        while let Some(dir) = open.pop() {
            let mut boxes = Vec::new();
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                // A directory that isn't there yet, or no longer, holds no mail; but a root must exist.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.roots.contains(&dir) => continue,
                Err(error) => return Err(error).with_context(|| format!("can't read {}", dir.display())),
            };
            for entry in entries {
                let entry = entry.with_context(|| format!("can't read {}", dir.display()))?;
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                match entry.file_name().to_str() {
                    Some("new" | "cur") => boxes.push(entry.path()),
                    Some("tmp") => {}
                    _ => open.push(entry.path()),
                }
            }
            if !boxes.is_empty() {
                // What moves from `new` to `cur` meanwhile is seen once, or twice under one name, but not missed.
                boxes.sort_by_key(|path| path.ends_with("cur"));
                let maildir = self.index_of(&dir);
                for path in boxes {
                    self.scan_box(maildir, &path)?;
                }
            }
        }
        Ok(())
    }

    fn index_of(&mut self, maildir: &Path) -> u32 {
        if let Some(index) = self.indexes.get(maildir) {
            return *index;
        }
        let index = self.maildirs.len() as u32;
        self.maildirs.push(maildir.to_owned());
        self.indexes.insert(maildir.to_owned(), index);
        index
    }

    fn scan_box(&mut self, maildir: u32, path: &Path) -> Result<()> {
        let what = || format!("can't read {}", path.display());
        for entry in fs::read_dir(path).with_context(what)? {
            let entry = entry.with_context(what)?;
            let name = entry.file_name();
            // The part of a Maildir name that doesn't change when flags are added.
            let name = name.to_string_lossy();
            let name = name.split(':').next().unwrap_or_default();
            let key = (maildir, Box::from(name));
            if self.seen.contains(&key) {
                continue;
            }
            match self.read(&entry.path()) {
                Ok(()) => {}
                // Moved since the directory was listed; it is found under its new name.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("can't read {}", entry.path().display())),
            }
            self.seen.insert(key);
            match examine(&self.buffer) {
                Some((id, damaged)) => self.copies.push(Copy { id, maildir, damaged }),
                None => self.other_files += 1,
            }
        }
        Ok(())
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        self.buffer.clear();
        File::open(path)?.read_to_end(&mut self.buffer)?;
        Ok(())
    }
}

/// The id a message carries, and whether its body is anything but what was sent.
fn examine(message: &[u8]) -> Option<(MessageId, bool)> {
    let (header, body) = split_message(message);
    let text = |name| field(header, name).and_then(|value| std::str::from_utf8(value).ok());
    let id = text(ID_HEADER)?.parse().ok()?;
    let size = text(SIZE_HEADER).and_then(|text| text.parse::<u64>().ok());
    let digest = text(DIGEST_HEADER).and_then(|text| u32::from_str_radix(text, 16).ok());
    let (found_size, found_digest) = measure(body);
    Some((id, size != Some(found_size) || digest != Some(found_digest)))
}

/// Header and body, without the empty line between them; a message that has none is all header.
fn split_message(message: &[u8]) -> (&[u8], &[u8]) {
    let mut line_start = 0;
    for (index, &byte) in message.iter().enumerate() {
        if byte == b'\n' {
            if matches!(&message[line_start..index], b"" | b"\r") {
                return (&message[..line_start], &message[index + 1..]);
            }
            line_start = index + 1;
        }
    }
    (message, &[])
}

/// The value of the first header field of this name; this tool folds none of its own.
fn field<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    header.split(|&byte| byte == b'\n').find_map(|line| {
        let (start, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        start.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}

/// Size and CRC-32C of a body in its CRLF form. A file whose lines all end in a bare LF is taken as stored in the
/// system's own form; one that mixes both is measured as it is, and so found damaged.
fn measure(body: &[u8]) -> (u64, u32) {
    if body.contains(&b'\r') {
        return (body.len() as u64, crc32c::crc32c(body));
    }
    let (mut size, mut digest) = (0, 0);
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        let text = line.strip_suffix(b"\n");
        digest = crc32c::crc32c_append(digest, text.unwrap_or(line));
        size += line.len() as u64;
        if text.is_some() {
            digest = crc32c::crc32c_append(digest, b"\r\n");
            size += 1;
        }
    }
    (size, digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"one\r\n.\r\n\r\ntwo\r\n";

    fn message(body: &[u8]) -> Vec<u8> {
        let digest = crc32c::crc32c(BODY);
        let mut text = format!(
            "Return-Path: <x>\nx-ringpost-load-ID: 00000000000000aa-7\r\nX-Ringpost-Load-Digest: {digest:08x}\r\n\
             X-Ringpost-Load-Size: {}\r\n\r\n",
            BODY.len()
        )
        .into_bytes();
        text.extend_from_slice(body);
        text
    }

    #[test]
    fn bodies_whole_and_damaged() {
        let id = MessageId { run: 0xaa, sequence: 7 };
        let lf: Vec<u8> = BODY.iter().copied().filter(|&byte| byte != b'\r').collect();
        assert_eq!(examine(&message(BODY)), Some((id, false)));
        assert_eq!(examine(&message(&lf)), Some((id, false)));
        for damage in [
            &BODY[..BODY.len() - 2],
            b"",
            b"one\r\n.\n\r\ntwo\r\n",
            b"One\r\n.\r\n\r\ntwo\r\n",
            b"one\r\n\r\n\r\ntwo\r\n",
        ] {
            assert_eq!(examine(&message(damage)), Some((id, true)), "{damage:?}");
        }
        assert_eq!(examine(b"Subject: x\r\n\r\nX-Ringpost-Load-Id: 00000000000000aa-7\r\n"), None);
        let torn = message(b"");
        assert_eq!(examine(&torn[..torn.len() - 2]), Some((id, true)));
    }

    #[test]
    fn maildirs_are_found_at_any_depth_and_files_read_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (folder, file) in [("a/new", "1"), ("a/cur", "2:2,S"), ("b/c/cur", "3"), ("a/tmp", "4"), ("b", "5")] {
            fs::create_dir_all(dir.path().join(folder)).expect("creates");
            fs::write(dir.path().join(folder).join(file), message(BODY)).expect("writes");
        }
        fs::write(dir.path().join("a/new/other"), "Subject: hello\n\nhello\n").expect("writes");
        let mut scanner = Scanner::new(&[dir.path().to_owned()]);
        scanner.scan().expect("scans");
        assert_eq!((scanner.copies.len(), scanner.maildirs.len(), scanner.other_files), (3, 2, 1));
        fs::rename(dir.path().join("a/new/1"), dir.path().join("a/cur/1:2,S")).expect("moves");
        fs::write(dir.path().join("a/new/6"), message(BODY)).expect("writes");
        scanner.scan().expect("scans");
        assert_eq!((scanner.copies.len(), scanner.other_files), (4, 1));
    }

    #[test]
    fn a_missing_root_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(Scanner::new(&[dir.path().join("nothing")]).scan().is_err());
    }
}
