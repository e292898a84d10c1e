//! Listening sockets: one per shard and address, all of an address in one SO_REUSEPORT group.

use crate::filter::{and, attach, give, load_byte, only_if};
use crate::steering::{let_go, steer};
use crate::{Connection, NetError, Table};
use glommio::GlommioError;
use glommio::net::{TcpListener, TcpStream};
use ringpost_base::NetworkLengths;
use ringpost_metrics::{Block, Counter};
use ringpost_runtime::Pace;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};
use std::time::Duration;
use std::{io, rc::Rc, sync::Arc};

/// Connections that the kernel may have finished and we not yet taken, per socket.
const BACKLOG: i32 = 4096;

/// Tries to bind to an address that is in use, and the pause between two: a second in all.
const IN_USE_TRIES: u32 = 40;
const IN_USE_PAUSE: Duration = Duration::from_millis(25);

/// How long accept is left alone when descriptors or memory are short: it would fail again at once.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// How long connections are still taken after new ones were shut out: those the kernel has begun get served.
const LAST_CALL: Duration = Duration::from_millis(300);

/// A socket of a group, for one shard. Before its group listens, clients are turned away.
pub struct Bound {
    socket: Socket,
    address: SocketAddr,
}

impl Bound {
    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how the connections of the socket's group are given to its `shards` sockets, while it listens: steered to
    /// the shards that own their addresses, or spread evenly. Where the kernel can't, that is logged.
    pub fn steer(&self, steering: Option<NetworkLengths>, shards: usize) {
        let address = self.address;
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

/// The sockets of one address, in the order of their shards.
pub struct Group {
    address: SocketAddr,
    sockets: Vec<Socket>,
}

impl Group {
    /// The address they are bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sockets for the shards, in order, while the group keeps a hold on them to let clients in later. Only when the
    /// group is gone does a shard that closes its socket close it for good.
    pub fn share(&self) -> Result<Vec<Bound>, NetError> {
        let address = self.address;
        let share = |socket: &Socket| Ok(Bound { socket: socket.try_clone()?, address });
        self.sockets.iter().map(share).collect::<io::Result<_>>().map_err(|reason| NetError::Bind { address, reason })
    }

    /// Lets clients in, socket by socket: the kernel numbers the sockets of a group in the order in which they listen. Then,
    /// if `steering` says how networks are cut, connections are steered to the shard that owns their address; where
    /// the kernel can't, that is logged, and it spreads them evenly instead. Clients wait until they are served.
    pub fn listen_all(self, steering: Option<NetworkLengths>) -> Result<Vec<Bound>, NetError> {
        let address = self.address;
        for socket in &self.sockets {
            socket.listen(BACKLOG).map_err(|reason| NetError::Bind { address, reason })?;
        }
        let shards = self.sockets.len();
        let bounds: Vec<Bound> = self.sockets.into_iter().map(|socket| Bound { socket, address }).collect();
        if let (Some(_), Some(first)) = (steering, bounds.first()) {
            first.steer(steering, shards);
        }
        Ok(bounds)
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
    Ok(Group { address, sockets: sockets.map_err(|reason| NetError::Bind { address, reason })? })
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

/// Takes connections and hands them to `session` until `stopped` comes; then shuts new ones out without resetting those
/// that the kernel has already taken, and closes the socket.
pub async fn serve(
    bound: Bound,
    table: Rc<Table>,
    block: Arc<Block>,
    session: impl FnMut(Connection),
    stopped: impl Future<Output = ()>,
) {
    let fd = bound.socket.into_raw_fd();
    // SAFETY: the descriptor is a listening socket that was just given up by its only owner.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    // SAFETY: the listener owns the descriptor and lives until this function ends.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    let stop = async {
        stopped.await;
        if let Err(error) = shut_out(&socket) {
            tracing::warn!(%error, "new connections can't be shut out: some may be reset");
        }
        ringpost_runtime::sleep(LAST_CALL).await;
    };
    // One accept future, never cancelled before the end: a cancelled one could lose a connection.
    futures_lite::future::or(accept(&listener, bound.address, &table, &block, session), stop).await;
}

async fn accept(
    listener: &TcpListener,
    address: SocketAddr,
    table: &Rc<Table>,
    block: &Block,
    mut session: impl FnMut(Connection),
) {
    let mut pace = Pace::default();
    loop {
        match listener.accept().await {
            Ok(tcp) => connection(tcp, table).into_iter().for_each(&mut session),
            Err(error) => {
                block.add(Counter::AcceptErrors, 1);
                if !is_of_one_client(&error) {
                    tracing::warn!(%error, %address, "accept failed");
                    ringpost_runtime::sleep(SHORTAGE_PAUSE).await;
                }
            }
        }
        // Accept does not wait while the kernel has connections, and each may be worked on at once: a flood of them must
        // not keep the sessions from their turn.
        pace.breathe().await;
    }
}

/// Nothing, if the client has reset the connection before it was taken: it has no address any more, and nobody to serve.
fn connection(tcp: TcpStream, table: &Rc<Table>) -> Option<Connection> {
    let peer = tcp.peer_addr().ok()?;
    Some(Connection::new(tcp, table.enter(peer.ip()), peer))
}

/// Whether only this connection failed, as accept(2) tells of errors that a new one already has. The next may be taken at once.
fn is_of_one_client(error: &GlommioError<()>) -> bool {
    let GlommioError::IoError(error) = error else { return false };
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EINTR
        )
    )
}

/// Attaches a filter that drops SYNs: a client that comes now tries again, elsewhere or later, instead of being taken into
/// the queue of a socket about to close. Packets of connections under way pass.
fn shut_out(socket: &BorrowedFd<'_>) -> io::Result<()> {
    // Byte 13 of the TCP header holds the flags; 0x12 is SYN and ACK, 0x02 SYN alone.
    let program = [load_byte(13), and(0x12), only_if(0x02), give(0), give(u32::MAX)];
    attach(socket, libc::SO_ATTACH_FILTER, program.into())
}

#[cfg(test)]
mod tests;
