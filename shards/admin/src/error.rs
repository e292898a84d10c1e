//! Why the services could not start. Each message says what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Neither place is answered at; nothing is left of them.
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
    /// The socket can't be made.
    #[error("cannot make the admin socket {}: {}; {}", .path.display(), .source, socket_advice(.source))]
    Socket {
        /// The path asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path does not fit into the address of a socket.
    #[error(
        "cannot make the admin socket {}: the path has {length} bytes, and a socket's has at most {most}; set a shorter \
         absolute path in [admin] socket, such as /run/ringpost/ringpost.sock, or \"off\"", .path.display()
    )]
    SocketPath {
        /// The path asked for.
        path: PathBuf,
        /// Bytes that it has.
        length: usize,
        /// Bytes that it may have.
        most: usize,
    },
    /// Another process answers on the socket.
    #[error(
        "cannot make the admin socket {}: another server answers on it; stop that one, or set another path in [admin] \
         socket", .0.display()
    )]
    SocketInUse(PathBuf),
    /// What is at the socket's path is not a socket, and so nothing to replace.
    #[error(
        "cannot make the admin socket {}: there is something else of that name; move it away, or set another path in \
         [admin] socket", .0.display()
    )]
    SocketPlace(PathBuf),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop the other program, or set another address in [admin] listen",
        io::ErrorKind::AddrNotAvailable => "set an address of this machine in [admin] listen",
        io::ErrorKind::PermissionDenied => "set a port from 1024 up in [admin] listen",
        _ => "set another address in [admin] listen",
    }
}

fn socket_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make its directory, or set another path in [admin] socket",
        io::ErrorKind::PermissionDenied => {
            "give the server's user the right to write into its directory, or set another path in [admin] socket"
        }
        _ => "set another path in [admin] socket",
    }
}
