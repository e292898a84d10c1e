//! Files that commands write for an operator.
//!
//! Invariants: no file is written over; a file that is there under its name is whole; files are for their owner alone.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// A file that gets its name once it is whole.
pub(super) struct New {
    file: File,
    beside: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl New {
    /// Begins a file that is to have this path, where nothing may be yet.
    pub(super) fn begin(path: PathBuf) -> Result<Self> {
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

    /// Appends to it.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).with_context(|| self.beside.display().to_string())
    }

    /// Gives it its name.
    pub(super) fn finish(mut self) -> Result<()> {
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
