//! The one copy of the bans that is written to.

use super::networks::{Networks, canonical_network};
use super::{Ban, BanSet};
use ringpost_base::{Network, Timestamp, UNKNOWN_ADDRESS};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Bans in the book: some 35 MB with all that finds them. Beyond, the oldest of those that rules made go.
pub const BANS_MAX: usize = 100_000;

/// Longest reason in octets. It is shown in lists, in the log and in the file.
const REASON_MAX: usize = 200;

/// Leading bits that a ban has at least: a slip of the finger does not shut out half of the world.
const PREFIX_V4_MIN: u8 = 8;
const PREFIX_V6_MIN: u8 = 16;

/// A network that can't be banned, since others speak through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// The network.
    pub network: Network,
    /// The setting that names it, as `listener[0].proxy_from`.
    pub setting: String,
}

/// What adding a ban changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The ban in force now. Where a rule asks for one that would end sooner than what stands, that is what stands.
    pub ban: Arc<Ban>,
    /// The one of the same network that it replaced.
    pub replaced: Option<Arc<Ban>>,
    /// The oldest one made by a rule, which had to go because the book is full.
    pub evicted: Option<Arc<Ban>>,
}

/// Why somebody can't be banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanError {
    /// It overlaps a network that others speak through.
    Protected(Protected),
    /// The allow list has all of it, by this entry.
    Allowed(Network),
    /// It has fewer leading bits than these.
    TooWide(u8),
    /// It has the address that stands for clients whose address is not known.
    Unknown,
    /// As many bans as can be, all by operators.
    Full,
}

impl fmt::Display for BanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protected(Protected { network, setting }) => {
                write!(f, "overlaps {network} of {setting}: the clients behind it would be shut out with it")
            }
            Self::Allowed(network) => write!(f, "is covered by {network} of bans.allow"),
            Self::TooWide(prefix) => write!(f, "is too wide: a ban has a prefix of at least /{prefix}"),
            Self::Unknown => {
                write!(f, "has {UNKNOWN_ADDRESS}, which stands for all clients whose address is not known")
            }
            Self::Full => write!(f, "is one too many: there are {BANS_MAX} bans by operators already"),
        }
    }
}

impl std::error::Error for BanError {}

/// All bans, to be changed.
#[derive(Default)]
pub struct BanBook {
    set: BanSet,
    /// Those that end, by when.
    by_end: BTreeSet<(Timestamp, Network)>,
    /// Those made by rules, by since when.
    automatic: BTreeSet<(Timestamp, Network)>,
    protected: Vec<Protected>,
}

impl BanBook {
    /// Says which networks can't be banned from now on, instead of those said before. Returns the bans that had to go.
    pub fn protect(&mut self, protected: Vec<Protected>) -> Vec<Arc<Ban>> {
        let canonical = |it: Protected| Protected { network: canonical_network(it.network), ..it };
        self.protected = protected.into_iter().map(canonical).collect();
        self.remove_those(|book, network| book.protection(network).is_some())
    }

    /// Says which networks are never banned from now on, instead of those said before. Returns the bans that had to go since
    /// the list covers all they have. A ban that is wider than what is allowed stays, and spares that.
    pub fn allow(&mut self, networks: Vec<Network>) -> Vec<Arc<Ban>> {
        self.set.allowed = Arc::new(Networks::new(networks));
        self.remove_those(|book, network| book.set.allowed.covering(network).is_some())
    }

    /// Bans a network, for so long or until it is taken back. An operator's ban replaces one of the same network; one
    /// by a rule does so only if it lasts longer.
    pub fn add(
        &mut self,
        network: Network,
        reason: &str,
        by: &str,
        ttl: Option<Duration>,
        now: Timestamp,
    ) -> Result<Added, BanError> {
        let network = canonical_network(network);
        self.check(&network)?;
        let reason = reason[..reason.floor_char_boundary(REASON_MAX)].to_owned();
        let ban = Ban { network, reason, by: by.to_owned(), since: now, until: ttl.map(|ttl| now.after(ttl)) };
        let standing = self.set.get(&network).filter(|standing| !standing.is_over(now));
        if let Some(standing) = standing.filter(|standing| ban.is_automatic() && standing.end() >= ban.end()) {
            return Ok(Added { ban: standing.clone(), replaced: None, evicted: None });
        }
        let is_new = self.set.get(&network).is_none();
        let evicted = if is_new && self.set.len() >= BANS_MAX { Some(self.evict()?) } else { None };
        let ban = Arc::new(ban);
        let replaced = self.insert(ban.clone()).filter(|former| !former.is_over(now));
        Ok(Added { ban, replaced, evicted })
    }

    /// Takes the ban of exactly this network back.
    pub fn remove(&mut self, network: Network) -> Option<Arc<Ban>> {
        let ban = self.set.remove(&canonical_network(network))?;
        self.forget(&ban);
        Some(ban)
    }

    /// The bans in force, by network.
    pub fn list(&self, now: Timestamp) -> Vec<Arc<Ban>> {
        let mut bans: Vec<Arc<Ban>> = self.set.iter().filter(|ban| !ban.is_over(now)).cloned().collect();
        bans.sort_unstable_by_key(|ban| ban.network);
        bans
    }

    /// Takes out the bans whose time is over, and says whose they were.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Network> {
        let mut over = Vec::new();
        while let Some((_, network)) = self.by_end.first().copied().filter(|(until, _)| *until <= now) {
            self.remove(network);
            over.push(network);
        }
        over
    }

    /// When the next ban ends, if one does.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.by_end.first().map(|(until, _)| *until)
    }

    /// All as it is now, for the shards.
    pub fn snapshot(&self) -> BanSet {
        self.set.clone()
    }

    /// How many bans there are.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// What no ban may be, wherever it comes from.
    pub(super) fn check_width(network: &Network) -> Result<(), BanError> {
        let least = if network.address().is_ipv4() { PREFIX_V4_MIN } else { PREFIX_V6_MIN };
        if network.prefix() < least {
            return Err(BanError::TooWide(least));
        }
        if network.contains(UNKNOWN_ADDRESS) { Err(BanError::Unknown) } else { Ok(()) }
    }

    /// Puts a ban into all lists, in place of one of the same network, which is returned.
    pub(super) fn insert(&mut self, ban: Arc<Ban>) -> Option<Arc<Ban>> {
        if let Some(until) = ban.until {
            self.by_end.insert((until, ban.network));
        }
        if ban.is_automatic() {
            self.automatic.insert((ban.since, ban.network));
        }
        let former = self.set.insert(ban.clone());
        if let Some(former) = &former {
            self.forget_former(former, &ban);
        }
        former
    }

    fn check(&self, network: &Network) -> Result<(), BanError> {
        Self::check_width(network)?;
        if let Some(protected) = self.protection(network) {
            return Err(BanError::Protected(protected.clone()));
        }
        self.set.allowed.covering(network).map_or(Ok(()), |allowed| Err(BanError::Allowed(allowed)))
    }

    fn protection(&self, network: &Network) -> Option<&Protected> {
        self.protected.iter().find(|protected| protected.network.overlaps(network))
    }

    fn evict(&mut self) -> Result<Arc<Ban>, BanError> {
        let (_, oldest) = self.automatic.first().copied().ok_or(BanError::Full)?;
        self.remove(oldest).ok_or(BanError::Full)
    }

    fn forget(&mut self, ban: &Ban) {
        if let Some(until) = ban.until {
            self.by_end.remove(&(until, ban.network));
        }
        self.automatic.remove(&(ban.since, ban.network));
    }

    /// Takes a replaced ban out of the lists, save where its successor stands in the same place.
    fn forget_former(&mut self, former: &Ban, successor: &Ban) {
        if let Some(until) = former.until.filter(|until| successor.until != Some(*until)) {
            self.by_end.remove(&(until, former.network));
        }
        if !successor.is_automatic() || successor.since != former.since {
            self.automatic.remove(&(former.since, former.network));
        }
    }

    fn remove_those(&mut self, is_gone: impl Fn(&Self, &Network) -> bool) -> Vec<Arc<Ban>> {
        let gone: Vec<Network> = self.set.iter().map(|ban| ban.network).filter(|net| is_gone(self, net)).collect();
        gone.into_iter().filter_map(|network| self.remove(network)).collect()
    }
}
