//! What is still to be delivered: route, schedule, retry, outcome.
//!
//! The [`Queue`] of one shard holds every message that the shard has accepted and not settled. A message has a **leg** for
//! each destination of its recipients, and each leg a schedule of its own. The queue says what is to be done next
//! ([`Action`]): attempts above all; it is told how they came out, and says what follows ([`Verdict`]): recipients are tried
//! again later, or given up and reported, and when nothing is left the message is settled. Nothing is settled of which
//! somebody was neither served nor reported.
//!
//! What several shards share of a destination, its concurrency, its rate and its circuit breaker, is kept by the one that
//! owns it ([`Destinations`]), which gives out leases. [`Routes`] says which destinations an address has.
//!
//! Nothing here waits, reads a clock or draws randomness; nothing loses a message. Memory is at most 95 bytes a message in
//! the common case of one leg whose recipients are all left, and what time it takes does not depend on how many there are.
//!
//! ```
//! use ringpost_base::{Entropy, Now, Priority, SpoolId, Timestamp};
//! use ringpost_queue::{Action, Asked, DomainHash, How, NewItem, NewLeg, Options, Outcome, Queue};
//! let mut queue = Queue::new(Options::default(), Entropy([7; 16]));
//! let now = Now::default();
//! let domain = DomainHash::of("example.org");
//! let leg = NewLeg { destination: "local".into(), local: true, recipients: vec![0], domain };
//! let item = NewItem {
//!     id: SpoolId::from_bytes([1; 16]),
//!     priority: Priority::Normal,
//!     size: 1234,
//!     null_sender: false,
//!     sender_domain: DomainHash::of("example.com"),
//!     legs: vec![leg],
//!     recovered: false,
//!     state: Box::default(),
//!     legacy_done: vec![],
//!     recipients: 1,
//!     unreadable: false,
//! };
//! queue.push(item, now);
//! let Some(Action::Attempt(attempt)) = queue.next(now) else { panic!("due at once") };
//! let verdict = queue.outcome(attempt.leg, &[(0, Outcome::Delivered(How::Final))], Asked::Worked, now);
//! assert!(verdict.settled && queue.is_empty());
//! ```

mod breaker;
mod destinations;
mod filter;
mod hash;
mod item;
mod lane;
mod lease;
mod leases;
mod legs;
mod moment;
mod numbers;
mod options;
mod order;
mod orders;
mod outcome;
mod plan;
mod proof;
mod push;
mod queue;
mod rate;
mod reason;
mod record;
mod reports;
mod reroute;
mod rest;
mod route;
mod slab;
mod state;
mod view;
mod wheel;

#[cfg(test)]
mod tests;

pub use breaker::BreakerState;
pub use destinations::{DestinationView, Destinations};
pub use filter::{DestinationTotals, Filter, LegView, Page, RecipientState, RecipientView, State, Totals, View};
pub use item::{
    Action, Asked, Attempt, Changed, DestinationHash, DomainHash, Forgotten, How, LegId, NewItem, NewLeg, Outcome,
    Pushed, Verdict,
};
pub use lease::{Lease, LeaseReport};
pub use options::{DestinationOptions, Options};
pub use proof::{HandedOver, NotHandedOver};
pub use queue::Queue;
pub use reason::{REASON_TEXT_MAX, REASONS_MAX, Reason, Status};
pub use route::{DefaultRoute, Destination, DomainRoute, PatternRoute, Route, Routes, RoutesSetup};
pub use state::{DamagedState, DeadRecipient, Remembered};
