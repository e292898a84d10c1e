//! Which of a hop's servers is tried next.
//!
//! Connections are shared out by weight, smoothly: with weights 2 and 1 the order is A B A, A B A. A server that has
//! failed is put aside for a while, the longer the more often it fails in a row, and is tried all the same where
//! no other is left. One of weight 0 is a reserve: its turn comes when all that have a weight have failed.

use ringpost_base::{Deadline, Tick};
use ringpost_config::{HopHost, HopPlace};
use std::rc::Rc;
use std::time::Duration;

/// How long a server is put aside after its first failure: long enough that a queue does not wait for a dead server with
/// each of its messages, short enough that a restart of it is hardly noticed.
const ASIDE_FIRST: Duration = Duration::from_secs(30);

/// The longest time, after several failures in a row.
const ASIDE_MAX: Duration = Duration::from_secs(300);

/// Doublings that are counted; beyond, the longest time is reached anyway.
const FAILURES_MAX: u32 = 8;

const _: () = assert!(ASIDE_FIRST.as_secs() << FAILURES_MAX > ASIDE_MAX.as_secs());

/// One server.
struct Host {
    place: Rc<HopPlace>,
    weight: i64,
    /// How much of its share it has not had: the highest is next.
    credit: i64,
    failures: u32,
    /// Put aside until then, if it has failed.
    aside: Option<Deadline>,
}

impl Host {
    fn is_aside(&self, now: Tick) -> bool {
        self.aside.is_some_and(|until| !until.passed(now))
    }

    /// In which of the three groups it is: to be used, a reserve, or put aside.
    fn group(&self, now: Tick) -> u8 {
        match () {
            () if self.is_aside(now) => 2,
            () if self.weight == 0 => 1,
            () => 0,
        }
    }
}

/// The servers of a hop. They are called by their numbers, in the order of the config.
pub(super) struct Hosts(Vec<Host>);

impl Hosts {
    pub(super) fn new(hosts: &[HopHost]) -> Self {
        let host = |host: &HopHost| Host {
            place: Rc::new(host.place.clone()),
            weight: host.weight.into(),
            credit: 0,
            failures: 0,
            aside: None,
        };
        Self(hosts.iter().map(host).collect())
    }

    /// The next server to connect to, none of `tried`.
    pub(super) fn choose(&mut self, tried: &[usize], now: Tick) -> Option<(usize, Rc<HopPlace>)> {
        let left = || (0..self.0.len()).filter(|number| !tried.contains(number));
        let group = left().map(|number| self.0[number].group(now)).min()?;
        let of_group: Vec<usize> = left().filter(|number| self.0[*number].group(now) == group).collect();
        let chosen = match group {
            0 => self.by_weight(&of_group)?,
            1 => *of_group.first()?,
            // The one that has been aside for longest is the likeliest to be back.
            _ => of_group.into_iter().min_by_key(|number| self.0[*number].aside)?,
        };
        Some((chosen, self.0[chosen].place.clone()))
    }

    /// Smooth weighted turns: each gets its weight, the richest goes and pays what all got.
    fn by_weight(&mut self, numbers: &[usize]) -> Option<usize> {
        let mut total = 0;
        for number in numbers {
            let host = &mut self.0[*number];
            host.credit += host.weight;
            total += host.weight;
        }
        // Of equals the first: `max_by_key` would take the last.
        let chosen = numbers.iter().copied().rev().max_by_key(|number| self.0[*number].credit)?;
        self.0[chosen].credit -= total;
        Some(chosen)
    }

    /// Whether an open connection to this server is one that would be chosen today: one to a reserve is not, once another is
    /// there again.
    pub(super) fn is_wanted(&self, number: usize, now: Tick) -> bool {
        let best = self.0.iter().map(|host| host.group(now)).min();
        self.0.get(number).is_some_and(|host| Some(host.group(now)) == best)
    }

    /// The server did not work.
    pub(super) fn failed(&mut self, number: usize, now: Tick) {
        let Some(host) = self.0.get_mut(number) else { return };
        // Several deliveries that fail together are one failure.
        if !host.is_aside(now) {
            host.failures = (host.failures + 1).min(FAILURES_MAX);
        }
        let span = ASIDE_FIRST.saturating_mul(1 << (host.failures - 1)).min(ASIDE_MAX);
        host.aside = Some(now.deadline(span));
    }

    /// The server worked.
    pub(super) fn worked(&mut self, number: usize) {
        if let Some(host) = self.0.get_mut(number) {
            host.failures = 0;
            host.aside = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(weights: &[u32]) -> Hosts {
        let place = |number| HopPlace::Tcp { host: format!("mx{number}.example"), port: 25 };
        let host = |(number, weight): (usize, &u32)| HopHost { place: place(number), weight: *weight };
        Hosts::new(&weights.iter().enumerate().map(host).collect::<Vec<_>>())
    }

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    /// Chooses as often as `want` is long, and compares; `-` is none.
    fn check(hosts: &mut Hosts, tried: &[usize], seconds: u64, want: &str) {
        let name = |chosen: Option<(usize, _)>| chosen.map_or("-".into(), |(number, _)| number.to_string());
        let got: String = want.chars().map(|_| name(hosts.choose(tried, at(seconds)))).collect();
        assert_eq!(got, want, "without {tried:?}, at {seconds} s");
    }

    #[test]
    fn connections_are_shared_out_by_weight() {
        for (weights, want) in [
            (&[1][..], "000"),
            (&[1, 1], "010101"),
            (&[2, 1], "010010"),
            (&[3, 1, 1], "0102001020"),
            (&[1, 0], "0000"),
            (&[0, 0], "00"),
            (&[], "-"),
        ] {
            check(&mut hosts(weights), &[], 0, want);
        }
    }

    #[test]
    fn what_was_tried_is_left_out_and_reserves_come_last() {
        let mut hosts = hosts(&[1, 0, 1]);
        check(&mut hosts, &[0], 0, "22");
        check(&mut hosts, &[0, 2], 0, "11");
        check(&mut hosts, &[0, 2, 1], 0, "-");
    }

    #[test]
    fn a_failed_server_is_put_aside_and_comes_back() {
        let mut hosts = hosts(&[1, 1, 0]);
        hosts.failed(0, at(0));
        check(&mut hosts, &[], 1, "111");
        hosts.failed(1, at(1));
        check(&mut hosts, &[], 2, "22");
        hosts.failed(2, at(2));
        // All are aside: the one that failed first goes first.
        check(&mut hosts, &[], 3, "00");
        check(&mut hosts, &[0], 3, "1");
        assert!(!hosts.is_wanted(2, at(31)), "the first is to be used again");
        assert!(hosts.is_wanted(0, at(31)));
        check(&mut hosts, &[], 31, "0");
        hosts.worked(1);
        check(&mut hosts, &[0], 31, "1");
    }

    #[test]
    fn the_more_often_it_fails_the_longer_it_is_aside() {
        let mut hosts = hosts(&[1, 1]);
        let mut now = 0;
        for span in [30, 60, 120, 240, 300, 300, 300, 300, 300, 300] {
            hosts.failed(0, at(now));
            // Others that failed at the same time don't make it longer.
            hosts.failed(0, at(now));
            assert!(!hosts.is_wanted(0, at(now + span)), "{span} s");
            assert!(hosts.is_wanted(0, at(now + span + 1)), "{span} s");
            now += span + 1;
        }
        hosts.worked(0);
        hosts.failed(0, at(now));
        assert!(hosts.is_wanted(0, at(now + 31)));
    }
}
