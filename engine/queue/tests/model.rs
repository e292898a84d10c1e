//! The schedule against a naive model, over random operations: no message is lost, none is given out twice at once, none
//! before its time, each attempt is for exactly the recipients that are left, and waits only grow, up to the longest.

use proptest::collection::vec;
use proptest::prelude::*;
use ringpost_base::{Span, SpoolId, Tick};
use ringpost_queue::{Attempt, Item, Options, Outcome, Queue, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is done to the queue. Numbers are reduced to what there is at that moment.
#[derive(Clone, Debug)]
enum Operation {
    /// Add message `id`, which may be there already.
    Push { id: u8, recipients: u32 },
    /// Add a message from an earlier run, some of whose recipients are done (one bit each).
    Recover { id: u8, recipients: u32, done: u32 },
    /// Ask for an attempt.
    Next,
    /// Say how an attempt came out, one of those under way; one bit for each recipient that was served.
    Outcome { which: usize, served: u32, named: u32 },
    /// Let time pass.
    Wait { millis: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (0..12u8, 0..5u32).prop_map(|(id, recipients)| Operation::Push { id, recipients }),
        1 => (0..12u8, 0..5u32, 0..32u32)
            .prop_map(|(id, recipients, done)| Operation::Recover { id, recipients, done }),
        5 => Just(Operation::Next),
        4 => (any::<usize>(), 0..32u32, 0..32u32)
            .prop_map(|(which, served, named)| Operation::Outcome { which, served, named }),
        3 => prop_oneof![0..500u64, 0..20_000u64].prop_map(|millis| Operation::Wait { millis }),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    (0..3000u64, 0..9000u64, 1..5usize).prop_map(|(first, max, attempts_max)| Options {
        retry_first: Span::millis(first),
        retry_max: Span::millis(max),
        attempts_max,
    })
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Due since then.
    Due(Tick),
    UnderWay,
}

/// A message as the model sees it.
#[derive(Debug)]
struct Known {
    pending: BTreeSet<u32>,
    done: BTreeSet<u32>,
    place: Place,
    tried: bool,
    last_wait: Duration,
}

struct Model {
    options: Options,
    queue: Queue,
    known: BTreeMap<SpoolId, Known>,
    now: Tick,
}

impl Model {
    fn new(options: Options) -> Self {
        Self { options, queue: Queue::new(options), known: BTreeMap::new(), now: Tick::from_nanos(0) }
    }

    fn run(&mut self, operation: Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Push { id, recipients } => self.push(id, recipients, None),
            Operation::Recover { id, recipients, done } => self.push(id, recipients, Some(done)),
            Operation::Next => {
                self.next()?;
            }
            Operation::Outcome { which, served, named } => {
                let under_way = self.under_way();
                if let Some(id) = under_way.get(which % under_way.len().max(1)) {
                    self.outcome(*id, served, named)?;
                }
            }
            Operation::Wait { millis } => self.now = self.now.deadline(Duration::from_millis(millis)).0,
        }
        self.agree()
    }

    fn push(&mut self, id: u8, recipients: u32, done: Option<u32>) {
        let id = SpoolId::from_bytes([id; 16]);
        let is_done = |number: &u32| done.is_some_and(|done| done >> number & 1 == 1);
        let item = match done {
            None => Item::new(id, recipients),
            // The spool may know of more recipients than the message has; those are nobody.
            Some(_) => Item::recovered(id, recipients, &(0..8).filter(is_done).collect::<Vec<_>>()),
        };
        self.queue.push(item);
        let (done_numbers, pending) = (0..recipients).partition(is_done);
        let place = Place::Due(self.now);
        let tried = done.is_some();
        self.known.entry(id).or_insert(Known { pending, done: done_numbers, place, tried, last_wait: Duration::ZERO });
    }

    fn next(&mut self) -> Result<Option<Attempt>, TestCaseError> {
        let may = self.under_way().len() < self.options.attempts_max && !self.due().is_empty();
        let attempt = self.queue.next(self.now);
        prop_assert_eq!(attempt.is_some(), may, "due: {:?}", self.due());
        if let Some(attempt) = &attempt {
            prop_assert!(self.due().contains(&attempt.id), "given out twice, before its time, or unknown");
            let known = self.known.get_mut(&attempt.id).expect("known");
            prop_assert!(attempt.recipients.iter().eq(&known.pending), "{:?} of {:?}", attempt, known);
            prop_assert_eq!(attempt.again, known.tried);
            (known.place, known.tried) = (Place::UnderWay, true);
        }
        Ok(attempt)
    }

    fn outcome(&mut self, id: SpoolId, served: u32, named: u32) -> Result<(), TestCaseError> {
        let outcomes: Vec<_> = (0..5)
            .filter(|number| (served | named) >> number & 1 == 1)
            .map(|number| (number, if served >> number & 1 == 1 { Outcome::Delivered } else { Outcome::Deferred }))
            .collect();
        let known = self.known.get_mut(&id).expect("known");
        let (now_done, pending) = known.pending.iter().copied().partition(|number| served >> number & 1 == 1);
        let now_done: BTreeSet<u32> = now_done;
        (known.pending, known.done) = (pending, &known.done | &now_done);
        match self.queue.outcome(id, &outcomes, self.now) {
            Verdict::Settled => {
                prop_assert!(known.pending.is_empty(), "settled with {:?} left", known.pending);
                self.known.remove(&id);
            }
            Verdict::Unknown => prop_assert!(false, "an attempt that is under way is known"),
            Verdict::Retry { done, progressed, wait } => {
                prop_assert!(!known.pending.is_empty(), "nobody is left to try");
                prop_assert!(done.iter().eq(&known.done), "{:?} of {:?}", done, known);
                prop_assert_eq!(progressed, !now_done.is_empty());
                prop_assert!(wait >= known.last_wait && wait <= self.options.retry_max.0, "{:?} of {:?}", wait, known);
                prop_assert!(wait >= self.options.retry_first.0.min(self.options.retry_max.0));
                known.last_wait = wait;
                known.place = Place::Due(self.now.deadline(wait).0);
            }
        }
        Ok(())
    }

    fn under_way(&self) -> Vec<SpoolId> {
        self.known.iter().filter(|(_, known)| known.place == Place::UnderWay).map(|(id, _)| *id).collect()
    }

    fn due(&self) -> Vec<SpoolId> {
        let is_due = |known: &Known| matches!(known.place, Place::Due(since) if since <= self.now);
        self.known.iter().filter(|(_, known)| is_due(known)).map(|(id, _)| *id).collect()
    }

    fn agree(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.queue.len(), self.known.len());
        prop_assert_eq!(self.queue.is_empty(), self.known.is_empty());
        prop_assert_eq!(self.queue.in_flight(), self.under_way().len());
        let later = self.known.values().filter_map(|known| match known.place {
            Place::Due(at) if at > self.now => Some(at),
            _ => None,
        });
        let soonest = later.min();
        // One that came due and was not yet asked for may still be shown as waiting.
        let shown = self.queue.next_due();
        prop_assert!(shown == soonest || shown.is_some_and(|at| at <= self.now), "{:?}, {:?}", shown, soonest);
        Ok(())
    }

    /// Delivers everything: a queue that is served has an end, and every message comes to it.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        while !self.known.is_empty() {
            while self.next()?.is_some() {}
            let under_way = self.under_way();
            for id in &under_way {
                self.outcome(*id, u32::MAX, 0)?;
            }
            if under_way.is_empty() {
                let due = self.queue.next_due();
                prop_assert!(due.is_some_and(|due| due > self.now), "lost: {:?}", self.known);
                self.now = due.unwrap_or(self.now);
            }
        }
        self.agree()?;
        prop_assert_eq!((self.queue.next(Tick::from_nanos(u64::MAX)), self.queue.next_due()), (None, None));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_schedule_is_the_models(options in options(), operations in vec(operation(), 0..200)) {
        let mut model = Model::new(options);
        for operation in operations {
            model.run(operation)?;
        }
        model.drain()?;
    }

    #[test]
    fn waits_grow_to_the_longest_and_stay_there(options in options()) {
        let mut queue = Queue::new(options);
        let id = SpoolId::from_bytes([1; 16]);
        queue.push(Item::new(id, 1));
        let (mut now, mut last) = (Tick::from_nanos(0), Duration::ZERO);
        for _ in 0..100 {
            let attempt = queue.next(now).expect("due");
            let Verdict::Retry { wait, .. } = queue.outcome(attempt.id, &[(0, Outcome::Deferred)], now) else {
                panic!("settled")
            };
            prop_assert!(wait >= last);
            (now, last) = (now.deadline(wait).0, wait);
        }
        let first = options.retry_first.0;
        let longest = if first.is_zero() { first } else { options.retry_max.0 };
        prop_assert_eq!(last, longest);
    }
}

/// Messages are tried in the order in which they came due.
#[test]
fn first_come_first_served() {
    let options = Options { attempts_max: 100, ..Options::default() };
    let mut queue = Queue::new(options);
    let ids: Vec<_> = [9u8, 3, 7, 1].into_iter().map(|n| SpoolId::from_bytes([n; 16])).collect();
    for id in &ids {
        queue.push(Item::new(*id, 1));
    }
    let now = Tick::from_nanos(0);
    let given: Vec<_> = std::iter::from_fn(|| queue.next(now)).map(|attempt| attempt.id).collect();
    assert_eq!(given, ids);
}
