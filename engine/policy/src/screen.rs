//! What is known about a sending host before its mail is seen: evidence, a score, and what follows from it.
//!
//! Every piece of evidence has a weight; the score is their sum. A piece that could not be found out (a lookup that
//! failed or was late) does not count: the DNS being down must not stop mail. A score below zero means that somebody
//! vouches for the host. RFC 5321 section 4.1.4 forbids to refuse mail for a HELO name that does not verify, and by
//! itself it never does: its weights are 0 unless the operator says otherwise.

use ringpost_base::{Span, canonical};
use ringpost_smtp::{Reply, replies};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A DNS list (RFC 5782): one that blocks has a positive weight, one that vouches a negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsList {
    /// The zone, as `zen.spamhaus.org`. It may hold the key of a customer, so it is for questions and never for anyone to read.
    pub zone: String,
    /// The zone as it may be shown: in replies, in the log, in traces and wherever else a list is named.
    pub shown: Box<str>,
    /// What being listed adds to the score.
    pub weight: i32,
    /// The answers that count, as ranges of addresses, first and last included. Empty: every answer in 127.0.0.0/8.
    pub answers: Vec<(Ipv4Addr, Ipv4Addr)>,
}

/// How a sending host is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScreenOptions {
    /// How long a client must keep silent before the banner, to find those that speak first. Zero: the test is off.
    pub pregreet_wait: Span,
    /// How long the first RCPT waits for lookups at most: about the client's address, counted from when its banner is due, and
    /// about its HELO name, from when it gave that. What has not come does not count.
    pub deadline: Span,
    /// The score from which replies are slow. Nothing: never.
    pub score_tarpit: Option<i32>,
    /// The score from which `greylist.mode = "suspicious"` puts mail off. Nothing: never.
    pub score_greylist: Option<i32>,
    /// The score from which recipients are refused. Nothing: never.
    pub score_reject: Option<i32>,
    /// How long a slow reply takes.
    pub tarpit_delay: Span,
    /// What speaking before the banner adds.
    pub weight_pregreet: i32,
    /// What a HELO name adds that is neither a domain name with a dot nor an address literal.
    pub weight_helo_malformed: i32,
    /// What a HELO name adds that is this server's own, or one of its domains.
    pub weight_helo_own_name: i32,
    /// What an address literal in HELO adds that is not the client's address.
    pub weight_helo_literal: i32,
    /// What a HELO name adds that has no address.
    pub weight_helo_unresolved: i32,
    /// What it adds if the client's address has no name (PTR).
    pub weight_rdns_missing: i32,
    /// What it adds if none of its names leads back to the address.
    pub weight_rdns_unconfirmed: i32,
    /// The DNS lists.
    pub lists: Vec<DnsList>,
}

impl Default for ScreenOptions {
    fn default() -> Self {
        Self {
            pregreet_wait: Span::millis(0),
            deadline: Span::seconds(4),
            score_tarpit: None,
            score_greylist: None,
            score_reject: None,
            tarpit_delay: Span::seconds(2),
            weight_pregreet: 0,
            weight_helo_malformed: 0,
            weight_helo_own_name: 0,
            weight_helo_literal: 0,
            weight_helo_unresolved: 0,
            weight_rdns_missing: 0,
            weight_rdns_unconfirmed: 0,
            lists: Vec::new(),
        }
    }
}

/// What a HELO name looks like, without asking anyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeloKind {
    /// A domain name with a dot, or none was said yet.
    #[default]
    Fine,
    /// An address literal, the client's own.
    Literal,
    /// An address literal, not the client's own.
    LiteralMismatch,
    /// Neither a domain name with a dot nor an address literal.
    Malformed,
    /// The name of this server, or one of its domains.
    OwnName,
}

impl HeloKind {
    /// Looks at the name of a client at `peer`; `own` tells the names that only this server may call itself.
    pub fn of(name: &str, peer: IpAddr, own: impl Fn(&str) -> bool) -> Self {
        if let Some(literal) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return match literal_address(literal) {
                None => Self::Malformed,
                Some(address) if canonical(address) == canonical(peer) => Self::Literal,
                Some(_) => Self::LiteralMismatch,
            };
        }
        if own(name) {
            return Self::OwnName;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || !c.is_ascii())
        };
        // A bare address without brackets is no name either: its last label would be a number.
        let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if name.contains('.') && name.split('.').all(label) && !last_is_number { Self::Fine } else { Self::Malformed }
    }
}

/// The address in `192.0.2.1` or `IPv6:2001:db8::1` (RFC 5321 section 4.1.3).
fn literal_address(literal: &str) -> Option<IpAddr> {
    match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => literal[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => literal.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// What the DNS says of the name of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reverse {
    /// Not asked, or no answer came: never counts.
    #[default]
    Unknown,
    /// The address has no name.
    Missing,
    /// It has a name that does not lead back to it.
    Unconfirmed(Box<str>),
    /// It has a name that leads back to it.
    Confirmed(Box<str>),
}

impl fmt::Display for Reverse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Missing => f.write_str("missing"),
            Self::Unconfirmed(name) => write!(f, "unconfirmed {name}"),
            Self::Confirmed(name) => write!(f, "confirmed {name}"),
        }
    }
}

impl Reverse {
    /// The name that was confirmed.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Confirmed(name) => Some(name),
            _ => None,
        }
    }
}

/// An entry of a host in a DNS list. It names the list, since the options that it is weighed by may be others than those that
/// the list was asked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The zone of the list, which may hold a key.
    pub zone: Box<str>,
    /// The zone as it may be shown.
    pub shown: Box<str>,
    /// What the list answers.
    pub answer: Ipv4Addr,
}

/// What is known about a sending host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// It spoke before the banner.
    pub pregreet: bool,
    /// What its HELO name looks like.
    pub helo: HeloKind,
    /// Whether the HELO name has an address; nothing: not asked, or no answer came.
    pub helo_resolves: Option<bool>,
    /// What its address is called.
    pub reverse: Reverse,
    /// The lists that it is on. One whose zone is not in the options does not count.
    pub lists: Vec<Listing>,
}

/// One piece of evidence that counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The config key of its weight without `screen.`, or the zone of a list as it may be shown.
    pub name: Box<str>,
    /// What it added.
    pub weight: i32,
}

/// What the evidence comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// The sum.
    pub total: i32,
    /// What it is made of, in the order of the options.
    pub parts: Vec<Part>,
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Part { name, weight }) in self.parts.iter().enumerate() {
            let gap = if at == 0 { "" } else { ", " };
            write!(f, "{gap}{name} {weight:+}")?;
        }
        Ok(())
    }
}

/// What follows from a score.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Screening {
    /// Replies are held back.
    pub tarpit: bool,
    /// Mail is suspicious enough for `greylist.mode = "suspicious"`.
    pub suspicious: bool,
    /// Somebody vouches for the host.
    pub known_good: bool,
    /// Recipients are refused with this.
    pub refusal: Option<Reply>,
}

impl ScreenOptions {
    /// Whether nothing would follow from any evidence.
    pub fn is_idle(&self) -> bool {
        self.score_tarpit.is_none()
            && self.score_greylist.is_none()
            && self.score_reject.is_none()
            && self.lists.iter().all(|list| list.weight >= 0)
    }

    /// Whether the names of addresses are to be looked up.
    pub fn wants_reverse(&self) -> bool {
        self.weight_rdns_missing != 0 || self.weight_rdns_unconfirmed != 0
    }

    /// Whether the addresses of HELO names are to be looked up.
    pub fn wants_helo_address(&self) -> bool {
        self.weight_helo_unresolved != 0
    }

    /// The score of what is known.
    pub fn score(&self, evidence: &Evidence) -> Score {
        let helo = evidence.helo;
        let unresolved = evidence.helo_resolves == Some(false);
        let found = [
            ("weight_pregreet", evidence.pregreet, self.weight_pregreet),
            ("weight_helo_malformed", helo == HeloKind::Malformed, self.weight_helo_malformed),
            ("weight_helo_own_name", helo == HeloKind::OwnName, self.weight_helo_own_name),
            ("weight_helo_literal", helo == HeloKind::LiteralMismatch, self.weight_helo_literal),
            ("weight_helo_unresolved", unresolved, self.weight_helo_unresolved),
            ("weight_rdns_missing", evidence.reverse == Reverse::Missing, self.weight_rdns_missing),
            (
                "weight_rdns_unconfirmed",
                matches!(evidence.reverse, Reverse::Unconfirmed(_)),
                self.weight_rdns_unconfirmed,
            ),
        ];
        let own = found.into_iter().filter(|(_, holds, weight)| *holds && *weight != 0);
        let own = own.map(|(name, _, weight)| Part { name: name.into(), weight });
        let listed = self.lists.iter().filter(|list| evidence.lists.iter().any(|listing| list.has(listing)));
        let listed = listed.map(|list| Part { name: list.shown.clone(), weight: list.weight });
        let parts: Vec<Part> = own.chain(listed).collect();
        Score { total: parts.iter().fold(0, |sum, part| sum.saturating_add(part.weight)), parts }
    }

    /// What follows from a score. The refusal names what counted most, so that a sender knows where to ask.
    pub fn judge(&self, score: &Score) -> Screening {
        let reaches = |threshold: Option<i32>| threshold.is_some_and(|threshold| score.total >= threshold);
        let refusal = reaches(self.score_reject).then(|| match score.parts.iter().max_by_key(|part| part.weight) {
            Some(part) if &*part.name == "weight_pregreet" => replies::SCREENED_PREGREET,
            Some(part) => replies::SCREENED.with_detail(&part.name),
            None => replies::SCREENED,
        });
        Screening {
            tarpit: reaches(self.score_tarpit),
            suspicious: reaches(self.score_greylist),
            known_good: score.total < 0,
            refusal,
        }
    }
}

impl DnsList {
    /// Whether an answer of the list counts. Answers outside of 127.0.0.0/8 never do (RFC 5782 section 2.1).
    pub fn counts(&self, answer: Ipv4Addr) -> bool {
        answer.is_loopback()
            && (self.answers.is_empty() || self.answers.iter().any(|(first, last)| (*first..=*last).contains(&answer)))
    }

    /// Whether the entry is one of this list, and counts.
    fn has(&self, listing: &Listing) -> bool {
        self.zone.eq_ignore_ascii_case(&listing.zone) && self.counts(listing.answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn helo_names() {
        let own = |name: &str| name.eq_ignore_ascii_case("mx.example.com");
        for (name, want) in [
            ("mail.example.org", HeloKind::Fine),
            ("mail.example.org.", HeloKind::Fine),
            ("büro.example", HeloKind::Fine),
            ("my_host.example.org", HeloKind::Fine),
            ("localhost", HeloKind::Malformed),
            ("", HeloKind::Malformed),
            ("a..b", HeloKind::Malformed),
            ("192.0.2.1", HeloKind::Malformed),
            ("MX.example.com", HeloKind::OwnName),
            ("[192.0.2.1]", HeloKind::Literal),
            ("[IPv6:::ffff:192.0.2.1]", HeloKind::Literal),
            ("[192.0.2.2]", HeloKind::LiteralMismatch),
            ("[ipv6:2001:db8::1]", HeloKind::LiteralMismatch),
            ("[mail.example.org]", HeloKind::Malformed),
            ("[192.0.2.1", HeloKind::Malformed),
        ] {
            assert_eq!(HeloKind::of(name, PEER, own), want, "{name}");
        }
    }

    fn options() -> ScreenOptions {
        let list = |zone: &str, weight, answers| DnsList { zone: zone.into(), shown: zone.into(), weight, answers };
        let range = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 9));
        ScreenOptions {
            score_tarpit: Some(2),
            score_greylist: Some(3),
            score_reject: Some(5),
            weight_pregreet: 5,
            weight_helo_malformed: 2,
            weight_rdns_missing: 1,
            weight_helo_unresolved: 1,
            lists: vec![list("block.example", 4, vec![range]), list("good.example", -10, Vec::new())],
            ..ScreenOptions::default()
        }
    }

    fn listing(zone: &str, answer: [u8; 4]) -> Listing {
        Listing { zone: zone.into(), shown: zone.into(), answer: answer.into() }
    }

    fn check(evidence: Evidence, total: i32, tarpit: bool, suspicious: bool, code: Option<u16>) {
        let options = options();
        let score = options.score(&evidence);
        let screening = options.judge(&score);
        assert_eq!(score.total, total, "{evidence:?}");
        assert_eq!((screening.tarpit, screening.suspicious), (tarpit, suspicious), "{evidence:?}");
        assert_eq!(screening.refusal.map(|reply| reply.code()), code, "{evidence:?}");
        assert_eq!(screening.known_good, total < 0);
    }

    #[test]
    fn scores_and_what_follows() {
        let none = Evidence::default;
        let block = |last| listing("block.example", [127, 0, 0, last]);
        let good = |last| listing("good.example", [127, 0, 0, last]);
        check(none(), 0, false, false, None);
        check(Evidence { reverse: Reverse::Unknown, helo_resolves: None, ..none() }, 0, false, false, None);
        check(Evidence { helo: HeloKind::Malformed, ..none() }, 2, true, false, None);
        let weak = Evidence { helo: HeloKind::Malformed, reverse: Reverse::Missing, ..none() };
        check(weak.clone(), 3, true, true, None);
        check(Evidence { lists: vec![block(10)], ..none() }, 0, false, false, None);
        check(Evidence { lists: vec![listing("block.example", [10, 0, 0, 2])], ..none() }, 0, false, false, None);
        check(Evidence { lists: vec![block(2)], ..none() }, 4, true, true, None);
        check(Evidence { lists: vec![block(2)], helo_resolves: Some(false), ..none() }, 5, true, true, Some(550));
        check(Evidence { pregreet: true, ..none() }, 5, true, true, Some(554));
        check(Evidence { pregreet: true, lists: vec![good(7), block(3)], ..weak }, 2, true, false, None);
        check(Evidence { lists: vec![good(2)], ..none() }, -10, false, false, None);
    }

    #[test]
    fn a_refusal_names_what_counted_most() {
        let evidence = Evidence {
            reverse: Reverse::Missing,
            lists: vec![listing("block.example", [127, 0, 0, 2])],
            ..Evidence::default()
        };
        let options = options();
        let refusal = options.judge(&options.score(&evidence)).refusal.expect("refused");
        assert_eq!(refusal, replies::SCREENED.with_detail("block.example"));
    }

    /// The key stood in the 5xx of every refused session once, for the stranger to read and use.
    #[test]
    fn the_key_in_a_zone_is_told_to_nobody() {
        let (key, shown) = ("abcdefghijklmnopqrstuvwxyz.zen.dq.example.net", "***.zen.dq.example.net");
        let list = |zone: &str, weight| DnsList { zone: zone.into(), shown: shown.into(), weight, answers: Vec::new() };
        let lists = vec![list(key, 9), list(&key.to_ascii_uppercase()[1..], 3)];
        let options = ScreenOptions { lists, score_reject: Some(5), ..ScreenOptions::default() };
        let entry = Listing { shown: shown.into(), ..listing(key, [127, 0, 0, 2]) };
        let score = options.score(&Evidence { lists: vec![entry], ..Evidence::default() });
        assert_eq!(score.to_string(), "***.zen.dq.example.net +9", "the other key of the provider does not count");
        let refusal = options.judge(&score).refusal.expect("refused");
        assert_eq!(refusal, replies::SCREENED.with_detail(shown));
    }

    /// The lists can change between the question and the judgement: a place among them once made one list's entry another's.
    #[test]
    fn an_entry_counts_for_its_own_list_whatever_a_reload_made_of_the_others() {
        let list = |zone: &str, weight| DnsList { zone: zone.into(), shown: zone.into(), weight, answers: Vec::new() };
        let parts = |lists: Vec<DnsList>| {
            let evidence = Evidence { lists: vec![listing("good.example", [127, 0, 0, 2])], ..Evidence::default() };
            let score = ScreenOptions { lists, ..ScreenOptions::default() }.score(&evidence);
            score.parts.iter().map(|part| (part.name.to_string(), part.weight)).collect::<Vec<_>>()
        };
        let (block, good) = (list("block.example", 9), list("good.example", -5));
        assert_eq!(parts(vec![block.clone(), good.clone()]), [("good.example".to_owned(), -5)]);
        assert_eq!(parts(vec![good, block.clone()]), [("good.example".to_owned(), -5)]);
        assert_eq!(parts(vec![list("Good.Example", 3), block.clone()]), [("Good.Example".to_owned(), 3)]);
        assert!(parts(vec![block]).is_empty());
    }

    #[test]
    fn lookups_without_a_weight_are_not_wanted() {
        assert!(options().wants_reverse() && options().wants_helo_address());
        assert!(!ScreenOptions::default().wants_reverse() && !ScreenOptions::default().wants_helo_address());
    }
}
