//! Listening sockets: one per shard and address, all of an address in one SO_REUSEPORT group.

use crate::{Connection, NetError, Table};
use glommio::net::{TcpListener, TcpStream};
use ringpost_metrics::{Block, Counter};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
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

/// A socket that is bound, not yet on a shard. Before it listens, clients are turned away.
pub struct Bound {
    socket: Socket,
    address: SocketAddr,
}

impl Bound {
    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets clients in. Until it is served they wait.
    pub fn listen(&self) -> Result<(), NetError> {
        self.socket.listen(BACKLOG).map_err(|reason| NetError::Bind { address: self.address, reason })
    }
}

/// Binds `count` sockets to one address. A first one without SO_REUSEPORT finds out whether another program listens there,
/// which the group itself would silently share the port with.
pub fn bind(address: SocketAddr, count: usize) -> Result<Vec<Bound>, NetError> {
    let wrong = |reason| NetError::Bind { address, reason };
    let probe = socket(address, false).map_err(wrong)?;
    take(&probe, address).map_err(wrong)?;
    let address = probe.local_addr().map_err(wrong)?.as_socket().unwrap_or(address);
    drop(probe);
    (0..count).map(|_| join_group(address).map_err(|reason| NetError::Bind { address, reason })).collect()
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

fn join_group(address: SocketAddr) -> io::Result<Bound> {
    let socket = socket(address, true)?;
    socket.bind(&address.into())?;
    Ok(Bound { socket, address })
}

/// Takes connections and hands them to `session` until `stopped` comes; then shuts new ones out without resetting those
/// that the kernel has already taken, and closes the socket.
pub async fn serve(
    bound: Bound,
    table: Rc<Table>,
    block: Arc<Block>,
    mut session: impl FnMut(Connection),
    stopped: impl Future<Output = ()>,
) {
    let address = bound.address;
    let fd = bound.socket.into_raw_fd();
    // SAFETY: the descriptor is a listening socket that was just given up by its only owner.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    let accept = async {
        loop {
            match listener.accept().await {
                Ok(tcp) => session(connection(tcp, &table)),
                Err(error) => {
                    block.add(Counter::AcceptErrors, 1);
                    tracing::warn!(%error, %address, "accept failed");
                    ringpost_runtime::sleep(SHORTAGE_PAUSE).await;
                }
            }
        }
    };
    let stop = async {
        stopped.await;
        if let Err(error) = shut_out(fd) {
            tracing::warn!(%error, "new connections can't be shut out: some may be reset");
        }
        ringpost_runtime::sleep(LAST_CALL).await;
    };
    // One accept future, never cancelled before the end: a cancelled one could lose a connection.
    futures_lite::future::or(accept, stop).await;
}

fn connection(tcp: TcpStream, table: &Rc<Table>) -> Connection {
    Connection::new(tcp, table.enter())
}

/// Attaches a filter that drops SYNs: a client that comes now tries again, elsewhere or later, instead of being taken into
/// the queue of a socket about to close. Packets of connections under way pass.
fn shut_out(fd: i32) -> io::Result<()> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load_byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let and = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    // Byte 13 of the TCP header holds the flags; 0x12 is SYN and ACK, 0x02 SYN alone.
    let mut program = [
        op(load_byte, 0, 0, 13),
        op(and, 0, 0, 0x12),
        op(equals, 0, 1, 0x02),
        op(give, 0, 0, 0),
        op(give, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points to a program of the length it says; the kernel copies both during the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
