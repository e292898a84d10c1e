//! What the owner of destinations keeps of them: how much of each is in use, its rate, its breaker.
//!
//! Every destination has one owner, a shard, and all shards ask it before they deliver there. The answer is a lease: one
//! slot, that is one delivery at a time, for a number of messages. A slot is counted from the answer until the shard
//! gives it back, however long that takes: a shard whose delivery hangs holds it, and a shard that has died has ended the
//! process. What a shard says it holds when it asks corrects the count, so an answer or a release that was lost on its way
//! costs a slot until the next question and no longer.
//!
//! Shards that wait have their turn in the order in which they asked: a slot that becomes free is promised to the first,
//! and whoever comes later waits behind it, also the shard that has just given it back.

use crate::breaker::{Breaker, BreakerState, Gate};
use crate::rate::Bucket;
use crate::{DestinationOptions, Lease, LeaseReport};
use ringpost_base::{ShardId, Tick};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// How long a free slot is kept for a shard that was told of it. It asks within milliseconds, or the news was lost.
const PROMISE: Duration = Duration::from_secs(1);

/// With a rate, a lease is at most this part of a minute's messages, so that several shards have their share of them.
const RATE_PART: u32 = 8;

/// The shortest time a shard is told to wait: asking more often gains nothing.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The destinations that one shard owns.
#[derive(Debug, Default)]
pub struct Destinations {
    by_name: BTreeMap<Rc<str>, Owned>,
}

#[derive(Debug, Default)]
struct Owned {
    options: DestinationOptions,
    /// Gone from the configuration, and kept only until its slots are given back.
    gone: bool,
    /// What each shard has that has something.
    held: BTreeMap<ShardId, Held>,
    bucket: Bucket,
    breaker: Breaker,
    waiting: VecDeque<Waiting>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    slots: u32,
    /// The last lease: when it was given, and how many of its messages may still come back unused.
    granted: Tick,
    messages: u32,
}

#[derive(Debug)]
struct Waiting {
    shard: ShardId,
    /// When it was told to ask.
    told: Option<Tick>,
}

/// A destination as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationView {
    /// Its name.
    pub name: Rc<str>,
    /// Slots in use, of all shards.
    pub in_use: u32,
    /// Slots that there are.
    pub concurrency: u32,
    /// Shards that wait for one.
    pub waiting_shards: usize,
    /// Where its breaker stands.
    pub breaker: BreakerState,
    /// Its failures in a row.
    pub failures: u32,
    /// For how long it is left alone yet.
    pub open_for: Option<Duration>,
    /// Messages that its rate allows now. None: it has no rate.
    pub rate_left: Option<u32>,
}

impl Destinations {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on with these. Counts, the share of a rate that is used, and breakers stay; one that is gone is forgotten when
    /// its last slot has been given back. Gives those that there were and that may be used otherwise now: whoever was
    /// told to wait for them is to ask again.
    pub fn configure(&mut self, destinations: impl Iterator<Item = (Rc<str>, DestinationOptions)>) -> Vec<Rc<str>> {
        for owned in self.by_name.values_mut() {
            owned.gone = true;
        }
        let mut changed = Vec::new();
        for (name, options) in destinations {
            if self.by_name.get(&name).is_some_and(|owned| owned.options != options) {
                changed.push(name.clone());
            }
            let owned = self.by_name.entry(name).or_default();
            owned.breaker.configured(&options);
            (owned.options, owned.gone) = (options, false);
        }
        self.by_name.retain(|_, owned| !owned.is_over());
        changed
    }

    /// A destination has been set up anew, such as with another host: what its breaker had found out holds no longer.
    pub fn renew(&mut self, destination: &str) {
        if let Some(owned) = self.by_name.get_mut(destination) {
            owned.breaker = Breaker::default();
        }
    }

    /// Answers a shard that wants to deliver and says how many slots it holds already.
    pub fn lease(&mut self, shard: ShardId, destination: &str, held: u32, now: Tick) -> Lease {
        let Some(owned) = self.by_name.get_mut(destination) else { return Lease::Unknown };
        owned.hold(shard, held);
        let lease = if owned.gone { Lease::Unknown } else { owned.lease(shard, held, now) };
        self.by_name.retain(|name, owned| **name != *destination || !owned.is_over());
        lease
    }

    /// Takes slots back, and says which shards are to be told that they may ask.
    pub fn release(
        &mut self,
        shard: ShardId,
        destination: &str,
        slots: u32,
        report: LeaseReport,
        now: Tick,
    ) -> Vec<ShardId> {
        let Some(owned) = self.by_name.get_mut(destination) else { return Vec::new() };
        let told = owned.release(shard, slots, report, now);
        if owned.is_over() {
            self.by_name.remove(destination);
        }
        told
    }

    /// All of them, by name.
    pub fn view(&self, now: Tick) -> Vec<DestinationView> {
        let configured = self.by_name.iter().filter(|(_, owned)| !owned.gone);
        let view = |(name, owned): (&Rc<str>, &Owned)| DestinationView {
            name: name.clone(),
            in_use: owned.in_use(),
            concurrency: owned.options.concurrency,
            waiting_shards: owned.waiting.len(),
            breaker: owned.breaker.state(now),
            failures: owned.breaker.failures(),
            open_for: owned.breaker.opens_in(now),
            rate_left: owned.options.messages_per_minute.map(|rate| owned.bucket.left(rate, now)),
        };
        configured.map(view).collect()
    }
}

impl Owned {
    fn in_use(&self) -> u32 {
        self.held.values().map(|held| held.slots).sum()
    }

    fn is_over(&self) -> bool {
        self.gone && self.held.is_empty()
    }

    fn hold(&mut self, shard: ShardId, slots: u32) {
        if slots == 0 {
            self.held.remove(&shard);
        } else {
            self.held.entry(shard).or_default().slots = slots;
        }
    }

    fn free(&self) -> usize {
        self.options.concurrency.saturating_sub(self.in_use()) as usize
    }

    fn lease(&mut self, shard: ShardId, held: u32, now: Tick) -> Lease {
        let gate = self.breaker.gate(shard, held, now);
        if let Gate::Shut(span) = gate {
            self.leave(shard);
            return Lease::Wait { span: span.max(WAIT_MIN), open: true };
        }
        if gate == Gate::Probed || !self.has_turn(shard, now) {
            return self.queue(shard);
        }
        let Some(messages) = self.messages(gate == Gate::Probe, now) else {
            self.leave(shard);
            let rate = self.options.messages_per_minute.unwrap_or_default();
            return Lease::Wait { span: self.bucket.wait(rate, now).max(WAIT_MIN), open: false };
        };
        self.leave(shard);
        let slots = held.saturating_add(1);
        self.held.insert(shard, Held { slots, granted: now, messages });
        if gate == Gate::Probe {
            self.breaker.probing(shard);
        }
        Lease::Granted { messages }
    }

    /// Whether a slot is free for this shard, those that wait before it being served first.
    fn has_turn(&mut self, shard: ShardId, now: Tick) -> bool {
        let free = self.free();
        self.leave_late(Some(shard), now);
        let before = self.waiting.iter().position(|waiting| waiting.shard == shard).unwrap_or(self.waiting.len());
        before < free
    }

    /// One that was told and did not come would keep its slot from all others.
    fn leave_late(&mut self, but: Option<ShardId>, now: Tick) {
        let late = |waiting: &Waiting| waiting.told.is_some_and(|told| now.since(told) > PROMISE);
        self.waiting.retain(|waiting| Some(waiting.shard) == but || !late(waiting));
    }

    fn queue(&mut self, shard: ShardId) -> Lease {
        match self.waiting.iter_mut().find(|waiting| waiting.shard == shard) {
            Some(waiting) => waiting.told = None,
            None => self.waiting.push_back(Waiting { shard, told: None }),
        }
        Lease::Busy
    }

    fn leave(&mut self, shard: ShardId) {
        self.waiting.retain(|waiting| waiting.shard != shard);
    }

    /// How many messages a lease is for; none if the rate allows none now.
    fn messages(&mut self, probe: bool, now: Tick) -> Option<u32> {
        let most = if probe { 1 } else { self.options.lease_messages.max(1) };
        let Some(rate) = self.options.messages_per_minute else { return Some(most) };
        let messages = most.min((rate / RATE_PART).max(1)).min(self.bucket.left(rate, now));
        if messages == 0 {
            return None;
        }
        self.bucket.take(messages, rate, now);
        Some(messages)
    }

    fn release(&mut self, shard: ShardId, slots: u32, report: LeaseReport, now: Tick) -> Vec<ShardId> {
        let held = self.held.entry(shard).or_default();
        let unused = report.unused.min(held.messages);
        held.messages -= unused;
        let Held { slots: had, granted, .. } = *held;
        self.hold(shard, had.saturating_sub(slots));
        if slots == 0 {
            self.leave(shard);
        }
        if let Some(rate) = self.options.messages_per_minute {
            self.bucket.give_back(unused, rate, now.since(granted));
        }
        let opened = self.breaker.reported(shard, report.delivered, report.hop_failures, &self.options, now);
        if opened || self.gone {
            // They ask, and learn that there is nothing to wait for.
            return self.waiting.drain(..).map(|waiting| waiting.shard).collect();
        }
        self.leave_late(None, now);
        let free = self.free();
        let mut told = Vec::new();
        for waiting in self.waiting.iter_mut().take(free).filter(|waiting| waiting.told.is_none()) {
            waiting.told = Some(now);
            told.push(waiting.shard);
        }
        told
    }
}

#[cfg(test)]
mod tests;
