//! Why the services could not start. Each message says what to do about it.

use std::io;
use std::net::SocketAddr;

/// The services did not start; nothing of them is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address can't be listened on.
    #[error("cannot listen on {address} for health and metrics: {}; {}", .source, advice(.source))]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread, or no event loop on it.
    #[error("cannot start the services thread: {0}; raise the process's limits of threads and open files")]
    Thread(#[source] io::Error),
    /// The metrics exporter refused its buckets.
    #[error("cannot set up the metrics exporter: {0}; this is a bug, please report it")]
    Exporter(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop the other program, or set another address in [admin] listen",
        io::ErrorKind::AddrNotAvailable => "set an address of this machine in [admin] listen",
        io::ErrorKind::PermissionDenied => "set a port from 1024 up in [admin] listen",
        _ => "set another address in [admin] listen",
    }
}
