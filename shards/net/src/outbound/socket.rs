//! The socket of a connection that we open, and how it comes to be connected.
//!
//! The runtime's own connect is an operation that the kernel has in hand while nobody may close the descriptor. Here the
//! kernel is asked once, without waiting, and then only whether it is done; so a connect that is given up leaves a
//! socket like any other, and dropping that closes it.

use super::Endpoint;
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{TcpStream, UnixStream};
use ringpost_runtime::sleep;
use socket2::{Domain, SockAddr, SockRef, Type};
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How often a unix socket is asked whose queue of connections is full: the kernel tells nobody when there is room.
const ROOM_LOOK: Duration = Duration::from_millis(10);

pub(super) enum Socket {
    Tcp(TcpStream),
    /// With its descriptor, which the runtime doesn't tell.
    Unix(UnixStream, RawFd),
}

impl Socket {
    /// Connects; it may be dropped at any time.
    pub(super) async fn connect(endpoint: &Endpoint, local: Option<IpAddr>) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => connect_tcp(*address, local).await.map(Self::Tcp),
            Endpoint::Unix(path) => connect_unix(path).await,
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Unix(unix, _) => Pin::new(unix).poll_read(cx, buffer),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Unix(unix, _) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, pieces),
            Self::Unix(unix, _) => Pin::new(unix).poll_write_vectored(cx, pieces),
        }
    }

    /// Whether the peer is there and nothing that it has said is unread.
    pub(super) fn is_silent(&self) -> bool {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.descriptor()) };
        let mut byte = [MaybeUninit::uninit()];
        let seen = SockRef::from(&fd).recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        matches!(seen, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted))
    }

    fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(tcp) => tcp.as_raw_fd(),
            Self::Unix(_, descriptor) => *descriptor,
        }
    }
}

async fn connect_tcp(address: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    // What is sent is waited for. Where it fails the connection will say so.
    let _ = socket.set_tcp_nodelay(true);
    // A peer whose machine is gone is noticed also while the connection is kept for later.
    let _ = socket.set_keepalive(true);
    if let Some(local) = local {
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let mut stream = TcpStream::from(socket);
    // To send nothing would block until the connection is there, and fails with the reason if it can't be.
    poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &[])).await?;
    Ok(stream)
}

async fn connect_unix(path: &Path) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    loop {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        match socket.connect(&address) {
            Ok(()) => {
                let descriptor = socket.into_raw_fd();
                // SAFETY: the descriptor is open, and nobody else's from here on.
                return Ok(Socket::Unix(unsafe { UnixStream::from_raw_fd(descriptor) }, descriptor));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(ROOM_LOOK).await,
            Err(error) => return Err(error),
        }
    }
}

/// The socket as rustls wants it: one that says when it would block. All that rustls has to send goes in one call.
pub(super) struct Pipe<'a, 'b> {
    pub(super) socket: &'a mut Socket,
    pub(super) cx: &'a mut Context<'b>,
}

fn or_would_block(done: Poll<io::Result<usize>>) -> io::Result<usize> {
    match done {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

impl Read for Pipe<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        or_would_block(self.socket.poll_read(self.cx, buffer))
    }
}

impl Write for Pipe<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(self.socket.poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(self.socket.poll_write_vectored(self.cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
