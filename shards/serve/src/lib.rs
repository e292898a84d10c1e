//! One file a listener kind: the conductors, the only code that sees two stages of a message at once.
//!
//! `mx.rs` serves SMTP and LMTP. A session goes through `admission.rs` (whether it is served), `dialogue.rs` (its loop) and
//! `transaction.rs` (its messages, with the checks of `checks.rs`); `owners.rs` asks the shards that count what addresses do, `lookups.rs` the DNS,
//! and `rules.rs` is what all of them go by. `open.rs` shows the sessions to an
//! operator, `trace.rs` sampled messages to a collector. To add a listener kind is a file beside `mx.rs`.

mod admission;
mod checks;
mod dialogue;
mod lookups;
mod mx;
mod open;
mod owners;
mod proof;
mod rules;
mod trace;
mod transaction;

pub use mx::{HandOver, HandedOverOrNot, Mx, MxListener, MxSetup, TakeAccepted};
pub use open::OpenSession;
pub use owners::{Mesh, Owners, OwnersSetup, Question, Verdict};
pub use rules::{ListenerRules, Rules, Timeouts};
