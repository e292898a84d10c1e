//! What can go wrong before a listener answers.

use std::{io, net::SocketAddr, path::PathBuf};
use thiserror::Error;

/// Why a listener or TLS can't be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {reason}{}", hint(.reason))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        reason: io::Error,
    },
    /// A listening socket that another process has opened can't be used.
    #[error("the listening socket for {address} that was handed to this process can't be used: {reason}")]
    Inherited {
        /// The address it is for.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// A certificate or key file can't be used.
    #[error("{path}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The TLS library refuses the configuration.
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

fn hint(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::AddrInUse => {
            " (another program listens there: stop it, or choose another port in `address` of the [[listener]])"
        }
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE: give it with AmbientCapabilities= in the systemd unit, or \
             choose another port in `address` of the [[listener]])"
        }
        io::ErrorKind::AddrNotAvailable => " (this host has no such address: see `ip address`)",
        _ => "",
    }
}
