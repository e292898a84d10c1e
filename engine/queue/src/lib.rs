//! What is still to be delivered: route, schedule, retry, outcome.
//!
//! The queue of one shard holds an [`Item`] for each message that is accepted and not settled. It gives out attempts,
//! is told their outcomes, and says what follows: the message is settled, or tried again at a later time. It never gives a
//! message up; a message that can't be delivered is tried at the longest interval until it can be.
//!
//! ```
//! use ringpost_base::{SpoolId, Tick};
//! use ringpost_queue::{Item, Options, Outcome, Queue, Verdict};
//! let mut queue = Queue::new(Options::default());
//! let id = SpoolId::from_bytes([1; 16]);
//! let now = Tick::from_nanos(0);
//! queue.push(Item::new(id, 1));
//! let attempt = queue.next(now).expect("due at once");
//! assert_eq!(queue.outcome(attempt.id, &[(0, Outcome::Delivered)], now), Verdict::Settled);
//! ```

mod options;
mod route;
mod schedule;

pub use options::Options;
pub use route::Routes;
pub use schedule::{Attempt, Item, Outcome, Queue, Verdict};
