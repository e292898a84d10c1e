//! Greylisting: a stranger's first mail is put off, and taken when it comes again (RFC 6647 section 2.4).
//!
//! What is remembered is a triplet of network, sender and recipient, as a keyed hash. A triplet *waits* from its first mail
//! until it comes again after the delay and within the window; from then on it is *known*, for as long as it is used.
//! A network of which several triplets have become known is known as a whole.
//!
//! The shard that owns a network keeps all of its entries. Waiting ones and known ones are bounded apart: who floods
//! with strangers pushes out strangers only. What changes is given out as records of fixed size, which a file keeps.

use ringpost_base::{Network, Span, Timestamp};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Who is asked to come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GreylistMode {
    /// Nobody.
    #[default]
    Off,
    /// Senders whose score reaches `screen.score_greylist`.
    Suspicious,
    /// Every stranger whose score is not below zero.
    All,
}

/// How greylisting goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GreylistOptions {
    /// Who is asked to come back.
    pub mode: GreylistMode,
    /// How long a stranger must wait at least.
    pub delay: Span,
    /// Until when it must have come again.
    pub window: Span,
    /// How long one that came again stays known, counted from its last mail.
    pub lifetime: Span,
    /// Triplets of one network that have passed, after which the whole network is known. 0: never.
    pub network_passes: u32,
    /// Entries that one core keeps; beyond, the oldest go.
    pub entries_max: usize,
}

impl Default for GreylistOptions {
    fn default() -> Self {
        Self {
            mode: GreylistMode::Off,
            delay: Span::seconds(300),
            window: Span::seconds(4 * 3600),
            lifetime: Span::seconds(36 * 86_400),
            network_passes: 5,
            entries_max: 500_000,
        }
    }
}

/// The secret of an installation that the triplets are hashed with, so that nobody can compute two that collide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GreySecret(pub [u8; 16]);

/// A triplet of network, sender and recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GreyKey([u8; 16]);

impl GreyKey {
    /// The key of a triplet. ASCII case does not count, in the local parts neither: a retry must be found.
    pub fn new(secret: &GreySecret, network: Network, sender: &str, recipient: &str) -> Self {
        let mut hasher = SipHasher13::new_with_key(&secret.0);
        hasher.write(&wide(network.address()).octets());
        hasher.write_u8(network.prefix());
        for text in [sender, recipient] {
            hasher.write(text.to_ascii_lowercase().as_bytes());
            // No address has this octet, so the two can't be cut in another place.
            hasher.write_u8(0xff);
        }
        Self(hasher.finish128().as_bytes())
    }
}

/// Why mail passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GreyPass {
    /// It came again in time.
    Retried,
    /// The triplet is known.
    KnownTriplet,
    /// The network is known.
    KnownNetwork,
}

/// What greylisting says of a triplet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grey {
    /// Come again, at the earliest after this.
    Wait {
        /// How long is left.
        left: Duration,
        /// Whether the triplet was never seen.
        first: bool,
    },
    /// Mail is taken.
    Pass(GreyPass),
}

/// Time that a known entry's last use may be ahead of its record: what is used often is not written each time.
const RECORD_EVERY: Duration = Duration::from_secs(3600);

/// Entries that one call of [`Greylist::expire`] looks at.
const EXPIRE_MAX: usize = 1000;

/// Records that wait to be written; beyond, changes are lost to the file and not to memory.
const DIRTY_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    network: Network,
    last: Timestamp,
    recorded: Timestamp,
}

/// Keys in the order in which they may end; one that was used since goes to the back when its turn comes.
#[derive(Debug, Default)]
struct Line<K>(VecDeque<(Timestamp, K)>);

/// The greylist of one shard.
#[derive(Debug)]
pub struct Greylist {
    options: GreylistOptions,
    waiting: HashMap<GreyKey, (Timestamp, Network)>,
    waiting_line: Line<GreyKey>,
    known: HashMap<GreyKey, Known>,
    known_line: Line<GreyKey>,
    /// Triplets of a network that have become known, and when the last of its mail came.
    networks: HashMap<Network, (u32, Timestamp)>,
    network_line: Line<Network>,
    dirty: Vec<GreyRecord>,
}

impl Greylist {
    /// An empty list.
    pub fn new(options: GreylistOptions) -> Self {
        Self {
            options,
            waiting: HashMap::new(),
            waiting_line: Line(VecDeque::new()),
            known: HashMap::new(),
            known_line: Line(VecDeque::new()),
            networks: HashMap::new(),
            network_line: Line(VecDeque::new()),
            dirty: Vec::new(),
        }
    }

    /// Goes on with other options; what is remembered stays.
    pub fn configure(&mut self, options: GreylistOptions) {
        self.options = options;
    }

    /// Entries, waiting and known.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.known.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Judges a mail of a triplet, and remembers it.
    pub fn check(&mut self, key: GreyKey, network: Network, now: Timestamp) -> Grey {
        if self.knows_network(network, now) {
            return Grey::Pass(GreyPass::KnownNetwork);
        }
        if let Some(known) = self.known.get_mut(&key)
            && now.since(known.last) <= self.options.lifetime.0
        {
            known.last = now;
            if now.since(known.recorded) >= RECORD_EVERY {
                known.recorded = now;
                self.record(GreyRecord { kind: RecordKind::Known, key, network, at: now });
            }
            return Grey::Pass(GreyPass::KnownTriplet);
        }
        match self.waiting.get(&key).copied() {
            Some((first, _)) if now.since(first) <= self.options.window.0 => {
                let waited = now.since(first);
                if waited < self.options.delay.0 {
                    return Grey::Wait { left: self.options.delay.0 - waited, first: false };
                }
                self.waiting.remove(&key);
                self.learn(key, network, now);
                self.record(GreyRecord { kind: RecordKind::Known, key, network, at: now });
                Grey::Pass(GreyPass::Retried)
            }
            _ => {
                self.await_retry(key, network, now);
                self.record(GreyRecord { kind: RecordKind::Waiting, key, network, at: now });
                Grey::Wait { left: self.options.delay.0, first: true }
            }
        }
    }

    fn knows_network(&mut self, network: Network, now: Timestamp) -> bool {
        let passes = self.options.network_passes;
        match self.networks.get_mut(&network) {
            Some((count, last)) if passes > 0 && *count >= passes && now.since(*last) <= self.options.lifetime.0 => {
                // Its use keeps it, without a record: the file knows its triplets, from which it is counted again.
                *last = now;
                true
            }
            _ => false,
        }
    }

    fn await_retry(&mut self, key: GreyKey, network: Network, first: Timestamp) {
        self.waiting.insert(key, (first, network));
        self.waiting_line.0.push_back((first, key));
        while self.waiting.len() > self.options.entries_max.max(1) {
            let Some((first, oldest)) = self.waiting_line.0.pop_front() else { break };
            remove_if(&mut self.waiting, &oldest, |(at, _)| *at == first);
        }
    }

    fn learn(&mut self, key: GreyKey, network: Network, now: Timestamp) {
        let entry = Known { network, last: now, recorded: now };
        if self.known.insert(key, entry).is_none() {
            self.known_line.0.push_back((now, key));
            let passed = self.networks.entry(network).or_insert_with(|| {
                self.network_line.0.push_back((now, network));
                (0, now)
            });
            *passed = (passed.0.saturating_add(1), now.max(passed.1));
        }
        while self.known.len() > self.options.entries_max.max(1) {
            let Some((_, oldest)) = self.known_line.0.pop_front() else { break };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, key: &GreyKey) {
        let Some(known) = self.known.remove(key) else { return };
        if let Some((count, _)) = self.networks.get_mut(&known.network) {
            *count = count.saturating_sub(1);
        }
    }

    /// Drops what has ended; a bounded part of it in one call.
    pub fn expire(&mut self, now: Timestamp) {
        let (window, lifetime) = (self.options.window.0, self.options.lifetime.0);
        for _ in 0..EXPIRE_MAX {
            let Some((first, key)) = self.waiting_line.0.front().copied() else { break };
            if now.since(first) <= window {
                break;
            }
            self.waiting_line.0.pop_front();
            remove_if(&mut self.waiting, &key, |(at, _)| *at == first);
        }
        for _ in 0..EXPIRE_MAX {
            let Some((since, key)) = self.known_line.0.front().copied() else { break };
            if now.since(since) <= lifetime {
                break;
            }
            self.known_line.0.pop_front();
            match self.known.get(&key).map(|known| known.last) {
                Some(last) if now.since(last) <= lifetime => self.known_line.0.push_back((last, key)),
                _ => self.forget(&key),
            }
        }
        for _ in 0..EXPIRE_MAX {
            let Some((since, network)) = self.network_line.0.front().copied() else { break };
            if now.since(since) <= lifetime {
                break;
            }
            self.network_line.0.pop_front();
            match self.networks.get(&network).copied() {
                Some((count, last)) if count > 0 || now.since(last) <= lifetime => {
                    self.network_line.0.push_back((now, network));
                }
                _ => drop(self.networks.remove(&network)),
            }
        }
    }

    fn record(&mut self, record: GreyRecord) {
        if self.dirty.len() < DIRTY_MAX {
            self.dirty.push(record);
        }
    }

    /// What has changed since this was last asked, in order.
    pub fn take_changes(&mut self) -> Vec<GreyRecord> {
        std::mem::take(&mut self.dirty)
    }

    /// Takes up what a file has kept, in its order.
    pub fn load(&mut self, records: impl IntoIterator<Item = GreyRecord>) {
        for GreyRecord { kind, key, network, at } in records {
            match kind {
                RecordKind::Waiting if !self.known.contains_key(&key) => self.await_retry(key, network, at),
                RecordKind::Waiting => {}
                RecordKind::Known => {
                    self.waiting.remove(&key);
                    match self.known.get_mut(&key) {
                        Some(known) => (known.last, known.recorded) = (at, at),
                        None => self.learn(key, network, at),
                    }
                }
            }
        }
    }

    /// Everything that is remembered, as a file would keep it.
    pub fn records(&self) -> impl Iterator<Item = GreyRecord> + '_ {
        let waiting = self.waiting.iter().map(|(key, (first, network))| GreyRecord {
            kind: RecordKind::Waiting,
            key: *key,
            network: *network,
            at: *first,
        });
        let known = self.known.iter().map(|(key, known)| GreyRecord {
            kind: RecordKind::Known,
            key: *key,
            network: known.network,
            at: known.last,
        });
        waiting.chain(known)
    }
}

fn remove_if<V>(map: &mut HashMap<GreyKey, V>, key: &GreyKey, holds: impl Fn(&V) -> bool) {
    if map.get(key).is_some_and(holds) {
        map.remove(key);
    }
}

/// What became of a triplet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// It was seen for the first time.
    Waiting,
    /// It is known, and was used.
    Known,
}

/// A change of the greylist as a file keeps it: checksum (4 bytes), kind (1), prefix (1), 1 for IPv4 (1), a zero (1), address of
/// the network (16), key (16), time (8); little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreyRecord {
    /// What became of the triplet.
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
            _ => return None,
        };
        let wide = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[8..24]).ok()?);
        let address = if bytes[6] == 1 { IpAddr::V4(wide.to_ipv4_mapped()?) } else { IpAddr::V6(wide) };
        let key = GreyKey(bytes[24..40].try_into().ok()?);
        let at = Timestamp::from_unix_micros(u64::from_le_bytes(bytes[40..].try_into().ok()?));
        Some(Self { kind, key, network: Network::around(address, bytes[5]), at })
    }
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: GreySecret = GreySecret([7; 16]);

    fn options() -> GreylistOptions {
        GreylistOptions {
            mode: GreylistMode::All,
            delay: Span::seconds(10),
            window: Span::seconds(100),
            lifetime: Span::seconds(10_000),
            network_passes: 3,
            entries_max: 4,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_micros((1_000_000 + seconds) * 1_000_000)
    }

    fn network(last: u8) -> Network {
        Network::around(IpAddr::from([192, 0, last, 1]), 24)
    }

    fn key(of: u8, sender: &str) -> GreyKey {
        GreyKey::new(&SECRET, network(of), sender, "you@example.com")
    }

    #[test]
    fn a_stranger_comes_again() {
        let mut list = Greylist::new(options());
        let wait = |left, first| Grey::Wait { left: Duration::from_secs(left), first };
        let mut check =
            |seconds, want| assert_eq!(list.check(key(1, "a@b"), network(1), at(seconds)), want, "{seconds}");
        check(0, wait(10, true));
        check(4, wait(6, false));
        check(200, wait(10, true)); // too late: it begins anew
        check(210, Grey::Pass(GreyPass::Retried));
        check(211, Grey::Pass(GreyPass::KnownTriplet));
        check(10_000, Grey::Pass(GreyPass::KnownTriplet));
        check(30_000, wait(10, true)); // not used for longer than its lifetime
    }

    #[test]
    fn case_and_cut_of_a_triplet() {
        let of = |sender, recipient| GreyKey::new(&SECRET, network(1), sender, recipient);
        assert_eq!(of("A@B", "c@D"), of("a@b", "C@d"));
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert_ne!(of("", "c"), of("c", ""));
        assert_ne!(of("a", "b"), GreyKey::new(&SECRET, network(2), "a", "b"));
        assert_ne!(of("a", "b"), GreyKey::new(&GreySecret([8; 16]), network(1), "a", "b"));
    }

    #[test]
    fn a_network_that_passed_often_is_known() {
        let mut list = Greylist::new(options());
        for sender in ["a", "b", "c"] {
            list.check(key(1, sender), network(1), at(0));
            assert_eq!(list.check(key(1, sender), network(1), at(20)), Grey::Pass(GreyPass::Retried));
        }
        assert_eq!(list.check(key(1, "d"), network(1), at(30)), Grey::Pass(GreyPass::KnownNetwork));
        assert_ne!(list.check(key(2, "d"), network(2), at(30)), Grey::Pass(GreyPass::KnownNetwork));
    }

    #[test]
    fn a_flood_of_strangers_pushes_out_strangers_only() {
        let mut list = Greylist::new(options());
        list.check(key(1, "known"), network(1), at(0));
        list.check(key(1, "known"), network(1), at(20));
        for sender in 0..100 {
            list.check(key(2, &sender.to_string()), network(2), at(30));
        }
        assert_eq!(list.len(), 5);
        assert_eq!(list.check(key(1, "known"), network(1), at(40)), Grey::Pass(GreyPass::KnownTriplet));
        assert!(matches!(list.check(key(2, "99"), network(2), at(41)), Grey::Pass(GreyPass::Retried)));
        assert!(matches!(list.check(key(2, "0"), network(2), at(41)), Grey::Wait { first: true, .. }));
    }

    #[test]
    fn what_has_ended_goes() {
        let mut list = Greylist::new(options());
        list.check(key(1, "a"), network(1), at(0));
        list.check(key(1, "a"), network(1), at(20));
        list.check(key(1, "b"), network(1), at(20));
        list.expire(at(100));
        assert_eq!(list.len(), 2);
        list.expire(at(200));
        assert_eq!(list.len(), 1, "what waited is gone");
        list.check(key(1, "a"), network(1), at(9_000));
        list.expire(at(11_000));
        assert_eq!(list.len(), 1, "what is used stays");
        list.expire(at(30_000));
        list.expire(at(60_000));
        assert!(list.is_empty() && list.networks.is_empty());
    }

    #[test]
    fn damaged_records_are_told() {
        let record = GreyRecord { kind: RecordKind::Known, key: key(1, "a"), network: network(1), at: at(5) };
        let bytes = record.encode();
        assert_eq!(GreyRecord::decode(&bytes), Some(record));
        for place in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[place] ^= 1;
            assert_eq!(GreyRecord::decode(&damaged), None, "{place}");
        }
        let v6 = GreyRecord { network: Network::around(IpAddr::from([1, 2, 3, 4, 5, 6, 7, 8]), 64), ..record };
        assert_eq!(GreyRecord::decode(&v6.encode()), Some(v6));
    }

    proptest! {
        #[test]
        fn what_was_written_down_is_remembered(mails in proptest::collection::vec((0_u8..3, 0_u8..4, 0_u64..40), 1..60)) {
            let options = GreylistOptions { entries_max: 1000, ..options() };
            let mut list = Greylist::new(options.clone());
            let mut now = 0;
            let mut written = Vec::new();
            for (net, sender, wait) in mails {
                now += wait;
                list.check(key(net, &sender.to_string()), network(net), at(now));
                written.extend(list.take_changes().iter().map(GreyRecord::encode));
            }
            let mut again = Greylist::new(options);
            again.load(written.iter().filter_map(GreyRecord::decode));
            prop_assert_eq!(again.known.len(), list.known.len());
            prop_assert_eq!(again.known.keys().filter(|key| !list.known.contains_key(key)).count(), 0);
            prop_assert_eq!(&again.waiting, &list.waiting);
            let mut compact = Greylist::new(again.options.clone());
            compact.load(list.records());
            prop_assert_eq!(compact.known.len(), list.known.len());
            prop_assert_eq!(&compact.waiting, &list.waiting);
        }
    }
}
