//! A shard's resolver: its cache, its questions under way, and the task that collects answers.
//!
//! Invariants: at most [`IN_FLIGHT_MAX`](crate::IN_FLIGHT_MAX) questions of a shard are under way, those of the DNS lists apart
//! from all others; equal questions under way are one; nobody waits beyond the deadline it gave. A question goes on when
//! nobody waits for it any more: its answer is remembered, and the next one who asks has it at once.
//!
//! What it refuses: to panic or to fail as a whole. A DNS that doesn't work is a [`Failure`] of each question, and what to
//! make of that is the caller's to decide.

use crate::answer::{Failure, Found, Kind, Lookup, MailExchange, Outcome, Question, Records};
use crate::cache::Cache;
use crate::dns::{Dns, Done};
use crate::name;
use crate::under_way::{Entered, Share, UnderWay};
use ringpost_base::{Deadline, Tick};
use ringpost_runtime::local::Answer;
use ringpost_runtime::{Inbox, InboxSender, Pace, after, inbox, spawn_vital, tick};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

/// Longest wait for an answer, also where the caller gives more: beyond all attempts of any sensible configuration.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What a shard's resolver has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Questions sent to a server.
    pub asked: u64,
    /// Questions answered from the cache.
    pub cached: u64,
    /// Questions that joined an equal one under way.
    pub joined: u64,
    /// Questions not asked because too many were under way.
    pub refused: u64,
    /// Answers that were failures; that there is no such name is none.
    pub failed: u64,
}

/// How a question was begun.
pub(crate) enum Begun {
    /// The cache knows.
    Cached(Outcome),
    /// Asked of a server.
    Asked(Answer<Outcome>),
    /// Waits with another that has asked.
    Joined(Answer<Outcome>),
    /// Not asked: too late, or too many.
    Not(Failure),
}

/// A shard's resolver, from [`Dns::resolver`].
///
/// Names that are asked for by its methods count as chosen by strangers: clients choose them, or who answers for their
/// addresses. Together they have [`STRANGERS_IN_FLIGHT_MAX`](crate::STRANGERS_IN_FLIGHT_MAX) places; those of
/// [`Lists`](crate::Lists) are others, so that strangers can't keep the lists from being asked.
pub struct Resolver {
    dns: RefCell<Dns>,
    /// Counts the replacements: what was asked of former servers is not remembered.
    generation: Cell<u64>,
    cache: RefCell<Cache>,
    under_way: RefCell<UnderWay>,
    sender: InboxSender<Done>,
    tally: Cell<Tally>,
}

impl Resolver {
    pub(crate) fn start(dns: Dns) -> Rc<Self> {
        let (sender, inbox) = inbox();
        let resolver = Rc::new(Self {
            generation: Cell::new(0),
            cache: RefCell::new(Cache::new(dns.cache())),
            dns: RefCell::new(dns),
            under_way: RefCell::default(),
            sender,
            tally: Cell::default(),
        });
        spawn_vital(resolver.clone().collect(inbox));
        resolver
    }

    /// Takes new servers. What the former ones said is forgotten; what they were asked and still answer is given to those
    /// who wait for it, and not remembered. If they are the former ones, nothing changes.
    pub fn replace(&self, dns: Dns) {
        if self.dns.borrow().is_same(&dns) {
            return;
        }
        *self.cache.borrow_mut() = Cache::new(dns.cache());
        *self.dns.borrow_mut() = dns;
        self.generation.set(self.generation.get() + 1);
    }

    /// The IPv4 addresses of a name.
    ///
    /// # Errors
    /// Like all of these: nothing found by the deadline, and why.
    pub async fn ipv4(&self, name: &str, deadline: Deadline) -> Result<Lookup<Vec<Ipv4Addr>>, Failure> {
        let begun = self.begin_named(name, Kind::Ipv4, deadline);
        self.finish_typed(begun, deadline, ipv4_of).await
    }

    /// The IPv6 addresses of a name.
    ///
    /// # Errors
    /// As for [`ipv4`](Self::ipv4).
    pub async fn ipv6(&self, name: &str, deadline: Deadline) -> Result<Lookup<Vec<Ipv6Addr>>, Failure> {
        let begun = self.begin_named(name, Kind::Ipv6, deadline);
        self.finish_typed(begun, deadline, ipv6_of).await
    }

    /// The addresses of a name, both kinds asked at once. If one kind fails, the other is given alone: who wants to know
    /// that an address is *not* among them asks for its kind.
    ///
    /// # Errors
    /// As for [`ipv4`](Self::ipv4). If neither kind is found, a failure that may pass goes before one that won't.
    pub async fn addresses(&self, name: &str, deadline: Deadline) -> Result<Lookup<Vec<IpAddr>>, Failure> {
        let begun = [Kind::Ipv4, Kind::Ipv6].map(|kind| self.begin_named(name, kind, deadline));
        let [first, second] = begun;
        let ipv4 = self.finish_typed(first, deadline, ipv4_of).await;
        let ipv6 = self.finish_typed(second, deadline, ipv6_of).await;
        match (ipv4.map(widen), ipv6.map(widen)) {
            (Ok(mut both), Ok(ipv6)) => {
                both.records.extend(ipv6.records);
                Ok(Lookup { records: both.records, ttl: both.ttl.min(ipv6.ttl), cached: both.cached && ipv6.cached })
            }
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(Failure::NoSuchName), Err(failure)) | (Err(failure), Err(_)) => Err(failure),
        }
    }

    /// The names of an address, as whoever holds the address says; those that are no host names are left out.
    ///
    /// # Errors
    /// As for [`ipv4`](Self::ipv4).
    pub async fn ptr(&self, address: IpAddr, deadline: Deadline) -> Result<Lookup<Vec<Box<str>>>, Failure> {
        let begun = self.begin_named(&name::pointer_name(address), Kind::Pointer, deadline);
        let pick = |records: &Records| if let Records::Names(list) = records { Some(list.clone()) } else { None };
        self.finish_typed(begun, deadline, pick).await
    }

    /// The texts of a name, one for each record, its strings joined. They are a stranger's bytes.
    ///
    /// # Errors
    /// As for [`ipv4`](Self::ipv4).
    pub async fn txt(&self, name: &str, deadline: Deadline) -> Result<Lookup<Vec<Box<[u8]>>>, Failure> {
        let begun = self.begin_named(name, Kind::Text, deadline);
        let pick = |records: &Records| if let Records::Texts(list) = records { Some(list.clone()) } else { None };
        self.finish_typed(begun, deadline, pick).await
    }

    /// The mail exchangers of a domain, the most preferred first. A domain without any may still take mail, at its own
    /// address: RFC 5321 section 5.1.
    ///
    /// # Errors
    /// As for [`ipv4`](Self::ipv4).
    pub async fn mx(&self, domain: &str, deadline: Deadline) -> Result<Lookup<Vec<MailExchange>>, Failure> {
        let begun = self.begin_named(domain, Kind::MailExchange, deadline);
        let pick = |records: &Records| if let Records::Exchanges(list) = records { Some(list.clone()) } else { None };
        self.finish_typed(begun, deadline, pick).await
    }

    /// What this resolver has done.
    pub fn tally(&self) -> Tally {
        self.tally.get()
    }

    /// What the cache knows.
    pub(crate) fn cached(&self, question: &Question) -> Option<Outcome> {
        let outcome = self.cache.borrow_mut().get(question, tick())?;
        self.count(|tally| tally.cached += 1);
        Some(outcome)
    }

    fn begin_named(&self, name: &str, kind: Kind, deadline: Deadline) -> Begun {
        match name::canonical(name) {
            Some(name) => {
                let question = Question { name, kind };
                let cached = self.cached(&question);
                cached.map_or_else(|| self.begin(question, Share::Strangers, deadline), Begun::Cached)
            }
            None => Begun::Not(Failure::NoSuchName),
        }
    }

    /// Asks, or joins those who have asked already; what the cache knows is for the caller to have looked for.
    pub(crate) fn begin(&self, question: Question, share: Share, deadline: Deadline) -> Begun {
        if deadline.passed(tick()) {
            return Begun::Not(Failure::Timeout);
        }
        let entered = self.under_way.borrow_mut().enter(&question, share);
        match entered {
            Entered::New(answer) => {
                self.dns.borrow().ask(question, self.generation.get(), self.sender.clone());
                self.count(|tally| tally.asked += 1);
                Begun::Asked(answer)
            }
            Entered::Joined(answer) => {
                self.count(|tally| tally.joined += 1);
                Begun::Joined(answer)
            }
            Entered::Full => {
                self.count(|tally| tally.refused += 1);
                Begun::Not(Failure::Overload)
            }
        }
    }

    /// Waits for what was begun, until the deadline.
    pub(crate) async fn finish(&self, begun: Begun, deadline: Deadline) -> Outcome {
        match begun {
            Begun::Cached(outcome) => outcome,
            Begun::Not(failure) => Err(failure),
            Begun::Asked(answer) | Begun::Joined(answer) => {
                let span = deadline.0.since(tick()).min(WAIT_MAX);
                after(span, answer.wait()).await.flatten().unwrap_or(Err(Failure::Timeout))
            }
        }
    }

    async fn finish_typed<T>(
        &self,
        begun: Begun,
        deadline: Deadline,
        pick: impl Fn(&Records) -> Option<Vec<T>>,
    ) -> Result<Lookup<Vec<T>>, Failure> {
        let cached = matches!(begun, Begun::Cached(_));
        let found = self.finish(begun, deadline).await?;
        // Records are of the kind that was asked for.
        let records = pick(&found.records).ok_or(Failure::NoSuchName)?;
        Ok(Lookup { records, ttl: found.expires.since(tick()), cached })
    }

    async fn collect(self: Rc<Self>, mut inbox: Inbox<Done>) {
        let mut pace = Pace::default();
        loop {
            let done = inbox.receive().await;
            self.take_in(done, tick());
            pace.breathe().await;
        }
    }

    fn take_in(&self, done: Done, now: Tick) {
        let Done { question, generation, reply } = done;
        if reply.result.as_ref().is_err_and(|failure| failure.is_temporary()) {
            self.count(|tally| tally.failed += 1);
        }
        let expires = now.deadline(reply.ttl.unwrap_or_default()).0;
        let outcome = reply.result.map(|records| Rc::new(Found { records, expires }));
        let Some((question, waiters)) = self.under_way.borrow_mut().leave(&question) else { return };
        if generation == self.generation.get() {
            self.cache.borrow_mut().put(question, outcome.clone(), expires, now);
        }
        for waiter in waiters {
            // Whoever asked may have given up.
            let _ = waiter.keep(outcome.clone());
        }
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        change(&mut tally);
        self.tally.set(tally);
    }
}

fn ipv4_of(records: &Records) -> Option<Vec<Ipv4Addr>> {
    if let Records::Ipv4(list) = records { Some(list.clone()) } else { None }
}

fn ipv6_of(records: &Records) -> Option<Vec<Ipv6Addr>> {
    if let Records::Ipv6(list) = records { Some(list.clone()) } else { None }
}

fn widen<T: Into<IpAddr>>(lookup: Lookup<Vec<T>>) -> Lookup<Vec<IpAddr>> {
    let records = lookup.records.into_iter().map(Into::into).collect();
    Lookup { records, ttl: lookup.ttl, cached: lookup.cached }
}
