//! Another process takes over: the same listening sockets, the same state directory, no moment without a server.
//!
//! ```text
//!   the former process                       the new one
//!   starts it, offers its sockets  ------->  reads its config, checks all, makes ready
//!                                  <-------  prepared
//!   writes bans and greylist down
//!   and touches them no more       ------->  reads them; starts its shards on fresh spools;
//!                                            makes ready to serve on the same sockets
//!                                  <-------  serving: nothing is left that could fail
//!                          go       ------->  answers clients
//!   accepts no more; sessions finish;
//!   closes its spools, ends        ------->  takes these spools over while it serves
//! ```
//!
//! Until `go` the former process serves, and a new one that fails changes nothing: it has promised nothing to anybody, and
//! is ended. From then on the former one only finishes. That one of them is gone is never concluded from its silence or from
//! the end of the line, but from its end: spools that somebody still writes to must not be taken over. If the former
//! process dies before it is done, its spools are read as after any crash. The state directory's lock
//! is one open file that both hold, so it stays locked until the last of them is gone.

mod former;
mod newborn;
mod successor;
mod wire;

pub(crate) use former::{Attempt, Parts, Served, begin};
pub(crate) use successor::{Bequest, Inheritance, Predecessor, refuse};

/// The environment variable by which a process is told that it takes over: the number of the descriptor to talk over.
pub(crate) const VARIABLE: &str = "RINGPOST_TAKEOVER";
