//! What the DNS is asked about a client: about its address from the moment it connects, about the name it greets with from
//! the moment it gives that. The answers are waited for at the first recipient.
//!
//! A lookup that fails, or is not there by its deadline, counts for nothing: the DNS can make mail slower, by the deadline,
//! and never stop it. Each deadline begins with what the client waits for or does itself, so that nobody gets out of being
//! asked about by taking its time. A lookup that panics is another matter: its client is put off (`checks.rs`).

use crate::mx::Mx;
use ringpost_base::{Deadline, canonical};
use ringpost_dns::{Failure, List, Lists, Resolver, Verdict};
use ringpost_metrics::{Block, Counter, Timing};
use ringpost_policy::{Evidence, Listing, Reverse, ScreenOptions};
use ringpost_runtime::local::Bell;
use ringpost_runtime::{after, contain, faults, spawn, tick};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Names of one address that are followed back to it; more of them are of a host that nobody looks after.
const NAMES_MAX: usize = 8;

/// The lookups of one client.
pub(crate) struct Lookups {
    /// For what is asked about the address.
    deadline: Deadline,
    found: RefCell<Found>,
    /// Parts that are not done.
    open: Cell<u32>,
    /// Questions that stayed without a usable answer.
    unanswered: Cell<u64>,
    /// One of them panicked.
    panicked: Cell<bool>,
    /// What is asked about the name of the last greeting.
    greeting: RefCell<Option<Rc<Greeting>>>,
    /// Rung when anything is done.
    done: Bell,
}

#[derive(Default)]
struct Found {
    reverse: Reverse,
    lists: Vec<Listing>,
}

/// A name that the client greeted with.
struct Greeting {
    name: Box<str>,
    deadline: Deadline,
    address: Cell<NameAddress>,
}

/// Whether a name has an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameAddress {
    /// That is being asked.
    Asked,
    Found,
    Missing,
    /// That can't be found out.
    Unknown,
}

impl Lookups {
    /// Begins what the options want to know of an address; nothing if they want nothing. For `silence` from now the client
    /// waits for its banner: that is no time that its lookups have used up.
    pub(crate) fn begin(mx: &Mx, options: &ScreenOptions, address: IpAddr, silence: Duration) -> Option<Rc<Self>> {
        let lists = mx.lists();
        let reverse = options.wants_reverse();
        if options.is_idle() || (lists.is_none() && !reverse && !options.wants_helo_address()) {
            return None;
        }
        let since = tick();
        let lookups = Rc::new(Self {
            deadline: since.deadline(silence + options.deadline.0),
            found: RefCell::default(),
            open: Cell::new(u32::from(lists.is_some()) + u32::from(reverse)),
            unanswered: Cell::new(0),
            panicked: Cell::new(false),
            greeting: RefCell::default(),
            done: Bell::default(),
        });
        if let Some(lists) = lists {
            let (asking, block) = (lookups.clone(), mx.shared_block());
            lookups.clone().spawn_part("lists", mx, Self::part_done, async move {
                asking.ask_lists(&lists, address, &block).await;
            });
        }
        if reverse {
            let (asking, block, resolver) = (lookups.clone(), mx.shared_block(), mx.resolver.clone());
            lookups.clone().spawn_part("reverse", mx, Self::part_done, async move {
                let found = asking.ask_reverse(&resolver, address).await;
                block.add(row_of(&found), 1);
                asking.found.borrow_mut().reverse = found;
            });
        }
        Some(lookups)
    }

    /// Looks something up in a task of its own. Whatever becomes of it, `done` comes after it: a panic must not be waited for
    /// until the deadline.
    fn spawn_part(
        self: Rc<Self>,
        what: &'static str,
        mx: &Mx,
        done: impl FnOnce(&Self) + 'static,
        lookup: impl Future<Output = ()> + 'static,
    ) {
        let since = tick();
        let block = mx.shared_block();
        spawn(what, async move {
            if let Err(panic) = contain(lookup).await {
                self.panicked.set(true);
                count_panic(&block, what, &panic);
            }
            done(&self);
            block.observe(Timing::Lookups, tick().since(since));
        });
    }

    /// Begins to ask whether the name of a greeting has an address, where that is wanted; nothing if it was asked already.
    pub(crate) fn greet(self: &Rc<Self>, mx: &Mx, options: &ScreenOptions, name: &str) {
        let is_name = !name.starts_with('[') && name.contains('.');
        if !is_name || !options.wants_helo_address() {
            self.greeting.replace(None);
            return;
        }
        if self.greeting.borrow().as_ref().is_some_and(|greeting| *greeting.name == *name) {
            return;
        }
        let deadline = tick().deadline(options.deadline.0);
        let greeting = Rc::new(Greeting { name: name.into(), deadline, address: Cell::new(NameAddress::Asked) });
        self.greeting.replace(Some(greeting.clone()));
        let (asked, block, resolver) = (greeting.clone(), mx.shared_block(), mx.resolver.clone());
        let done = move |lookups: &Self| {
            if greeting.address.get() == NameAddress::Asked {
                greeting.address.set(NameAddress::Unknown);
            }
            lookups.done.ring();
        };
        self.clone().spawn_part("helo", mx, done, async move {
            assert!(!faults::is_injected("lookup.panic", &asked.name), "lookup.panic={}", asked.name);
            let (address, row) = match resolver.addresses(&asked.name, deadline).await {
                Ok(_) => (NameAddress::Found, Counter::DnsFound),
                Err(Failure::NoSuchName) => (NameAddress::Missing, Counter::DnsMissing),
                Err(_) => (NameAddress::Unknown, Counter::DnsFailed),
            };
            block.add(row, 1);
            asked.address.set(address);
        });
    }

    /// Whether one of the lookups panicked. What it would have found is not known, and not for want of an answer.
    pub(crate) fn has_panicked(&self) -> bool {
        self.panicked.get()
    }

    /// Waits for what has been asked, at most until the deadlines, and adds it to the evidence. `name` is what the client
    /// calls itself now; if that is another name than it greeted with first, it is asked about only now.
    pub(crate) async fn collect(
        self: &Rc<Self>,
        mx: &Mx,
        options: &ScreenOptions,
        name: &str,
        evidence: &mut Evidence,
    ) {
        self.greet(mx, options, name);
        let greeting = self.greeting.borrow().clone();
        let mut late = !self.wait(self.deadline, || self.open.get() == 0).await;
        if let Some(Greeting { deadline, address, .. }) = greeting.as_deref() {
            late |= !self.wait(*deadline, || address.get() != NameAddress::Asked).await;
            evidence.helo_resolves = match address.get() {
                NameAddress::Found => Some(true),
                NameAddress::Missing => Some(false),
                NameAddress::Asked | NameAddress::Unknown => None,
            };
        }
        if late {
            mx.block().add(Counter::DnsLate, 1);
        }
        let found = self.found.borrow();
        evidence.reverse = found.reverse.clone();
        evidence.lists = found.lists.clone();
    }

    /// Waits until something is done; false if the deadline comes before.
    async fn wait(&self, deadline: Deadline, is_done: impl Fn() -> bool) -> bool {
        while !is_done() {
            let left = deadline.0.since(tick());
            if left.is_zero() || after(left, self.done.heard()).await.is_none() {
                return is_done();
            }
        }
        true
    }

    /// Questions that stayed without a usable answer, those that are still open included.
    pub(crate) fn unanswered(&self) -> u64 {
        let is_unknown =
            |greeting: &Rc<Greeting>| matches!(greeting.address.get(), NameAddress::Asked | NameAddress::Unknown);
        let greeting = self.greeting.borrow().as_ref().is_some_and(is_unknown);
        self.unanswered.get() + u64::from(self.open.get()) + u64::from(greeting)
    }

    fn part_done(&self) {
        self.open.set(self.open.get() - 1);
        self.done.ring();
    }

    async fn ask_lists(&self, lists: &Lists, address: IpAddr, block: &Block) {
        let tell = |list: usize, verdict| {
            let row = match verdict {
                Verdict::Listed { answer, .. } => {
                    let List { zone, shown, .. } = &lists.lists()[list];
                    self.found.borrow_mut().lists.push(Listing { zone: zone.clone(), shown: shown.clone(), answer });
                    Counter::DnsFound
                }
                Verdict::NotListed => Counter::DnsMissing,
                Verdict::Unknown(_) => {
                    self.unanswered.set(self.unanswered.get() + 1);
                    Counter::DnsFailed
                }
            };
            block.add(row, 1);
        };
        lists.look_up_each(address, self.deadline, tell).await;
    }

    /// The name of an address, and whether it leads back to it.
    async fn ask_reverse(&self, resolver: &Resolver, address: IpAddr) -> Reverse {
        let names = match resolver.ptr(address, self.deadline).await {
            Ok(names) => names.records,
            Err(Failure::NoSuchName) => return Reverse::Missing,
            Err(_) => return self.unknown(),
        };
        let mut doubt = false;
        for name in names.iter().take(NAMES_MAX) {
            match resolver.addresses(name, self.deadline).await {
                Ok(found) if found.records.iter().any(|found| canonical(*found) == canonical(address)) => {
                    return Reverse::Confirmed(name.clone());
                }
                Ok(_) | Err(Failure::NoSuchName) => {}
                Err(_) => doubt = true,
            }
        }
        match names.into_iter().next() {
            None => Reverse::Missing,
            Some(_) if doubt => self.unknown(),
            Some(name) => Reverse::Unconfirmed(name),
        }
    }

    fn unknown(&self) -> Reverse {
        self.unanswered.set(self.unanswered.get() + 1);
        Reverse::Unknown
    }
}

fn count_panic(block: &Block, lookup: &'static str, panic: &str) {
    block.add(Counter::FiltersPanicked, 1);
    tracing::error!(lookup, panic, "lookup panicked");
}

/// The metric of what became of the question for the name of an address.
fn row_of(reverse: &Reverse) -> Counter {
    match reverse {
        Reverse::Unknown => Counter::DnsFailed,
        Reverse::Missing => Counter::DnsMissing,
        Reverse::Unconfirmed(_) | Reverse::Confirmed(_) => Counter::DnsFound,
    }
}
