//! What one address or network may do: counts and rates, kept by the shard that owns the address.
//!
//! An address and its network have one owner ([`owner`](ringpost_base::owner)), so one ledger answers for both. Of an IPv6
//! address the first 64 bits count as the address, since a host may choose freely among the rest; where networks are
//! longer than that, so is the address. With networks of 64 bits, the limits of both kinds count the same hosts. What is not
//! limited makes no entry and costs next to nothing.
//!
//! - **Rates** are buckets that hold a minute's worth and are refilled evenly: "30 a minute" lets 30 come at once, and then
//!   one every two seconds. What is refused takes nothing out: who keeps knocking still gets its share.
//! - **Connections** are counted from [`Ledger::open`] to [`Ledger::close`], which takes back what `open` gave out: so
//!   whatever a reload changes in between, a count goes down exactly where it went up, and none falls below zero.
//! - **Bytes** are charged after a message, since nobody knows before. That may overdraw the bucket; MAIL is then
//!   refused until it is refilled, an hour at most.
//! - **Offences** are counted per rule in a window that slides by eighths: all of the last window count, and none older
//!   than nine eighths of it. When a rule orders a ban, its count begins anew.
//!
//! The table is bounded. When it is full, the entry goes that was used the longest ago and has no connection open; if there is
//! none such, the newcomer is let through and counted as an overflow. So filling the table loosens limits and locks nobody
//! out. A client whose address is not known ([`UNKNOWN_ADDRESS`]) is not counted: nobody knows how many it stands for.

mod rate;
mod table;
mod window;

use crate::bans::{BanRule, Offence};
use crate::limit::Limit;
use rate::Rate;
use ringpost_base::{ByteCount, Network, NetworkLengths, Span, Tick, UNKNOWN_ADDRESS, canonical};
use std::net::IpAddr;
use table::{Key, Slot, Table};
use window::{COUNT_MAX, Window};

/// Entries of one ledger: some 60 MB when full, at seven eighths of a hash table of 2^19 places.
pub const ENTRIES_MAX: usize = 7 << 16;

/// Entries that one [`Ledger::sweep`] looks at: below a millisecond, even if all of them go.
const SWEEP_MAX: usize = 1024;

/// How many leading bits of an IPv6 address are the address, at least.
const ADDRESS_V6_BITS: u8 = 64;

/// Limits per address and per network. Nothing: no limit. Rates are per minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerOptions {
    /// How many leading bits make a network.
    pub networks: NetworkLengths,
    /// Connections open at the same time, of one address.
    pub connections_per_ip: Option<u32>,
    /// The same of one network.
    pub connections_per_network: Option<u32>,
    /// New connections a minute, of one address.
    pub connection_rate_per_ip: Option<u32>,
    /// The same of one network.
    pub connection_rate_per_network: Option<u32>,
    /// Messages a minute, of one address.
    pub messages_per_ip: Option<u32>,
    /// The same of one network.
    pub messages_per_network: Option<u32>,
    /// Recipients a minute, of one address.
    pub recipients_per_ip: Option<u32>,
    /// The same of one network.
    pub recipients_per_network: Option<u32>,
    /// Bytes of messages a minute, of one address.
    pub bytes_per_ip: Option<ByteCount>,
    /// The same of one network.
    pub bytes_per_network: Option<ByteCount>,
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Address,
    Network,
}

impl Scope {
    const ALL: [Scope; 2] = [Scope::Address, Scope::Network];
}

/// What is limited per minute; each has a bucket in every entry.
#[derive(Clone, Copy)]
enum Kind {
    Connections,
    Messages,
    Recipients,
    Bytes,
}

/// Kinds of buckets.
const KINDS: usize = 4;

/// The limits of one scope.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    connections: Option<u32>,
    rates: [Option<Rate>; KINDS],
}

/// What an open connection is counted under. To be given back to the same ledger by [`Ledger::close`], once.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "a connection that is not closed counts for ever"]
pub struct Counted([Option<Network>; 2]);

impl Counted {
    /// Of a connection that no limit counts; giving it back does nothing.
    pub const NOTHING: Counted = Counted([None, None]);

    /// Whether giving it back does nothing, so that its owner need not be asked.
    pub fn is_nothing(&self) -> bool {
        *self == Self::NOTHING
    }
}

/// A ban that a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanOrder {
    /// Whom: an IPv4 address, or what counts as one address of IPv6.
    pub network: Network,
    /// For how long.
    pub duration: Span,
    /// The name of the rule: that of its offence.
    pub by: &'static str,
    /// What was counted, for people.
    pub reason: String,
}

/// What a ledger holds and has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Addresses and networks with an entry.
    pub entries: usize,
    /// Open connections that are counted.
    pub connections: u64,
    /// Entries that went before their time because the table was full.
    pub evicted: u64,
    /// Times that something was not counted because the table was full of open connections.
    pub overflowed: u64,
}

/// Counts and rates of the addresses that one shard owns.
pub struct Ledger {
    networks: NetworkLengths,
    /// By scope.
    limits: [Limits; 2],
    /// With the number that each rule's counts are kept under.
    rules: Vec<(u16, BanRule)>,
    rule_next: u16,
    table: Table,
    connections: u64,
    overflowed: u64,
}

impl Ledger {
    /// A ledger without entries.
    pub fn new(options: LedgerOptions, rules: Vec<BanRule>) -> Self {
        Self::bounded(options, rules, ENTRIES_MAX)
    }

    fn bounded(options: LedgerOptions, rules: Vec<BanRule>, entries_max: usize) -> Self {
        let mut ledger = Self {
            networks: NetworkLengths::default(),
            limits: [Limits::default(); 2],
            rules: Vec::new(),
            rule_next: 0,
            table: Table::new(entries_max),
            connections: 0,
            overflowed: 0,
        };
        ledger.configure(options, rules);
        ledger
    }

    /// Other limits and rules. What is counted stays counted: a bucket keeps the share that is used of it, and a rule keeps
    /// its counts if its offence and window are the same. A limit that was off counts the connections that come from now
    /// on, and networks of another length begin anew.
    pub fn configure(&mut self, options: LedgerOptions, rules: Vec<BanRule>) {
        self.networks = options.networks;
        self.limits = [
            Limits {
                connections: options.connections_per_ip,
                rates: [
                    options.connection_rate_per_ip.map(Rate::per_minute),
                    options.messages_per_ip.map(Rate::per_minute),
                    options.recipients_per_ip.map(Rate::per_minute),
                    options.bytes_per_ip.map(|bytes| Rate::per_minute(bytes.0)),
                ],
            },
            Limits {
                connections: options.connections_per_network,
                rates: [
                    options.connection_rate_per_network.map(Rate::per_minute),
                    options.messages_per_network.map(Rate::per_minute),
                    options.recipients_per_network.map(Rate::per_minute),
                    options.bytes_per_network.map(|bytes| Rate::per_minute(bytes.0)),
                ],
            },
        ];
        let mut former = std::mem::take(&mut self.rules);
        for rule in rules {
            let same = |(_, old): &(u16, BanRule)| (old.offence, old.window) == (rule.offence, rule.window);
            let number = match former.iter().position(same) {
                Some(at) => former.swap_remove(at).0,
                None => {
                    self.rule_next = self.rule_next.wrapping_add(1);
                    self.rule_next
                }
            };
            self.rules.push((number, rule));
        }
    }

    /// A connection came. It is counted if it is within all limits; if not, it takes nothing, and nothing is to be closed.
    pub fn open(&mut self, address: IpAddr, now: Tick) -> Result<Counted, Limit> {
        let Some(address) = known(address) else { return Ok(Counted::NOTHING) };
        for scope in Scope::ALL {
            let Some(most) = self.limits[scope as usize].connections else { continue };
            let open = self.table.find(&self.key(scope, address)).map_or(0, |slot| slot.open());
            if open >= most {
                return Err(connections_limit(scope));
            }
        }
        self.spend(address, Kind::Connections, now)?;
        let mut counted = Counted::NOTHING;
        for scope in Scope::ALL {
            if self.limits[scope as usize].connections.is_none() {
                continue;
            }
            let key = self.key(scope, address);
            match self.table.raise(key) {
                true => counted.0[scope as usize] = Some(key.network),
                false => self.overflowed += 1,
            }
        }
        self.connections += u64::from(!counted.is_nothing());
        Ok(counted)
    }

    /// A connection ended that was opened here.
    pub fn close(&mut self, counted: Counted) {
        self.connections = self.connections.saturating_sub(u64::from(!counted.is_nothing()));
        for scope in Scope::ALL {
            if let Some(network) = counted.0[scope as usize] {
                self.table.lower(&Key { network, scope });
            }
        }
    }

    /// Whether a message may begin, MAIL; it is charged if so. `declared` is what SIZE= says, or 0: that many bytes must be
    /// left, or all that a minute allows if it is more than that.
    pub fn message(&mut self, address: IpAddr, declared: u64, now: Tick) -> Result<(), Limit> {
        let Some(address) = known(address) else { return Ok(()) };
        self.fits(address, Kind::Bytes, declared.max(1), now)?;
        self.spend(address, Kind::Messages, now)
    }

    /// Whether a recipient may be named, RCPT; it is charged if so.
    pub fn recipient(&mut self, address: IpAddr, now: Tick) -> Result<(), Limit> {
        let Some(address) = known(address) else { return Ok(()) };
        self.spend(address, Kind::Recipients, now)
    }

    /// Charges the bytes of a message that came, whatever became of it.
    pub fn bytes(&mut self, address: IpAddr, bytes: u64, now: Tick) {
        if let Some(address) = known(address) {
            self.charge(address, Kind::Bytes, bytes, now);
        }
    }

    /// Counts offences of an address, and orders a ban when they are too many for a rule; the longest, if for several.
    pub fn offence(&mut self, address: IpAddr, offence: Offence, n: u32, now: Tick) -> Option<BanOrder> {
        let address = known(address)?;
        if n == 0 || !self.rules.iter().any(|(_, rule)| rule.offence == offence) {
            return None;
        }
        let key = self.key(Scope::Address, address);
        let Some(slot) = self.table.enter(key) else {
            self.overflowed += 1;
            return None;
        };
        slot.forget_windows(|window| !self.rules.iter().any(|(number, _)| *number == window.rule));
        let mut broken: Option<(&BanRule, u32)> = None;
        for (number, rule) in self.rules.iter().filter(|(_, rule)| rule.offence == offence) {
            let window = slot.window(*number);
            let count = window.add(n, rule.window, now);
            if count < rule.count.clamp(1, COUNT_MAX) {
                continue;
            }
            window.restart();
            if broken.is_none_or(|(other, _)| other.duration < rule.duration) {
                broken = Some((rule, count));
            }
        }
        broken.map(|(rule, count)| BanOrder {
            network: key.network,
            duration: rule.duration,
            by: offence.name(),
            reason: format!("{}: {count} within {}", offence.words(), rule.window),
        })
    }

    /// Drops entries that have nothing more to remember, among the next thousand. To be called a few times a second.
    /// Returns how many went.
    pub fn sweep(&mut self, now: Tick) -> usize {
        let rules = &self.rules;
        let stale = |window: &Window| {
            let rule = rules.iter().find(|(number, _)| *number == window.rule);
            rule.is_none_or(|(_, rule)| window.is_over(rule.window, now))
        };
        self.table.sweep(SWEEP_MAX, |slot: &Slot| slot.is_settled(now) && slot.windows().iter().all(stale))
    }

    /// Addresses and networks with an entry.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is remembered of anybody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the ledger holds and has been through.
    pub fn totals(&self) -> Totals {
        Totals {
            entries: self.table.len(),
            connections: self.connections,
            evicted: self.table.evicted(),
            overflowed: self.overflowed,
        }
    }

    fn key(&self, scope: Scope, address: IpAddr) -> Key {
        let network = match (scope, address) {
            (Scope::Network, _) => self.networks.of(address),
            (Scope::Address, IpAddr::V4(_)) => Network::single(address),
            (Scope::Address, IpAddr::V6(_)) => Network::around(address, self.networks.v6.max(ADDRESS_V6_BITS)),
        };
        Key { network, scope }
    }

    /// One unit of a kind, if the address and its network have it left.
    fn spend(&mut self, address: IpAddr, kind: Kind, now: Tick) -> Result<(), Limit> {
        self.fits(address, kind, 1, now)?;
        self.charge(address, kind, 1, now);
        Ok(())
    }

    fn fits(&self, address: IpAddr, kind: Kind, units: u64, now: Tick) -> Result<(), Limit> {
        for scope in Scope::ALL {
            let Some(rate) = self.limits[scope as usize].rates[kind as usize] else { continue };
            let bucket = self.table.find(&self.key(scope, address)).map_or(rate::FULL, |slot| slot.bucket(kind));
            if !rate.fits(bucket, units, now) {
                return Err(rate_limit(scope, kind));
            }
        }
        Ok(())
    }

    fn charge(&mut self, address: IpAddr, kind: Kind, units: u64, now: Tick) {
        for scope in Scope::ALL {
            let Some(rate) = self.limits[scope as usize].rates[kind as usize] else { continue };
            match self.table.enter(self.key(scope, address)) {
                Some(slot) => slot.set_bucket(kind, rate.charged(slot.bucket(kind), units, now)),
                None => self.overflowed += 1,
            }
        }
    }
}

/// The address as it is counted, if it is known.
fn known(address: IpAddr) -> Option<IpAddr> {
    let address = canonical(address);
    (address != UNKNOWN_ADDRESS).then_some(address)
}

fn connections_limit(scope: Scope) -> Limit {
    match scope {
        Scope::Address => Limit::ConnectionsPerIp,
        Scope::Network => Limit::ConnectionsPerNetwork,
    }
}

fn rate_limit(scope: Scope, kind: Kind) -> Limit {
    match (scope, kind) {
        (Scope::Address, Kind::Connections) => Limit::ConnectionRatePerIp,
        (Scope::Network, Kind::Connections) => Limit::ConnectionRatePerNetwork,
        (Scope::Address, Kind::Messages) => Limit::MessagesPerIp,
        (Scope::Network, Kind::Messages) => Limit::MessagesPerNetwork,
        (Scope::Address, Kind::Recipients) => Limit::RecipientsPerIp,
        (Scope::Network, Kind::Recipients) => Limit::RecipientsPerNetwork,
        (Scope::Address, Kind::Bytes) => Limit::BytesPerIp,
        (Scope::Network, Kind::Bytes) => Limit::BytesPerNetwork,
    }
}

#[cfg(test)]
mod tests;
