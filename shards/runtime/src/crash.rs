//! What is told of a crash: SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL.
//!
//! The handler holds the shards, so that a process whose memory may be damaged acknowledges nothing more, and has each leave
//! its stack. It writes what it knows to standard error and into a file: the signal, the thread, a table of the shards, and
//! the addresses on the stacks. Then it starts the program once more, as `ringpost crash-report`, which gives the addresses
//! names, since that takes memory and locks that a crashed process can't be trusted with. At last the process dies by the
//! signal, with the kernel's own action, so that core dumps, exit status and service managers see what they always see.
//!
//! Invariants: everything that the handler needs is made by [`install`]; it allocates nothing, takes no lock, and waits for
//! nothing longer than some ten seconds in all. It runs on a stack of its own, so that neither a stack that has overflowed nor the
//! small alternate one of a thread is too little for it. A second crash, in the handler, ends the process at once. If
//! anything fails the rest is done all the same, and the addresses are told with the places where the files are loaded, from
//! which names can be found later.
//!
//! What it refuses: to go on. A panic that is contained never comes here.

mod handler;
mod output;
mod process;
mod reporter;
mod switch;
mod table;

pub use reporter::report;

pub(crate) use handler::stand_still;

use crate::pulse::Pulse;
use handler::Prepared;
use ringpost_metrics::Block;
use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The signals that tell of a crash.
pub(crate) const FATAL: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGABRT, libc::SIGILL];

/// What the report may take, before the process dies without the rest of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Crash files that are kept, the latest. The first crash of a series is told by the log; the last are those to look into.
pub const FILES_MAX: usize = 10;

/// What the handler works with.
pub struct Options {
    /// Where crash files are put. Made if it isn't there.
    pub directory: PathBuf,
    /// The server's version.
    pub version: &'static str,
    /// The shards' signs of life.
    pub pulses: Vec<Arc<Pulse>>,
    /// Where the shards count, in the same order.
    pub blocks: Vec<Arc<Block>>,
}

/// Handlers for SIGSEGV, SIGBUS, SIGFPE, SIGABRT and SIGILL, of every thread, and room for one more crash file. Once.
///
/// # Errors
/// If the directory can't be made or read, or there is no memory for the handler's stack; or the second time.
pub fn install(options: Options) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&options.directory)?;
    prune(&options.directory)?;
    let prefix = CString::new(options.directory.join("crash-").as_os_str().as_bytes())?;
    crate::stack::install();
    Prepared::publish(options, prefix)?;
    for signal in FATAL {
        crate::stack::handle(signal, handler::on_signal, libc::SA_ONSTACK);
    }
    Ok(())
}

/// Removes the oldest crash files until there is room for one. Their names sort by time.
fn prune(directory: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with("crash-") && name.ends_with(".txt"));
        files.extend(is_ours.then(|| directory.join(name)));
    }
    files.sort_unstable();
    let surplus = (files.len() + 1).saturating_sub(FILES_MAX);
    files.iter().take(surplus).try_for_each(fs::remove_file)
}
