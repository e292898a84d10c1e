//! Listening sockets that another process has made: one that hands over to this one, or the service manager.

use super::{Group, join_group, sinks};
use crate::NetError;
use crate::filter::detach;
use socket2::{Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Makes a group of the listening sockets that another process has opened on an address, in the order in which it gives them.
///
/// Each shard gets a socket. Where there are too few, more are added to the group if the kernel allows that, which asks for
/// SO_REUSEPORT on those that are there and for the same user; else shards share one, and each connection wakes all who share
/// it. Where there are too many, a shard gets several: none is closed, since clients may wait in its queue.
pub fn inherit(address: SocketAddr, sockets: Vec<OwnedFd>, shards: usize) -> Result<Group, NetError> {
    let mut sockets: Vec<Socket> = sockets.into_iter().map(Socket::from).collect();
    if sockets.is_empty() {
        return Err(NetError::Inherited { address, reason: "there is none".to_owned() });
    }
    let mut family = Family { in_one_group: true, only_one: true };
    for socket in &sockets {
        let looked = look(socket, address).map_err(|reason| NetError::Bind { address, reason })?;
        let own = looked.map_err(|reason| NetError::Inherited { address, reason })?;
        family.in_one_group &= own.in_one_group;
        family.only_one &= own.only_one;
    }
    if family.in_one_group {
        add(&mut sockets, address, shards);
    }
    let steerable = family.in_one_group && family.only_one && sockets.len() >= shards;
    // A socket that shards share is closed by the last of them, whom the sinks could not tell.
    let sinks = steerable.then(|| sinks(address, sockets.len())).flatten();
    Ok(Group { address, sockets, shards, steerable, inherited: true, sinks })
}

/// What decides whether connections can be steered.
struct Family {
    /// Whether sockets are in a SO_REUSEPORT group.
    in_one_group: bool,
    /// Whether all connections are of the address's own family.
    only_one: bool,
}

/// Looks at a socket, and makes it ready to be used here; says what is wrong with it.
fn look(socket: &Socket, address: SocketAddr) -> io::Result<Result<Family, String>> {
    let bound = socket.local_addr()?.as_socket();
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Ok(Err("it is no listening socket for streams".to_owned()));
    }
    if bound != Some(address) {
        let bound = bound.map_or("no address".to_owned(), |bound| bound.to_string());
        return Ok(Err(format!("it is bound to {bound}")));
    }
    // It says so of the socket for all who share it, and everyone who does waits by other means.
    socket.set_nonblocking(true)?;
    // A process that stopped for good before it knew of a successor has shut clients out.
    detach(socket, libc::SO_DETACH_FILTER)?;
    Ok(Ok(Family { in_one_group: socket.reuse_port()?, only_one: address.is_ipv4() || socket.only_v6()? }))
}

/// Adds sockets to a group until there is one for each shard; all of them or none.
fn add(sockets: &mut Vec<Socket>, address: SocketAddr, shards: usize) {
    let missing = shards.saturating_sub(sockets.len());
    match (0..missing).map(|_| join_group(address)).collect::<io::Result<Vec<Socket>>>() {
        Ok(more) => sockets.extend(more),
        Err(error) => {
            let (shards, sockets) = (shards as u64, sockets.len() as u64);
            tracing::info!(%error, %address, shards, sockets, "no socket for each shard: some share one");
        }
    }
}
