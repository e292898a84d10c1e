//! What the DNS is asked about a client, from the moment it connects; its answers are waited for at the first recipient.
//!
//! A lookup that fails, or is not there by the deadline, counts for nothing: the DNS can make mail slower, by the deadline,
//! and never stop it.

use crate::mx::Mx;
use ringpost_base::{Deadline, canonical};
use ringpost_dns::{Failure, Lists, Resolver, Verdict};
use ringpost_metrics::{Counter, Timing};
use ringpost_policy::{Evidence, Reverse, ScreenOptions};
use ringpost_runtime::local::Bell;
use ringpost_runtime::{after, spawn, tick};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

/// Names of one address that are followed back to it; more of them are of a host that nobody looks after.
const NAMES_MAX: usize = 8;

/// The lookups of one client.
pub(crate) struct Lookups {
    deadline: Deadline,
    found: RefCell<Found>,
    /// Parts that are not done.
    open: Cell<u32>,
    /// Questions that stayed without a usable answer.
    unanswered: Cell<u64>,
    done: Bell,
}

#[derive(Default)]
struct Found {
    reverse: Reverse,
    lists: Vec<(usize, Vec<Ipv4Addr>)>,
}

impl Lookups {
    /// Begins what the options want to know of an address; nothing if they want nothing.
    pub(crate) fn begin(mx: &Mx, options: &ScreenOptions, address: IpAddr) -> Option<Rc<Self>> {
        let lists = mx.lists();
        let reverse = options.wants_reverse();
        if options.is_idle() || (lists.is_none() && !reverse && !options.wants_helo_address()) {
            return None;
        }
        let since = tick();
        let lookups = Rc::new(Self {
            deadline: since.deadline(options.deadline.0),
            found: RefCell::default(),
            open: Cell::new(u32::from(lists.is_some()) + u32::from(reverse)),
            unanswered: Cell::new(0),
            done: Bell::default(),
        });
        if let Some(lists) = lists {
            let (lookups, block) = (lookups.clone(), mx.shared_block());
            spawn("lists", async move {
                lookups.ask_lists(&lists, address, &block).await;
                lookups.part_done();
                block.observe(Timing::Lookups, tick().since(since));
            });
        }
        if reverse {
            let (lookups, block, resolver) = (lookups.clone(), mx.shared_block(), mx.resolver.clone());
            spawn("reverse", async move {
                let found = lookups.ask_reverse(&resolver, address).await;
                block.add(if found == Reverse::Unknown { Counter::DnsFailed } else { Counter::DnsFound }, 1);
                lookups.found.borrow_mut().reverse = found;
                lookups.part_done();
                block.observe(Timing::Lookups, tick().since(since));
            });
        }
        Some(lookups)
    }

    /// Waits for what has been asked, at most until the deadline, and adds it to the evidence; and whether the client's
    /// name has an address.
    pub(crate) async fn collect(&self, mx: &Mx, options: &ScreenOptions, name: &str, evidence: &mut Evidence) {
        let is_name = !name.starts_with('[') && name.contains('.');
        if options.wants_helo_address() && is_name {
            evidence.helo_resolves = self.resolves(&mx.resolver, name).await;
        }
        while self.open.get() > 0 {
            let left = self.deadline.0.since(tick());
            if left.is_zero() || after(left, self.done.heard()).await.is_none() {
                mx.block().add(Counter::DnsLate, 1);
                break;
            }
        }
        let found = self.found.borrow();
        evidence.reverse = found.reverse.clone();
        evidence.lists = found.lists.clone();
    }

    /// Questions that stayed without a usable answer, those that are still open included.
    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered.get() + u64::from(self.open.get())
    }

    fn part_done(&self) {
        self.open.set(self.open.get() - 1);
        self.done.ring();
    }

    async fn ask_lists(&self, lists: &Lists, address: IpAddr, block: &ringpost_metrics::Block) {
        for (list, verdict) in lists.look_up(address, self.deadline).await.into_iter().enumerate() {
            let row = match verdict {
                Verdict::Listed { answer, .. } => {
                    self.found.borrow_mut().lists.push((list, vec![answer]));
                    Counter::DnsFound
                }
                Verdict::NotListed => Counter::DnsMissing,
                Verdict::Unknown(_) => {
                    self.unanswered.set(self.unanswered.get() + 1);
                    Counter::DnsFailed
                }
            };
            block.add(row, 1);
        }
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

    /// Whether a name has an address; nothing if that can't be found out.
    async fn resolves(&self, resolver: &Resolver, name: &str) -> Option<bool> {
        match resolver.addresses(name, self.deadline).await {
            Ok(_) => Some(true),
            Err(Failure::NoSuchName) => Some(false),
            Err(_) => {
                self.unanswered.set(self.unanswered.get() + 1);
                None
            }
        }
    }
}
