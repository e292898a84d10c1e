//! What the sets ought to have, what of it is new, and the scripts that say so to `nft`.
//!
//! An interval set takes no two elements that overlap, so of bans that do the widest stands for the others. Once it has
//! ended, they come into the set themselves.

use ringpost_base::{Network, Timestamp};
use ringpost_policy::{BanSet, NftablesSet};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

/// Longest that an element lives that stands for a ban without an end; the mirror is made anew before it ends.
pub(super) const TIMEOUT_SECONDS_MAX: u64 = 30 * 86_400;

/// Elements of one command. nft sends a command as one message, whose size is bounded.
pub(super) const ELEMENTS_MAX: usize = 1000;

/// How long an element that has ended may still be in the kernel: it was given its time when nft ran, which may have
/// taken long, in whole seconds.
const ENDED_AGO_MAX: Duration = Duration::from_secs(60);

/// Seconds of an element that is put in to be taken out.
const TAKEN_OUT_SECONDS: u64 = 3600;

/// Networks that do not overlap, each with the end of its ban.
pub(super) type Elements = BTreeMap<Network, Option<Timestamp>>;

/// What the sets ought to have.
pub(super) fn wanted(bans: &BanSet, now: Timestamp) -> Elements {
    widest(bans.without_exceptions(now).map(|ban| (ban.network, ban.until)))
}

/// Of networks that overlap the widest.
pub(super) fn widest(bans: impl Iterator<Item = (Network, Option<Timestamp>)>) -> Elements {
    let mut bans: Vec<_> = bans.collect();
    // A network comes before all that it has in it.
    bans.sort_unstable();
    let mut last: Option<Network> = None;
    bans.retain(|(network, _)| {
        let is_covered = last.is_some_and(|last| last.contains(network.address()));
        if !is_covered {
            last = Some(*network);
        }
        !is_covered
    });
    bans.into_iter().collect()
}

/// From what the sets have to what they ought to have: first some are taken out, then others put in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) gone: BTreeSet<Network>,
    pub(super) new: Elements,
}

impl Difference {
    /// What has ended goes by itself, and is taken out only where it is in the way.
    pub(super) fn between(mirrored: &Elements, wanted: &Elements, now: Timestamp) -> Self {
        let is_new = |(network, until): &(&Network, &Option<Timestamp>)| mirrored.get(network) != Some(*until);
        let new: Elements = wanted.iter().filter(is_new).map(|(network, until)| (*network, *until)).collect();
        let is_gone = |(network, until): &(&Network, &Option<Timestamp>)| match wanted.get(network) {
            Some(wanted) => wanted != *until,
            None => !until.is_some_and(|until| until <= now),
        };
        let gone = mirrored.iter().filter(is_gone).map(|(network, _)| *network);
        let in_the_way = new.keys().flat_map(|network| overlapping(mirrored, network));
        let gone = gone.chain(in_the_way).collect();
        Self { gone, new }
    }

    /// What the sets have with it.
    pub(super) fn apply(self, mirrored: &mut Elements, now: Timestamp) {
        mirrored.retain(|network, until| {
            let is_over = until.is_some_and(|until| until.after(ENDED_AGO_MAX) <= now);
            !is_over && !self.gone.contains(network)
        });
        mirrored.extend(self.new);
    }
}

/// The elements that have an address in common with a network.
fn overlapping(elements: &Elements, network: &Network) -> impl Iterator<Item = Network> {
    let (before, from) = (elements.range(..network).next_back(), elements.range(network..));
    let narrower = from.take_while(|(other, _)| network.overlaps(other));
    before.into_iter().filter(|(other, _)| network.overlaps(other)).chain(narrower).map(|(other, _)| *other)
}

/// Empties the sets.
pub(super) fn emptying(sets: &NftablesSet) -> String {
    let NftablesSet { family, table, set_v4, set_v6 } = sets;
    format!("flush set {family} {table} {set_v4}\nflush set {family} {table} {set_v6}\n")
}

/// Takes elements out. To take out what is not there fails, and what is to go may have ended by itself; so it is put in
/// first, which changes nothing where it is there.
pub(super) fn taking_out(sets: &NftablesSet, gone: &BTreeSet<Network>) -> String {
    let mut script = String::new();
    commands(&mut script, "add", sets, gone.iter().map(|network| (network, Some(TAKEN_OUT_SECONDS))));
    commands(&mut script, "delete", sets, gone.iter().map(|network| (network, None)));
    script
}

/// Puts elements in.
pub(super) fn putting_in<'a>(
    sets: &NftablesSet,
    new: impl Iterator<Item = (&'a Network, &'a Option<Timestamp>)>,
    now: Timestamp,
) -> String {
    let mut script = String::new();
    commands(&mut script, "add", sets, new.map(|(network, until)| (network, Some(seconds_left(*until, now)))));
    script
}

/// Seconds to the end of a ban: a part of one counts as whole, since none would mean without end.
fn seconds_left(until: Option<Timestamp>, now: Timestamp) -> u64 {
    let left = until.map_or(TIMEOUT_SECONDS_MAX, |until| until.since(now).as_micros().div_ceil(1_000_000) as u64);
    left.clamp(1, TIMEOUT_SECONDS_MAX)
}

/// Commands of so many elements, each for one of the sets; networks come sorted, those of IPv4 first.
fn commands<'a>(
    script: &mut String,
    verb: &str,
    sets: &NftablesSet,
    elements: impl Iterator<Item = (&'a Network, Option<u64>)>,
) {
    let NftablesSet { family, table, .. } = sets;
    let (mut count, mut of) = (0, "");
    for (network, seconds) in elements {
        let set = if network.address().is_ipv4() { &sets.set_v4 } else { &sets.set_v6 };
        // Writing to a string can't fail, here and below.
        if count == 0 || count == ELEMENTS_MAX || of != set {
            script.push_str(if count == 0 { "" } else { " }\n" });
            let _ = write!(script, "{verb} element {family} {table} {set} {{ {network}");
            (count, of) = (0, set);
        } else {
            let _ = write!(script, ", {network}");
        }
        if let Some(seconds) = seconds {
            let _ = write!(script, " timeout {seconds}s");
        }
        count += 1;
    }
    if count > 0 {
        script.push_str(" }\n");
    }
}
