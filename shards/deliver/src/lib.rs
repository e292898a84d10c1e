//! Delivery: one file a target, and the runner that turns items into attempts and attempts into outcomes.
//!
//! To add a target is a file beside `maildir.rs` and a variant of [`Target`].

mod maildir;
mod runner;
mod target;

pub use runner::{Runner, RunnerSetup};
pub use target::Target;
