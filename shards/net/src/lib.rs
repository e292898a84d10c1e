//! Listeners, connection table, TLS, buffers: the driver of any machine.
//!
//! A [`Connection`] moves bytes between a socket, with or without TLS, and whatever machine is fed from it. It knows no
//! protocol. An idle connection holds no buffer: reads go into the shard's scratch and are handed to the machine in the
//! same poll, only what the machine leaves over is kept.
//!
//! Deadlines are kept in the connection [`Table`], which one task per shard sweeps: no timer is set on the way of a
//! message. An [`Outbound`] is a connection that we open; each wait of it has a timer of its own.
//!
//! ```
//! use ringpost_base::NetworkLengths;
//! // Four shards on one address: bound early, let in when all is ready, each client steered to the shard that counts it.
//! let group = ringpost_net::bind("127.0.0.1:0".parse().unwrap(), 4)?;
//! let bounds = group.share()?;
//! group.listen_all(Some(NetworkLengths::default()))?;
//! assert!(bounds.iter().flatten().all(|bound| bound.address() == group.address()));
//! # Ok::<(), ringpost_net::NetError>(())
//! ```

mod accept;
mod certificates;
mod connection;
mod error;
mod filter;
mod gate;
mod handshake;
mod listener;
mod outbound;
mod scratch;
mod sending;
mod steering;
mod strays;
mod table;
mod tls;
mod waiting;

pub use accept::{Stop, serve};
pub use certificates::{self_signed, stored_or_made};
pub use connection::{Closed, Connection};
pub use error::NetError;
pub use listener::{Bound, Group, bind, inherit};
pub use outbound::{
    Awaited, ClientIdentity, ClientTls, ClientTlsOptions, Endpoint, Outbound, OutboundError, PIECE_MAX, TlsFacts,
};
pub use strays::strays;
pub use table::Table;
pub use tls::{
    Acceptor, CertificateFiles, ClientCertificate, ClientCertificates, Fingerprint, Handshake, Strength, Ticketing,
    TlsMin, TlsOptions, certificate_expires,
};
