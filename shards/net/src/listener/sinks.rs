//! Shutting clients out of a group of sockets without a privilege.
//!
//! A filter that drops SYNs asks for CAP_NET_ADMIN, which few servers have. A socket whose queue is full drops them as well: the
//! client tries again, elsewhere or later. So sockets that never serve anybody, the sinks, are bound with the others of a group.
//! When the group is given up, they begin to listen with a queue for one connection, this process connects to each itself, and
//! a program sends every client there. What the kernel has begun with the other sockets goes on.
//!
//! The kernel puts the last socket of a group in the place of one that closes, and lets chance decide where a program's answer
//! is no place any more. With as many sinks as other sockets, the place of the first sink has one until all others are
//! closed, in whatever order, and what is left to chance then are sinks only.

use super::join_group;
use crate::filter::{Program, attach, give, give_accumulator, load_random, load_word, modulo, only_if_or_skip};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a connection to ourselves may take. The kernel makes it at once; only a packet filter that has something against
/// it holds it up.
const PATIENCE: Duration = Duration::from_millis(100);

/// The sinks of a group.
pub(super) struct Sinks {
    address: SocketAddr,
    /// How many of the group's other sockets have not been closed.
    others: AtomicUsize,
    state: Mutex<State>,
}

/// Sinks are closed before what fills them: the kernel keeps nothing of such a connection.
struct State {
    sinks: Vec<Socket>,
    fillings: Vec<Socket>,
    /// Whether clients have been shut out, or the error for which they could not.
    done: Option<Result<(), i32>>,
}

impl Sinks {
    /// Binds as many sinks as the group has sockets.
    pub(super) fn bind(address: SocketAddr, count: usize) -> io::Result<Arc<Self>> {
        let sinks = (0..count).map(|_| join_group(address)).collect::<io::Result<_>>()?;
        let state = Mutex::new(State { sinks, fillings: Vec::new(), done: None });
        Ok(Arc::new(Self { address, others: AtomicUsize::new(0), state }))
    }
}

/// Held as long as a socket of a group is. When the last is gone, the sinks close.
pub(crate) struct Member(Arc<Sinks>);

impl Member {
    pub(super) fn new(sinks: &Arc<Sinks>) -> Self {
        sinks.others.fetch_add(1, Ordering::AcqRel);
        Self(sinks.clone())
    }

    /// Shuts clients out of all sockets of the group, one of which is given; whoever comes first does it.
    pub(crate) fn shut_out(&self, socket: &Socket) -> io::Result<()> {
        let Sinks { address, others, state } = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = state.done {
            return done.map_err(io::Error::from_raw_os_error);
        }
        let done = state.open(socket, *address, others.load(Ordering::Acquire));
        if done.is_err() {
            // A sink that is not full would take clients whom nobody serves.
            state.sinks.clear();
            state.fillings.clear();
        }
        state.done = Some(done.as_ref().copied().map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)));
        done
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.others.fetch_sub(1, Ordering::AcqRel);
    }
}

impl State {
    /// Fills the sinks one by one, while no client comes to them; then every client comes to the first.
    fn open(&mut self, socket: &Socket, address: SocketAddr, others: usize) -> io::Result<()> {
        // Who has not been let in need not be shut out.
        if !socket.is_listener()? {
            return Ok(());
        }
        let to = reachable(address);
        for (index, sink) in (others..).zip(&self.sinks) {
            let filling = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
            let mut from = to;
            from.set_port(0);
            filling.bind(&from.into())?;
            from = filling.local_addr()?.as_socket().unwrap_or(from);
            attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, only_ours(from, to, index, others))?;
            sink.listen(0)?;
            filling.connect_timeout(&to.into(), PATIENCE)?;
            await_filled(sink)?;
            self.fillings.push(filling);
        }
        attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, vec![give(others as u32)])
    }
}

/// Where this machine finds sockets that are bound to an address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Waits until a sink has a connection in its queue. If it came elsewhere, the group is not as we believe, and another process
/// may have sockets in it.
fn await_filled(sink: &Socket) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: sink.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure is given, as the length says, and the descriptor in it is open.
    match unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as libc::c_int) } {
        1 => Ok(()),
        0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A program that sends one connection to a sink and all others to any of the `others`.
fn only_ours(from: SocketAddr, to: SocketAddr, sink: usize, others: usize) -> Program {
    // Without options, as in a packet to ourselves, the ports are next to the header of the network's layer.
    let (source, length) = match from.ip() {
        IpAddr::V4(ip) => (vec![(12, ip.to_bits())], 20),
        IpAddr::V6(ip) => {
            let word = |at: u32| (8 + 4 * at, (ip.to_bits() >> (96 - 32 * at)) as u32);
            ((0..4).map(word).collect(), 40)
        }
    };
    let ports = u32::from(from.port()) << 16 | u32::from(to.port());
    let mut program = Program::new();
    let checks = source.len() + 1;
    for (done, (at, word)) in source.into_iter().chain([(length, ports)]).enumerate() {
        // The checks that are left, and the answer for the sink.
        let left = 2 * (checks - done - 1) + 1;
        // Offsets that are negative by this much count from the network header.
        program.extend([load_word(libc::SKF_NET_OFF.cast_unsigned() + at), only_if_or_skip(word, left as u8)]);
    }
    program.push(give(sink as u32));
    // The kernel takes no division by zero.
    program.extend([load_random(), modulo(others.max(1) as u32), give_accumulator()]);
    program
}
