//! Taking connections from a listening socket, and giving it up.

use crate::filter::{and, attach, give, load_byte, only_if};
use crate::listener::{Bound, Member};
use crate::{Connection, Table};
use glommio::io::PollableFd;
use ringpost_metrics::{Block, Counter};
use ringpost_runtime::Pace;
use socket2::Socket;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::{io, rc::Rc, sync::Arc};

/// How long accept is left alone when descriptors or memory are short: it would fail again at once.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// How long connections are still taken after new ones were shut out: those the kernel has begun get served.
const LAST_CALL: Duration = Duration::from_millis(300);

/// How a listening socket is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nobody takes connections here any more: new ones are shut out, without a reset for those that the kernel has begun.
    Close,
    /// Another process takes connections from the same socket, or the service manager keeps it open for one: nothing may be
    /// done to it. A filter that shuts clients out would be the other's as well, and so would shutdown(2).
    HandOver,
}

/// Takes connections and hands them to `session` until `stopped` comes, and gives the socket up as that says.
pub async fn serve(
    bound: Bound,
    table: Rc<Table>,
    block: Arc<Block>,
    session: impl FnMut(Connection),
    stopped: impl Future<Output = Stop>,
) {
    let address = bound.address();
    // It goes after the socket, as it says that the socket is there.
    let member = bound.member;
    let listener = match PollableFd::new(bound.socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, %address, "a listening socket can't be waited for"),
    };
    let stop = async {
        if stopped.await == Stop::HandOver {
            return;
        }
        if let Err(error) = shut_out(listener.get_ref(), member.as_ref()) {
            tracing::warn!(%error, "new connections can't be shut out: some may be reset");
        }
        ringpost_runtime::sleep(LAST_CALL).await;
        // The kernel still holds a socket for which it was asked to wait, after its descriptor is closed. It must be gone
        // before the sinks are, or clients would come to it again.
        if member.is_some()
            && let Err(error) = listener.get_ref().shutdown(Shutdown::Both)
        {
            tracing::debug!(%error, %address, "a listening socket can't be shut down");
        }
    };
    // What has come goes to a session in the same turn: when this is given up, no connection is on its way.
    futures_lite::future::or(accept(&listener, address, &table, &block, session), stop).await;
}

/// The kernel is only asked whether a connection is there, and it is taken by a call that doesn't wait. An accept that the
/// kernel has in hand could take one after nobody waits for it any more; and of several processes that wait like that on one
/// socket, a connection wakes one, which may be the one that is leaving.
async fn accept(
    listener: &PollableFd<Socket>,
    address: SocketAddr,
    table: &Rc<Table>,
    block: &Block,
    mut session: impl FnMut(Connection),
) {
    let mut pace = Pace::default();
    loop {
        // Nothing that this process starts may hold a client's connection open, so it is taken with CLOEXEC.
        let taken = listener.get_ref().accept().map(|(socket, _)| OwnedFd::from(socket));
        match taken {
            Ok(socket) => Connection::take(socket, table).into_iter().for_each(&mut session),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = listener.readable().await {
                    fall_short(&error, address, block).await;
                }
            }
            Err(error) if is_of_one_client(&error) => block.add(Counter::AcceptErrors, 1),
            Err(error) => fall_short(&error, address, block).await,
        }
        // Accept does not wait while the kernel has connections, and each may be worked on at once: a flood of them must
        // not keep the sessions from their turn.
        pace.breathe().await;
    }
}

async fn fall_short(error: &impl std::fmt::Display, address: SocketAddr, block: &Block) {
    block.add(Counter::AcceptErrors, 1);
    tracing::warn!(%error, %address, "accept failed");
    ringpost_runtime::sleep(SHORTAGE_PAUSE).await;
}

/// Whether only this connection failed, as accept(2) tells of errors that a new one already has. The next may be taken at once.
fn is_of_one_client(error: &io::Error) -> bool {
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

/// Shuts new clients out: by a filter of the socket, or, where that asks for a privilege that the server does not have, by the
/// sinks of its group.
fn shut_out(socket: &Socket, member: Option<&Member>) -> io::Result<()> {
    match (drop_syns(socket), member) {
        (Err(error), Some(member)) if error.kind() == io::ErrorKind::PermissionDenied => member.shut_out(socket),
        (done, _) => done,
    }
}

/// Attaches a filter that drops SYNs: a client that comes now tries again, elsewhere or later, instead of being taken into
/// the queue of a socket about to close. Packets of connections under way pass.
pub(crate) fn drop_syns(socket: &Socket) -> io::Result<()> {
    // Byte 13 of the TCP header holds the flags; 0x12 is SYN and ACK, 0x02 SYN alone.
    let program = [load_byte(13), and(0x12), only_if(0x02), give(0), give(u32::MAX)];
    attach(socket, libc::SO_ATTACH_FILTER, program.into())
}
