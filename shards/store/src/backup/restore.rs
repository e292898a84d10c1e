//! A state directory from a backup.
//!
//! Everything is checked before anything is written; everything is written and synced beside its place before anything is put
//! there; and the spool is put there by one rename, so that no start finds half of it. What was written beside its place goes again
//! if something fails.
//!
//! Run by root, it gives everything to whom the state directory belongs: the server's user must be able to use it.

use super::manifest::{Manifest, Saved};
use super::objects::Objects;
use super::{BackupError, LOCK, RESTORING, SPOOL, file_error, make_directory, refused, stays_below, sync_directory};
use ringpost_base::Timestamp;
use rustix::process::geteuid;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

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
    // A backup of an earlier version may hold what a restore that was cut off had left: it is of no use to anybody.
    let files: Vec<&Saved> =
        manifest.files.iter().filter(|saved| !Path::new(&saved.path).starts_with(RESTORING)).collect();
    for saved in &files {
        if !stays_below(&saved.path) {
            return refused(format!("{:?} in the backup's manifest is not a path below a state directory", saved.path));
        }
        objects.checked(saved)?;
    }
    let told = Restored {
        hostname: manifest.hostname.clone(),
        made: Timestamp::from_unix_micros(manifest.made_unix_micros),
        segments: 0,
        bodies: 0,
        others: Vec::new(),
        replaced: Vec::new(),
        bytes: 0,
    };
    let restoring = state_dir.join(RESTORING);
    if restoring.exists() {
        fs::remove_dir_all(&restoring).map_err(file_error(&restoring))?;
    }
    let restored = write_all(&objects, &files, state_dir, &restoring, told);
    if restored.is_err() {
        // It says why it failed; that this could not be cleared away either would only hide it.
        let _ = fs::remove_dir_all(&restoring);
    }
    restored
}

fn write_all(
    objects: &Objects,
    files: &[&Saved],
    state_dir: &Path,
    restoring: &Path,
    mut told: Restored,
) -> Result<Restored, BackupError> {
    let owner = Owner::of(state_dir)?;
    make_directory(restoring)?;
    let mut directories = BTreeSet::from([restoring.to_owned()]);
    for saved in files {
        let written = write(objects, saved, restoring, &mut directories)?;
        owner.give(&written)?;
        told.bytes += saved.len;
        match &saved.segment {
            Some(_) => told.segments += 1,
            None if Path::new(&saved.path).starts_with(SPOOL) => {
                told.bodies += usize::from(saved.path.ends_with(".body"))
            }
            None => told.others.push(saved.path.clone()),
        }
    }
    for directory in &directories {
        owner.give(directory)?;
        sync_directory(directory)?;
    }
    // Whoever holds the lock has made it, perhaps just now.
    let lock = state_dir.join(LOCK);
    if lock.exists() {
        owner.give(&lock)?;
    }
    put_in_place(restoring, state_dir, owner, &mut told)?;
    Ok(told)
}

/// Whom a state directory belongs to, if what we write belongs to somebody else.
#[derive(Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of(state_dir: &Path) -> Result<Self, BackupError> {
        let metadata = fs::metadata(state_dir).map_err(file_error(state_dir))?;
        // Nobody but root can give a file away.
        let ours = !geteuid().is_root();
        Ok(Self((!ours).then(|| (metadata.uid(), metadata.gid()))))
    }

    fn give(self, path: &Path) -> Result<(), BackupError> {
        match self.0 {
            Some((user, group)) => chown(path, Some(user), Some(group)).map_err(file_error(path)),
            None => Ok(()),
        }
    }

    /// Makes a directory below another, and gives away what was missing of it.
    fn make(self, path: &Path, below: &Path) -> Result<(), BackupError> {
        let ancestors = path.ancestors().take_while(|ancestor| *ancestor != below);
        let missing: Vec<&Path> = ancestors.filter(|ancestor| !ancestor.exists()).collect();
        make_directory(path)?;
        missing.into_iter().try_for_each(|made| self.give(made))
    }
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

/// Writes one file below `restoring`, and syncs it; gives where it is.
fn write(
    objects: &Objects,
    saved: &Saved,
    restoring: &Path,
    directories: &mut BTreeSet<PathBuf>,
) -> Result<PathBuf, BackupError> {
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
    written().map_err(file_error(&path))?;
    Ok(path)
}

/// Moves what was written to its place: the spool as a whole, the others file by file.
fn put_in_place(restoring: &Path, state_dir: &Path, owner: Owner, told: &mut Restored) -> Result<(), BackupError> {
    for name in told.others.clone() {
        let (from, to) = (restoring.join(&name), state_dir.join(&name));
        if let Some(parent) = to.parent() {
            owner.make(parent, state_dir)?;
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
