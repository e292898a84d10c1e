//! The host: its shards, how it starts from its disks, and how it ends.

use crate::calendar::{Event, Task};
use crate::delivery::{Delivery, Job};
use crate::disk::{Disk, Name};
use crate::fault::Fault;
use crate::handover::Waiting;
use crate::leases::Mesh;
use crate::plan::{BOXES, SECOND};
use crate::report::Reporting;
use crate::session::Inbound;
use crate::store::{Content, Running, Waiter};
use crate::world::World;
use ringpost_base::{Entropy, MessageIds, SessionIds, ShardId, SpoolId};
use ringpost_message::Envelope;
use ringpost_policy::Ledger;
use ringpost_queue::{Destinations, Queue};
use ringpost_spool::{BLOCK, Recovered, Recovery, Slot, Spool};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long an orderly stop waits for attempts under way.
const DRAIN_MAX: u64 = 60 * SECOND;

/// One process of the host.
pub(crate) struct Host {
    pub(crate) shards: Vec<Shard>,
    /// Words on their way between shards, by whom they are from and for.
    pub(crate) mesh: Mesh,
    /// Attempts under way at each destination.
    pub(crate) under_way: BTreeMap<Rc<str>, u32>,
    /// It is being stopped, since.
    pub(crate) stopping: Option<u64>,
}

/// One shard of the host.
pub(crate) struct Shard {
    pub(crate) spool: Spool,
    pub(crate) operation: Option<Running>,
    /// The log is left alone until then, since it failed.
    pub(crate) pause_until: u64,
    /// It failed a moment ago, and messages with it.
    pub(crate) refusing: bool,
    /// The last operation of either kind failed.
    pub(crate) failing: [bool; 2],
    pub(crate) waiting: BTreeMap<u64, Waiter>,
    pub(crate) next_token: u64,
    /// Messages whose bytes are in memory: envelope and content.
    pub(crate) hot: BTreeMap<SpoolId, Content>,
    /// Messages of the class memory: what was noted of them, and whether they are on their way into the log.
    pub(crate) kept: BTreeMap<SpoolId, (Vec<u8>, bool)>,
    pub(crate) queue: Queue,
    /// When the queue is looked at next.
    pub(crate) queue_at: Option<u64>,
    pub(crate) owned: Destinations,
    /// What the clients do whose addresses it owns.
    pub(crate) ledger: Ledger,
    pub(crate) ids: MessageIds,
    pub(crate) session_ids: SessionIds,
    pub(crate) sessions: BTreeMap<u32, Inbound>,
    pub(crate) deliveries: BTreeMap<u32, Delivery>,
    /// Jobs that wait for a disk.
    pub(crate) jobs: BTreeMap<u32, Job>,
    pub(crate) reports: BTreeMap<u32, Reporting>,
    /// Sessions that wait for a next hop, by the destination's number.
    pub(crate) turns: Vec<Waiting>,
    pub(crate) next_number: u32,
}

impl Shard {
    pub(crate) fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

/// What is kept of an envelope while a log is read back.
pub(crate) struct Digest {
    envelope: Option<Envelope>,
}

impl World {
    /// Something of the process comes.
    pub(crate) fn perform(&mut self, shard: usize, task: Task) {
        match task {
            Task::Operation => self.operation_done(shard),
            Task::Created(slot) => self.created(shard, Slot(slot)),
            Task::Pump => self.pump(shard),
            Task::Sealed(session) => self.sealed(shard, session),
            Task::Session(session) => self.session_timer(shard, session),
            Task::HandOver(session) => self.hand_over_in_vain(shard, session),
            Task::Usher(destination) => self.usher(shard, destination),
            Task::Queue => self.serve_queue(shard),
            Task::Loaded(job) => self.loaded(shard, job),
            Task::Boxed(job) => self.boxed(shard, job),
            Task::Delivery(number) => self.delivery_timer(shard, number),
            Task::Mesh(from) => self.hear(shard, from),
            Task::Unanswered(question) => self.unanswered(shard, question),
            Task::Report(number) => self.go_on_reporting(shard, number),
            Task::Stopping => self.stop_if_drained(),
        }
    }

    pub(crate) fn shard(&mut self, number: usize) -> Option<&mut Shard> {
        self.host.as_mut()?.shards.get_mut(number)
    }

    /// Starts the host: reads every log back and takes up what is in it.
    pub(crate) fn start(&mut self) {
        if self.host.is_some() {
            return;
        }
        self.epoch += 1;
        self.tick_began = self.now.saturating_sub(self.dice.range(1, 1000) * SECOND);
        self.book.totals.starts += 1;
        let epoch = self.epoch;
        self.note(format_args!("start {epoch}"));
        if self.shards > 1 && self.strikes(Fault::FewerCores) {
            self.shards -= 1;
        }
        let mut shards = Vec::new();
        let mut found = Vec::new();
        for number in 0..self.shards {
            let Some((mut spool, mut live)) = self.read_back(number) else { return };
            self.tell_recovered(number, &live);
            let left = self.shards;
            for former in (left..self.disks.len()).filter(|former| former % left == number) {
                if self.strikes(Fault::CrashInStart) || !self.adopt(number, &mut spool, &mut live, former) {
                    self.power_fails();
                    return self.after(SECOND, Event::Start);
                }
            }
            shards.push(self.make_shard(number, spool));
            found.push(live);
        }
        self.host = Some(Host { shards, mesh: Mesh::default(), under_way: BTreeMap::new(), stopping: None });
        for (number, live) in found.into_iter().enumerate() {
            self.take_up(number, live);
        }
    }

    fn make_shard(&mut self, number: usize, spool: Spool) -> Shard {
        let id = ShardId(number as u16);
        let mut queue = Queue::new(self.plan.queue.clone(), Entropy(self.dice.entropy()));
        queue.configure(self.plan.queue.clone(), &|name| Some(name == BOXES));
        let mut owned = Destinations::new();
        let shards = self.shards;
        let own = self.plan.destinations.iter().enumerate().filter(|(at, _)| at % shards == number);
        owned.configure(own.map(|(_, (name, options))| (name.clone(), options.clone())));
        Shard {
            spool,
            operation: None,
            pause_until: 0,
            refusing: false,
            failing: [false; 2],
            waiting: BTreeMap::new(),
            next_token: 0,
            hot: BTreeMap::new(),
            kept: BTreeMap::new(),
            queue,
            queue_at: None,
            owned,
            ledger: Ledger::new(self.plan.ledger.clone(), Vec::new()),
            ids: MessageIds::new(id, Entropy(self.dice.entropy())),
            session_ids: SessionIds::new(id, Entropy(self.dice.entropy())),
            sessions: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            jobs: BTreeMap::new(),
            reports: BTreeMap::new(),
            turns: self.plan.destinations.iter().map(|_| Waiting::default()).collect(),
            next_number: 0,
        }
    }

    /// Reads one log as the store does: files cut short go, what is read is synced, then the unused ones go.
    pub(crate) fn read_back(&mut self, shard: usize) -> Option<(Spool, Vec<Recovered<Digest>>)> {
        let entropy = Entropy(self.dice.entropy());
        let options = self.plan.spool;
        let disk = &mut self.disks[shard];
        let mut recovery = Recovery::new();
        for name in disk.names() {
            let Name::Segment(slot) = name else { continue };
            if disk.len(name) < BLOCK {
                disk.remove(name);
                continue;
            }
            let block = disk.read(name, 0, BLOCK).unwrap_or_default();
            if let Err(error) = recovery.header(Slot(slot), block) {
                self.book.violate(format!("a log can't be read back: {error}"));
                return None;
            }
        }
        // What is found must be on the disk before anything follows from it: a batch whose sync failed may still be
        // seen, and be gone after the next power failure.
        let order = recovery.order();
        order.iter().for_each(|(slot, _)| disk.sync(Name::Segment(slot.0)));
        for slot in recovery.take_unused() {
            disk.remove(Name::Segment(slot.0));
        }
        for (slot, header) in &order {
            let bytes = disk.whole(Name::Segment(slot.0)).unwrap_or_default();
            let bytes = &bytes[..bytes.len().min(header.size as usize)];
            let mut digest = |_, envelope: &[u8]| Digest { envelope: Envelope::decode(envelope).ok() };
            recovery.segment(*slot, header, bytes, &mut digest);
        }
        let (damage, missing) = (recovery.damage().to_vec(), recovery.missing());
        if !damage.is_empty() || !missing.is_empty() {
            self.book.violate(format!("nothing has damaged the log, and it is: {damage:?}, missing {missing:?}"));
        }
        Some(recovery.finish(options, entropy))
    }

    pub(crate) fn tell_recovered(&mut self, shard: usize, live: &[Recovered<Digest>]) {
        let states = live.iter().map(|message| (message.id, message.state.to_vec())).collect();
        self.book.recovered(shard, &states);
    }

    /// Enters what was found into the queue, settles what has no body file, and removes body files that nothing names.
    fn take_up(&mut self, shard: usize, live: Vec<Recovered<Digest>>) {
        let named: Vec<SpoolId> =
            live.iter().filter(|message| message.has_body_file).map(|message| message.id).collect();
        for message in live {
            let id = message.id;
            let Some(envelope) = message.digest.envelope else {
                self.book.violate(format!("the envelope of {id} can't be read"));
                continue;
            };
            if message.has_body_file && !self.disks[shard].has(Name::Body(id)) {
                self.body_is_gone(shard, id);
                continue;
            }
            let mut item = self.item(&envelope, message.size);
            (item.recovered, item.state, item.legacy_done) = (true, message.state, message.legacy_done);
            self.push(shard, item);
        }
        for name in self.disks[shard].names() {
            if matches!(name, Name::Body(id) if !named.contains(&id)) {
                self.disks[shard].remove(name);
            }
        }
        self.pump(shard);
    }

    /// The process dies: what it had in memory is gone, what it had written is in the kernel's hands.
    pub(crate) fn crash(&mut self) {
        let Some(host) = self.host.take() else { return };
        self.note(format_args!("the process dies"));
        self.cut_operations(&host);
        self.book.died();
        self.calendar.forget_host();
        for link in self.links.of_host() {
            let ends = self.links.cut(link).into_iter().flatten();
            for end in ends.collect::<Vec<_>>() {
                self.peer_lost(end, link);
            }
        }
    }

    fn peer_lost(&mut self, end: crate::link::End, link: crate::link::LinkId) {
        match end {
            crate::link::End::Client(client) => self.client_cut_off(client, link),
            crate::link::End::Hop(hop, session) => self.hops[hop].forget(session),
            _ => {}
        }
    }

    /// The power fails: of what was not synced, each sector is there or not.
    pub(crate) fn power_fails(&mut self) {
        self.crash();
        for disk in &mut self.disks {
            let lost = Disk::lose_power(disk, &mut self.dice);
            self.tally.count(Fault::SectorLost, lost);
        }
        self.note(format_args!("the power fails"));
    }

    /// Begins an orderly stop: no further attempt, no further message; what is under way ends first.
    pub(crate) fn stop(&mut self) {
        let now = self.now;
        let Some(host) = &mut self.host else { return };
        if host.stopping.is_some() {
            return;
        }
        host.stopping = Some(now);
        self.note(format_args!("orderly stop"));
        for shard in 0..self.shards {
            self.end_sessions(shard);
        }
        self.task(SECOND / 10, 0, Task::Stopping);
    }

    fn stop_if_drained(&mut self) {
        let (now, Some(host)) = (self.now, &mut self.host) else { return };
        let since = host.stopping.unwrap_or(now);
        let busy = |shard: &Shard| {
            shard.queue.in_flight() > 0
                || !shard.reports.is_empty()
                || !shard.sessions.is_empty()
                || !shard.spool.is_idle()
        };
        let patient = now - since < DRAIN_MAX;
        if patient && host.shards.iter().any(busy) {
            return self.task(SECOND / 10, 0, Task::Stopping);
        }
        // What is only in memory goes into the log now.
        if patient && host.shards.iter().any(|shard| !shard.kept.is_empty()) {
            for shard in 0..self.shards {
                self.persist_all(shard);
            }
            return self.task(SECOND / 10, 0, Task::Stopping);
        }
        self.note(format_args!("the process ends"));
        self.crash();
        let after = self.dice.range(1, 3) * SECOND;
        self.after(after, Event::Start);
    }
}
