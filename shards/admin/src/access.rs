//! Who may do what over the socket.
//!
//! Invariants: what counts is what the kernel says of whoever made the connection, at the moment it was made. The server's own
//! user and root may do everything, whatever the config says.

use crate::accounts::Principal;
use rustix::process::geteuid;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Supplementary groups of a process at most, as the kernel has it (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// Groups that there is room for at first.
const GROUPS_FIRST: usize = 64;

/// Who may use the socket besides the server's own user and root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// These may do everything but name a program to be run.
    pub operators: Vec<Principal>,
    /// These may look at everything but mail.
    pub readers: Vec<Principal>,
}

/// What somebody may do; who may more may less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Look.
    Reader,
    /// Change.
    Operator,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
        }
    }
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: Option<i32>,
    pub(crate) role: Role,
    /// Whether it is the server's own user or root, who may have done what nobody else may who the config names.
    pub(crate) is_own: bool,
}

impl Access {
    /// Whether others than the server's own user and root may come.
    pub(crate) fn is_open(&self) -> bool {
        !self.operators.is_empty() || !self.readers.is_empty()
    }

    /// What a user with these groups may do; nothing at all if there is no role.
    fn role(&self, uid: u32, groups: &[u32], own: u32) -> Option<Role> {
        let is_in = |principals: &[Principal]| {
            principals.iter().any(|principal| match principal {
                Principal::User(user) => *user == uid,
                Principal::Group(group) => groups.contains(group),
            })
        };
        if is_own(uid, own) || is_in(&self.operators) {
            Some(Role::Operator)
        } else {
            is_in(&self.readers).then_some(Role::Reader)
        }
    }

    /// Who has made a connection; the user's number if it is one that may not.
    pub(crate) fn admit(&self, credentials: &tokio::net::unix::UCred, socket: BorrowedFd<'_>) -> Result<Peer, u32> {
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
        let mut groups = vec![gid];
        if self.is_open() {
            // Without them a member of a group is turned away, which is the safe side.
            groups.extend(peer_groups(socket).unwrap_or_default());
        }
        let own = geteuid().as_raw();
        let role = self.role(uid, &groups, own).ok_or(uid)?;
        Ok(Peer { uid, gid, pid, role, is_own: is_own(uid, own) })
    }
}

fn is_own(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

/// The supplementary groups of whoever made the connection, as they were then.
fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; GROUPS_FIRST];
    loop {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the pointer is to as many writable bytes as the length says, which is itself writable.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if failed == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel tells how much room it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getgroups;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_may_do_what() {
        let access = Access {
            operators: vec![Principal::User(1001), Principal::Group(50)],
            readers: vec![Principal::User(1002), Principal::Group(60)],
        };
        let nobody = Access::default();
        for (who, uid, groups, own, expected) in [
            ("the server's own user", 1000, &[][..], 1000, Some(Role::Operator)),
            ("root", 0, &[], 1000, Some(Role::Operator)),
            ("an operator", 1001, &[], 1000, Some(Role::Operator)),
            ("a member of the operators' group", 7, &[1, 50], 1000, Some(Role::Operator)),
            ("a reader", 1002, &[], 1000, Some(Role::Reader)),
            ("a member of the readers' group", 7, &[60], 1000, Some(Role::Reader)),
            ("a reader who is an operator by a group", 1002, &[50], 1000, Some(Role::Operator)),
            ("a user whose number is that of a group", 50, &[], 1000, None),
            ("a stranger", 1003, &[1, 2], 1000, None),
            ("a stranger where root serves", 1003, &[], 0, None),
        ] {
            assert_eq!(access.role(uid, groups, own), expected, "{who}");
            let own_or_root = expected.filter(|_| is_own(uid, own));
            assert_eq!(nobody.role(uid, groups, own), own_or_root, "{who}, where nobody is named");
        }
        assert!(access.is_open() && !nobody.is_open());
        assert!(Role::Reader < Role::Operator);
    }

    #[test]
    fn the_kernel_tells_the_groups_of_a_peer() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let mut told = peer_groups(one.as_fd()).expect("told");
        let mut own: Vec<u32> = getgroups().expect("own groups").iter().map(|group| group.as_raw()).collect();
        told.sort_unstable();
        own.sort_unstable();
        assert_eq!(told, own);
    }
}
