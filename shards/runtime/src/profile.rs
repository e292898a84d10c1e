//! Where a shard spends its CPU time: its stack, taken again and again by a signal.
//!
//! A timer on the thread's own CPU clock sends `SIGPROF` to the thread; its handler writes the stack into a ring, and the
//! thread that asked empties the ring and counts equal stacks. A shard that parks takes no CPU time and is not disturbed.
//!
//! Invariants: the handler allocates nothing and takes no lock; a stack that finds no room is lost and counted. One profile at
//! a time in the process. Once it is over, nothing of it is left but the handler and the ring.

mod folded;
mod graph;
mod ring;

#[cfg(test)]
mod tests;

use crate::pulse::{self, Pulse};
use crate::stack::{self, Function, Symbols, interrupted_at, unwind};
use ring::Ring;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Mutex, Once, TryLockError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Samples a second, at most. The kernel looks at CPU clocks at its own ticks, of which it has 100 to 1,000 a second.
pub const HERTZ_MAX: u32 = 1000;

/// How often the ring is emptied: at [`HERTZ_MAX`] it is filled to a fifth by then.
const EMPTY: Duration = Duration::from_millis(50);

/// Different stacks that are counted; a shard has some thousand. What is above is lost.
const STACKS_MAX: usize = 1 << 16;

/// What a shard was at.
pub struct Profile {
    /// Functions, the outermost first, with how many samples found them so.
    stacks: Vec<(Vec<String>, u64)>,
    lost: u64,
    title: String,
}

impl Profile {
    /// One line a stack, `outermost;...;innermost count`, as flamegraph.pl and others read it.
    pub fn folded(&self) -> String {
        folded::text(self)
    }

    /// A flame graph as an SVG document that needs nothing else.
    pub fn flame_graph(&self) -> String {
        graph::svg(self)
    }

    /// Stacks that were taken and counted.
    pub fn samples(&self) -> u64 {
        self.stacks.iter().map(|(_, count)| count).sum()
    }

    /// Samples that are missing: those that fell between two ticks of the kernel's clock, and those that found no room.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// Why there is no profile.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// One at a time.
    #[error("another profile is being taken")]
    Busy,
    /// There is no thread.
    #[error("the shard doesn't run")]
    NotRunning,
    /// The kernel gives no timer.
    #[error("no timer for the shard's CPU time: {0}")]
    Timer(io::Error),
}

/// Samples the thread's stack on its CPU clock, `hertz` times a second of CPU time, 1 to [`HERTZ_MAX`]. Blocks for `duration`:
/// for a thread that may block. One at a time in the process.
pub fn profile(pulse: &Pulse, duration: Duration, hertz: u32) -> Result<Profile, ProfileError> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = match ONE.try_lock() {
        Ok(one) => one,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(ProfileError::Busy),
    };
    install();
    let thread = pulse.thread().ok_or(ProfileError::NotRunning)?;
    let ring = Ring::of_the_process();
    ring.begin(pulse).ok_or(ProfileError::Busy)?;
    let hertz = hertz.clamp(1, HERTZ_MAX);
    let mut counts = Counts::default();
    let timer = Timer::start(pulse.clock(), thread, hertz).map_err(ProfileError::Timer);
    if timer.is_ok() {
        let until = Instant::now() + duration;
        while Instant::now() < until && pulse.thread() == Some(thread) {
            std::thread::sleep(EMPTY.min(until.saturating_duration_since(Instant::now())));
            counts.take(ring);
        }
    }
    let timer = timer.map(drop);
    ring.end();
    timer?;
    counts.take(ring);
    counts.lost += ring.lost();
    let title =
        format!("shard {}: {} s at {hertz} samples a second of CPU time", pulse.shard(), duration.as_secs_f64());
    Ok(counts.named(title))
}

/// Equal stacks, counted.
#[derive(Default)]
struct Counts {
    stacks: HashMap<Vec<usize>, u64>,
    lost: u64,
}

impl Counts {
    fn take(&mut self, ring: &Ring) {
        while let Some(stack) = ring.pop() {
            if self.stacks.len() < STACKS_MAX || self.stacks.contains_key(&stack) {
                *self.stacks.entry(stack).or_default() += 1;
            } else {
                self.lost += 1;
            }
        }
    }

    /// With names for addresses; stacks that differ only in the place within a function become one.
    fn named(self, title: String) -> Profile {
        let mut symbols = Symbols::of_this_process();
        let mut named: HashMap<Vec<String>, u64> = HashMap::new();
        for (addresses, count) in self.stacks {
            let mut names = Vec::with_capacity(addresses.len());
            for (at, address) in addresses.iter().enumerate() {
                names.extend(symbols.functions(*address, at == 0).iter().map(Function::counted_as));
            }
            names.reverse();
            *named.entry(names).or_default() += count;
        }
        let mut stacks: Vec<_> = named.into_iter().collect();
        stacks.sort_unstable();
        Profile { stacks, lost: self.lost, title }
    }
}

/// Installs the handler, once; it stays, since a signal without one would end the process, however late it comes.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        stack::install();
        stack::handle(libc::SIGPROF, on_signal, libc::SA_RESTART);
    });
}

unsafe extern "C" fn on_signal(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the location is the thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel gives what it interrupted and why.
    let (at, missed) = unsafe { (interrupted_at(context), (*info).si_overrun()) };
    let ring = Ring::of_the_process_if_made();
    pulse::own(|pulse| ring.map(|ring| ring.push(pulse, missed, |each| unwind(at, each))));
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// A timer of the kernel that sends `SIGPROF` to a thread as it takes CPU time.
struct Timer(libc::timer_t);

impl Timer {
    fn start(clock: libc::clockid_t, thread: libc::pid_t, hertz: u32) -> io::Result<Self> {
        // SAFETY: zeros are a valid form of it, an event without a notification.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGPROF;
        event.sigev_notify_thread_id = thread;
        let mut timer = MaybeUninit::uninit();
        // SAFETY: the call reads the event and writes the timer.
        if unsafe { libc::timer_create(clock, &mut event, timer.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has succeeded and written it.
        let timer = Self(unsafe { timer.assume_init() });
        let each =
            libc::timespec { tv_sec: i64::from(hertz == 1), tv_nsec: i64::from(1_000_000_000 / hertz) % 1_000_000_000 };
        let setting = libc::itimerspec { it_interval: each, it_value: each };
        // SAFETY: the timer exists, and the call reads the setting.
        if unsafe { libc::timer_settime(timer.0, 0, &setting, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer exists until here. That of a thread that has ended can be deleted as well.
        let _ = unsafe { libc::timer_delete(self.0) };
    }
}
