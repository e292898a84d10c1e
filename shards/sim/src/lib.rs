//! A simulator of one mail host and its world, in which everything that can break does, all of it from one seed.
//!
//! A run is single-threaded and has no clock but its own: the same seed gives the same events, octet for octet. Clients
//! bring letters, the host accepts them, keeps them on its disks, delivers them to mailboxes and next hops, and reports what
//! it can't; meanwhile connections are cut, disks fail, the process dies and the power goes. A **book** is kept of what was
//! promised to whom, and checked at every step: `book.rs` says what must never be. Then faults cease, all comes to rest, and
//! the book must balance.
//!
//! What is real, and what stands in for what does I/O:
//!
//! | part | what it is here |
//! |---|---|
//! | session, both of the host and of the next hops | `ringpost_smtp::Session` |
//! | sending to next hops | `ringpost_smtp::sender::Sender` |
//! | who may send what to whom | `ringpost_policy::Policy` |
//! | the log: records, commits, compaction, recovery | `ringpost_spool::{Spool, Recovery}` |
//! | schedule, lanes, leases, dead letters, routes | `ringpost_queue::{Queue, Destinations, Routes}` |
//! | envelopes, trace headers, reports | `ringpost_message` |
//! | store, runner, hand-over, leases, sessions around these | `store.rs`, `adopt.rs`, `runner.rs`, `delivery.rs`, `report.rs`, `handover.rs`, `leases.rs`, `session.rs`, `charge.rs`: stand-ins, in small, that follow `shards/store`, `shards/deliver` and `shards/serve` step by step |
//! | disk, connections, clients, next hops' wills, clocks | `disk.rs`, `link.rs`, `client.rs`, `hop.rs`, `weather.rs`: made up |
//!
//! What it does not have: TLS, threads, the kernel, config and reload, screening, greylisting and bans.
//!
//! ```
//! let run = ringpost_sim::run(&ringpost_sim::Options::of_seed(1));
//! assert_eq!(run.violation, None);
//! assert_eq!(run.hash, ringpost_sim::run(&ringpost_sim::Options::of_seed(1)).hash);
//! ```

mod adopt;
mod book;
mod calendar;
mod charge;
mod client;
mod delivery;
mod dice;
mod disk;
mod fault;
mod handover;
mod hop;
mod host;
mod leases;
mod letter;
mod link;
mod plan;
mod report;
mod runner;
mod session;
mod store;
mod trace;
mod weather;
mod world;

pub use book::Totals;
pub use dice::Dice;
pub use fault::{Fault, FaultTally};

use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything in it comes from.
    pub seed: u64,
    /// The disks say that they have synced, now and then, and have not: what then must be found.
    pub liar: bool,
    /// All events are kept in words, and not only the last.
    pub whole_trace: bool,
}

impl Options {
    /// An ordinary run.
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, liar: false, whole_trace: false }
    }
}

/// How a run came out.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// What was found that must never be.
    pub violation: Option<String>,
    /// The faults that struck.
    pub faults: FaultTally,
    /// What was accepted, delivered, and so on.
    pub totals: Totals,
    /// Events that came.
    pub events: u64,
    /// A hash over all of them: two runs of one seed have the same.
    pub hash: u64,
    /// The last of them, in words.
    pub last: Vec<String>,
}

/// Simulates one seed.
pub fn run(options: &Options) -> Run {
    let Options { seed, liar, whole_trace } = *options;
    let mut world = World::new(seed, liar, whole_trace);
    // A machine that panics is found like anything else, with its seed and what came before.
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    if outcome.is_err() {
        world.book.violate("a panic, told above".into());
    }
    Run {
        seed,
        violation: world.book.violation().map(str::to_owned),
        faults: world.tally.clone(),
        totals: world.book.totals,
        events: world.events,
        hash: world.trace.hash(),
        last: world.trace.into_last(),
    }
}
