//! A state directory from a backup.
//!
//! Everything is checked before anything is written; everything is written and synced beside its place before anything is put
//! there; and the spool is put there by one rename, so that no start finds half of it.

use super::manifest::{Manifest, Saved};
use super::objects::Objects;
use super::{BackupError, SPOOL, file_error, make_directory, refused, stays_below, sync_directory};
use ringpost_base::Timestamp;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where files are written first.
const RESTORING: &str = "restoring";

/// Zeros written at a time behind what a segment holds.
const ZEROS: usize = 1 << 20;

/// What a restore came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Whose backup it was.
    pub hostname: String,
    /// When it was made.
    pub made: Timestamp,
    /// Segments of logs.
    pub segments: usize,
    /// Body files.
    pub bodies: usize,
    /// Other files, by their paths below the state directory.
    pub others: Vec<String>,
    /// Of these, those that took the place of others.
    pub replaced: Vec<String>,
    /// Bytes written.
    pub bytes: u64,
}

/// Writes what a backup holds into a state directory whose spool is empty. The caller holds its lock.
pub fn restore(from: &Path, state_dir: &Path) -> Result<Restored, BackupError> {
    let Some(manifest) = Manifest::read(from)? else {
        return refused(format!("{}: there is no backup here, or none that was finished", from.display()));
    };
    refuse_used(&state_dir.join(SPOOL))?;
    let objects = Objects::open(from)?;
    for saved in &manifest.files {
        if !stays_below(&saved.path) || saved.path.starts_with(RESTORING) {
            return refused(format!("{:?} in the backup's manifest is not a path below a state directory", saved.path));
        }
        objects.checked(saved)?;
    }
    let restoring = state_dir.join(RESTORING);
    if restoring.exists() {
        fs::remove_dir_all(&restoring).map_err(file_error(&restoring))?;
    }
    make_directory(&restoring)?;
    let mut told = Restored {
        hostname: manifest.hostname.clone(),
        made: Timestamp::from_unix_micros(manifest.made_unix_micros),
        segments: 0,
        bodies: 0,
        others: Vec::new(),
        replaced: Vec::new(),
        bytes: 0,
    };
    let mut directories = BTreeSet::from([restoring.clone()]);
    for saved in &manifest.files {
        write(&objects, saved, &restoring, &mut directories)?;
        told.bytes += saved.len;
        match &saved.segment {
            Some(_) => told.segments += 1,
            None if saved.path.starts_with("spool/") => told.bodies += 1,
            None => told.others.push(saved.path.clone()),
        }
    }
    directories.iter().try_for_each(|directory| sync_directory(directory))?;
    put_in_place(&restoring, state_dir, &mut told)?;
    Ok(told)
}

/// A spool that holds anything is not to be lost by a restore, nor mixed with another.
fn refuse_used(spool: &Path) -> Result<(), BackupError> {
    match first_file(spool).map_err(file_error(spool))? {
        None => Ok(()),
        Some(file) => refused(format!(
            "{} is there: the spool of this state directory is in use, or was. If its mail is not needed, move {} away \
             and restore again; if it is, restore into another state directory",
            file.display(),
            spool.display()
        )),
    }
}

/// A file somewhere below a directory, which need not be there.
fn first_file(directory: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() { first_file(&entry.path())? } else { Some(entry.path()) };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Writes one file below `restoring`, and syncs it.
fn write(
    objects: &Objects,
    saved: &Saved,
    restoring: &Path,
    directories: &mut BTreeSet<PathBuf>,
) -> Result<(), BackupError> {
    let path = restoring.join(&saved.path);
    for directory in path.ancestors().skip(1).take_while(|directory| *directory != restoring) {
        directories.insert(directory.to_owned());
    }
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let mut from = objects.checked(saved)?;
    let mut written = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file: File = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let copied = io::copy(&mut from, &mut file)?;
        let mut zeros = saved.len.saturating_sub(copied);
        let piece = vec![0; ZEROS.min(zeros as usize)];
        while zeros > 0 {
            let len = zeros.min(ZEROS as u64);
            file.write_all(&piece[..len as usize])?;
            zeros -= len;
        }
        file.sync_all()
    };
    written().map_err(file_error(&path))
}

/// Moves what was written to its place: the spool as a whole, the others file by file.
fn put_in_place(restoring: &Path, state_dir: &Path, told: &mut Restored) -> Result<(), BackupError> {
    for name in told.others.clone() {
        let (from, to) = (restoring.join(&name), state_dir.join(&name));
        if let Some(parent) = to.parent() {
            make_directory(parent)?;
        }
        if to.exists() {
            told.replaced.push(name);
        }
        fs::rename(&from, &to).map_err(file_error(&to))?;
        to.parent().map_or(Ok(()), sync_directory)?;
    }
    let (from, spool) = (restoring.join(SPOOL), state_dir.join(SPOOL));
    if from.exists() {
        if spool.exists() {
            // Nothing is in it but directories: that was looked at.
            fs::remove_dir_all(&spool).map_err(file_error(&spool))?;
        }
        fs::rename(&from, &spool).map_err(file_error(&spool))?;
    }
    sync_directory(state_dir)?;
    fs::remove_dir_all(restoring).map_err(file_error(restoring))
}
