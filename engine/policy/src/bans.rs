//! Who is shut out: the set that every shard looks into, the book it is made from, and the rules that write in it.
//!
//! There is one [`BanBook`] in the process. After each change a [`BanSet`] is taken from it for all shards; that is cheap,
//! since both share what did not change. What holds, whoever asks:
//!
//! - a network that a PROXY header or XCLIENT is taken from can't be banned, nor can one that overlaps it;
//! - an address of the allow list is never found banned, also where a wider ban covers it;
//! - nobody bans more than a /8 of IPv4 or a /16 of IPv6 at once, nor the address that stands for one not known.
//!
//! Where bans overlap, the one counts that lasts longest, and of those the narrowest.

mod book;
mod file;
mod networks;

pub use book::{Added, BANS_MAX, BanBook, BanError, Protected};
pub use file::BadLine;

use networks::{Lengths, Networks};
use ringpost_base::{Network, Span, Timestamp, canonical};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// Who an operator's bans are by.
pub const OPERATOR: &str = "operator";

/// What a client does that a rule can count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offence {
    /// A command answered 5xx.
    Error,
    /// A recipient that does not exist.
    UnknownRecipient,
    /// Speaking before the greeting.
    Pregreet,
    /// A TLS handshake that failed.
    HandshakeFailure,
    /// A limit per address or network that was hit.
    LimitHit,
}

impl Offence {
    /// Its name in the config file, and so the name of the rules that count it.
    pub const fn name(self) -> &'static str {
        match self {
            Offence::Error => "error",
            Offence::UnknownRecipient => "unknown-recipient",
            Offence::Pregreet => "pregreet",
            Offence::HandshakeFailure => "handshake-failure",
            Offence::LimitHit => "limit",
        }
    }

    /// What was counted, for people.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Offence::Error => "commands refused",
            Offence::UnknownRecipient => "unknown recipients",
            Offence::Pregreet => "spoke before the greeting",
            Offence::HandshakeFailure => "failed TLS handshakes",
            Offence::LimitHit => "limits hit",
        }
    }
}

/// A rule of automatic bans: so many offences within a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanRule {
    /// What is counted, per address.
    pub offence: Offence,
    /// How many are too many. More than 65,535 count as that.
    pub count: u32,
    /// In how long.
    pub window: Span,
    /// How long the address is banned then.
    pub duration: Span,
}

/// Bans and exemptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BanOptions {
    /// Networks that are never banned, screened, greylisted or limited per address.
    pub allow: Vec<Network>,
    /// The rules of automatic bans.
    pub rules: Vec<BanRule>,
    /// An nftables set that bans are mirrored into: family, table, and set for IPv4 and IPv6.
    pub nftables: Option<NftablesSet>,
}

/// Where bans are mirrored to, as `inet filter banned4 banned6`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftablesSet {
    /// The table's family: `inet`, `ip` or `ip6`.
    pub family: String,
    /// The table.
    pub table: String,
    /// The set of IPv4 addresses.
    pub set_v4: String,
    /// The set of IPv6 addresses.
    pub set_v6: String,
}

/// Somebody is shut out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub network: Network,
    /// Why; may be empty.
    pub reason: String,
    /// By whom: [`OPERATOR`], or the name of a rule.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; nothing: until it is taken back.
    pub until: Option<Timestamp>,
}

impl Ban {
    /// Whether its time is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Whether a rule made it.
    pub fn is_automatic(&self) -> bool {
        self.by != OPERATOR
    }

    /// The last moment, for comparing.
    fn end(&self) -> Timestamp {
        self.until.unwrap_or(Timestamp::from_unix_micros(u64::MAX))
    }
}

/// Parts that a set consists of. To clone it is to count up a thousand references; a change copies one part, some hundred
/// entries when the book is full.
const PARTS: usize = 1024;

/// The network stands here too, so that looking for it stays within the part.
#[derive(Clone)]
struct Entry {
    network: Network,
    ban: Arc<Ban>,
}

/// All bans and the allow list, as they were at one moment. Cheap to clone.
#[derive(Clone)]
pub struct BanSet {
    /// Each sorted by network.
    parts: Vec<Arc<Vec<Entry>>>,
    lengths: Lengths,
    len: usize,
    allowed: Arc<Networks>,
}

impl Default for BanSet {
    fn default() -> Self {
        Self { parts: vec![Arc::default(); PARTS], lengths: Lengths::default(), len: 0, allowed: Arc::default() }
    }
}

impl BanSet {
    /// The ban that shuts this address out, if one does: the one that lasts longest, and of those the narrowest.
    pub fn find(&self, address: IpAddr, now: Timestamp) -> Option<&Ban> {
        if self.len == 0 || self.allows(address) {
            return None;
        }
        let covering = self.lengths.around(canonical(address)).filter_map(|network| self.get(&network));
        covering.filter(|ban| !ban.is_over(now)).max_by_key(|ban| ban.end()).map(Arc::as_ref)
    }

    /// Whether the address is on the allow list: never banned, screened, greylisted or limited per address.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allowed.contain(canonical(address))
    }

    /// The bans in force that a packet filter may stand for: it knows no exceptions, so none that has an address of the
    /// allow list.
    pub fn without_exceptions(&self, now: Timestamp) -> impl Iterator<Item = &Ban> {
        self.iter().map(Arc::as_ref).filter(move |ban| !ban.is_over(now) && !self.allowed.overlap(&ban.network))
    }

    /// Whether there is no ban.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bans there are.
    pub fn len(&self) -> usize {
        self.len
    }

    fn get(&self, network: &Network) -> Option<&Arc<Ban>> {
        let part = &self.parts[part(network)];
        part.binary_search_by_key(network, |entry| entry.network).ok().map(|at| &part[at].ban)
    }

    fn insert(&mut self, ban: Arc<Ban>) -> Option<Arc<Ban>> {
        let network = ban.network;
        let part = Arc::make_mut(&mut self.parts[part(&network)]);
        match part.binary_search_by_key(&network, |entry| entry.network) {
            Ok(at) => Some(std::mem::replace(&mut part[at].ban, ban)),
            Err(at) => {
                self.lengths.add(&network);
                self.len += 1;
                part.insert(at, Entry { network, ban });
                None
            }
        }
    }

    fn remove(&mut self, network: &Network) -> Option<Arc<Ban>> {
        self.get(network)?;
        let part = Arc::make_mut(&mut self.parts[part(network)]);
        let at = part.binary_search_by_key(network, |entry| entry.network).ok()?;
        self.lengths.remove(network);
        self.len -= 1;
        Some(part.remove(at).ban)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Ban>> {
        self.parts.iter().flat_map(|part| part.iter()).map(|entry| &entry.ban)
    }
}

/// The part that a network is in. The hash need not be secret: within a part is found by halving.
fn part(network: &Network) -> usize {
    let mut hasher = DefaultHasher::new();
    network.hash(&mut hasher);
    hasher.finish() as usize % PARTS
}

#[cfg(test)]
mod tests;
