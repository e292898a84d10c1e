//! Connections that we open: to a next hop, over TCP or a unix socket, with or without TLS.
//!
//! Everything that waits has a time of its own, after which the wait is an error and the connection of no use. Any wait may
//! be given up by dropping it: nothing is left behind in the kernel, and what was sent until then was sent. To drop the
//! connection is to close it.
//!
//! It knows no protocol. What the peer sent in clear before TLS began is with whoever has read it; nothing of it gets into
//! the session that TLS protects (RFC 3207 section 6).

mod client_tls;
mod error;
mod socket;

pub use client_tls::{ClientIdentity, ClientTls, ClientTlsOptions, TlsFacts};
pub use error::{Awaited, OutboundError};

use crate::scratch::{self, SCRATCH};
use error::Failure;
use ringpost_runtime::{Pace, after};
use rustls::ClientConnection;
use socket::{Pipe, Socket};
use std::fmt;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Bytes for which a write gets its time anew: what a peer must take within that, however much there is to send. With one of
/// 5 minutes that is 7 Kbit/s.
pub const PIECE_MAX: usize = 256 << 10;

/// Reads of TLS in one turn that yield nothing for the caller, before others have their turn.
const READS_MAX: usize = 8;

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection that we have opened.
pub struct Outbound {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    /// Bytes that TLS has made readable and nobody has read.
    unread: usize,
    peer: Endpoint,
}

impl Outbound {
    /// Connects, from the address `local` if one is given.
    pub async fn connect(endpoint: &Endpoint, timeout: Duration, local: Option<IpAddr>) -> Result<Self, OutboundError> {
        let socket = match after(timeout, Socket::connect(endpoint, local)).await {
            Some(connected) => connected.map_err(Failure::Connect),
            None => Err(Failure::Timeout(Awaited::Connection, timeout)),
        };
        let socket = socket.map_err(|failure| failure.at(endpoint))?;
        Ok(Self { socket, tls: None, unread: 0, peer: endpoint.clone() })
    }

    /// Shakes hands as a TLS client, with whoever calls itself `name`: the host name, or its address, for which the
    /// certificate has to be. The timeout is that of the whole handshake. After an error the connection is of no use.
    pub async fn start_tls(
        &mut self,
        name: &str,
        tls: &ClientTls,
        timeout: Duration,
    ) -> Result<TlsFacts, OutboundError> {
        let session = tls.session(name).map_err(|failure| failure.at(&self.peer))?;
        self.tls = Some(Box::new(session));
        let shaken = match after(timeout, poll_fn(|cx| self.poll_handshake(cx))).await {
            Some(shaken) => shaken,
            None => Err(Failure::Timeout(Awaited::Handshake, timeout)),
        };
        let facts = shaken.and_then(|()| {
            let session = self.tls.as_ref().ok_or(Failure::Unshaken)?;
            Ok(tls.facts(session))
        });
        facts.map_err(|failure| failure.named(name).at(&self.peer))
    }

    /// Appends what the peer has sent to `buffer`, up to `max` bytes, and says how much that is; it waits until there is
    /// something. Nothing: the peer has closed its side.
    pub async fn read(&mut self, buffer: &mut Vec<u8>, max: usize, timeout: Duration) -> Result<usize, OutboundError> {
        let read = match after(timeout, poll_fn(|cx| self.poll_read(cx, buffer, max))).await {
            Some(read) => read,
            None => Err(Failure::Timeout(Awaited::Bytes, timeout)),
        };
        read.map_err(|failure| failure.at(&self.peer))
    }

    /// Sends all of `bytes`. The time is for each [`PIECE_MAX`] of them. After an error nobody knows how much was sent.
    pub async fn write_all(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), OutboundError> {
        let mut pace = Pace::default();
        for piece in bytes.chunks(PIECE_MAX) {
            let mut sent = 0;
            let written = match after(timeout, poll_fn(|cx| self.poll_write(cx, piece, &mut sent))).await {
                Some(written) => written,
                None => Err(Failure::Timeout(Awaited::Room, timeout)),
            };
            written.map_err(|failure| failure.at(&self.peer))?;
            // A peer on this machine may take it as fast as it is sent.
            pace.breathe().await;
        }
        Ok(())
    }

    /// Whether a connection that was left alone can be used further: the peer has neither closed it nor said anything
    /// since. What it says without being asked is mostly that it closes.
    pub fn is_alive(&self) -> bool {
        self.unread == 0 && self.socket.is_silent()
    }

    /// Where the connection leads.
    pub fn peer(&self) -> &Endpoint {
        &self.peer
    }

    /// Whether TLS is on.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            ready!(self.poll_send_tls(cx))?;
            let Some(tls) = &mut self.tls else { return Poll::Ready(Err(Failure::Unshaken)) };
            if !tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive_tls(cx))? == 0 {
                return Poll::Ready(Err(Failure::Unshaken));
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut Vec<u8>, max: usize) -> Poll<Result<usize, Failure>> {
        let max = max.min(SCRATCH);
        if self.tls.is_none() {
            return scratch::with(|scratch| {
                let read = ready!(self.socket.poll_read(cx, &mut scratch.socket[..max])).map_err(Failure::Lost)?;
                buffer.extend_from_slice(&scratch.socket[..read]);
                Poll::Ready(Ok(read))
            });
        }
        for _ in 0..READS_MAX {
            if let Some(read) = self.take_plain(buffer, max)? {
                return Poll::Ready(Ok(read));
            }
            // What TLS itself has to say in between must not keep us from reading: it goes out with the next write at the
            // latest.
            if let Poll::Ready(sent) = self.poll_send_tls(cx) {
                sent?;
            }
            if ready!(self.poll_receive_tls(cx))? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what TLS has made readable into the buffer; nothing if there is none yet.
    fn take_plain(&mut self, buffer: &mut Vec<u8>, max: usize) -> Result<Option<usize>, Failure> {
        let Some(tls) = &mut self.tls else { return Ok(None) };
        scratch::with(|scratch| match tls.reader().read(&mut scratch.plain[..max]) {
            Ok(read) => {
                buffer.extend_from_slice(&scratch.plain[..read]);
                self.unread = self.unread.saturating_sub(read);
                Ok(Some(read))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // Closed without the alert that says so. Protocols of lines and lengths know themselves what is missing.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(Failure::Lost(error)),
        })
    }

    /// One read from the socket into TLS, and the work on it. Nothing: the peer has closed.
    fn poll_receive_tls(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Failure>> {
        let Some(tls) = &mut self.tls else { return Poll::Ready(Ok(0)) };
        let read = match tls.read_tls(&mut Pipe { socket: &mut self.socket, cx }) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            read => read.map_err(Failure::Lost)?,
        };
        match tls.process_new_packets() {
            Ok(state) => self.unread = state.plaintext_bytes_to_read(),
            Err(error) => {
                // The alert tells the peer why. The connection is over whether it arrives or not.
                let _ = self.poll_send_tls(cx);
                return Poll::Ready(Err(Failure::Tls(error)));
            }
        }
        Poll::Ready(Ok(read))
    }

    /// Sends the rest of a piece. rustls takes no more at a time than it is willing to hold.
    fn poll_write(&mut self, cx: &mut Context<'_>, piece: &[u8], sent: &mut usize) -> Poll<Result<(), Failure>> {
        loop {
            ready!(self.poll_send_tls(cx))?;
            let rest = &piece[*sent..];
            if rest.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = match &mut self.tls {
                Some(tls) => tls.writer().write(rest),
                None => ready!(self.socket.poll_write(cx, rest)),
            };
            match taken {
                Ok(0) => return Poll::Ready(Err(Failure::Lost(ErrorKind::WriteZero.into()))),
                Ok(taken) => *sent += taken,
                Err(error) => return Poll::Ready(Err(Failure::Lost(error))),
            }
        }
    }

    fn poll_send_tls(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(tls) = &mut self.tls else { return Poll::Ready(Ok(())) };
        while tls.wants_write() {
            match tls.write_tls(&mut Pipe { socket: &mut self.socket, cx }) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(Failure::Lost(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("peer", &self.peer).field("secure", &self.is_secure()).finish_non_exhaustive()
    }
}
