//! How a connection is written to, and closed.

use crate::connection::{Closed, Connection};
use crate::scratch;
use crate::table::Entry;
use futures_lite::AsyncWrite;
use glommio::net::TcpStream;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// How long, and how often, a connection that is over is still read from.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_READS_MAX: usize = 8;

impl Connection {
    /// Sends all of `out` and empties it.
    pub async fn send(&mut self, out: &mut Vec<u8>) -> Result<(), Closed> {
        if out.is_empty() {
            return Ok(());
        }
        let sent = if self.tls.is_some() { self.send_secure(out).await } else { self.send_plain(out).await };
        out.clear();
        sent.map_err(|closed| self.judge(closed))
    }

    async fn send_plain(&mut self, out: &[u8]) -> Result<(), Closed> {
        let mut sent = 0;
        poll_fn(|cx| {
            while sent < out.len() {
                let wrote = ready!(poll_write(&mut self.tcp, &self.entry, cx, &[IoSlice::new(&out[sent..])]))?;
                sent += wrote;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Piece by piece: rustls takes no more at a time than it is willing to hold.
    async fn send_secure(&mut self, out: &[u8]) -> Result<(), Closed> {
        let mut sent = 0;
        while sent < out.len() {
            let Some(tls) = &mut self.tls else { return Err(Closed::Tls) };
            match tls.writer().write(&out[sent..]) {
                Ok(taken) if taken > 0 => sent += taken,
                _ => return Err(Closed::Tls),
            }
            self.send_tls().await?;
        }
        Ok(())
    }

    pub(crate) async fn send_tls(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_send_tls(cx)).await
    }

    pub(crate) fn poll_send_tls(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        let Some(tls) = &mut self.tls else { return Poll::Ready(Ok(())) };
        while tls.wants_write() {
            let mut wire = Wire { tcp: &mut self.tcp, entry: &self.entry, cx, closed: None };
            match tls.write_tls(&mut wire) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                Err(_) => return Poll::Ready(Err(wire.closed.unwrap_or(Closed::Peer))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Closes in order: the TLS closing alert, then FIN. With `linger`, what the peer still sends is read away for a while:
    /// a socket closed with input unread is reset, and the last reply could be lost with it.
    pub async fn close(mut self, linger: bool) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The peer may be gone already; there is nobody to tell then.
            let _ = self.send_tls().await;
        }
        let _ = self.tcp.shutdown(Shutdown::Write).await;
        if linger {
            self.allow(LINGER, false);
            // Whatever ends it, the connection is over.
            let _ = poll_fn(|cx| self.poll_discard(cx)).await;
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        for _ in 0..LINGER_READS_MAX {
            if self.entry.expired() {
                return Poll::Ready(Err(Closed::Timeout));
            }
            match scratch::with(|scratch| self.poll_read(cx, &mut scratch.socket)) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(closed)) => return Poll::Ready(Err(closed)),
                Poll::Pending => {
                    self.entry.wait(cx.waker());
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Time is looked at only when the peer has to be waited for: the answer to a message that is safe goes out, however late.
fn poll_write(
    tcp: &mut TcpStream,
    entry: &Entry,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<Result<usize, Closed>> {
    let written = match pieces {
        [one] => Pin::new(tcp).poll_write(cx, one),
        _ => Pin::new(tcp).poll_write_vectored(cx, pieces),
    };
    match written {
        Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Closed::Peer)),
        Poll::Ready(Ok(wrote)) => Poll::Ready(Ok(wrote)),
        Poll::Pending if entry.expired() => Poll::Ready(Err(Closed::Timeout)),
        Poll::Pending => {
            entry.wait(cx.waker());
            Poll::Pending
        }
    }
}

/// The socket as rustls wants it: a writer that says when it would block. All that rustls has to send goes in one call, the
/// records of a handshake's flight in one packet.
struct Wire<'a, 'b> {
    tcp: &'a mut TcpStream,
    entry: &'a Entry,
    cx: &'a mut Context<'b>,
    closed: Option<Closed>,
}

impl Write for Wire<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match poll_write(self.tcp, self.entry, self.cx, pieces) {
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
            Poll::Ready(Ok(wrote)) => Ok(wrote),
            Poll::Ready(Err(closed)) => {
                self.closed = Some(closed);
                Err(ErrorKind::ConnectionReset.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
