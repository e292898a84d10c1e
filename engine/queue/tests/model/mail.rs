//! A message as the model sees it.

use ringpost_base::{Now, Priority, SpoolId};
use ringpost_queue::{DomainHash, NewItem, NewLeg};
use std::collections::BTreeMap;
use std::time::Duration;

/// What became of a recipient at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pending,
    Served,
    Reporting,
    Reported,
    Buried,
    Moved,
}

impl Fate {
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Served | Self::Reported | Self::Moved)
    }

    fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Reporting | Self::Buried)
    }
}

pub(crate) type Fates = BTreeMap<(u32, &'static str), Fate>;

#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) shard: usize,
    pub(crate) priority: Priority,
    pub(crate) null_sender: bool,
    /// The kind of each recipient, which decides its routes.
    pub(crate) kinds: Vec<u8>,
    pub(crate) fates: Fates,
    pub(crate) held: bool,
    pub(crate) delay_told: bool,
    /// When it was made, by the monotonic clock, as the queue must see it.
    pub(crate) made: i128,
    /// What the spool has of it, and what the model knew when that was noted.
    pub(crate) noted: Vec<u8>,
    pub(crate) noted_fates: Fates,
    pub(crate) noted_held: bool,
    /// The queue has let it go, but the spool has not heard of that: a restart brings it back.
    pub(crate) lingering: bool,
}

/// Where the recipients of a kind go. One kind's routes change with the version of the configuration.
pub(crate) fn route(kind: u8, version: u32) -> &'static [&'static str] {
    match kind {
        0 => &["local-a"],
        1 => &["hop-1"],
        2 => &["hop-2"],
        3 => &["hop-3"],
        4 => &["local-a", "hop-1"],
        5 if version.is_multiple_of(2) => &["hop-2"],
        5 => &["local-b", "hop-1"],
        _ => &["hop-1", "hop-3"],
    }
}

/// Kinds of recipients.
pub(crate) const KINDS: u64 = 7;

pub(crate) fn is_local(destination: &str) -> bool {
    destination.starts_with("local")
}

impl Mail {
    pub(crate) fn new(shard: usize, priority: Priority, null_sender: bool, kinds: Vec<u8>) -> Self {
        Self {
            shard,
            priority,
            null_sender,
            kinds,
            fates: Fates::new(),
            held: false,
            delay_told: false,
            made: 0,
            noted: Vec::new(),
            noted_fates: Fates::new(),
            noted_held: false,
            lingering: false,
        }
    }

    /// As it is after it is pushed, with these routes. `again`: from the spool.
    pub(crate) fn pushed(&mut self, id: SpoolId, again: bool, version: u32, now: Now) {
        let age = now.wall.since(id.made()).min(Duration::from_secs(365 * 86_400));
        self.made = i128::from(now.tick.nanos()) - age.as_nanos() as i128;
        if again {
            (self.fates, self.held, self.lingering) = (self.noted_fates.clone(), self.noted_held, false);
        }
        for (number, kind) in (0..).zip(self.kinds.clone()) {
            self.routed(number, route(kind, version));
        }
        if !again {
            self.noted_fates = self.fates.clone();
        }
    }

    /// As it is after it was routed anew where it waits.
    pub(crate) fn rerouted(&mut self, version: u32) {
        for (number, kind) in (0..).zip(self.kinds.clone()) {
            self.routed(number, route(kind, version));
        }
    }

    /// What a recipient's fates are when it is routed anew.
    fn routed(&mut self, number: u32, routes: &[&'static str]) {
        let own: Fates =
            self.fates.iter().filter(|((of, _), _)| *of == number).map(|(key, fate)| (*key, *fate)).collect();
        if !own.is_empty() && !own.values().any(|fate| fate.is_open()) {
            return;
        }
        self.fates.retain(|(of, _), fate| *of != number || matches!(fate, Fate::Served | Fate::Reported));
        let buried = |at: &str| own.iter().any(|((_, of), fate)| *of == at && *fate == Fate::Buried);
        let elsewhere = own.iter().any(|((_, at), fate)| *fate == Fate::Buried && !routes.contains(at));
        for destination in routes {
            let fate = if elsewhere || buried(destination) { Fate::Buried } else { Fate::Pending };
            self.fates.entry((number, *destination)).or_insert(fate);
        }
    }

    /// As it is handed to the queue.
    pub(crate) fn item(&self, id: SpoolId, again: bool, version: u32) -> NewItem {
        let mut by_destination: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (number, kind) in (0..).zip(&self.kinds) {
            for destination in route(*kind, version) {
                by_destination.entry(destination).or_default().push(number);
            }
        }
        let domain = DomainHash::of("example.org");
        let leg = |(destination, recipients): (&str, Vec<u32>)| NewLeg {
            destination: destination.into(),
            local: is_local(destination),
            recipients,
            domain,
        };
        NewItem {
            id,
            priority: self.priority,
            size: 1000,
            null_sender: self.null_sender,
            sender_domain: DomainHash::of("example.com"),
            legs: by_destination.into_iter().map(leg).collect(),
            recovered: again,
            state: if again { self.noted.as_slice().into() } else { Box::default() },
            legacy_done: Vec::new(),
            recipients: self.kinds.len() as u32,
            unreadable: false,
        }
    }

    pub(crate) fn age(&self, now: Now) -> i128 {
        i128::from(now.tick.nanos()) - self.made
    }

    pub(crate) fn pending_at(&self, destination: &str) -> Vec<u32> {
        let here = |((number, at), fate): (&(u32, &str), &Fate)| {
            (*at == destination && *fate == Fate::Pending).then_some(*number)
        };
        self.fates.iter().filter_map(here).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.fates.values().all(|fate| fate.is_final())
    }

    /// It is a dead letter: nothing is left to do, but somebody was buried.
    pub(crate) fn is_dead(&self) -> bool {
        let buried = self.fates.values().any(|fate| *fate == Fate::Buried);
        buried && self.fates.values().all(|fate| fate.is_final() || *fate == Fate::Buried)
    }
}
