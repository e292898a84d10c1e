//! Networks, and which shard owns an address.
//!
//! Whatever is counted per address or network is counted by one shard, its owner. An address and its network have the
//! same owner, so one question answers for both. The arithmetic is 32-bit and without branches, so that a
//! classic BPF program in the kernel can come to the same number.

use crate::ShardId;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fmt, str::FromStr};

/// An address block: `192.0.2.0/24`, `2001:db8::/32`, or a single address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

impl Network {
    /// The block of `prefix` bits that the address is in; a prefix longer than an address counts as the whole address.
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let net = match address {
            IpAddr::V4(v4) => Ipv4Net::new(v4, prefix.min(32)).map_or(IpNet::from(address), IpNet::V4),
            IpAddr::V6(v6) => Ipv6Net::new(v6, prefix.min(128)).map_or(IpNet::from(address), IpNet::V6),
        };
        Self(net.trunc())
    }

    /// The block of a single address.
    pub fn single(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// Whether the address is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether the two blocks have an address in common.
    pub fn overlaps(&self, other: &Network) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// The lowest address.
    pub fn address(&self) -> IpAddr {
        self.0.network()
    }

    /// Bits that all addresses share.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self::single(address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseNetworkError {
    /// Neither an address nor an address and a prefix.
    Malformed,
    /// Bits behind the prefix are set; the network that may have been meant.
    HostBits(Network),
}

impl fmt::Display for ParseNetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => {
                f.write_str("not an address or network, such as 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32")
            }
            Self::HostBits(network) => write!(f, "has bits set behind its prefix; the network is {network}"),
        }
    }
}

impl std::error::Error for ParseNetworkError {}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::single(address));
        }
        let net: IpNet = text.parse().map_err(|_| ParseNetworkError::Malformed)?;
        let network = Self(net.trunc());
        if net == net.trunc() { Ok(network) } else { Err(ParseNetworkError::HostBits(network)) }
    }
}

/// How many leading bits make a network, for limits that count by network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLengths {
    /// For IPv4, 8 to 32.
    pub v4: u8,
    /// For IPv6, 16 to 128.
    pub v6: u8,
}

impl Default for NetworkLengths {
    fn default() -> Self {
        Self { v4: 24, v6: 64 }
    }
}

impl NetworkLengths {
    /// The network of an address.
    pub fn of(&self, address: IpAddr) -> Network {
        Network::around(address, if address.is_ipv4() { self.v4 } else { self.v6 })
    }

    /// The masks of an address's 32-bit words, most significant first. IPv4 has one word.
    pub fn masks(&self, v4: bool) -> [u32; 4] {
        let bits = u32::from(if v4 { self.v4.min(32) } else { self.v6.min(128) });
        std::array::from_fn(|word| {
            let here = bits.saturating_sub(word as u32 * 32).min(32);
            if here == 0 { 0 } else { u32::MAX << (32 - here) }
        })
    }
}

/// What each word of an address is multiplied with: odd numbers with bits all over.
pub const OWNER_FACTORS: [u32; 4] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D, 0x27D4_EB2F];

/// What the mixed words are multiplied with at last.
pub const OWNER_FINAL: u32 = 0x1656_67B1;

/// The shard that owns an address and its network: each word, masked, times its factor, all joined by XOR; that XOR its
/// upper half, times [`OWNER_FINAL`]; the upper half of it, modulo the shards.
pub fn owner(address: IpAddr, lengths: NetworkLengths, shards: usize) -> ShardId {
    let masks = lengths.masks(address.is_ipv4());
    let mixed = words(address)
        .zip(masks)
        .zip(OWNER_FACTORS)
        .fold(0, |mixed, ((word, mask), factor)| mixed ^ (word & mask).wrapping_mul(factor));
    let spread = (mixed ^ mixed >> 16).wrapping_mul(OWNER_FINAL) >> 16;
    ShardId((spread % shards.max(1) as u32) as u16)
}

/// The address in 32-bit words, most significant first.
fn words(address: IpAddr) -> impl Iterator<Item = u32> {
    let (bytes, count) = match address {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 1),
        IpAddr::V6(v6) => (v6.octets(), 4),
    };
    let from = if count == 1 { 12 } else { 0 };
    (0..count).map(move |word| {
        let at = from + word * 4;
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    })
}

/// An address as limits and lists see it: an IPv4 address that came mapped into IPv6 is an IPv4 address.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// The address that stands for one not known.
pub const UNKNOWN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

const _: () = assert!(OWNER_FINAL % 2 == 1 && size_of::<Ipv6Addr>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn texts() {
        for text in ["192.0.2.0/24", "192.0.2.1", "2001:db8::/32", "::1", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
        }
        let meant = "192.0.2.0/24".parse().expect("network");
        assert_eq!("192.0.2.1/24".parse::<Network>(), Err(ParseNetworkError::HostBits(meant)));
        for text in ["", "192.0.2", "192.0.2.0/33", "example.org", "192.0.2.0/", "/8"] {
            assert_eq!(text.parse::<Network>(), Err(ParseNetworkError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_network_and_its_addresses_have_one_owner() {
        let lengths = NetworkLengths::default();
        for shards in [1, 2, 3, 16] {
            for (one, other) in [("192.0.2.1", "192.0.2.254"), ("2001:db8::1", "2001:db8::ffff:1")] {
                assert_eq!(owner(address(one), lengths, shards), owner(address(other), lengths, shards));
                assert!(owner(address(one), lengths, shards).index() < shards);
            }
        }
    }

    #[test]
    fn owners_are_spread() {
        let mut counts = [0; 4];
        for third in 0..=255 {
            for second in 0..16 {
                counts[owner(IpAddr::from([10, second, third, 1]), NetworkLengths::default(), 4).index()] += 1;
            }
        }
        assert!(counts.iter().all(|count| (900..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn masks_of_lengths() {
        let lengths = NetworkLengths { v4: 20, v6: 56 };
        assert_eq!(lengths.masks(true)[0], 0xFFFF_F000);
        assert_eq!(lengths.masks(false), [u32::MAX, 0xFFFF_FF00, 0, 0]);
        assert_eq!(lengths.of(address("192.0.31.7")).to_string(), "192.0.16.0/20");
    }
}
