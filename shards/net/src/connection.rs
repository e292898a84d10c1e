//! One connection: bytes in and out, with or without TLS.

use crate::scratch::{self, SCRATCH, Scratch};
use crate::table::Entry;
use crate::tls::Acceptor;
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustls::{ServerConnection, SupportedCipherSuite};
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer closed or reset it.
    Peer,
    /// Nothing happened before the deadline.
    Timeout,
    /// The server is stopping, and the connection said it could end now.
    Stopping,
    /// TLS failed.
    Tls,
}

/// A finished TLS handshake.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// Protocol version, as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// How long, and how often, a connection that is over is still read from.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_READS_MAX: usize = 8;

/// Reads in one turn without a step for the machine's driver.
const READS_MAX: usize = 8;

/// A connection of this shard.
pub struct Connection {
    tcp: TcpStream,
    tls: Option<Box<ServerConnection>>,
    entry: Entry,
    peer: SocketAddr,
    /// Input the machine has left over: bytes that were read and do not yet make a step.
    carry: Vec<u8>,
    /// How much of the carry is used up.
    used: usize,
    /// The carry has been looked at and needs more behind it.
    starved: bool,
    /// How much longer the peer gets with every read, if it does.
    patience: Option<Duration>,
}

impl Connection {
    pub(crate) fn new(tcp: TcpStream, entry: Entry) -> Self {
        let unknown = SocketAddr::from((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        let peer = tcp.peer_addr().unwrap_or(unknown);
        // Replies are small and waited for. Where it fails the connection is gone, as the next read will say.
        let _ = tcp.set_nodelay(true);
        Self { tcp, tls: None, entry, peer, carry: Vec::new(), used: 0, starved: true, patience: None }
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// From now, the peer has `span` for what is asked of it next. With `renewed`, every byte that comes gives it that much
    /// again; without, it must be done within the span.
    pub fn allow(&mut self, span: Duration, renewed: bool) {
        self.entry.set_deadline(ringpost_runtime::tick().deadline(span));
        self.patience = renewed.then_some(span);
    }

    /// Feeds input to `machine` until it yields something. The machine is given all input there is, says how much of
    /// it it used, and gives nothing if it needs more. `may_stop`: end if the server is stopping.
    pub async fn feed<T>(
        &mut self,
        may_stop: bool,
        mut machine: impl FnMut(&[u8]) -> (usize, Option<T>),
    ) -> Result<T, Closed> {
        poll_fn(|cx| self.poll_feed(cx, may_stop, &mut machine)).await
    }

    fn poll_feed<T>(
        &mut self,
        cx: &mut Context<'_>,
        may_stop: bool,
        machine: &mut impl FnMut(&[u8]) -> (usize, Option<T>),
    ) -> Poll<Result<T, Closed>> {
        if !self.starved {
            let (used, step) = machine(&self.carry[self.used..]);
            self.used += used;
            if let Some(step) = step {
                return Poll::Ready(Ok(step));
            }
            self.starved = true;
        }
        self.carry.drain(..self.used);
        self.used = 0;
        if self.carry.is_empty() {
            // An idle connection holds no memory for input.
            self.carry = Vec::new();
        }
        for _ in 0..READS_MAX {
            if may_stop && self.entry.stopping() {
                return Poll::Ready(Err(Closed::Stopping));
            }
            if self.entry.expired() {
                return Poll::Ready(Err(Closed::Timeout));
            }
            let step = scratch::with(|scratch| self.poll_input(cx, scratch, machine));
            match step {
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(step))) => return Poll::Ready(Ok(step)),
                Poll::Ready(Err(closed)) => return Poll::Ready(Err(closed)),
                Poll::Pending => {
                    self.entry.wait(cx.waker());
                    return Poll::Pending;
                }
            }
        }
        // A peer that sends faster than we read gets another turn after the others.
        self.entry.wait(cx.waker());
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and what the machine makes of it.
    fn poll_input<T>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        machine: &mut impl FnMut(&[u8]) -> (usize, Option<T>),
    ) -> Poll<Result<Option<T>, Closed>> {
        let read = match Pin::new(&mut self.tcp).poll_read(cx, &mut scratch.socket) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Closed::Peer)),
            Poll::Ready(Ok(read)) => read,
        };
        if let Some(span) = self.patience {
            self.entry.set_deadline(ringpost_runtime::tick().deadline(span));
        }
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(self.offer(&scratch.socket[..read], machine)));
        };
        let mut cipher = &scratch.socket[..read];
        let mut step = None;
        while !cipher.is_empty() {
            let taken = tls.read_tls(&mut cipher).map_err(|_| Closed::Tls)?;
            let state = tls.process_new_packets().map_err(|_| Closed::Tls)?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let got = tls.reader().read(&mut scratch.plain[..left.min(SCRATCH)]).map_err(|_| Closed::Tls)?;
                left -= got;
                match step {
                    None => step = offer(&mut self.carry, &mut self.starved, &scratch.plain[..got], machine),
                    Some(_) => keep(&mut self.carry, &mut self.starved, &scratch.plain[..got]),
                }
            }
            if state.peer_has_closed() && step.is_none() {
                return Poll::Ready(Err(Closed::Peer));
            }
            if taken == 0 {
                return Poll::Ready(Err(Closed::Tls));
            }
        }
        Poll::Ready(Ok(step))
    }

    fn offer<T>(&mut self, input: &[u8], machine: &mut impl FnMut(&[u8]) -> (usize, Option<T>)) -> Option<T> {
        offer(&mut self.carry, &mut self.starved, input, machine)
    }

    /// Sends all of `out` and empties it.
    pub async fn send(&mut self, out: &mut Vec<u8>) -> Result<(), Closed> {
        if out.is_empty() {
            return Ok(());
        }
        if self.tls.is_some() {
            let result = self.send_secure(out).await;
            out.clear();
            return result;
        }
        let mut sent = 0;
        let result = poll_fn(|cx| {
            while sent < out.len() {
                let wrote = ready!(poll_write(&mut self.tcp, &self.entry, cx, &out[sent..]))?;
                sent += wrote;
            }
            Poll::Ready(Ok(()))
        })
        .await;
        out.clear();
        result
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

    async fn send_tls(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_send_tls(cx)).await
    }

    fn poll_send_tls(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
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

    /// Shakes hands as a TLS server. All plain input not yet used is thrown away; how much that was is returned with
    /// the handshake: a client that speaks before the handshake injects (RFC 3207 section 6).
    pub async fn secure(&mut self, acceptor: &Acceptor) -> Result<(Handshake, usize), Closed> {
        let injected = std::mem::take(&mut self.carry).len() - std::mem::take(&mut self.used);
        self.starved = true;
        let tls = acceptor.connection().map_err(|_| Closed::Tls)?;
        self.tls = Some(Box::new(tls));
        let shaken = poll_fn(|cx| self.poll_handshake(cx)).await;
        if shaken.is_err() {
            // The alert, if one is to go out; the connection is over whether it arrives or not.
            let _ = self.send_tls().await;
            return Err(shaken.err().unwrap_or(Closed::Tls));
        }
        let tls = self.tls.as_ref().ok_or(Closed::Tls)?;
        Ok((describe(tls), injected))
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        loop {
            ready!(self.poll_send_tls(cx))?;
            let Some(tls) = &self.tls else { return Poll::Ready(Err(Closed::Tls)) };
            if !tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.entry.expired() {
                return Poll::Ready(Err(Closed::Timeout));
            }
            // A message can't be under way yet.
            if self.entry.stopping() {
                return Poll::Ready(Err(Closed::Stopping));
            }
            // Application data behind the handshake is kept for the machine: the machine is not asked here.
            let machine = &mut |_: &[u8]| (0, None::<()>);
            match scratch::with(|scratch| self.poll_input(cx, scratch, machine)) {
                Poll::Ready(Ok(_)) => self.starved = self.carry.is_empty(),
                Poll::Ready(Err(closed)) => return Poll::Ready(Err(closed)),
                Poll::Pending => {
                    self.entry.wait(cx.waker());
                    return Poll::Pending;
                }
            }
        }
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
            let read = scratch::with(|scratch| Pin::new(&mut self.tcp).poll_read(cx, &mut scratch.socket));
            match read {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    self.entry.wait(cx.waker());
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn offer<T>(
    carry: &mut Vec<u8>,
    starved: &mut bool,
    input: &[u8],
    machine: &mut impl FnMut(&[u8]) -> (usize, Option<T>),
) -> Option<T> {
    let step = if carry.is_empty() {
        let (used, step) = machine(input);
        carry.extend_from_slice(&input[used..]);
        step
    } else {
        carry.extend_from_slice(input);
        let (used, step) = machine(carry);
        carry.drain(..used);
        step
    };
    *starved = step.is_none();
    step
}

fn keep(carry: &mut Vec<u8>, starved: &mut bool, input: &[u8]) {
    carry.extend_from_slice(input);
    *starved = false;
}

fn poll_write(tcp: &mut TcpStream, entry: &Entry, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Closed>> {
    if entry.expired() {
        return Poll::Ready(Err(Closed::Timeout));
    }
    match Pin::new(tcp).poll_write(cx, bytes) {
        Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Closed::Peer)),
        Poll::Ready(Ok(wrote)) => Poll::Ready(Ok(wrote)),
        Poll::Pending => {
            entry.wait(cx.waker());
            Poll::Pending
        }
    }
}

/// The socket as rustls wants it: a writer that says when it would block.
struct Wire<'a, 'b> {
    tcp: &'a mut TcpStream,
    entry: &'a Entry,
    cx: &'a mut Context<'b>,
    closed: Option<Closed>,
}

impl Write for Wire<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match poll_write(self.tcp, self.entry, self.cx, bytes) {
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

fn describe(tls: &ServerConnection) -> Handshake {
    let version = match tls.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let cipher = tls.negotiated_cipher_suite().map_or("unknown", cipher_name);
    let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Handshake { version, cipher, resumed }
}

fn cipher_name(suite: SupportedCipherSuite) -> &'static str {
    suite.suite().as_str().unwrap_or("unknown")
}
