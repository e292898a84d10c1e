//! The clocks and the source of randomness, read here and handed to the engine as values.

use ringpost_base::{Entropy, Now, Tick, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Both clocks.
pub fn now() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    let micros = wall.tv_sec as u64 * 1_000_000 + wall.tv_nsec as u64 / 1_000;
    Now { wall: Timestamp::from_unix_micros(micros), tick: tick() }
}

/// The monotonic clock.
pub fn tick() -> Tick {
    let monotonic = clock_gettime(ClockId::Monotonic);
    Tick::from_nanos(monotonic.tv_sec as u64 * 1_000_000_000 + monotonic.tv_nsec as u64)
}

/// Sixteen random bytes from the kernel.
///
/// # Panics
/// Where the kernel gives none, which getrandom(2) rules out once the system is up.
pub fn entropy() -> Entropy {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(got, Ok(bytes.len()), "the kernel gives randomness");
    Entropy(bytes)
}
