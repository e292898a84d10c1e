//! Why the resolver, or the lists, could not be set up. Each message says what to do about it.

/// Nothing was set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DnsError {
    /// No servers are configured and the system's can't be read.
    #[error("cannot learn the DNS servers from /etc/resolv.conf: {0}; set them in [dns] servers")]
    System(String),
    /// The resolver refuses its options.
    #[error("cannot set up the DNS resolver: {0}; this is a bug, please report it")]
    Resolver(String),
    /// The zone of a list is no name, or too long to stand behind an address.
    #[error("{0:?} is not the zone of a DNS list: write it as in \"zen.example\"")]
    Zone(String),
}
