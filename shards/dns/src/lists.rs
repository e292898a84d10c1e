//! DNS lists: what strangers think of an address, RFC 5782.
//!
//! Invariants: a list that doesn't work never stands in the way of mail. Whatever goes wrong with it, the verdict is
//! [`Verdict::Unknown`], never "listed"; one that keeps failing is skipped, so that it costs no time either; none waits for
//! another, and nothing beyond the caller's deadline.
//!
//! Lists end in more ways than by falling silent, and each has refused the world's mail at some time:
//! - The zone is sold and every name in it leads to a shop. What a list says is in 127.0.0.0/8; anything else is no answer.
//! - The list lists everything, so that its last users go away. RFC 5782 section 5 forbids an entry for 127.0.0.1: before
//!   a listing is believed, this one must not be there.
//! - The list wants no questions from here, and says so by a code of its own in 127.255.255.0/24.

use crate::answer::{Failure, Kind, Outcome, Question, Records};
use crate::breaker::{Admission, Breaker};
use crate::resolver::Begun;
use crate::under_way::Share;
use crate::{BreakerOptions, DnsError, Health, Resolver, name, reverse_name};
use ringpost_base::Deadline;
use ringpost_runtime::tick;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::task::Poll;

/// An address that no list may have, RFC 5782 section 5.
const NEVER_LISTED_IPV4: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The same for lists of IPv6 addresses. It is asked for by its digits: as an address it counts as IPv4.
const NEVER_LISTED_IPV6: Ipv6Addr = Ipv4Addr::LOCALHOST.to_ipv6_mapped();

/// Answers that mean something in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The first of them.
    pub first: Ipv4Addr,
    /// The last of them, the same if it is only one.
    pub last: Ipv4Addr,
    /// What they weigh; none means what the list weighs.
    pub weight: Option<i32>,
}

/// A list to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Its zone, as in `zen.example`. It may hold the key of a customer, so it is asked and not shown.
    pub zone: Box<str>,
    /// The zone as it may be shown, in log lines and errors.
    pub shown: Box<str>,
    /// What a listing weighs. What that means, and that a negative one speaks for the client, is for policy to say.
    pub weight: i32,
    /// The answers that count; none means all.
    pub answers: Vec<Answers>,
}

/// What a list says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is on the list.
    Listed {
        /// The answer that counts: of several the one that weighs most, on either side of zero.
        answer: Ipv4Addr,
        /// What it weighs.
        weight: i32,
    },
    /// It is not.
    NotListed,
    /// The list can't be relied on now. The caller goes on without it.
    Unknown(Doubt),
}

/// Why nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// The question failed.
    Failed(Failure),
    /// The list has failed so often that it isn't asked for a while.
    Skipped,
    /// The answer is none that a list may give: the zone is no list any more.
    Foreign(Ipv4Addr),
    /// The list doesn't want to be asked from here.
    Code(Ipv4Addr),
    /// The list has an entry for 127.0.0.1, so it lists everything.
    ListsEverything,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::Skipped => f.write_str("it has failed too often"),
            Self::Foreign(answer) => write!(f, "it answers {answer}, which no list may: it is no list any more"),
            Self::Code(answer) => {
                write!(f, "it answers {answer}: it wants no questions from this server or its DNS server")
            }
            Self::ListsEverything => f.write_str("it lists 127.0.0.1, so it lists everything"),
        }
    }
}

/// How a list does, on this shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListState {
    /// Its zone.
    pub zone: Box<str>,
    /// Whether it is asked.
    pub health: Health,
    /// Failures since the last success.
    pub failures: u32,
    /// The last of them.
    pub last: Option<Doubt>,
}

struct Watch {
    breaker: Breaker,
    last: Option<Doubt>,
}

/// The lists of one shard.
pub struct Lists {
    resolver: Rc<Resolver>,
    lists: Vec<List>,
    watches: Vec<RefCell<Watch>>,
}

/// A list that is being asked.
struct Inquiry<'a> {
    list: usize,
    /// None if the list is skipped.
    begun: Option<Begun>,
    trial: Option<Trial<'a>>,
}

/// The one question that tries a list. Dropped before it has come out, it leaves the next one to try.
struct Trial<'a>(&'a RefCell<Watch>);

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().breaker.abandon(tick());
    }
}

impl Lists {
    /// Takes the lists, to be asked through `resolver`.
    ///
    /// # Errors
    /// If a zone is no name, or too long for an address in front of it.
    pub fn new(resolver: Rc<Resolver>, lists: Vec<List>, options: BreakerOptions) -> Result<Self, DnsError> {
        let fits = |list: &List| {
            // The longest names are those of IPv6 addresses.
            let longest = nibble_name(Ipv6Addr::UNSPECIFIED, &list.zone);
            name::canonical(&list.zone).is_some() && name::canonical(&longest).is_some()
        };
        if let Some(list) = lists.iter().find(|list| !fits(list)) {
            return Err(DnsError::Zone(list.shown.to_string()));
        }
        let watch = |_| RefCell::new(Watch { breaker: Breaker::new(options), last: None });
        let watches = lists.iter().map(watch).collect();
        Ok(Self { resolver, lists, watches })
    }

    /// The lists, in the order of the verdicts.
    pub fn lists(&self) -> &[List] {
        &self.lists
    }

    /// Asks all lists at once for an address; gives a verdict for each, in their order, by the deadline.
    ///
    /// A list that has not answered by then has failed. So the deadline should leave a list the time that it usually takes.
    pub async fn look_up(&self, address: IpAddr, deadline: Deadline) -> Vec<Verdict> {
        // All of them are told, so none of these stays.
        let verdicts = RefCell::new(vec![Verdict::Unknown(Doubt::Skipped); self.lists.len()]);
        self.look_up_each(address, deadline, |list, verdict| verdicts.borrow_mut()[list] = verdict).await;
        verdicts.into_inner()
    }

    /// The same, where each verdict is told as soon as there is one, with the list's place among them: what a list says is
    /// then known however long another takes.
    pub async fn look_up_each(&self, address: IpAddr, deadline: Deadline, tell: impl Fn(usize, Verdict)) {
        let begun: Vec<Inquiry> = (0..self.lists.len()).map(|list| self.begin(list, address, deadline)).collect();
        let tell = &tell;
        let finish = begun.into_iter().map(|inquiry| {
            let list = inquiry.list;
            Box::pin(async move { tell(list, self.finish(inquiry, address, deadline).await) })
        });
        let mut left: Vec<_> = finish.collect();
        // A wake tells not for which, so all that are left are polled: lists are few.
        poll_fn(|context| {
            left.retain_mut(|inquiry| inquiry.as_mut().poll(context).is_pending());
            if left.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// How the lists do.
    pub fn states(&self) -> Vec<ListState> {
        let state = |(list, watch): (&List, &RefCell<Watch>)| {
            let Watch { breaker, last } = &*watch.borrow();
            ListState { zone: list.zone.clone(), health: breaker.health(), failures: breaker.failures(), last: *last }
        };
        self.lists.iter().zip(&self.watches).map(state).collect()
    }

    fn begin(&self, list: usize, address: IpAddr, deadline: Deadline) -> Inquiry<'_> {
        let inquiry = |begun, trial| Inquiry { list, begun, trial };
        let Some(question) = question(&reverse_name(address, &self.lists[list].zone)) else {
            return inquiry(Some(Begun::Not(Failure::NoSuchName)), None);
        };
        // What is known is good, however the list does by now.
        if let Some(outcome) = self.resolver.cached(&question) {
            return inquiry(Some(Begun::Cached(outcome)), None);
        }
        let watch = &self.watches[list];
        let admission = watch.borrow_mut().breaker.admit(tick());
        match admission {
            Admission::Skip => inquiry(None, None),
            Admission::Ask => inquiry(Some(self.resolver.begin(question, Share::Lists, deadline)), None),
            Admission::Try => inquiry(Some(self.resolver.begin(question, Share::Lists, deadline)), Some(Trial(watch))),
        }
    }

    async fn finish(&self, inquiry: Inquiry<'_>, address: IpAddr, deadline: Deadline) -> Verdict {
        let Inquiry { list, begun, trial } = inquiry;
        let Some(begun) = begun else { return Verdict::Unknown(Doubt::Skipped) };
        // One answer is one piece of evidence of how the list does, however many wait for it or find it in the cache.
        let counts = matches!(begun, Begun::Asked(_)) || trial.is_some() && matches!(begun, Begun::Joined(_));
        let mut verdict = judge(&self.lists[list], self.resolver.finish(begun, deadline).await);
        if matches!(verdict, Verdict::Listed { .. }) && self.lists_everything(list, address, deadline).await {
            verdict = Verdict::Unknown(Doubt::ListsEverything);
        }
        if counts {
            self.watch(list, verdict, trial.is_some());
        }
        verdict
    }

    /// Whether the list has the entry that none may have. If that can't be found out, it is taken not to.
    async fn lists_everything(&self, list: usize, address: IpAddr, deadline: Deadline) -> bool {
        let list = &self.lists[list];
        let name = match address.to_canonical() {
            IpAddr::V4(_) => reverse_name(NEVER_LISTED_IPV4.into(), &list.zone),
            IpAddr::V6(_) => nibble_name(NEVER_LISTED_IPV6, &list.zone),
        };
        let Some(question) = question(&name) else { return false };
        let cached = self.resolver.cached(&question);
        let begun = cached.map_or_else(|| self.resolver.begin(question, Share::Lists, deadline), Begun::Cached);
        matches!(judge(list, self.resolver.finish(begun, deadline).await), Verdict::Listed { .. })
    }

    /// Notes how a question came out, and says so in the log where it changes something.
    fn watch(&self, list: usize, verdict: Verdict, trial: bool) {
        let shown = &*self.lists[list].shown;
        let Watch { breaker, last } = &mut *self.watches[list].borrow_mut();
        match verdict {
            Verdict::Unknown(Doubt::Failed(Failure::Overload)) => {}
            Verdict::Unknown(doubt) => {
                let skipped = breaker.fail(trial, tick());
                // A failed question may be chance. What the list says of itself is not.
                let told = !matches!(doubt, Doubt::Failed(_)) && *last != Some(doubt);
                *last = Some(doubt);
                if skipped {
                    tracing::warn!(list = shown, reason = %doubt, "a DNS list doesn't work; it is skipped and tried now and then");
                } else if told {
                    tracing::warn!(list = shown, reason = %doubt, "a DNS list gives no usable answer");
                }
            }
            Verdict::Listed { .. } | Verdict::NotListed => {
                *last = None;
                if breaker.succeed() {
                    tracing::info!(list = shown, "a DNS list works again");
                }
            }
        }
    }
}

fn question(name: &str) -> Option<Question> {
    Some(Question { name: name::canonical(name)?, kind: Kind::Ipv4 })
}

fn nibble_name(address: Ipv6Addr, zone: &str) -> String {
    name::nibbles(address.octets(), zone)
}

/// Makes a verdict of an answer.
fn judge(list: &List, outcome: Outcome) -> Verdict {
    let found = match outcome {
        Ok(found) => found,
        Err(Failure::NoSuchName) => return Verdict::NotListed,
        Err(failure) => return Verdict::Unknown(Doubt::Failed(failure)),
    };
    let Records::Ipv4(answers) = &found.records else { return Verdict::NotListed };
    // By convention what a list says stands in 127.0.0.0/8: RFC 5782 section 2.1 and RFC 5782 section 2.3.
    if let Some(foreign) = answers.iter().find(|answer| !answer.is_loopback()) {
        return Verdict::Unknown(Doubt::Foreign(*foreign));
    }
    // Spamhaus began with these codes, and others followed: a public resolver asks, too much is asked, a name is misspelt.
    if let Some(code) = answers.iter().find(|answer| answer.octets()[..3] == [127, 255, 255]) {
        return Verdict::Unknown(Doubt::Code(*code));
    }
    let weighed = answers.iter().filter_map(|answer| Some((*answer, weigh(list, *answer)?)));
    // Of equals the first.
    let heaviest = weighed.reduce(|a, b| if b.1.unsigned_abs() > a.1.unsigned_abs() { b } else { a });
    heaviest.map_or(Verdict::NotListed, |(answer, weight)| Verdict::Listed { answer, weight })
}

/// What an answer weighs, if it counts.
fn weigh(list: &List, answer: Ipv4Addr) -> Option<i32> {
    if list.answers.is_empty() {
        return Some(list.weight);
    }
    let counted = list.answers.iter().find(|range| (range.first..=range.last).contains(&answer))?;
    Some(counted.weight.unwrap_or(list.weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Found;
    use ringpost_base::Tick;

    fn list(answers: &[(&str, &str, Option<i32>)]) -> List {
        let ip = |text: &str| text.parse().expect("an address");
        let answers =
            answers.iter().map(|(first, last, weight)| Answers { first: ip(first), last: ip(last), weight: *weight });
        List { zone: "list.example".into(), shown: "list.example".into(), weight: 3, answers: answers.collect() }
    }

    fn check(list: &List, answers: &[&str], expected: Verdict) {
        let records = Records::Ipv4(answers.iter().map(|text| text.parse().expect("an address")).collect());
        let outcome = Ok(Rc::new(Found { records, expires: Tick::default() }));
        assert_eq!(judge(list, outcome), expected, "{answers:?}");
    }

    fn listed(answer: [u8; 4], weight: i32) -> Verdict {
        Verdict::Listed { answer: answer.into(), weight }
    }

    #[test]
    fn any_answer_counts_where_none_are_named() {
        check(&list(&[]), &["127.0.0.2"], listed([127, 0, 0, 2], 3));
        check(&list(&[]), &["127.9.9.9", "127.0.0.2"], listed([127, 9, 9, 9], 3));
    }

    #[test]
    fn named_answers_have_their_own_weights() {
        let list = list(&[
            ("127.0.0.10", "127.0.0.11", Some(0)),
            ("127.0.0.2", "127.0.0.9", None),
            ("127.0.1.0", "127.0.1.255", Some(-7)),
        ]);
        check(&list, &["127.0.0.2"], listed([127, 0, 0, 2], 3));
        check(&list, &["127.0.0.9"], listed([127, 0, 0, 9], 3));
        check(&list, &["127.0.0.11"], listed([127, 0, 0, 11], 0));
        check(&list, &["127.0.1.200"], listed([127, 0, 1, 200], -7));
        check(&list, &["127.0.0.11", "127.0.0.4"], listed([127, 0, 0, 4], 3));
        check(&list, &["127.0.0.4", "127.0.1.3"], listed([127, 0, 1, 3], -7));
        check(&list, &["127.0.0.1"], Verdict::NotListed);
        check(&list, &["127.0.0.12", "127.0.2.0"], Verdict::NotListed);
    }

    #[test]
    fn a_zone_that_was_sold_lists_nobody() {
        let foreign = Verdict::Unknown(Doubt::Foreign([203, 0, 113, 5].into()));
        check(&list(&[]), &["203.0.113.5"], foreign);
        check(&list(&[]), &["127.0.0.2", "203.0.113.5"], foreign);
        check(&list(&[("127.0.0.2", "127.0.0.2", None)]), &["203.0.113.5"], foreign);
    }

    #[test]
    fn a_list_that_wants_no_questions_lists_nobody() {
        for (text, octets) in [
            ("127.255.255.252", [127, 255, 255, 252]),
            ("127.255.255.254", [127, 255, 255, 254]),
            ("127.255.255.255", [127, 255, 255, 255]),
        ] {
            check(&list(&[]), &[text], Verdict::Unknown(Doubt::Code(octets.into())));
        }
        check(&list(&[]), &["127.255.254.1"], listed([127, 255, 254, 1], 3));
    }

    #[test]
    fn failures_are_no_verdicts() {
        assert_eq!(judge(&list(&[]), Err(Failure::NoSuchName)), Verdict::NotListed);
        for failure in [Failure::Timeout, Failure::Refused, Failure::Server { code: 2 }, Failure::Unreachable] {
            assert_eq!(judge(&list(&[]), Err(failure)), Verdict::Unknown(Doubt::Failed(failure)));
        }
    }
}
