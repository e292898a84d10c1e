//! The world: clock, calendar, chance and faults; and everything in it.

use crate::book::Book;
use crate::calendar::{Calendar, Event, Task};
use crate::client::Client;
use crate::dice::Dice;
use crate::disk::Disk;
use crate::fault::{Fault, FaultTally, Mood};
use crate::hop::Hop;
use crate::host::Host;
use crate::letter::Letter;
use crate::link::{Arrival, End, LinkId, Links};
use crate::plan::{HOPS, Plan, SECOND};
use crate::trace::Trace;
use ringpost_base::{Now, SpoolId, Tick, Timestamp};
use std::collections::BTreeSet;

/// The wall clock at the beginning, in microseconds since 1970.
const WALL_AT_FIRST: i64 = 1_800_000_000_000_000;

/// Events that a run has at most: one that has more never comes to rest.
const EVENTS_MAX: u64 = 3_000_000;

/// How often it is looked at whether everything is at rest, once faults have ceased.
const LOOK: u64 = 5 * SECOND;

/// The longest time that it may take until everything is at rest: some times the age at which messages are given up, with
/// clocks that were set back by hours.
const REST_MAX: u64 = 12 * 3600 * SECOND;

/// How a message goes over a connection at a time, at most.
const PIECE_MAX: u64 = 1500;

/// One mail host, its clients, its next hops and its disks.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) calendar: Calendar,
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
    pub(crate) tally: FaultTally,
    pub(crate) plan: Plan,
    mood: Mood,
    /// Whether faults strike.
    pub(crate) faulty: bool,
    /// Shards that the host has, or will have when it is started next.
    pub(crate) shards: usize,
    pub(crate) disks: Vec<Disk>,
    pub(crate) links: Links,
    pub(crate) clients: Vec<Client>,
    pub(crate) hops: Vec<Hop>,
    pub(crate) host: Option<Host>,
    /// The number of the process that runs, or ran last.
    pub(crate) epoch: u32,
    pub(crate) book: Book,
    /// What lies in the mailboxes: messages, and for whom.
    pub(crate) boxes: BTreeSet<(SpoolId, String)>,
    /// How far the wall clock is off, in microseconds.
    pub(crate) wall_off: i64,
    /// When the monotonic clock of this process began.
    pub(crate) tick_began: u64,
    pub(crate) events: u64,
    /// When faults ceased.
    healed: u64,
}

impl World {
    pub(crate) fn new(seed: u64, liar: bool, whole_trace: bool) -> Self {
        let mut dice = Dice::new(seed);
        let (plan, mood) = (Plan::new(&mut dice), Mood::new(&mut dice));
        let mut book = Book::default();
        let size_max = plan.spool.inline_max.as_len();
        book.letters = (0..plan.letters).map(|number| Letter::new(number, size_max, &mut dice)).collect();
        let mut world = Self {
            now: SECOND,
            calendar: Calendar::default(),
            trace: Trace::new(whole_trace),
            tally: FaultTally::default(),
            mood,
            faulty: true,
            shards: plan.shards,
            disks: (0..plan.shards).map(|_| Disk::new(plan.disk, liar)).collect(),
            links: Links::default(),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            hops: HOPS.iter().map(|(name, protocol)| Hop::new(name, *protocol)).collect(),
            host: None,
            epoch: 0,
            book,
            boxes: BTreeSet::new(),
            wall_off: 0,
            tick_began: 0,
            events: 0,
            healed: 0,
            dice,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for number in 0..self.book.letters.len() {
            let client = number % self.clients.len();
            self.clients[client].letters.push_back((number, 0));
        }
        for client in 0..self.clients.len() {
            self.clients[client].lmtp = self.dice.one_in(4);
            let after = self.dice.roll(20 * SECOND);
            self.after(after, Event::Client(client));
        }
        self.calendar.enter(self.now, Event::Start);
        self.after(SECOND, Event::Weather);
    }

    /// Lets everything happen until all is at rest, or something is that must never be.
    pub(crate) fn run(&mut self) {
        while self.book.violation().is_none() {
            let Some((at, event)) = self.calendar.next() else {
                return self.book.violate("nothing is to come".into());
            };
            self.now = self.now.max(at);
            self.events += 1;
            self.happen(event);
            if self.faulty && (self.now > self.plan.horizon || self.clients.iter().all(Client::is_done)) {
                self.heal();
            }
            if event == Event::Look {
                if self.is_at_rest() {
                    return self.close_the_book();
                }
                if self.now > self.healed + REST_MAX {
                    let why = self.unrest().unwrap_or_default();
                    return self.book.violate(format!("it does not come to rest: {why}"));
                }
                self.after(LOOK, Event::Look);
            }
            if self.events > EVENTS_MAX {
                let why = self.unrest().unwrap_or_default();
                return self.book.violate(format!("it never stops: {why}"));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Client(client) => self.client_acts(client),
            Event::Arrive(link, to) => self.arrive(link, to),
            Event::HopUp(hop) => self.hops[hop].down = false,
            Event::DiskFreed(shard) => self.disks[shard].capacity = self.plan.disk,
            Event::Weather => self.weather(),
            Event::Collapse => self.collapse(),
            Event::Start => self.start(),
            Event::Look => {}
            Event::Host(epoch, shard, task) => {
                if self.epoch == epoch && self.host.is_some() {
                    self.perform(shard, task);
                }
            }
        }
    }

    /// No fault strikes any more, and what is broken is whole again.
    fn heal(&mut self) {
        self.note(format_args!("faults cease"));
        (self.faulty, self.healed) = (false, self.now);
        self.links.heal();
        for shard in 0..self.disks.len() {
            self.disks[shard].capacity = self.plan.disk.saturating_mul(4);
        }
        self.hops.iter_mut().for_each(|hop| hop.down = false);
        self.after(LOOK, Event::Look);
    }

    pub(crate) fn after(&mut self, span: u64, event: Event) {
        self.calendar.enter(self.now + span, event);
    }

    /// The same for something of the process that runs.
    pub(crate) fn task(&mut self, span: u64, shard: usize, task: Task) {
        self.after(span, Event::Host(self.epoch, shard, task));
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    /// Whether a fault strikes here and now; if so it is counted.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        let one_in = self.mood.one_in(fault);
        let strikes = self.faulty && one_in > 0 && self.dice.one_in(one_in);
        if strikes {
            self.tally.count(fault, 1);
            self.note(format_args!("FAULT {}", fault.text()));
        }
        strikes
    }

    /// How long something takes whose longest time this is: mostly much less.
    pub(crate) fn delay(&mut self, most: u64) -> u64 {
        let most = most >> self.dice.roll(6);
        self.dice.range(1, most.max(1))
    }

    /// The clocks as the host reads them.
    pub(crate) fn clocks(&self) -> Now {
        let wall = WALL_AT_FIRST + (self.now / 1000) as i64 + self.wall_off;
        Now {
            wall: Timestamp::from_unix_micros(wall.max(0) as u64),
            tick: Tick::from_nanos(self.now.saturating_sub(self.tick_began)),
        }
    }

    /// A connection between these, which may be cut by this fault.
    pub(crate) fn connect(&mut self, ends: [End; 2], fault: Fault) -> LinkId {
        let one_in = self.mood.one_in(fault);
        let cut = self.faulty && one_in > 0 && self.dice.one_in(one_in);
        let left = cut.then(|| self.dice.roll(6000));
        self.links.open(ends, left)
    }

    pub(crate) fn send(&mut self, link: LinkId, from: usize, bytes: &[u8]) {
        if self.links.send(link, from, bytes) {
            let delay = self.delay(SECOND / 50);
            self.after(delay, Event::Arrive(link, 1 - from));
        }
    }

    pub(crate) fn hang_up(&mut self, link: LinkId, from: usize) {
        if self.links.close(link, from) {
            let delay = self.delay(SECOND / 50);
            self.after(delay, Event::Arrive(link, 1 - from));
        }
    }

    /// Ends a connection at once; the other end of the one that does it finds out.
    pub(crate) fn tear(&mut self, link: LinkId, from: usize) {
        if let Some(ends) = self.links.cut(link) {
            self.closed(ends[1 - from], link, true);
        }
    }

    fn arrive(&mut self, link: LinkId, to: usize) {
        let most = match self.dice.roll(8) {
            0 => 1,
            1 => self.dice.range(1, 20),
            2..=4 => self.dice.range(1, PIECE_MAX),
            _ => u64::MAX,
        };
        match self.links.arrive(link, to, most as usize) {
            Arrival::Nothing => {}
            Arrival::Bytes(end, bytes, more) => {
                if more {
                    let delay = self.delay(SECOND / 100);
                    self.after(delay, Event::Arrive(link, to));
                }
                match end {
                    End::Client(client) => self.client_reads(client, link, &bytes),
                    End::Inbound(shard, session) => self.session_reads(shard, session, &bytes),
                    End::Outbound(shard, number) => self.delivery_reads(shard, number, &bytes),
                    End::Hop(hop, session) => self.hop_reads(hop, session, &bytes),
                }
            }
            Arrival::Closed(end) => self.closed(end, link, false),
            Arrival::Cut(ends) => {
                let to_client = ends.iter().any(|end| matches!(end, End::Client(_)));
                let fault = if to_client { Fault::ClientCut } else { Fault::HopCut };
                self.tally.count(fault, 1);
                self.note(format_args!("FAULT {}: {link}", fault.text()));
                ends.into_iter().for_each(|end| self.closed(end, link, true));
            }
        }
    }

    fn closed(&mut self, end: End, link: LinkId, by_fault: bool) {
        match end {
            End::Client(client) => self.client_cut_off(client, link),
            End::Inbound(shard, session) => self.session_cut_off(shard, session),
            End::Outbound(shard, number) => self.delivery_cut_off(shard, number, by_fault),
            End::Hop(hop, session) => self.hops[hop].forget(session),
        }
    }
}
