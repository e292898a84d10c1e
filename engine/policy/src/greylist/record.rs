//! What a file keeps of the greylist: records of one size, and which of them are worth keeping.

use super::{GreyKey, GreylistOptions};
use ringpost_base::{Network, Timestamp};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A triplet that was seen for the first time.
    Waiting,
    /// A triplet that is known, and was used.
    Known,
    /// A network that is known as a whole, and was used. Its key is [`GreyKey::NONE`].
    Network,
}

/// A change of the greylist as a file keeps it: checksum (4 bytes), kind (1), prefix (1), 1 for IPv4 (1), a zero (1), address of
/// the network (16), key (16), time (8); little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreyRecord {
    /// What it is about.
    pub kind: RecordKind,
    /// The triplet.
    pub key: GreyKey,
    /// Its network, whose owner keeps it.
    pub network: Network,
    /// When it was seen first, or used last.
    pub at: Timestamp,
}

impl GreyRecord {
    /// Bytes of the stored form.
    pub const LEN: usize = 48;

    /// The stored form.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let address = self.network.address();
        out[4] = match self.kind {
            RecordKind::Waiting => 1,
            RecordKind::Known => 2,
            RecordKind::Network => 3,
        };
        out[5] = self.network.prefix();
        out[6] = u8::from(address.is_ipv4());
        out[8..24].copy_from_slice(&wide(address).octets());
        out[24..40].copy_from_slice(&self.key.0);
        out[40..].copy_from_slice(&self.at.unix_micros().to_le_bytes());
        let sum = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the stored form; nothing if it is damaged.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (sum, rest) = bytes.split_first_chunk::<4>()?;
        if crc32c::crc32c(rest) != u32::from_le_bytes(*sum) {
            return None;
        }
        let kind = match bytes[4] {
            1 => RecordKind::Waiting,
            2 => RecordKind::Known,
            3 => RecordKind::Network,
            _ => return None,
        };
        let wide = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[8..24]).ok()?);
        let address = if bytes[6] == 1 { IpAddr::V4(wide.to_ipv4_mapped()?) } else { IpAddr::V6(wide) };
        let key = GreyKey(bytes[24..40].try_into().ok()?);
        let at = Timestamp::from_unix_micros(u64::from_le_bytes(bytes[40..].try_into().ok()?));
        Some(Self { kind, key, network: Network::around(address, bytes[5]), at })
    }
}

pub(super) fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Which records of a file are worth keeping: of each triplet and network the newest, while it has not ended, and of each
/// kind as many as all cores together remember. Its memory is bounded by what it keeps.
pub struct GreySieve {
    options: GreylistOptions,
    now: Timestamp,
    entries_max: usize,
    triplets: HashSet<u64>,
    networks: HashSet<Network>,
    waiting: usize,
    known: usize,
}

impl GreySieve {
    /// Kinds of records, each of which has its bound.
    pub const KINDS: usize = 3;

    /// A sieve for the file of so many cores.
    pub fn new(options: GreylistOptions, cores: usize, now: Timestamp) -> Self {
        let entries_max = options.entries_max.max(1).saturating_mul(cores.max(1));
        let (triplets, networks) = (HashSet::new(), HashSet::new());
        Self { options, now, entries_max, triplets, networks, waiting: 0, known: 0 }
    }

    /// Records that it keeps at most.
    pub fn records_max(&self) -> usize {
        self.entries_max.saturating_mul(Self::KINDS)
    }

    /// Whether to keep a record, which is older than all that were asked for before.
    pub fn keeps(&mut self, record: &GreyRecord) -> bool {
        let age = self.now.since(record.at);
        let (lifetime, window) = (self.options.lifetime.0, self.options.window.0);
        match record.kind {
            RecordKind::Network => {
                age <= lifetime && self.networks.len() < self.entries_max && self.networks.insert(record.network)
            }
            RecordKind::Known => {
                let keeps = age <= lifetime && self.known < self.entries_max && self.is_newest(&record.key);
                self.known += usize::from(keeps);
                keeps
            }
            RecordKind::Waiting => {
                let keeps = age <= window && self.waiting < self.entries_max && self.is_newest(&record.key);
                self.waiting += usize::from(keeps);
                keeps
            }
        }
    }

    /// Half of a key stands for it. Of millions, two that share it are all but impossible, and one of them would wait
    /// once more.
    fn is_newest(&mut self, key: &GreyKey) -> bool {
        let half = key.0.first_chunk::<8>().map_or(0, |half| u64::from_le_bytes(*half));
        self.triplets.insert(half)
    }
}
