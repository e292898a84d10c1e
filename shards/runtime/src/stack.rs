//! The stacks of threads: taken by a signal on the thread itself, given names elsewhere.
//!
//! A thread can only unwind itself, so a shard is sent a real-time signal whose handler writes the addresses on its stack into
//! a slot that the shard's [`Pulse`] has ready. Names are looked up by who asked, in the program's own file.
//!
//! Invariants: the handler allocates nothing, takes no lock and calls nothing that does; it leaves `errno` as it was. Calls
//! that a signal interrupts begin again by themselves (`SA_RESTART`); the one that doesn't, io_uring_enter(2), glommio
//! repeats. A slot is written by its shard's thread and by no other.

mod symbols;
mod unwind;

pub(crate) use symbols::{Function, Module, Symbols};
pub(crate) use unwind::{interrupted_at, unwind};

use crate::pulse::{self, Pulse};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Frames of a stack that are kept. Those of a session are some 40 to 60 deep, the executor's included.
pub(crate) const DEPTH_MAX: usize = 128;

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_micros(200);

/// A stack of a thread, symbolised when displayed: one frame a line, `function at file:line`, the innermost first.
#[derive(Clone, Debug)]
pub struct Stack(Vec<usize>);

impl Stack {
    /// Of addresses, the innermost first: where the thread is, then where each caller goes on.
    pub(crate) fn new(addresses: Vec<usize>) -> Self {
        Self(addresses)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut symbols = Symbols::of_this_process();
        for (at, address) in self.0.iter().enumerate() {
            for function in symbols.functions(*address, at == 0) {
                writeln!(f, "{function}")?;
            }
        }
        Ok(())
    }
}

/// Asks the shard's thread for its stack by a real-time signal; None if it doesn't answer within `patience`, or is no more.
/// Not to be called from a shard.
pub fn stack_of(pulse: &Pulse, patience: Duration) -> Option<Stack> {
    static ASKING: Mutex<()> = Mutex::new(());
    install();
    let _one_at_a_time = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    let question = pulse.slot.ask()?;
    ask(pulse)?;
    let until = Instant::now() + patience;
    while !pulse.slot.is_answered(question) {
        if Instant::now() > until {
            pulse.slot.give_up(question);
            return None;
        }
        std::thread::sleep(LOOK);
    }
    Some(Stack::new(pulse.slot.read()))
}

/// Sends the signal to the pulse's thread; nothing if there is no such thread.
pub(crate) fn ask(pulse: &Pulse) -> Option<()> {
    let thread = pulse.thread()?;
    // SAFETY: the call takes three integers. A thread of this process that got the number since would run the handler, find
    // no pulse of its own, and go on.
    let refused = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
    (refused == 0).then_some(())
}

/// The signal that asks for a stack: not the first real-time ones, which debuggers and runtimes like to take.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 7
}

/// Installs the handler, once; it stays, so that a signal that comes late finds it.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        unwind::warm_up();
        handle(signal(), on_signal, libc::SA_RESTART);
    });
}

/// What the kernel calls.
pub(crate) type Handler = unsafe extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler for a signal, which holds back all others but those that tell of a crash.
pub(crate) fn handle(signal: libc::c_int, handler: Handler, flags: libc::c_int) {
    // SAFETY: the structure is made here and only read by the call; the handler keeps to what its module says of handlers.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = flags | libc::SA_SIGINFO;
        libc::sigfillset(&mut action.sa_mask);
        for fatal in crate::crash::FATAL {
            libc::sigdelset(&mut action.sa_mask, fatal);
        }
        let refused = libc::sigaction(signal, &action, std::ptr::null_mut());
        debug_assert_eq!(refused, 0, "the signal exists and may be handled");
    }
}

unsafe extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the location is the thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel gives the context of what it interrupted.
    let at = unsafe { interrupted_at(context) };
    pulse::own(|pulse| pulse.slot.answer(at));
    crate::crash::stand_still();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// What becomes of a question, in the two lowest bits of a slot's word; its number is above them.
const IDLE: u64 = 0;
const ASKED: u64 = 1;
const WRITING: u64 = 2;
const ANSWERED: u64 = 3;
const STATES: u64 = 4;

/// Where a thread leaves its stack: one question at a time, each with a number, so that an answer that comes too late is
/// not taken for that of the next.
pub(crate) struct Slot {
    word: AtomicU64,
    depth: AtomicUsize,
    frames: [AtomicUsize; DEPTH_MAX],
}

impl Slot {
    pub(crate) const fn new() -> Self {
        Self {
            word: AtomicU64::new(IDLE),
            depth: AtomicUsize::new(0),
            frames: [const { AtomicUsize::new(0) }; DEPTH_MAX],
        }
    }

    /// A new question, by its number; none while the thread still writes the answer to an earlier one.
    pub(crate) fn ask(&self) -> Option<u64> {
        let before = self.word.load(Acquire);
        let question = before / STATES + 1;
        let free = before % STATES != WRITING;
        (free && self.word.compare_exchange(before, question * STATES + ASKED, AcqRel, Relaxed).is_ok())
            .then_some(question)
    }

    /// Takes the question back, if nobody has begun to answer it.
    fn give_up(&self, question: u64) {
        let _ = self.word.compare_exchange(question * STATES + ASKED, question * STATES + IDLE, AcqRel, Relaxed);
    }

    fn is_answered(&self, question: u64) -> bool {
        self.word.load(Acquire) == question * STATES + ANSWERED
    }

    /// Whether the question asked last has its answer.
    pub(crate) fn has_answer(&self) -> bool {
        self.word.load(Acquire) % STATES == ANSWERED
    }

    /// Called on the thread itself, from a signal handler that interrupted it at `at`.
    fn answer(&self, at: usize) {
        let asked = self.word.load(Acquire);
        let writing = asked / STATES * STATES + WRITING;
        if asked % STATES != ASKED || self.word.compare_exchange(asked, writing, AcqRel, Relaxed).is_err() {
            return;
        }
        let mut depth = 0;
        unwind(at, |address| {
            self.frames[depth].store(address, Relaxed);
            depth += 1;
            depth < DEPTH_MAX
        });
        self.depth.store(depth, Relaxed);
        self.word.store(asked / STATES * STATES + ANSWERED, Release);
    }

    /// The answer, once it is there.
    fn read(&self) -> Vec<usize> {
        self.addresses().collect()
    }

    /// The same, without an allocation.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = usize> {
        let depth = self.depth.load(Relaxed).min(DEPTH_MAX);
        self.frames[..depth].iter().map(|frame| frame.load(Relaxed))
    }
}
