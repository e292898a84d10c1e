//! The state directory: made, written to once to see that it can be, and locked against a second server.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The state directory, held by this process.
pub(crate) struct StateDir {
    path: PathBuf,
    /// Locked as long as it is open.
    lock: File,
}

/// Bytes of a process's number in the lock, the same for all: the rest are line ends, which nobody reads.
const NUMBER_BYTES: usize = 11;

/// The number of this process as it is in the lock.
fn own_number() -> String {
    let mut text = std::process::id().to_string();
    text.extend(std::iter::repeat_n('\n', NUMBER_BYTES.saturating_sub(text.len())));
    text
}

impl StateDir {
    pub(crate) fn open(configured: &str) -> Result<Self> {
        let advice = "choose another with `state_dir` under [server], or give this user the right to write there";
        let path = Path::new(configured);
        fs::create_dir_all(path)
            .with_context(|| format!("{configured}: the state directory can't be made; {advice}"))?;
        let path = path.canonicalize().with_context(|| format!("{configured}: the state directory can't be found"))?;
        let name = path.join("lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&name);
        let mut lock =
            opened.with_context(|| format!("{}: the state directory can't be written to; {advice}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "{}: another ringpost uses this state directory: stop it, or give this one its own `state_dir`",
                path.display()
            );
        }
        lock.set_len(0)
            .and_then(|()| lock.write_all(own_number().as_bytes()))
            .with_context(|| format!("{}: the state directory can't be written to; {advice}", path.display()))?;
        Ok(Self { path, lock })
    }

    /// The state directory of a process that this one takes over from, by its lock.
    pub(crate) fn inherit(configured: &str, lock: OwnedFd) -> Result<Self> {
        let path = Path::new(configured).canonicalize();
        let path = path.with_context(|| format!("{configured}: the state directory can't be found"))?;
        Ok(Self { path, lock: File::from(lock) })
    }

    /// Says in the lock that it is this process's.
    pub(crate) fn claim(&self) -> Result<()> {
        // In one write over what is there: whoever reads it meanwhile finds one process or the other.
        let written = self.lock.write_all_at(own_number().as_bytes(), 0);
        written.with_context(|| format!("{}: the lock that was handed over can't be written to", self.path.display()))
    }

    /// The lock, for another process: the directory stays locked until both are gone.
    pub(crate) fn lock(&self) -> Result<OwnedFd> {
        Ok(self.lock.try_clone().context("the lock of the state directory")?.into())
    }

    /// Whether a server holds the state directory. Its lock is taken for a moment where it is free, so a server that is started in that moment
    /// would be told that there is another.
    pub(crate) fn is_held(path: &Path) -> bool {
        let held = |lock: File| flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
        File::open(path.join("lock")).is_ok_and(held)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    pub(crate) fn bans(&self) -> PathBuf {
        self.path.join("bans")
    }

    pub(crate) fn greylist(&self) -> PathBuf {
        self.path.join("greylist")
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.path.join("tls")
    }
}
