//! What happens to everything at once: deaths of the process, power failures, full disks, clocks that jump, operators.

use crate::calendar::Event;
use crate::fault::Fault;
use crate::plan::SECOND;
use crate::world::World;
use ringpost_base::SpoolId;
use ringpost_queue::{Changed, Filter, State};

impl World {
    /// The weather changes, or not.
    pub(crate) fn weather(&mut self) {
        if !self.faulty {
            return;
        }
        if self.host.is_some() {
            self.end_of_process();
        }
        if self.strikes(Fault::DiskFull) {
            let shard = self.dice.place(self.disks.len());
            self.disks[shard].capacity = self.disks[shard].used() + self.dice.roll(20_000);
            let span = self.dice.range(5, 90) * SECOND;
            self.after(span, Event::DiskFreed(shard));
        }
        if self.strikes(Fault::HopDown) {
            self.hop_goes_down();
        }
        if self.strikes(Fault::ClockJump) {
            let far = self.dice.pick(&[1, 60, 3600]) * 1_000_000;
            self.wall_off += self.dice.range(0, 2 * far) as i64 - far as i64;
        }
        if self.strikes(Fault::Operator) {
            self.operate();
        }
        let next = self.dice.range(1, 4000) * SECOND / 1000;
        self.after(next, Event::Weather);
    }

    /// What failed a moment ago takes the process with it, or all of the machine.
    pub(crate) fn collapse(&mut self) {
        if !self.faulty || self.host.is_none() {
            return;
        }
        let fault = self.dice.pick(&[Fault::Crash, Fault::PowerLoss]);
        self.tally.count(fault, 1);
        self.note(format_args!("FAULT {}", fault.text()));
        match fault {
            Fault::Crash => self.crash(),
            _ => self.power_fails(),
        }
        let down = self.dice.range(10, 3000) * SECOND / 1000;
        self.after(down, Event::Start);
    }

    fn end_of_process(&mut self) {
        if self.strikes(Fault::Crash) {
            self.crash();
        } else if self.strikes(Fault::PowerLoss) {
            self.power_fails();
        } else if self.strikes(Fault::OrderlyStop) {
            return self.stop();
        } else {
            return;
        }
        let down = self.dice.range(10, 10_000) * SECOND / 1000;
        self.after(down, Event::Start);
    }

    /// An operator does something to one of the messages.
    fn operate(&mut self) {
        let shard = self.dice.place(self.shards);
        let (now, order) = (self.clocks(), self.dice.roll(10));
        let place = self.dice.roll(40) as usize;
        let Some(own) = self.shard(shard) else { return };
        let page = own.queue.page(&Filter::default(), None, place + 1, usize::MAX, now);
        let Some(view) = page.entries.last() else { return };
        let id = view.id;
        let changed = match order {
            0 => return self.drop_one(shard, id),
            1..=3 => own.queue.hold(id, now),
            4..=6 => own.queue.release(id, now),
            _ => own.queue.retry(id, now),
        };
        self.note(format_args!("{shard} {id} order {order}: {changed:?}"));
        if changed == Changed::Yes {
            self.note_state(shard, id);
        }
        self.look_at_queue(shard);
    }

    fn drop_one(&mut self, shard: usize, id: SpoolId) {
        let dropped = self.shard(shard).is_some_and(|own| own.queue.drop_message(id));
        if dropped {
            self.note(format_args!("{shard} {id} dropped"));
            if let Some(facts) = self.book.facts(id) {
                facts.dropped = true;
            }
            self.settle(shard, id);
        }
        self.look_at_queue(shard);
    }

    /// Whether nothing is left to do; who is held is let go, so that nothing hides behind an operator.
    pub(crate) fn is_at_rest(&mut self) -> bool {
        self.release_all();
        self.unrest().is_none()
    }

    fn release_all(&mut self) {
        let now = self.clocks();
        // Nor behind a log that could not be written when it was to take them.
        (0..self.shards).for_each(|shard| self.persist_all(shard));
        let filter = Filter { states: vec![State::Held], ..Filter::default() };
        for shard in 0..self.shards {
            let Some(own) = self.shard(shard).filter(|own| own.queue.held() > 0) else { continue };
            let held: Vec<SpoolId> =
                own.queue.page(&filter, None, usize::MAX, usize::MAX, now).entries.iter().map(|view| view.id).collect();
            for id in held {
                self.shard(shard).map(|own| own.queue.release(id, now));
                self.note_state(shard, id);
            }
            self.look_at_queue(shard);
        }
    }

    /// What is left to do, if anything is.
    pub(crate) fn unrest(&mut self) -> Option<String> {
        if let Some(client) = self.clients.iter().position(|client| !client.is_done()) {
            return Some(format!("client {client} has something to do: {:?}", self.clients[client]));
        }
        let Some(host) = &self.host else { return Some("the host is not up".into()) };
        if host.stopping.is_some() {
            return Some("the host is being stopped".into());
        }
        for (number, own) in host.shards.iter().enumerate() {
            let (queued, dead) = (own.queue.len(), own.queue.dead());
            if queued != dead {
                return Some(format!("{queued} messages are in the queue of {number}, of them {dead} dead letters"));
            }
            let work = [own.sessions.len(), own.jobs.len(), own.reports.len(), own.kept.len(), own.waiting.len()];
            if work.iter().any(|work| *work > 0) || !own.spool.is_idle() || own.operation.is_some() {
                return Some(format!("shard {number} has work: {work:?}"));
            }
            if own.ledger.totals().connections > 0 {
                return Some(format!("connections are counted at {number} that are closed"));
            }
            if own.deliveries.values().any(|delivery| delivery.is_busy()) {
                return Some(format!("shard {number} delivers"));
            }
        }
        None
    }

    /// Everything is at rest: is everybody served, and is what is on the disks what should be there?
    pub(crate) fn close_the_book(&mut self) {
        self.settle_accounts();
        let compacted = self.host.iter().flat_map(|host| &host.shards).map(|own| own.spool.stats().compacted);
        self.book.totals.compacted += compacted.sum::<u64>();
        if self.book.violation().is_some() {
            return;
        }
        let kept = self.kept();
        self.note(format_args!("the last power failure"));
        self.power_fails();
        self.start();
        let back = self.kept();
        if self.book.violation().is_none() && kept != back {
            self.book.violate(format!("at rest {kept:?} were in the queues, and after a power failure {back:?}"));
        }
    }

    fn kept(&self) -> Vec<SpoolId> {
        let now = self.clocks();
        let shards = self.host.iter().flat_map(|host| &host.shards);
        shards
            .flat_map(|own| own.queue.page(&Filter::default(), None, usize::MAX, usize::MAX, now).entries)
            .map(|view| view.id)
            .collect()
    }

    fn settle_accounts(&mut self) {
        let dead = self.kept();
        for (number, own) in self.host.iter().flat_map(|host| &host.shards).enumerate() {
            let (queued, live) = (own.queue.len(), own.spool.stats().live);
            if queued != live {
                self.book.violate(format!("{queued} messages are in the queue of {number}, and {live} in its log"));
                return;
            }
        }
        self.book.settle_accounts(&|id| dead.contains(&id));
    }
}
