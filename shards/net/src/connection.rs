//! One connection: bytes in and out, with or without TLS, and how long each may take.
//!
//! This file has what a connection is and how it is read; `sending` has how it is written and closed, `handshake` how it
//! becomes secure, `waiting` how it waits for nothing in particular.

use crate::scratch::{self, SCRATCH, Scratch};
use crate::table::{Entry, Table};
use crate::tls::{Acceptor, Handshake};
use futures_lite::AsyncRead;
use glommio::net::TcpStream;
use ringpost_base::{Deadline, canonical};
use rustls::ServerConnection;
use socket2::SockRef;
use std::future::poll_fn;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer closed or reset it.
    Peer,
    /// Nothing happened before the deadline.
    Timeout,
    /// The whole session has lasted longer than it may.
    Overtime,
    /// The server is stopping, and the connection said it could end now.
    Stopping,
    /// The address was evicted: nothing more is read from it.
    Evicted,
    /// TLS failed; [`Connection::tls_failure`] says why.
    Tls,
}

/// Reads in one turn without a step for the machine's driver.
const READS_MAX: usize = 8;

/// A connection of this shard.
pub struct Connection {
    pub(crate) tcp: TcpStream,
    pub(crate) tls: Option<Box<ServerConnection>>,
    pub(crate) entry: Entry,
    peer: SocketAddr,
    /// The TCP peer, if another address was presented. Boxed since most connections have none.
    hop: Option<Box<SocketAddr>>,
    /// Input the machine has left over: bytes that were read and do not yet make a step.
    pub(crate) carry: Vec<u8>,
    /// How much of the carry is used up.
    pub(crate) used: usize,
    /// The carry has been looked at and needs more behind it.
    pub(crate) starved: bool,
    /// How much longer the peer gets with every read, if it does.
    patience: Option<Duration>,
    /// When the session as a whole must be over.
    session_end: Deadline,
}

impl Connection {
    fn new(tcp: TcpStream, entry: Entry, peer: SocketAddr) -> Self {
        // Replies are small and waited for. Where it fails the connection is gone, as the next read will say.
        let _ = tcp.set_nodelay(true);
        Self {
            tcp,
            tls: None,
            entry,
            peer,
            hop: None,
            carry: Vec::new(),
            used: 0,
            starved: true,
            patience: None,
            session_end: Deadline::NEVER,
        }
    }

    /// Takes over a connection that another process has taken and said nothing on. Nothing, if the client is gone.
    pub fn from_inherited(socket: OwnedFd, table: &Rc<Table>) -> Option<Self> {
        Self::take(socket, table)
    }

    /// A connection that was taken from a listening socket. Nothing, if the client has reset it before: it has no address
    /// any more, and nobody to serve.
    pub(crate) fn take(socket: OwnedFd, table: &Rc<Table>) -> Option<Self> {
        let peer = SockRef::from(&socket).peer_addr().ok()?.as_socket()?;
        // A socket for both families gives the addresses of one in the form of the other.
        let peer = SocketAddr::new(canonical(peer.ip()), peer.port());
        // SAFETY: the descriptor is a stream socket that was just given up by its only owner.
        let tcp = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
        Some(Self::new(tcp, table.enter(peer.ip()), peer))
    }

    /// Whom the connection is from: the address that was presented, else the TCP peer's.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The other end of the TCP connection: the proxy, where one presented another address.
    pub fn hop(&self) -> SocketAddr {
        self.hop.as_deref().copied().unwrap_or(self.peer)
    }

    /// The TCP peer only passes on what others send, and will present their address: until then no eviction hits this
    /// connection, so that it can't hit the proxy.
    pub fn await_presentation(&mut self) {
        self.entry.set_address(None);
    }

    /// From now on the connection is from this address. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn present(&mut self, peer: SocketAddr) {
        let hop = self.hop();
        self.hop = Some(Box::new(hop));
        self.peer = SocketAddr::new(canonical(peer.ip()), peer.port());
        self.entry.set_address(Some(self.peer.ip()));
    }

    /// From now, the peer has `span` for what is asked of it next. With `renewed`, every byte that comes gives it that much
    /// again; without, it must be done within the span. Either way it ends with the session's time.
    pub fn allow(&mut self, span: Duration, renewed: bool) {
        self.patience = renewed.then_some(span);
        self.extend(span);
    }

    /// From now, the whole session has `span`. When it is over the next wait gives [`Closed::Overtime`], once; what is to be
    /// said then has the time that `allow` gives it.
    pub fn allow_session(&mut self, span: Duration) {
        self.session_end = ringpost_runtime::tick().deadline(span);
        // The deadline that is set already may be the later one.
        self.entry.shorten_deadline(self.session_end);
    }

    fn extend(&self, span: Duration) {
        let deadline = ringpost_runtime::tick().deadline(span);
        self.entry.set_deadline(deadline.min(self.session_end));
    }

    /// Feeds input to `machine` until it yields something. The machine is given all input there is, says how much of
    /// it it used, and gives nothing if it needs more. `may_stop`: end if the server is stopping.
    pub async fn feed<T>(
        &mut self,
        may_stop: bool,
        mut machine: impl FnMut(&[u8]) -> (usize, Option<T>),
    ) -> Result<T, Closed> {
        let fed = poll_fn(|cx| self.poll_feed(cx, may_stop, &mut machine)).await;
        fed.map_err(|closed| self.judge(closed))
    }

    /// A deadline that has passed is that of the session, if its time is up. That is said once: the deadline of the last words
    /// is not cut short by it again.
    pub(crate) fn judge(&mut self, closed: Closed) -> Closed {
        if closed == Closed::Timeout && self.session_end.passed(ringpost_runtime::tick()) {
            self.session_end = Deadline::NEVER;
            return Closed::Overtime;
        }
        closed
    }

    /// Why nothing more may be read, if so.
    pub(crate) fn over(&self, may_stop: bool) -> Result<(), Closed> {
        if self.entry.evicted() {
            return Err(Closed::Evicted);
        }
        if may_stop && self.entry.stopping() {
            return Err(Closed::Stopping);
        }
        if self.entry.expired() { Err(Closed::Timeout) } else { Ok(()) }
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
            self.over(may_stop)?;
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

    /// One read from the socket.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Closed>> {
        let read = match Pin::new(&mut self.tcp).poll_read(cx, buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Closed::Peer)),
            Poll::Ready(Ok(read)) => read,
        };
        if let Some(span) = self.patience {
            self.extend(span);
        }
        Poll::Ready(Ok(read))
    }

    /// One read, and what the machine makes of it.
    fn poll_input<T>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        machine: &mut impl FnMut(&[u8]) -> (usize, Option<T>),
    ) -> Poll<Result<Option<T>, Closed>> {
        let read = std::task::ready!(self.poll_read(cx, &mut scratch.socket))?;
        let Some(tls) = &mut self.tls else {
            return Poll::Ready(Ok(offer(&mut self.carry, &mut self.starved, &scratch.socket[..read], machine)));
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

    /// Shakes hands as a TLS server, where the session began in the clear. All plain input not yet used is thrown away; how
    /// much that was is returned with the handshake: a client that speaks before it injects (RFC 3207 section 6).
    pub async fn secure(&mut self, acceptor: &Acceptor) -> Result<(Handshake, usize), Closed> {
        let injected = self.take_carry().len();
        let shaken = self.shake_hands(acceptor, Vec::new()).await;
        shaken.map(|handshake| (handshake, injected)).map_err(|closed| self.judge(closed))
    }

    /// Shakes hands as a TLS server, where TLS comes first. Input not yet used is the beginning of it: what follows the
    /// header of a proxy came in one read with it.
    pub async fn open_secure(&mut self, acceptor: &Acceptor) -> Result<Handshake, Closed> {
        let unread = self.take_carry();
        let shaken = self.shake_hands(acceptor, unread).await;
        shaken.map_err(|closed| self.judge(closed))
    }

    fn take_carry(&mut self) -> Vec<u8> {
        let mut carry = std::mem::take(&mut self.carry);
        carry.drain(..std::mem::take(&mut self.used));
        self.starved = true;
        carry
    }

    /// Why TLS failed, in words; nothing if it did not.
    pub fn tls_failure(&mut self) -> Option<String> {
        // rustls gives the error that ended a session to whoever asks again.
        Some(self.tls.as_mut()?.process_new_packets().err()?.to_string())
    }
}

/// Gives input to the machine and keeps what it leaves over.
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

/// Keeps input for the machine, which has just given a step.
pub(crate) fn keep(carry: &mut Vec<u8>, starved: &mut bool, input: &[u8]) {
    carry.extend_from_slice(input);
    *starved = false;
}
