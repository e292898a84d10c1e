//! Maildir delivery of a batch of messages.
//!
//! Each copy is written to `tmp`, synced, renamed into `new`, and the directory synced: only then is it delivered. For a
//! batch the syncs are joined: above [`SINGLE_MAX`] files, one syncfs(2) per file system stands for all file syncs and one
//! for all directory syncs. The name is the same at every attempt, so a repetition replaces its own file; a copy that a
//! reader has already moved to `cur` is found there and not written again.

use crate::files::{Job, JobContent};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Files synced one by one; more are synced with their file system.
const SINGLE_MAX: usize = 4;

/// Maildirs kept open, at most: two descriptors each.
const OPEN_MAX: usize = 192;

/// Copies written before they are synced together: each holds a descriptor.
const GROUP_MAX: usize = 128;

/// Bytes copied from a body file at a time.
const COPY: usize = 256 << 10;

/// The outcome of each place of a job.
pub(crate) type Places = Vec<(usize, Result<(), String>)>;

struct Maildir {
    tmp: OwnedFd,
    new: OwnedFd,
    cur: PathBuf,
    /// Of `new`.
    device: u64,
    inode: u64,
}

/// The Maildirs in use.
pub(crate) struct Maildirs {
    open: HashMap<PathBuf, Rc<Maildir>>,
    /// Names found in `cur` directories, up to the colon, for one batch.
    seen: HashMap<PathBuf, HashSet<Vec<u8>>>,
    syncs: u64,
}

/// A copy on its way from `tmp` to `new`.
struct Copy {
    job: usize,
    number: usize,
    maildir: Rc<Maildir>,
    file: Option<File>,
    result: Result<(), String>,
}

impl Maildirs {
    pub(crate) fn new() -> Self {
        Self { open: HashMap::new(), seen: HashMap::new(), syncs: 0 }
    }

    fn open(&mut self, path: &Path) -> io::Result<Rc<Maildir>> {
        if let Some(maildir) = self.open.get(path) {
            // Somebody may have moved the directory away and put another in its place.
            let there = rustix::fs::stat(path.join("new"));
            if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (maildir.device, maildir.inode)) {
                return Ok(maildir.clone());
            }
            self.open.remove(path);
        }
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        let maildir = Rc::new(open_maildir(path)?);
        self.open.insert(path.to_owned(), maildir.clone());
        Ok(maildir)
    }

    /// Readers rename a message they have seen to `cur/NAME:2,FLAGS`.
    fn is_in_cur(&mut self, cur: &Path, name: &str) -> io::Result<bool> {
        if !self.seen.contains_key(cur) {
            let mut names = HashSet::new();
            for entry in std::fs::read_dir(cur)? {
                let found = entry?.file_name().into_encoded_bytes();
                names.insert(found.split(|byte| *byte == b':').next().unwrap_or_default().to_vec());
            }
            self.seen.insert(cur.to_owned(), names);
        }
        Ok(self.seen.get(cur).is_some_and(|names| names.contains(name.as_bytes())))
    }

    fn sync_file(&mut self, file: &File) -> io::Result<()> {
        self.syncs += 1;
        file.sync_data()
    }

    fn sync_all(&mut self, maildirs: &[Rc<Maildir>]) -> io::Result<()> {
        let mut seen = HashSet::new();
        for maildir in maildirs {
            if seen.insert(maildir.device) {
                self.syncs += 1;
                rustix::fs::syncfs(&maildir.new)?;
            }
        }
        Ok(())
    }

    fn sync_directories(&mut self, maildirs: &[Rc<Maildir>]) -> io::Result<()> {
        let mut seen = HashSet::new();
        let distinct: Vec<&Rc<Maildir>> = maildirs.iter().filter(|maildir| seen.insert(Rc::as_ptr(maildir))).collect();
        if distinct.len() > SINGLE_MAX {
            return self.sync_all(maildirs);
        }
        for maildir in distinct {
            self.syncs += 1;
            rustix::fs::fsync(&maildir.new)?;
        }
        Ok(())
    }
}

/// Delivers a batch; the outcomes come in the jobs' order, with the number of syncs it took.
pub(crate) fn deliver(maildirs: &mut Maildirs, jobs: &[Job]) -> (Vec<Places>, u64) {
    maildirs.syncs = 0;
    maildirs.seen.clear();
    let mut results: Vec<Places> = jobs.iter().map(|job| Vec::with_capacity(job.places().len())).collect();
    let places = |(number, job): (usize, &Job)| (0..job.places().len()).map(move |place| (number, place));
    let all: Vec<(usize, usize)> = jobs.iter().enumerate().flat_map(places).collect();
    for group in all.chunks(GROUP_MAX) {
        deliver_group(maildirs, jobs, group, &mut results);
    }
    (results, maildirs.syncs)
}

/// Delivers some places, given as numbers of jobs and of places in them.
fn deliver_group(maildirs: &mut Maildirs, jobs: &[Job], group: &[(usize, usize)], results: &mut [Places]) {
    let mut under_way = Vec::with_capacity(group.len());
    for (job, place) in group.iter().copied() {
        let (path, header, number) = &jobs[job].places()[place];
        let number = *number;
        match write_copy(maildirs, &jobs[job], path, header) {
            Ok(Some((maildir, file))) => {
                under_way.push(Copy { job, number, maildir, file: Some(file), result: Ok(()) });
            }
            // Already in `cur`: synced there by whoever moved it, or still under its old name after a crash.
            Ok(None) => results[job].push((number, Ok(()))),
            Err(error) => {
                maildirs.open.remove(path.as_path());
                results[job].push((number, Err(format!("{}: {error}", path.display()))));
            }
        }
    }
    settle(maildirs, jobs, &mut under_way);
    for copy in under_way {
        results[copy.job].push((copy.number, copy.result));
    }
}

/// Syncs the files, renames them into `new`, syncs the directories.
fn settle(maildirs: &mut Maildirs, jobs: &[Job], copies: &mut [Copy]) {
    if copies.len() > SINGLE_MAX {
        let all: Vec<_> = copies.iter().map(|copy| copy.maildir.clone()).collect();
        let synced = maildirs.sync_all(&all);
        mark(copies, &synced);
    } else {
        for copy in copies.iter_mut() {
            if let Some(file) = &copy.file {
                copy.result = maildirs.sync_file(file).map_err(|error| format!("sync: {error}"));
            }
        }
    }
    for copy in copies.iter_mut() {
        copy.file = None;
        if copy.result.is_ok() {
            let (name, maildir) = (jobs[copy.job].name(), &copy.maildir);
            let renamed = rustix::fs::renameat(&maildir.tmp, name, &maildir.new, name);
            copy.result = renamed.map_err(|error| format!("rename from tmp to new: {error}"));
        }
    }
    let renamed: Vec<_> = copies.iter().filter(|copy| copy.result.is_ok()).map(|copy| copy.maildir.clone()).collect();
    let synced = maildirs.sync_directories(&renamed);
    mark(copies, &synced);
}

fn mark(copies: &mut [Copy], synced: &io::Result<()>) {
    if let Err(error) = synced {
        for copy in copies.iter_mut().filter(|copy| copy.result.is_ok()) {
            copy.result = Err(format!("sync: {error}"));
        }
    }
}

type Written = Option<(Rc<Maildir>, File)>;

/// Writes one copy to `tmp`; nothing if the message is there already.
fn write_copy(maildirs: &mut Maildirs, job: &Job, path: &Path, header: &[u8]) -> io::Result<Written> {
    let maildir = maildirs.open(path)?;
    if job.again && maildirs.is_in_cur(&maildir.cur, job.name())? {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(&maildir.tmp, job.name(), flags, Mode::from_raw_mode(0o600))?;
    let mut file = File::from(fd);
    let written = match &job.content {
        JobContent::Memory(bytes) => write_both(&mut file, header, bytes),
        JobContent::File(body, stored) => {
            file.write_all(header).and_then(|()| copy_body(body, stored.crc, stored.len, &mut file))
        }
    };
    if let Err(error) = written {
        // A file left in tmp is no message; readers of a Maildir clean it up in any case.
        let _ = rustix::fs::unlinkat(&maildir.tmp, job.name(), AtFlags::empty());
        return Err(error);
    }
    Ok(Some((maildir, file)))
}

fn write_both(file: &mut File, header: &[u8], body: &[u8]) -> io::Result<()> {
    let wrote = file.write_vectored(&[IoSlice::new(header), IoSlice::new(body)])?;
    match wrote.checked_sub(header.len()) {
        Some(of_body) => file.write_all(&body[of_body..]),
        None => file.write_all(&header[wrote..]).and_then(|()| file.write_all(body)),
    }
}

/// Copies a body file, and checks that it is what was stored.
pub(crate) fn copy_body(path: &Path, crc: u32, len: u64, to: &mut File) -> io::Result<()> {
    let mut from = File::open(path)?;
    let mut piece = vec![0; COPY];
    let (mut sum, mut total) = (0, 0);
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        sum = ringpost_spool::checksum(sum, &piece[..read]);
        total += read as u64;
        to.write_all(&piece[..read])?;
    }
    if (sum, total) == (crc, len) { Ok(()) } else { Err(io::Error::other("body file does not match its checksum")) }
}

fn open_maildir(path: &Path) -> io::Result<Maildir> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for part in ["tmp", "new", "cur"] {
        make_directory(&path.join(part))?;
    }
    let tmp = rustix::fs::open(path.join("tmp"), directory, Mode::empty())?;
    let new = rustix::fs::open(path.join("new"), directory, Mode::empty())?;
    let stat = rustix::fs::fstat(&new)?;
    Ok(Maildir { tmp, new, cur: path.join("cur"), device: stat.st_dev, inode: stat.st_ino })
}

/// Makes a directory and what is missing above it, each synced into its parent: a message in a directory that a crash
/// takes away would be lost with it.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().ok_or_else(|| io::Error::other("path has no parent"))?;
    make_directory(parent)?;
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::JobKind;
    use ringpost_base::SpoolId;
    use std::sync::Arc;

    fn job(name: &str, places: &[PathBuf], again: bool) -> Job {
        let places = places.iter().enumerate().map(|(n, path)| (path.clone(), b"H: 1\r\n".to_vec(), n)).collect();
        let content = JobContent::Memory(Arc::new(b"body\r\n".to_vec()));
        let kind = JobKind::Maildirs { name: name.into(), places };
        Job { id: SpoolId::from_bytes([1; 16]), number: 1, kind, content, again }
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(path).expect("directory");
        let mut names: Vec<_> = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_batch_is_whole_and_costs_few_syncs() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().join("mail/a/b");
        let jobs: Vec<Job> = (0..100).map(|n| job(&format!("m{n:03}"), std::slice::from_ref(&path), false)).collect();
        let (results, syncs) = deliver(&mut Maildirs::new(), &jobs);
        assert!(results.iter().flatten().all(|(_, result)| result.is_ok()));
        assert!(syncs <= 3, "{syncs} syncs");
        assert_eq!(names(&path.join("new")).len(), 100);
        assert!(names(&path.join("tmp")).is_empty());
        assert_eq!(std::fs::read(path.join("new/m007")).expect("file"), b"H: 1\r\nbody\r\n");
    }

    #[test]
    fn a_repetition_makes_no_second_copy() {
        let root = tempfile::tempdir().expect("directory");
        let path = root.path().to_owned();
        let mut maildirs = Maildirs::new();
        deliver(&mut maildirs, &[job("m", std::slice::from_ref(&path), false)]);
        deliver(&mut maildirs, &[job("m", std::slice::from_ref(&path), true)]);
        assert_eq!(names(&path.join("new")), ["m"]);
        std::fs::rename(path.join("new/m"), path.join("cur/m:2,S")).expect("renamed");
        deliver(&mut maildirs, &[job("m", std::slice::from_ref(&path), true)]);
        assert!(names(&path.join("new")).is_empty(), "the reader has it already");
    }

    #[test]
    fn a_maildir_put_in_place_of_another_gets_the_mail() {
        let root = tempfile::tempdir().expect("directory");
        let (path, old) = (root.path().join("box"), root.path().join("old"));
        let mut maildirs = Maildirs::new();
        deliver(&mut maildirs, &[job("a", std::slice::from_ref(&path), false)]);
        std::fs::rename(&path, &old).expect("renamed");
        let (results, _) = deliver(&mut maildirs, &[job("b", std::slice::from_ref(&path), false)]);
        assert!(results[0][0].1.is_ok());
        assert_eq!((names(&old.join("new")), names(&path.join("new"))), (vec!["a".into()], vec!["b".into()]));
    }

    #[test]
    fn one_bad_place_fails_alone() {
        let root = tempfile::tempdir().expect("directory");
        let blocked = root.path().join("file");
        std::fs::write(&blocked, "").expect("file");
        let places = [blocked.join("box"), root.path().join("good")];
        let (results, _) = deliver(&mut Maildirs::new(), &[job("m", &places, false)]);
        let mut outcome = results[0].iter().map(|(number, result)| (*number, result.is_ok())).collect::<Vec<_>>();
        outcome.sort_unstable();
        assert_eq!(outcome, [(0, false), (1, true)]);
    }

    #[test]
    fn a_damaged_body_file_is_not_delivered() {
        let root = tempfile::tempdir().expect("directory");
        let body = root.path().join("body");
        std::fs::write(&body, "what is there").expect("file");
        let stored = ringpost_spool::BodyFile { len: 13, crc: 1 };
        let content = JobContent::File(body, stored);
        let path = root.path().join("box");
        let (results, _) =
            deliver(&mut Maildirs::new(), &[Job { content, ..job("m", std::slice::from_ref(&path), false) }]);
        assert!(results[0][0].1.is_err());
        assert!(names(&path.join("new")).is_empty() && names(&path.join("tmp")).is_empty());
    }
}
