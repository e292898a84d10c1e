//! Delivery: the targets, and the runner that turns what the queue asks for into attempts, and attempts into outcomes.
//!
//! `runner.rs` does what the queue of its shard says. Before it sends anything to a target that is elsewhere, `leases.rs` asks
//! the shard that owns the destination. `local.rs` has the thread beside the shard write Maildirs and files; `hop` speaks
//! SMTP and LMTP, `webhook` HTTP. `report.rs` tells senders what became of their mail, and `handover.rs` takes a message
//! to its next hop while the sender waits. To add a target is a file beside these and a variant of `Target`.

mod description;
mod handover;
mod hop;
mod leases;
mod local;
mod maildir;
mod parcel;
mod report;
mod reroute;
mod runner;
mod spans;
mod target;
mod troubles;
mod webhook;

pub use leases::{LeaseAnswer, LeaseMesh, LeaseQuestion, Leases};
pub use runner::{Directions, Reach, Runner, RunnerSetup, item};
pub use target::{TargetParts, Targets, check};
pub use troubles::TargetState;
