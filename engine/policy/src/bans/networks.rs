//! Sets of networks, asked for those around an address.

use ringpost_base::{Network, canonical};
use std::net::IpAddr;

/// Which prefix lengths are in use, so that only those are looked up.
#[derive(Clone)]
pub(super) struct Lengths {
    v4: [u32; 33],
    v6: [u32; 129],
}

impl Default for Lengths {
    fn default() -> Self {
        Self { v4: [0; 33], v6: [0; 129] }
    }
}

impl Lengths {
    pub(super) fn add(&mut self, network: &Network) {
        *self.count(network) += 1;
    }

    pub(super) fn remove(&mut self, network: &Network) {
        *self.count(network) -= 1;
    }

    /// The networks around an address that may be in the set, the widest first.
    pub(super) fn around(&self, address: IpAddr) -> impl Iterator<Item = Network> {
        let counts: &[u32] = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let used = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        used.map(move |(prefix, _)| Network::around(address, prefix as u8))
    }

    fn count(&mut self, network: &Network) -> &mut u32 {
        let counts: &mut [u32] = if network.address().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        &mut counts[usize::from(network.prefix())]
    }
}

/// Networks that don't change.
#[derive(Default)]
pub(super) struct Networks {
    sorted: Vec<Network>,
    lengths: Lengths,
}

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let mut sorted: Vec<Network> = networks.into_iter().map(canonical_network).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut lengths = Lengths::default();
        sorted.iter().for_each(|network| lengths.add(network));
        Self { sorted, lengths }
    }

    /// Whether one of them has the address.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        !self.sorted.is_empty()
            && self.lengths.around(address).any(|network| self.sorted.binary_search(&network).is_ok())
    }

    /// One of them that has all of the network.
    pub(super) fn covering(&self, network: &Network) -> Option<Network> {
        let mut wider = self.lengths.around(network.address()).take_while(|wider| wider.prefix() <= network.prefix());
        wider.find(|wider| self.sorted.binary_search(wider).is_ok())
    }

    /// Whether one of them has an address in common with the network.
    pub(super) fn overlap(&self, network: &Network) -> bool {
        self.sorted.iter().any(|other| other.overlaps(network))
    }
}

/// Bits in front of an IPv4 address that is mapped into IPv6.
const MAPPED_BITS: u8 = 96;

/// The network as it is looked up: one of mapped IPv4 addresses is one of IPv4 addresses.
pub(super) fn canonical_network(network: Network) -> Network {
    match (canonical(network.address()), network.prefix().checked_sub(MAPPED_BITS)) {
        (address @ IpAddr::V4(_), Some(prefix)) if !network.address().is_ipv4() => Network::around(address, prefix),
        _ => network,
    }
}
