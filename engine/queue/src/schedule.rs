//! When each message is tried, and what becomes of it.

use crate::Options;
use ringpost_base::{SpoolId, Tick};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

/// A message to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The message.
    pub id: SpoolId,
    /// Numbers of the recipients still to serve, ascending.
    pending: Vec<u32>,
    /// Numbers of the recipients that are done, ascending.
    done: Vec<u32>,
    attempts: u32,
    /// From an earlier run of the server, in which attempts may have been made.
    recovered: bool,
}

impl Item {
    /// A new message of so many recipients.
    pub fn new(id: SpoolId, recipients: u32) -> Self {
        Self { id, pending: (0..recipients).collect(), done: Vec::new(), attempts: 0, recovered: false }
    }

    /// A message found in the spool, of whose recipients some are done.
    pub fn recovered(id: SpoolId, recipients: u32, done: &[u32]) -> Self {
        let mut item = Self { recovered: true, ..Self::new(id, recipients) };
        item.pending.retain(|number| !done.contains(number));
        item.done = done.iter().copied().filter(|number| *number < recipients).collect();
        item.done.sort_unstable();
        item.done.dedup();
        item
    }
}

/// One try of a message for all its pending recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The message.
    pub id: SpoolId,
    /// Numbers of the recipients to serve.
    pub recipients: Vec<u32>,
    /// Whether an earlier attempt may have served some of them without our knowing.
    pub again: bool,
}

/// How an attempt came out for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has it, durably.
    Delivered,
    /// Not now; try again.
    Deferred,
}

/// What follows from an attempt's outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every recipient is done: the spool may forget the message.
    Settled,
    /// No attempt of it was under way.
    Unknown,
    /// Some are not: it will be tried again after this time.
    Retry {
        /// Numbers of all recipients done so far.
        done: Vec<u32>,
        /// Whether this attempt added to them.
        progressed: bool,
        /// From now to the next attempt.
        wait: Duration,
    },
}

/// The schedule of one shard.
#[derive(Debug)]
pub struct Queue {
    options: Options,
    items: HashMap<SpoolId, Item>,
    ready: VecDeque<SpoolId>,
    waiting: BTreeSet<(Tick, SpoolId)>,
    /// Messages whose attempt is under way.
    under_way: HashSet<SpoolId>,
}

impl Queue {
    /// An empty queue.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            items: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            under_way: HashSet::new(),
        }
    }

    /// Goes on with other options; what waits keeps the time it was given.
    pub fn configure(&mut self, options: Options) {
        self.options = options;
    }

    /// Adds a message, due at once. One that is here already is left as it is.
    pub fn push(&mut self, item: Item) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.items.entry(item.id) {
            self.ready.push_back(item.id);
            place.insert(item);
        }
    }

    /// The next attempt that is due, if another may be under way.
    pub fn next(&mut self, now: Tick) -> Option<Attempt> {
        while self.waiting.first().is_some_and(|(due, _)| *due <= now) {
            self.ready.extend(self.waiting.pop_first().map(|(_, id)| id));
        }
        if self.under_way.len() >= self.options.attempts_max {
            return None;
        }
        let id = self.ready.pop_front()?;
        let item = self.items.get(&id)?;
        let again = item.recovered || item.attempts > 0;
        self.under_way.insert(id);
        Some(Attempt { id, recipients: item.pending.clone(), again })
    }

    /// When the next waiting message is due.
    pub fn next_due(&self) -> Option<Tick> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// How an attempt came out, by recipient number. A recipient that is not named was not served. Of a message that is
    /// not under way there is nothing to say, and nothing changes.
    pub fn outcome(&mut self, id: SpoolId, outcomes: &[(u32, Outcome)], now: Tick) -> Verdict {
        if !self.under_way.remove(&id) {
            return Verdict::Unknown;
        }
        let Some(item) = self.items.get_mut(&id) else { return Verdict::Unknown };
        let before = item.done.len();
        for (number, outcome) in outcomes {
            if *outcome == Outcome::Delivered && item.pending.contains(number) {
                item.pending.retain(|pending| pending != number);
                item.done.push(*number);
            }
        }
        if item.pending.is_empty() {
            self.items.remove(&id);
            return Verdict::Settled;
        }
        item.done.sort_unstable();
        item.attempts += 1;
        let wait = backoff(&self.options, item.attempts);
        let verdict = Verdict::Retry { done: item.done.clone(), progressed: item.done.len() > before, wait };
        self.waiting.insert((now.deadline(wait).0, id));
        verdict
    }

    /// Messages accepted and not settled.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing to deliver.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Messages that wait for a later attempt.
    pub fn deferred(&self) -> usize {
        self.waiting.len()
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> usize {
        self.under_way.len()
    }
}

/// Doubles with every failed attempt, up to the longest wait.
fn backoff(options: &Options, attempts: u32) -> Duration {
    let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    options.retry_first.0.checked_mul(factor).unwrap_or(Duration::MAX).min(options.retry_max.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::Span;

    fn queue() -> Queue {
        Queue::new(Options { retry_first: Span::seconds(1), retry_max: Span::seconds(5), attempts_max: 2 })
    }

    fn id(n: u8) -> SpoolId {
        SpoolId::from_bytes([n; 16])
    }

    fn seconds(n: u64) -> Tick {
        Tick::from_nanos(n * 1_000_000_000)
    }

    #[test]
    fn retries_wait_longer_each_time_up_to_the_maximum() {
        let mut queue = queue();
        queue.push(Item::new(id(1), 1));
        let mut now = seconds(0);
        for wait in [1, 2, 4, 5, 5] {
            let attempt = queue.next(now).expect("due");
            let verdict = queue.outcome(attempt.id, &[(0, Outcome::Deferred)], now);
            let want = Duration::from_secs(wait);
            assert_eq!(verdict, Verdict::Retry { done: vec![], progressed: false, wait: want });
            assert_eq!(queue.next(now), None, "not before its time");
            now = queue.next_due().expect("waiting");
        }
    }

    #[test]
    fn only_the_recipients_left_are_tried_again() {
        let mut queue = queue();
        queue.push(Item::recovered(id(1), 4, &[2]));
        assert_eq!(queue.next(seconds(0)).expect("due").recipients, [0, 1, 3]);
        let verdict = queue.outcome(id(1), &[(3, Outcome::Delivered), (0, Outcome::Deferred)], seconds(0));
        let wait = Duration::from_secs(1);
        assert_eq!(verdict, Verdict::Retry { done: vec![2, 3], progressed: true, wait });
        assert_eq!(queue.next(seconds(1)).expect("due").recipients, [0, 1]);
        let both = [(0, Outcome::Delivered), (1, Outcome::Delivered)];
        assert_eq!(queue.outcome(id(1), &both, seconds(1)), Verdict::Settled);
        assert!(queue.is_empty());
    }

    #[test]
    fn an_outcome_counts_once() {
        let mut queue = queue();
        queue.push(Item::new(id(1), 1));
        assert_eq!(queue.outcome(id(1), &[(0, Outcome::Delivered)], seconds(0)), Verdict::Unknown, "not begun");
        queue.next(seconds(0)).expect("due");
        assert!(matches!(queue.outcome(id(1), &[], seconds(0)), Verdict::Retry { .. }));
        assert_eq!(queue.outcome(id(1), &[], seconds(0)), Verdict::Unknown);
        assert!(queue.next(seconds(9)).is_some() && queue.next(seconds(9)).is_none(), "given out once");
    }

    #[test]
    fn attempts_are_bounded_and_a_message_is_queued_once() {
        let mut queue = queue();
        for n in [1, 1, 2, 3] {
            queue.push(Item::new(id(n), 1));
        }
        assert_eq!(queue.len(), 3);
        assert!(queue.next(seconds(0)).is_some() && queue.next(seconds(0)).is_some());
        assert_eq!(queue.next(seconds(0)), None);
        queue.outcome(id(1), &[(0, Outcome::Delivered)], seconds(0));
        assert_eq!(queue.next(seconds(0)).map(|attempt| attempt.id), Some(id(3)));
    }
}
