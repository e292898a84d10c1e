//! Greylisting: a stranger's first mail is put off, and taken when it comes again (RFC 6647 section 2.4).
//!
//! What is remembered is a triplet of network, sender and recipient, as a keyed hash. A triplet *waits* from its first mail
//! until it comes again after the delay and within the window; from then on it is *known*, for as long as it is used.
//! A network of which several triplets are known at a time becomes known as a whole. From then on it stands by itself, for
//! as long as any mail comes from it: its triplets may all have gone meanwhile.
//!
//! The shard that owns a network keeps all of its entries. Waiting triplets, known triplets and known networks are bounded
//! apart: who floods with strangers pushes out strangers only. What changes is given out as records of fixed
//! size, which a file keeps.

mod aging;
mod record;

pub use record::{GreyRecord, GreySieve, RecordKind};

use aging::{Aging, Use};
use record::wide;
use ringpost_base::{Network, Span, Timestamp};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hasher;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GreyKey([u8; 16]);

impl GreyKey {
    /// The key of what is no triplet.
    pub const NONE: Self = Self([0; 16]);

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

/// Time that the last use of what is known may be ahead of its record, or a quarter of its lifetime if that is shorter: what
/// is used often is not written each time.
const RECORD_EVERY: Duration = Duration::from_secs(3600);

/// Entries of each kind that one call of [`Greylist::expire`] looks at.
const EXPIRE_MAX: usize = 1000;

/// Changes between two calls of [`Greylist::take_changes`]; beyond, they are lost to the file and not to memory. It is
/// twice what comes in five seconds where the default number of entries passes with the default delay, over and over.
const CHANGES_MAX: usize = 20_000;

/// Strangers among them. More come in a flood only, of which the file need not remember each.
const WAITING_CHANGES_MAX: usize = 2000;

/// The greylist of one shard.
#[derive(Debug)]
pub struct Greylist {
    options: GreylistOptions,
    /// Since their first mail.
    waiting: Aging<GreyKey, ()>,
    known: Aging<GreyKey, Network>,
    /// How many known triplets each network has, if any.
    passes: HashMap<Network, u32>,
    networks: Aging<Network, ()>,
    changes: Vec<GreyRecord>,
    waiting_changes: usize,
}

impl Greylist {
    /// An empty list.
    pub fn new(options: GreylistOptions) -> Self {
        Self {
            options,
            waiting: Aging::default(),
            known: Aging::default(),
            passes: HashMap::new(),
            networks: Aging::default(),
            changes: Vec::new(),
            waiting_changes: 0,
        }
    }

    /// Goes on with other options; what is remembered stays.
    pub fn configure(&mut self, options: GreylistOptions) {
        self.options = options;
    }

    /// Triplets, waiting and known.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.known.len()
    }

    /// Whether no triplet is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Judges a mail of a triplet, and remembers it.
    pub fn check(&mut self, key: GreyKey, network: Network, now: Timestamp) -> Grey {
        // Both are used by this mail, whichever lets it pass.
        let knows_triplet = self.use_triplet(key, network, now);
        if self.use_network(network, now) {
            return Grey::Pass(GreyPass::KnownNetwork);
        }
        if knows_triplet {
            self.promote_recorded(network, now);
            return Grey::Pass(GreyPass::KnownTriplet);
        }
        let (delay, window) = (self.options.delay.0, self.options.window.0);
        let waited = self.waiting.last(&key).map(|first| now.since(first)).filter(|waited| *waited <= window);
        match waited {
            None => {
                self.await_retry(key, now);
                self.record(RecordKind::Waiting, key, network, now);
                Grey::Wait { left: delay, first: true }
            }
            Some(waited) if waited < delay => Grey::Wait { left: delay - waited, first: false },
            Some(_) => {
                self.waiting.remove(&key);
                self.learn(key, network, now);
                self.record(RecordKind::Known, key, network, now);
                self.promote_recorded(network, now);
                Grey::Pass(GreyPass::Retried)
            }
        }
    }

    fn use_triplet(&mut self, key: GreyKey, network: Network, now: Timestamp) -> bool {
        let used = self.known.renew(&key, now, self.options.lifetime.0, self.record_every());
        if used == Some(Use::Moved) {
            self.record(RecordKind::Known, key, network, now);
        }
        used.is_some()
    }

    fn use_network(&mut self, network: Network, now: Timestamp) -> bool {
        if self.options.network_passes == 0 {
            return false;
        }
        let used = self.networks.renew(&network, now, self.options.lifetime.0, self.record_every());
        if used == Some(Use::Moved) {
            self.record(RecordKind::Network, GreyKey::NONE, network, now);
        }
        used.is_some()
    }

    fn record_every(&self) -> Duration {
        RECORD_EVERY.min(self.options.lifetime.0 / 4)
    }

    fn await_retry(&mut self, key: GreyKey, first: Timestamp) {
        self.waiting.insert(key, (), first);
        while self.waiting.take_surplus(self.options.entries_max.max(1)).is_some() {}
    }

    fn learn(&mut self, key: GreyKey, network: Network, at: Timestamp) {
        if self.known.insert(key, network, at).is_none() {
            *self.passes.entry(network).or_default() += 1;
        }
        while let Some(network) = self.known.take_surplus(self.options.entries_max.max(1)) {
            self.forget_pass(network);
        }
    }

    fn forget_pass(&mut self, network: Network) {
        if let Entry::Occupied(mut passes) = self.passes.entry(network) {
            *passes.get_mut() -= 1;
            if *passes.get() == 0 {
                passes.remove();
            }
        }
    }

    /// Makes a network known as a whole if enough of its triplets are, and says whether it was not before.
    fn promote(&mut self, network: Network, at: Timestamp) -> bool {
        let wanted = self.options.network_passes;
        let passes = self.passes.get(&network).copied().unwrap_or(0);
        let lifetime = self.options.lifetime.0;
        if wanted == 0 || passes < wanted || self.networks.last(&network).is_some_and(|last| at.since(last) <= lifetime)
        {
            return false;
        }
        self.know_network(network, at);
        true
    }

    fn promote_recorded(&mut self, network: Network, now: Timestamp) {
        if self.promote(network, now) {
            self.record(RecordKind::Network, GreyKey::NONE, network, now);
        }
    }

    fn know_network(&mut self, network: Network, at: Timestamp) {
        self.networks.insert(network, (), at);
        while self.networks.take_surplus(self.options.entries_max.max(1)).is_some() {}
    }

    /// Drops what has ended; a bounded part of it in one call.
    pub fn expire(&mut self, now: Timestamp) {
        let (window, lifetime) = (self.options.window.0, self.options.lifetime.0);
        let [mut waiting, mut known, mut networks] = [EXPIRE_MAX; 3];
        while self.waiting.take_ended(now, window, &mut waiting).is_some() {}
        while let Some(network) = self.known.take_ended(now, lifetime, &mut known) {
            self.forget_pass(network);
        }
        while self.networks.take_ended(now, lifetime, &mut networks).is_some() {}
    }

    fn record(&mut self, kind: RecordKind, key: GreyKey, network: Network, at: Timestamp) {
        if self.changes.len() >= CHANGES_MAX {
            return;
        }
        if kind == RecordKind::Waiting {
            if self.waiting_changes >= WAITING_CHANGES_MAX {
                return;
            }
            self.waiting_changes += 1;
        }
        self.changes.push(GreyRecord { kind, key, network, at });
    }

    /// What has changed since this was last asked, in order; of strangers, no more than a bounded number.
    pub fn take_changes(&mut self) -> Vec<GreyRecord> {
        self.waiting_changes = 0;
        std::mem::take(&mut self.changes)
    }

    /// Takes up what a file has kept, in its order.
    pub fn load(&mut self, records: impl IntoIterator<Item = GreyRecord>) {
        for GreyRecord { kind, key, network, at } in records {
            match kind {
                RecordKind::Waiting => {
                    // It was known and no longer is: it would not wait otherwise.
                    if let Some(network) = self.known.remove(&key) {
                        self.forget_pass(network);
                    }
                    self.await_retry(key, at);
                }
                RecordKind::Known => {
                    self.waiting.remove(&key);
                    self.learn(key, network, at);
                    self.promote(network, at);
                }
                RecordKind::Network => self.know_network(network, at),
            }
        }
    }
}

#[cfg(test)]
mod tests;
