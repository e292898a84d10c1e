//! The queue as its callers see it. What its parts do is tested beside them, and all together in `tests/model`.

mod durable;
mod leases;
mod many;
mod orders;
mod reroute;
mod schedule;
mod unreadable;

use crate::{
    Action, Asked, Attempt, DestinationHash, DomainHash, Forgotten, How, Lease, NewItem, NewLeg, Options, Outcome,
    Queue, Reason, Status, Verdict,
};
use ringpost_base::{Entropy, Now, Priority, Span, SpoolId, Tick, Timestamp};
use std::time::Duration;

/// When the clocks of a test begin.
const WALL: u64 = 1_800_000_000_000_000;

/// What a wait may be longer than asked for, as times are kept in units.
const UNIT: Duration = Duration::from_millis(17);

struct Bench {
    queue: Queue,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: Options) -> Self {
        let now = Now { wall: Timestamp::from_unix_micros(WALL), tick: Tick::from_nanos(5_000_000_000) };
        Self { queue: Queue::new(options, Entropy([3; 16])), now }
    }

    fn pass(&mut self, span: Duration) {
        self.now = Now { wall: self.now.wall.after(span), tick: self.now.tick.deadline(span).0 };
    }

    fn push(&mut self, item: NewItem) {
        self.queue.push(item, self.now);
    }

    fn next(&mut self) -> Option<Action> {
        self.queue.next(self.now)
    }

    /// The attempt that comes next.
    fn attempt(&mut self) -> Attempt {
        match self.next() {
            Some(Action::Attempt(attempt)) => attempt,
            other => panic!("an attempt should be due, and not {other:?}"),
        }
    }

    /// What comes next after whatever time it takes.
    fn later(&mut self) -> Action {
        for _ in 0..1000 {
            match self.next() {
                Some(action) => return action,
                None => self.now.tick = self.queue.next_due().expect("something waits").max(self.now.tick),
            }
        }
        panic!("nothing came")
    }

    /// The next attempt after whatever time it takes.
    fn attempt_later(&mut self) -> Attempt {
        match self.later() {
            Action::Attempt(attempt) => attempt,
            other => panic!("an attempt should be due, and not {other:?}"),
        }
    }

    fn none(&mut self) {
        assert_eq!(self.next(), None);
    }

    fn outcome(&mut self, attempt: &Attempt, outcomes: &[(u32, Outcome)]) -> Verdict {
        self.queue.outcome(attempt.leg, outcomes, Asked::Worked, self.now)
    }

    /// Puts all recipients of an attempt off.
    fn defer(&mut self, attempt: &Attempt) -> Verdict {
        let outcomes: Vec<_> = attempt.recipients.iter().map(|number| (*number, deferred())).collect();
        self.outcome(attempt, &outcomes)
    }

    fn grant(&mut self, destination: &str, messages: u32) {
        self.queue.leased(destination, Lease::Granted { messages }, self.now);
    }

    /// A queue that begins with what the spool has kept of a message.
    fn restarted(&self, item: NewItem) -> Self {
        let state = self.queue.state(item.id).into();
        let mut bench = Self { queue: Queue::new(self.queue.options.clone(), Entropy([4; 16])), now: self.now };
        bench.push(NewItem { recovered: true, state, ..item });
        bench
    }
}

fn options() -> Options {
    Options {
        retry_first: Span::seconds(10),
        retry_max: Span::seconds(60),
        retry_jitter_percent: 0,
        attempts_max: 2,
        expire_after: Span::seconds(3600),
        delay_notice: Some(Span::seconds(600)),
        dead_letters_keep: Span::seconds(86_400),
        dead_letters_max: 3,
    }
}

fn id(n: u8) -> SpoolId {
    let millis = u128::from(WALL / 1000) << 80;
    SpoolId::from_bytes((millis | u128::from(n)).to_be_bytes())
}

fn leg(destination: &str, recipients: &[u32]) -> NewLeg {
    let local = destination.starts_with("local");
    let domain = DomainHash::of("example.org");
    NewLeg { destination: destination.into(), local, recipients: recipients.to_vec(), domain }
}

/// A message with these legs, of as many recipients as they name.
fn item(n: u8, legs: Vec<NewLeg>) -> NewItem {
    let recipients = legs.iter().flat_map(|leg| &leg.recipients).max().map_or(0, |most| most + 1);
    NewItem {
        id: id(n),
        priority: Priority::Normal,
        size: 1000,
        null_sender: false,
        sender_domain: DomainHash::of("example.com"),
        legs,
        recovered: false,
        state: Box::default(),
        legacy_done: Vec::new(),
        recipients,
        unreadable: false,
    }
}

/// A message of one recipient.
fn to(destination: &str, n: u8) -> NewItem {
    item(n, vec![leg(destination, &[0])])
}

/// A destination as a verdict names it.
fn at(destination: &str) -> DestinationHash {
    DestinationHash(crate::hash::of_name(destination))
}

fn forgotten(n: u8, cause: Forgotten) -> Action {
    Action::Forget { id: id(n), cause }
}

fn delivered() -> Outcome {
    Outcome::Delivered(How::Final)
}

fn busy() -> Reason {
    Reason { code: 451, status: Status(4, 3, 0), text: "busy".into(), remote: Some("mx.example".into()) }
}

fn deferred() -> Outcome {
    Outcome::Deferred(busy())
}

fn nobody() -> Reason {
    Reason { code: 550, status: Status(5, 1, 1), text: "nobody".into(), remote: None }
}

fn failed() -> Outcome {
    Outcome::Failed(nobody())
}

fn moved(destination: &str) -> Outcome {
    Outcome::Moved { destination: destination.into(), local: destination.starts_with("local") }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
