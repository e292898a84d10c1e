//! Listening sockets: one per shard and address, all of an address in one SO_REUSEPORT group.
//!
//! Or fewer, or more, where another process has made them ([`inherit`]): then a shard has several sockets of an address, or
//! shares one with others. A [`Group`] is held for as long as the server may have to hand its sockets on; only when it is gone
//! does a shard that closes its socket close it for good.

mod inherit;
mod sinks;

pub use inherit::inherit;
pub(crate) use sinks::Member;

use crate::NetError;
use crate::steering::{let_go, steer};
use ringpost_base::NetworkLengths;
use sinks::Sinks;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Connections that the kernel may have finished and we not yet taken, per socket.
const BACKLOG: i32 = 4096;

/// Tries to bind to an address that is in use, and the pause between two: a second in all.
const IN_USE_TRIES: u32 = 40;
const IN_USE_PAUSE: Duration = Duration::from_millis(25);

/// A socket of a group, for one shard. Before its group listens, clients are turned away.
pub struct Bound {
    pub(crate) socket: Socket,
    address: SocketAddr,
    steered_to: Option<usize>,
    /// By which clients are shut out of the whole group, where that is possible.
    pub(crate) member: Option<Member>,
}

impl Bound {
    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how the connections of the socket's group are given to its sockets, while it listens: steered to the shards
    /// that own their addresses, or spread evenly. Where the kernel can't, that is logged. Nothing happens to a group that
    /// can't be steered at all, as its sockets are too few.
    pub fn steer(&self, steering: Option<NetworkLengths>) {
        let address = self.address;
        let Some(shards) = self.steered_to else {
            return tracing::debug!(%address, "the sockets of this address can't be steered, shards ask each other");
        };
        let done = match steering {
            Some(lengths) if shards > 1 => steer(&self.socket, address.is_ipv4(), lengths, shards),
            _ => let_go(&self.socket),
        };
        match done {
            Ok(()) => tracing::debug!(%address, steered = steering.is_some(), "steering of connections is set"),
            Err(error) => tracing::warn!(%error, %address, "steering can't be changed, shards ask each other"),
        }
    }
}

/// The sockets of one address, in the order in which they listen.
pub struct Group {
    address: SocketAddr,
    sockets: Vec<Socket>,
    shards: usize,
    /// Whether connections can be steered to the shards: each has a socket of its own, its place among them is the shard's
    /// number, and all connections are of one family.
    steerable: bool,
    /// Whether another process has made them.
    inherited: bool,
    /// By which clients are shut out at the end, if there could be any.
    sinks: Option<Arc<Sinks>>,
}

impl Group {
    /// The address they are bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sockets of each shard, in order; each has at least one. To be called once.
    pub fn share(&self) -> Result<Vec<Vec<Bound>>, NetError> {
        let address = self.address;
        let member = || self.sinks.as_ref().map(Member::new);
        let share = |socket| Ok(Bound { member: member(), ..self.bound(socket)? });
        let sockets = |shard| self.of_shard(shard).map(share).collect::<io::Result<_>>();
        (0..self.shards).map(sockets).collect::<io::Result<_>>().map_err(|reason| NetError::Bind { address, reason })
    }

    fn of_shard(&self, shard: usize) -> impl Iterator<Item = &Socket> {
        // Where there are fewer sockets than shards, some shards share one.
        let first = shard % self.sockets.len();
        self.sockets.iter().skip(first).step_by(self.shards)
    }

    fn bound(&self, socket: &Socket) -> io::Result<Bound> {
        let steered_to = self.steerable.then_some(self.shards);
        Ok(Bound { socket: socket.try_clone()?, address: self.address, steered_to, member: None })
    }

    /// One of the sockets, by which the steering of all is changed.
    pub fn rudder(&self) -> Result<Bound, NetError> {
        let address = self.address;
        self.bound(&self.sockets[0]).map_err(|reason| NetError::Bind { address, reason })
    }

    /// Lets clients in, socket by socket: the kernel numbers the sockets of a group in the order in which they listen. Those
    /// that listen already go on. Then, if `steering` says how networks are cut, connections are steered to the shard that
    /// owns their address; where the kernel can't, that is logged, and it spreads them evenly instead. Clients wait until they
    /// are served.
    pub fn listen_all(&self, steering: Option<NetworkLengths>) -> Result<(), NetError> {
        let address = self.address;
        let listen = |socket: &Socket| if socket.is_listener()? { Ok(()) } else { socket.listen(BACKLOG) };
        self.sockets.iter().try_for_each(listen).map_err(|reason| NetError::Bind { address, reason })?;
        // Sockets that another process has made may be steered as that one wanted.
        if steering.is_some() || self.inherited {
            self.rudder()?.steer(steering);
        }
        Ok(())
    }

    /// Duplicates of the sockets, in their order, for a process that takes over; it makes a group of them by [`inherit`]. It may
    /// accept beside this one.
    pub fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets.iter().map(|socket| socket.try_clone().map(OwnedFd::from)).collect()
    }
}

/// Binds `count` sockets to one address. A first one without SO_REUSEPORT finds out whether another program listens there,
/// which the group itself would silently share the port with.
pub fn bind(address: SocketAddr, count: usize) -> Result<Group, NetError> {
    let wrong = |reason| NetError::Bind { address, reason };
    let probe = socket(address, false).map_err(wrong)?;
    take(&probe, address).map_err(wrong)?;
    let address = probe.local_addr().map_err(wrong)?.as_socket().unwrap_or(address);
    drop(probe);
    let sockets = (0..count).map(|_| join_group(address)).collect::<io::Result<_>>();
    let sockets = sockets.map_err(|reason| NetError::Bind { address, reason })?;
    Ok(Group { address, sockets, shards: count, steerable: true, inherited: false, sinks: sinks(address, count) })
}

/// Sinks for a group of so many sockets. A server does without if it must.
fn sinks(address: SocketAddr, count: usize) -> Option<Arc<Sinks>> {
    Sinks::bind(address, count)
        .inspect_err(|error| tracing::debug!(%error, %address, "no sinks: only a filter can shut clients out"))
        .ok()
}

/// Binds, and waits a little for an address that is still in use: the kernel takes a moment to close the sockets of a
/// process that was killed, and whoever starts it anew should not have to try twice.
fn take(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let mut left = IN_USE_TRIES;
    loop {
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && left > 0 => {
                left -= 1;
                std::thread::sleep(IN_USE_PAUSE);
            }
            other => return other,
        }
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec().nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait for the last connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn join_group(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
