//! Pool, pinning, contained tasks, clock, log: the wall around glommio.
//!
//! A shard is one glommio executor pinned to one core. [`start`] makes one and runs a body on it; inside, [`spawn`] runs
//! tasks whose panics end nothing but themselves. Another thread wakes a shard through an [`inbox()`], another shard through
//! the [`mesh()`]. What only exists on tokio runs on the thread of [`Services`].
//!
//! Each shard has a [`Pulse`]: by it the [`watchdog`] notices a stall, [`stack_of`] and [`profile()`] see what the shard is at, and
//! [`crash`] tells its state when the process dies.
//!
//! Two rules of this wall, both from measured faults of the runtime (`docs/ARCHITECTURE.md`):
//! - every shard has a heartbeat of [`HEARTBEAT`], which bounds the stall when the executor parks with work to do;
//! - no waker of an ordinary task is ever handed to another thread; only tasks that live as long as the executor wait on
//!   an [`Inbox`], on the mesh or on the control board.

mod clock;
mod contain;
pub mod crash;
pub mod faults;
mod inbox;
pub mod local;
pub mod log;
mod mesh;
mod pace;
mod pool;
mod preflight;
mod profile;
mod pulse;
mod services;
mod shard;
mod stack;
pub mod watchdog;

pub use clock::{entropy, now, tick};
pub use contain::{contain, contain_now, spawn, spawn_vital};
pub use inbox::{Inbox, InboxSender, inbox};
pub use mesh::{ANSWER_PATIENCE, MeshEnd, MeshSeat, mesh};
pub use pace::{Pace, after, sleep, yield_now};
pub use pool::BufferPool;
pub use preflight::{PreflightError, preflight};
pub use profile::{HERTZ_MAX, Profile, ProfileError, profile};
pub use pulse::Pulse;
pub use services::Services;
pub use shard::{HEARTBEAT, Plan, Shard, ShardError, ShardThread, cores, run_alone, start};
pub use stack::{Stack, stack_of};
