//! Connections that were taken and not begun to be served, when everything that could serve them here has ended.
//!
//! They are found by looking at the descriptors of this process: a connected socket of a listener's address, on which nothing
//! was sent and from which nothing was read. [`crate::serve`] leaves none, as it takes a connection only into a session's
//! hands; a session that is left behind at the end, since it waited for something else than its client, may.

use ringpost_base::canonical;
use socket2::{SockRef, Type};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::{fs, io, mem};

/// The connections that this process has and has not begun to serve, as duplicates, for another one to serve; each with the
/// one of these addresses of listeners to which it came. To be called when the shards' threads have ended: before, a session may
/// just be about to say something.
///
/// What the duplicates are of stays open here until the process ends, which neither the client nor the other process notices.
pub fn strays(addresses: &[SocketAddr]) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
    // All of them first: the directory may show what is duplicated meanwhile.
    let entries = fs::read_dir("/proc/self/fd")?.collect::<io::Result<Vec<_>>>()?;
    let (mut found, mut sockets) = (Vec::new(), HashSet::new());
    for entry in entries {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: the descriptor is borrowed for as long as it is looked at and duplicated. Should its owner close it
        // meanwhile, the calls fail, or are about another descriptor that is as good as any.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let Some(address) = connection_to(descriptor, addresses).filter(|_| is_untouched(&descriptor)) else {
            continue;
        };
        // Two descriptors of one connection would have it served twice.
        let socket = fs::metadata(entry.path()).map(|socket| (socket.dev(), socket.ino()));
        if socket.is_ok_and(|socket| sockets.insert(socket)) {
            found.push((address, descriptor.try_clone_to_owned()?));
        }
    }
    Ok(found)
}

/// The listener's address to which a descriptor is a connection, if it is one.
fn connection_to(descriptor: BorrowedFd<'_>, addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let socket = SockRef::from(&descriptor);
    // What is no socket says so here, and what only listens has no peer.
    socket.r#type().ok().filter(|kind| *kind == Type::STREAM)?;
    socket.peer_addr().ok()?;
    let local = socket.local_addr().ok()?.as_socket()?;
    let of_port = || addresses.iter().copied().filter(|address| address.port() == local.port());
    // The kernel, too, prefers a socket for one address to one for all.
    let exact = of_port().find(|address| canonical(address.ip()) == canonical(local.ip()));
    exact.or_else(|| of_port().find(|address| address.ip().is_unspecified()))
}

/// Whether nothing was sent on a connection, and nothing read from it.
fn is_untouched(socket: &impl AsFd) -> bool {
    let (Some(info), Some(unread)) = (tcp_info(socket), unread(socket)) else { return false };
    // The kernel counts the end of what the client says as an octet, which nobody can read.
    let read = info.tcpi_bytes_received.saturating_sub(unread);
    let over = !matches!(info.tcpi_state, ESTABLISHED);
    info.tcpi_data_segs_out == 0 && info.tcpi_notsent_bytes == 0 && read <= u64::from(over)
}

/// The state of a connection that nobody has closed, as TCP_INFO has it.
const ESTABLISHED: u8 = 1;

fn tcp_info(socket: &impl AsFd) -> Option<libc::tcp_info> {
    // SAFETY: the structure is made of integers, for which zeros are valid; the kernel writes at most the length it is given.
    let (info, len, result) = unsafe {
        let mut info: libc::tcp_info = mem::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        let to = (&raw mut info).cast();
        let result = libc::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut len);
        (info, len, result)
    };
    // A kernel that knows less of it can't say what was sent.
    let known = len as usize >= mem::offset_of!(libc::tcp_info, tcpi_delivery_rate);
    (result == 0 && known).then_some(info)
}

/// How many octets of a connection wait to be read.
fn unread(socket: &impl AsFd) -> Option<u64> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the request writes one integer, to which a pointer is given.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    (result == 0).then(|| u64::from(unread.unsigned_abs()))
}
