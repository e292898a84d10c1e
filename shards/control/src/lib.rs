//! The control board: phase and config epoch to every shard, lock-free, and each shard's acknowledgement back.
//!
//! One word holds the phase and the config epoch. Control threads publish to it with compare-and-swap; every shard has a
//! seat, from which it sees the newest state, is woken when there is a newer one, and says how far it has come. The
//! board carries *states*, not events: a shard that was busy sees only the last of several publications, and that is
//! enough.
//!
//! Invariants:
//! - A state is never older than what was published before: two publishers at once lose nothing, the epoch only grows,
//!   and a server that drains or stops never goes back.
//! - A shard that waits in [`Seat::changed`] is woken by every publication that it has not seen. It loads the state,
//!   leaves its waker, and loads again, so that a publication in between is not lost.
//! - An acknowledgement is written by the shard alone, after it acted; who sees it may rely on what the shard did.
//! - Per shard exactly **one** waker crosses threads: that of the task that waits on the seat, which must be one that
//!   lives as long as its executor. No other task's waker may ever reach the board, since executors are free to assume
//!   that a task's waker is dropped on the task's own thread. When the [`Seat`] is dropped, the board gives that waker
//!   back on the spot and waits for a wake under way; if the seat was never dropped, [`Board::depart`] leaks it.
//!
//! What it refuses: to run anything on a shard, to carry data (a config travels otherwise, the board says only that
//! there is a newer one), to take a lock or to know an executor. `src/model.rs` has loom try every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p ringpost-control --release --lib --target-dir target/loom`.
//!
//! ```
//! use ringpost_base::ShardId;
//! use ringpost_control::{Board, Phase};
//! use std::time::Duration;
//!
//! let board = Board::new(1);
//! let seat = board.seat(ShardId(0)).expect("taken once");
//! let shard = std::thread::spawn(move || {
//!     let state = seat.state(); // a shard would await `seat.changed()`
//!     seat.acknowledge(state);
//! });
//! shard.join().unwrap();
//! let ready = board.publish_phase(Phase::Ready);
//! board.depart(ShardId(0));
//! assert!(board.wait_acknowledged(ready, Duration::from_secs(1)).is_empty());
//! ```

mod board;
#[cfg(all(test, loom))]
mod model;
mod seat;
mod state;
mod sync;
#[cfg(all(test, not(loom)))]
mod tests;

pub use board::Board;
pub use seat::Seat;
pub use state::{Phase, State};
