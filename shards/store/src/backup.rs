//! Backup of a state directory, from its files alone, of a server that runs or is stopped; and the way back.
//!
//! A backup is a directory of its own:
//!
//! ```text
//! DIR/manifest.json    what the state directory held: for each file its path, length and digest
//! DIR/objects/SHA256   the files' bytes, each named by its digest
//! DIR/lock             held while a backup is made
//! ```
//!
//! An object is written under another name, synced and renamed, and never changed; the manifest is replaced by a rename when all
//! objects are there, and only then are objects removed that it does not name. So a backup that is cut short leaves
//! the one before it whole, and the next one copies only what has changed since: segments that no longer grow and body files
//! are known by what stands in the manifest, and not even read again.
//!
//! What makes a backup of a running server consistent is in [`walk`]. It holds every message that was live
//! when it began and still was when it ended, and each as it was. Messages that were settled while it was made, or later, may be
//! in it too: who restores it delivers those again. That is the price of not stopping the server, and of time.
//!
//! What the disk does not give back is passed over and told ([`BackedUp::wrong`]); of such a file the backup keeps what it has of
//! it from before.
//!
//! This is plain blocking code: it runs in a process of its own, beside the server, and takes nothing from it but reads.

mod manifest;
mod objects;
mod restore;
mod walk;

pub use restore::{Restored, restore};

use crate::directories::{HEIR, shard_number};
use crate::error::is_broken;
use crate::lost::LOST;
use manifest::{MANIFEST, Manifest, Saved};
use objects::{CopyError, Objects};
use ringpost_base::Timestamp;
use rustix::fs::{FlockOperation, flock};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;
use walk::{Copied, Known, Walk, WalkError};

/// Times that a backup begins anew because a log was taken over by another meanwhile.
const STARTS_MAX: usize = 5;

/// The directory of the spool below the state directory.
const SPOOL: &str = "spool";

/// What in a state directory is not state: it is made anew by every start.
const LOCK: &str = "lock";

/// Where a restore writes first. What is there is of one that was cut off.
const RESTORING: &str = "restoring";

/// How the configuration is called in a backup and in a restored state directory.
const CONFIG: &str = "restored-config.toml";

/// Why a backup, or a restore, was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file or directory can't be used.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Something is not as it must be.
    #[error("{0}")]
    Refused(String),
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::File { path, error }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, BackupError> {
    Err(BackupError::Refused(reason.into()))
}

/// What to back up, and where to.
#[derive(Clone, Debug)]
pub struct BackupPlan<'a> {
    /// The state directory.
    pub state_dir: &'a Path,
    /// The backup: a directory that does not exist yet, or an earlier backup to bring up to date.
    pub to: &'a Path,
    /// The config file, if there is one.
    pub config: Option<&'a Path>,
    /// Whose backup it is.
    pub hostname: &'a str,
    /// When.
    pub at: Timestamp,
    /// Paths below the state directory that are left out because they hold delivered mail. Maildirs are left out anywhere.
    pub leave_out: &'a [PathBuf],
}

/// What a backup came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackedUp {
    /// Logs, one for each core that the server ran on.
    pub logs: usize,
    /// Segments of these logs.
    pub segments: usize,
    /// Body files.
    pub bodies: usize,
    /// Other files, by their paths below the state directory.
    pub others: Vec<String>,
    /// What was left out, and why.
    pub left_out: Vec<(String, &'static str)>,
    /// Files that could not be read, or are damaged, and what is wrong: mail may be missing in the backup.
    pub wrong: Vec<(String, String)>,
    /// Bytes that were read and written now.
    pub copied: u64,
    /// Bytes that an earlier backup had already.
    pub known: u64,
    /// Objects of earlier backups that were removed.
    pub removed: usize,
}

/// Makes a backup, or brings one up to date.
pub fn back_up(plan: &BackupPlan<'_>) -> Result<BackedUp, BackupError> {
    let state_dir = plan.state_dir.canonicalize().map_err(file_error(plan.state_dir))?;
    prepare(plan.to)?;
    let to = plan.to.canonicalize().map_err(file_error(plan.to))?;
    if to.starts_with(&state_dir) || state_dir.starts_with(&to) {
        return refused(format!("{}: a backup can't be made inside of what it is a backup of", to.display()));
    }
    let _lock = lock(&to)?;
    let objects = Objects::open(&to)?;
    let former = Manifest::read(&to)?.map(|manifest| manifest.by_path()).unwrap_or_default();
    let mut backup = Backup { plan, state_dir, objects, former, files: BTreeMap::new(), told: BackedUp::default() };
    backup.spool()?;
    backup.others(Path::new(""))?;
    backup.config()?;
    backup.finish(&to)
}

/// Makes the directory of a backup, or sees that it is one.
fn prepare(to: &Path) -> Result<(), BackupError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(to);
    made.map_err(file_error(to))?;
    let is_empty = fs::read_dir(to).map_err(file_error(to))?.next().is_none();
    if is_empty || to.join(LOCK).exists() || to.join(MANIFEST).exists() {
        return Ok(());
    }
    refused(format!("{}: neither empty nor a backup; name a directory of its own", to.display()))
}

fn lock(to: &Path) -> Result<File, BackupError> {
    let path = to.join(LOCK);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(file_error(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => refused(format!("{}: another backup is being made there", to.display())),
    }
}

struct Backup<'a> {
    plan: &'a BackupPlan<'a>,
    state_dir: PathBuf,
    objects: Objects,
    /// What the backup before this one holds, by path.
    former: BTreeMap<String, Saved>,
    /// What this one holds.
    files: BTreeMap<String, Saved>,
    told: BackedUp,
}

impl Backup<'_> {
    /// All logs and body files. A message moves from one log to another only when that one takes the whole log over, and its
    /// directory is there until all of them have arrived. Then the directories change, and it all begins anew.
    fn spool(&mut self) -> Result<(), BackupError> {
        let spool = self.state_dir.join(SPOOL);
        for _ in 0..STARTS_MAX {
            let shards = shards_in(&spool)?;
            self.files.clear();
            (self.told.segments, self.told.bodies, self.told.logs) = (0, 0, shards.len());
            self.told.left_out.clear();
            self.told.wrong.clear();
            let changed = shards.keys().try_fold(false, |changed, name| Ok(changed || !self.shard(&spool, name)?))?;
            if !changed && shards_in(&spool)? == shards {
                return Ok(());
            }
        }
        refused(
            "logs were taken over by others again and again: the server was upgraded, or started with fewer cores; try \
                 once more when it stays up",
        )
    }

    /// One log and its body files; false if it is not there any more.
    fn shard(&mut self, spool: &Path, name: &str) -> Result<bool, BackupError> {
        let directory = spool.join(name);
        let known: Vec<Known> = self.former.values().filter_map(|saved| Known::of(saved, name)).collect();
        let walked = Walk::new(&directory, &mut self.objects, known, &mut || ()).run();
        let Copied { segments, wrong } = match walked {
            Ok(copied) => copied,
            Err(WalkError::Gone) => return Ok(false),
            Err(WalkError::Backup(error)) => return Err(error),
        };
        let wrong = wrong.into_iter().map(|(file, what)| (format!("{SPOOL}/{name}/{file}"), what));
        self.told.wrong.extend(wrong);
        if directory.join(LOST).exists() {
            let why = "is kept aside because the spool was damaged";
            self.told.left_out.push((format!("{SPOOL}/{name}/{LOST}"), why));
        }
        self.told.segments += segments.len();
        for saved in segments {
            let path = format!("{SPOOL}/{name}/{}", saved.segment_name());
            self.files.insert(path.clone(), Saved { path, ..saved });
        }
        // Where messages stand in two logs, this says which two.
        self.file(&directory.join(HEIR), format!("{SPOOL}/{name}/{HEIR}"))?;
        self.bodies(&directory.join("body"), &format!("{SPOOL}/{name}/body"))
    }

    /// The body files of a shard. A body file is whole and synced before a record names it, so those of all records copied
    /// are whole by now; one that is gone belongs to a message that was settled.
    fn bodies(&mut self, directory: &Path, to: &str) -> Result<bool, BackupError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(file_error(directory)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(file_error(directory))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(".body")) else { continue };
            if self.file(&entry.path(), format!("{to}/{name}"))? {
                self.told.bodies += 1;
            }
        }
        Ok(true)
    }

    /// Copies a file as it is, unless the backup has it already; false if it is gone, or can't be read.
    fn file(&mut self, from: &Path, path: String) -> Result<bool, BackupError> {
        let opened = File::open(from).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if is_broken(error.raw_os_error()) => return Ok(self.unread(path, &error)),
            Err(error) => return Err(file_error(from)(error)),
        };
        let (modified, len) = (modified_nanos(&metadata), metadata.len());
        let former = self.former.get(&path);
        let same = former.filter(|saved| saved.len == len && saved.modified == Some(modified));
        let saved = match same.filter(|saved| self.objects.has(saved)) {
            Some(saved) => {
                self.objects.known += saved.stored();
                saved.clone()
            }
            None => {
                let object = match self.objects.store(&mut file) {
                    Ok(object) => object,
                    Err(CopyError::Read(error)) if is_broken(error.raw_os_error()) => {
                        return Ok(self.unread(path, &error));
                    }
                    Err(CopyError::Read(error)) => return Err(file_error(from)(error)),
                    Err(CopyError::Write(error)) => return Err(file_error(self.objects.directory())(error)),
                };
                Saved { modified: Some(modified), ..Saved::of(path.clone(), object) }
            }
        };
        self.files.insert(path, saved);
        Ok(true)
    }

    /// A file can't be read: what the backup has of it from before stays. False, as nothing was copied.
    fn unread(&mut self, path: String, error: &io::Error) -> bool {
        let mut what = format!("can't be read: {error}");
        if let Some(former) = self.former.get(&path).filter(|saved| self.objects.has(saved)) {
            what.push_str("; the backup has it as it was before");
            self.files.insert(path.clone(), former.clone());
        }
        self.told.wrong.push((path, what));
        false
    }

    /// Everything else in the state directory, whatever it is: bans, greylist, the TLS key that the server made itself.
    fn others(&mut self, below: &Path) -> Result<(), BackupError> {
        let directory = self.state_dir.join(below);
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&directory).map_err(file_error(&directory))? {
            names.push(below.join(entry.map_err(file_error(&directory))?.file_name()));
        }
        names.sort();
        for name in names {
            let from = self.state_dir.join(&name);
            let text = name.display().to_string();
            let Ok(metadata) = fs::symlink_metadata(&from) else { continue };
            let why = if name == Path::new(SPOOL) {
                continue;
            } else if name == Path::new(LOCK) {
                "is made by every start"
            } else if name == Path::new(RESTORING) {
                "is what a restore that was cut off has left"
            } else if self.plan.leave_out.contains(&name) || is_maildir(&from) {
                "holds mail that is delivered"
            } else if name.to_str().is_none() || !(metadata.is_file() || metadata.is_dir()) {
                "is not a plain file"
            } else if metadata.is_dir() {
                self.others(&name)?;
                continue;
            } else {
                if self.file(&from, text.clone())? {
                    self.told.others.push(text);
                }
                continue;
            };
            self.told.left_out.push((text, why));
        }
        Ok(())
    }

    fn config(&mut self) -> Result<(), BackupError> {
        let Some(config) = self.plan.config else { return Ok(()) };
        if self.file(config, CONFIG.to_owned())? {
            self.told.others.push(config.display().to_string());
        }
        Ok(())
    }

    /// Puts the manifest in place, and removes what it does not name.
    fn finish(mut self, to: &Path) -> Result<BackedUp, BackupError> {
        let needed: BTreeSet<String> = self.files.values().map(|saved| saved.sha256.clone()).collect();
        let manifest = Manifest::new(self.plan.hostname, self.plan.at, self.files.into_values().collect());
        self.objects.sync()?;
        manifest.write(to)?;
        self.told.removed = self.objects.keep_only(&needed)?;
        (self.told.copied, self.told.known) = (self.objects.copied, self.objects.known);
        Ok(self.told)
    }
}

/// What tells a directory from another one that is called the same later, and the beginning of a move from what was before.
#[derive(PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    /// The file system uses its numbers again, and fast.
    made: Option<SystemTime>,
    heir: Option<String>,
}

/// The directories of the logs, those included that are still to be taken over.
fn shards_in(spool: &Path) -> Result<BTreeMap<String, Identity>, BackupError> {
    let entries = match fs::read_dir(spool) {
        Ok(entries) => entries,
        // A server that has never run.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(file_error(spool)(error)),
    };
    let mut shards = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(file_error(spool))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|_| shard_number(&path).is_some());
        let Some(name) = name else { continue };
        match fs::metadata(&path) {
            Ok(metadata) => {
                let (device, inode, made) = (metadata.dev(), metadata.ino(), metadata.created().ok());
                let heir = fs::read_to_string(path.join(HEIR)).ok();
                shards.insert(name.to_owned(), Identity { device, inode, made, heir });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(&path)(error)),
        }
    }
    Ok(shards)
}

fn is_maildir(path: &Path) -> bool {
    ["tmp", "new", "cur"].iter().all(|part| path.join(part).is_dir())
}

fn modified_nanos(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// Makes a directory, and what is missing above it, for us alone.
fn make_directory(path: &Path) -> Result<(), BackupError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(file_error(path))
}

fn sync_directory(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(file_error(path))
}

/// Whether a path stays below the directory that it is joined to.
fn stays_below(path: &str) -> bool {
    let path = Path::new(path);
    path.components().count() > 0 && path.components().all(|part| matches!(part, Component::Normal(_)))
}
