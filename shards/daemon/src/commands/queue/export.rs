//! `ringpost queue export`: messages as files.
//!
//! Invariants: no file is written over; a file that is there under its name is whole; files are for their owner alone.

use super::{QUEUE, path_of};
use crate::cli::QueueExportOptions;
use crate::client::Client;
use crate::commands::print;
use crate::commands::words::{messages, plain};
use anyhow::{Context, Result, bail};
use ringpost_admin::api::{MessageId, PAGE_MAX, QueuePage, QueueQuery};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) fn export(options: &QueueExportOptions) -> Result<()> {
    let filter = options.filters.with(options.recipient.as_ref());
    match (options.ids.is_empty(), filter.is_empty(), options.all) {
        (true, true, false) => bail!("which messages? Give ids, or filters such as --from, or --all"),
        (false, false, _) | (false, _, true) => bail!("give ids, or filters, or --all: not several of them"),
        (true, false, true) => bail!("--all is every message, and the filters choose some: give one of them"),
        _ => {}
    }
    let client = Client::find(&options.server)?;
    let directory = &options.to;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("the directory {}", directory.display()))?;
    let mut exported = Exported { client: &client, directory, written: 0, faults: 0 };
    if options.ids.is_empty() {
        let mut query = QueueQuery { filter, limit: Some(PAGE_MAX), after: None };
        loop {
            let page: QueuePage = client.get(&format!("{QUEUE}/messages?{}", query.text()))?;
            if let [first, ..] = page.silent.as_slice() {
                bail!("shard {first} did not answer in time: what it has was not exported");
            }
            page.messages.iter().for_each(|message| exported.take(message.id));
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
    } else {
        options.ids.iter().for_each(|id| exported.take(*id));
    }
    let Exported { written, faults, .. } = exported;
    print(&format!("{} written to {}\n", messages(written), directory.display()))?;
    if faults > 0 { bail!("{} could not be exported, see above", messages(faults)) } else { Ok(()) }
}

/// An export under way.
struct Exported<'a> {
    client: &'a Client,
    directory: &'a Path,
    written: u64,
    faults: u64,
}

impl Exported<'_> {
    /// Exports a message; what is wrong with it is told, and the others go on.
    fn take(&mut self, id: MessageId) {
        match self.write(id) {
            Ok(()) => self.written += 1,
            Err(error) => {
                self.faults += 1;
                eprintln!("ringpost: {id}: {}", plain(&format!("{error:#}")));
            }
        }
    }

    fn write(&self, id: MessageId) -> Result<()> {
        let about: serde_json::Value = self.client.get(&path_of(id))?;
        let mut message = New::begin(self.directory.join(format!("{id}.eml")))?;
        let path = format!("{}/message", path_of(id));
        self.client.download(&path, &mut |piece| message.write(piece))?;
        let mut envelope = New::begin(self.directory.join(format!("{id}.json")))?;
        envelope.write(format!("{about:#}\n").as_bytes())?;
        envelope.finish()?;
        message.finish()
    }
}

/// A file that gets its name once it is whole.
struct New {
    file: File,
    beside: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl New {
    fn begin(path: PathBuf) -> Result<Self> {
        if fs::symlink_metadata(&path).is_ok() {
            bail!("{} is there already, and left alone", path.display());
        }
        let mut beside = path.clone().into_os_string();
        beside.push(format!(".{}.part", std::process::id()));
        let beside = PathBuf::from(beside);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        let file = file.with_context(|| beside.display().to_string())?;
        Ok(Self { file, beside, path, finished: false })
    }

    fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).with_context(|| self.beside.display().to_string())
    }

    fn finish(mut self) -> Result<()> {
        self.file.sync_all().with_context(|| self.beside.display().to_string())?;
        // A link, and not a rename, which would replace a file that has come meanwhile.
        match fs::hard_link(&self.beside, &self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{} is there already, and left alone", self.path.display())
            }
            // A file system without links.
            Err(_) => {
                fs::rename(&self.beside, &self.path).with_context(|| self.path.display().to_string())?;
                self.finished = true;
            }
        }
        Ok(())
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.finished {
            // What is left is at worst a file named .part.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("a.eml");
        let mut given_up = New::begin(path.clone()).expect("begun");
        given_up.write(b"half").expect("written");
        drop(given_up);
        assert!(names(&folder).is_empty());
        let mut file = New::begin(path.clone()).expect("begun");
        file.write(b"all of it").expect("written");
        assert!(!path.exists());
        file.finish().expect("finished");
        assert_eq!(fs::read(&path).expect("a file"), b"all of it");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(names(&folder), ["a.eml"]);
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("a.eml");
        let mut late = New::begin(path.clone()).expect("begun");
        late.write(b"new").expect("written");
        fs::write(&path, "old").expect("written");
        for error in [late.finish().expect_err("in the way"), New::begin(path.clone()).err().expect("in the way")] {
            assert!(error.to_string().contains("is there already"), "{error}");
        }
        assert_eq!(fs::read(&path).expect("a file"), b"old");
        assert_eq!(names(&folder), ["a.eml"]);
    }
}
