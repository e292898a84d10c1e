//! DNS for shards: names, addresses, texts, mail exchangers, and the lists that know what others think of an address.
//!
//! The sockets are hickory's, on the services thread; [`Dns`] is the way to them. Each shard has a [`Resolver`] with a cache
//! of its own, asks through it, and gets its answers through an inbox that one vital task reads. [`Lists`] asks a set of
//! DNS lists about a client, and keeps those that don't work from doing harm.
//!
//! Invariants: nothing here waits beyond the caller's deadline, panics, or grows without bound, whatever strangers have put
//! into the DNS; and names that strangers choose, however slow they are, don't keep the lists from being asked. What comes
//! out of it is typed, and names are host names: safe in a log line and in a header.
//!
//! What it refuses: to decide what a verdict means (that is `engine/policy`'s), to validate signatures (a resolver nearby
//! does, and answers with a failure), to search domains or to read `/etc/hosts`.
//!
//! ```no_run
//! # async fn on_a_shard(dns: ringpost_dns::Dns) -> Result<(), ringpost_dns::DnsError> {
//! use ringpost_base::Span;
//! use ringpost_dns::{BreakerOptions, List, Lists, Verdict};
//! use ringpost_runtime::tick;
//!
//! let resolver = dns.resolver();
//! let deadline = tick().deadline(Span::seconds(2).0);
//! match resolver.ptr([192, 0, 2, 7].into(), deadline).await {
//!     Ok(names) => println!("{:?}, for {:?}", names.records, names.ttl),
//!     Err(failure) => println!("{failure}"),
//! }
//! let list = List { zone: "zen.example".into(), shown: "zen.example".into(), weight: 5, answers: Vec::new() };
//! let lists = Lists::new(resolver, vec![list], BreakerOptions::default())?;
//! if let Verdict::Listed { answer, weight } = lists.look_up([192, 0, 2, 7].into(), deadline).await[0] {
//!     println!("listed as {answer}, which weighs {weight}");
//! }
//! # Ok(())
//! # }
//! ```

mod answer;
mod breaker;
mod cache;
mod dns;
mod error;
mod lists;
mod name;
mod resolver;
mod under_way;

pub use answer::{Failure, Lookup, MailExchange};
pub use breaker::{BreakerOptions, Health};
pub use dns::{Dns, Options};
pub use error::DnsError;
pub use lists::{Answers, Doubt, List, ListState, Lists, Verdict};
pub use name::reverse_name;
pub use resolver::{Resolver, Tally};
pub use under_way::{IN_FLIGHT_MAX, LISTS_IN_FLIGHT_MAX, STRANGERS_IN_FLIGHT_MAX, WAITERS_MAX};
