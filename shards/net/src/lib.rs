//! Listeners, connection table, TLS, buffers: the driver of any machine.
//!
//! A [`Connection`] moves bytes between a socket, with or without TLS, and whatever machine is fed from it. It knows no
//! protocol. An idle connection holds no buffer: reads go into the shard's scratch and are handed to the machine in the
//! same poll, only what the machine leaves over is kept.
//!
//! Deadlines are kept in the connection [`Table`], which one task per shard sweeps: no timer is set on the way of a
//! message.

mod certificates;
mod connection;
mod error;
mod listener;
mod scratch;
mod table;
mod tls;

pub use certificates::{self_signed, stored_or_made};
pub use connection::{Closed, Connection, Handshake};
pub use error::NetError;
pub use listener::{Bound, bind, serve};
pub use table::{Entry, Table};
pub use tls::{Acceptor, Ticketing, TlsOptions};
