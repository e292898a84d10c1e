//! What the kernel must allow before a shard can start, looked at first so that the answer is one clear sentence.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

/// Locked memory that one shard's rings need, at least.
const MEMLOCK_PER_SHARD: u64 = 512 * 1024;

/// Descriptors that a shard needs for other things than connections: segments, body files, Maildirs, two for each of those
/// kept open.
const DESCRIPTORS_PER_SHARD: u64 = 768;

/// Descriptors that the process needs besides.
const DESCRIPTORS_BASE: u64 = 256;

/// Why shards can't be started here.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PreflightError {
    /// The kernel has no io_uring.
    #[error("this kernel has no io_uring: ringpost needs Linux 5.11 or later, built with CONFIG_IO_URING")]
    NoIoUring,
    /// Something forbids it.
    #[error(
        "io_uring is blocked for this process ({0}). In a container, allow the system calls io_uring_setup, \
         io_uring_enter and io_uring_register in its seccomp profile; on the host, set sysctl kernel.io_uring_disabled=0"
    )]
    Blocked(String),
    /// The limit on locked memory is too low.
    #[error(
        "the limit on locked memory is {limit} bytes, and {shards} shards need {need}: raise it with LimitMEMLOCK= in \
         the systemd unit, with `ulimit -l {kib}` in a shell, or with memlock in /etc/security/limits.conf"
    )]
    Memlock {
        /// The limit in force.
        limit: u64,
        /// What is needed.
        need: u64,
        /// The same in KiB.
        kib: u64,
        /// For how many shards.
        shards: usize,
    },
}

/// Looks whether `shards` executors can run here, and raises the soft limits on locked memory and descriptors to the hard
/// ones. Gives back how many connections the limit on descriptors leaves room for.
pub fn preflight(shards: usize) -> Result<u64, PreflightError> {
    raise(Resource::Memlock);
    raise(Resource::Nofile);
    let need = MEMLOCK_PER_SHARD * shards as u64;
    if let Some(limit) = getrlimit(Resource::Memlock).current.filter(|limit| *limit < need) {
        return Err(PreflightError::Memlock { limit, need, kib: need / 1024, shards });
    }
    probe_io_uring()?;
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Ok(descriptors.saturating_sub(DESCRIPTORS_BASE + DESCRIPTORS_PER_SHARD * shards as u64))
}

fn raise(resource: Resource) {
    let limit = getrlimit(resource);
    // Where it fails the old limit stands, and is judged as it is.
    let _ = setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn probe_io_uring() -> Result<(), PreflightError> {
    // struct io_uring_params is 120 bytes of integers; zeros ask for defaults.
    let mut params = [0u64; 15];
    // SAFETY: the kernel reads and writes exactly the 120 bytes of `params`, which lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
    if fd >= 0 {
        // SAFETY: the descriptor was just made and is nobody else's.
        unsafe { libc::close(fd as libc::c_int) };
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Err(PreflightError::NoIoUring),
        _ => Err(PreflightError::Blocked(format!("io_uring_setup: {error}"))),
    }
}
