//! The signal handler of a crash, and what is prepared for it.

use super::output::{Output, Text, Until, moment};
use super::switch::Stack;
use super::{FATAL, Options, PATIENCE, process, table};
use crate::pulse::Pulse;
use crate::stack::{self, Module, interrupted_at, unwind};
use ringpost_metrics::Block;
use std::cell::UnsafeCell;
use std::ffi::{CString, c_void};
use std::fmt::Write;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long the shards have to leave their stacks and stand still. One that can't run code at all is told without.
const SHARDS_PATIENCE: Duration = Duration::from_secs(1);

/// Frames of the stack that crashed that are told: the innermost, and the outermost, which say what an endless recursion
/// began with.
const INNERMOST: usize = 160;
const OUTERMOST: usize = 64;

/// Frames that are walked: a stack of two megabytes has fewer, and one that leads in a circle has no end.
const FRAMES_MAX: usize = 1 << 18;

/// Room for the report before names are put to it: a stack of each of 64 shards.
const REPORT_ROOM: usize = 256 << 10;

/// Room for the path of a crash file.
const PATH_ROOM: usize = libc::PATH_MAX as usize;

/// How near to the stack pointer an address must be that a stack which is full is reached at: a frame that is larger is
/// touched page by page.
const NEAR: usize = 64 << 10;

/// If the handler itself hangs, the kernel ends the process.
const LAST_RESORT: Duration = PATIENCE.saturating_add(Duration::from_secs(5));

static PREPARED: OnceLock<Prepared> = OnceLock::new();

/// The thread that tells of its crash; 0 while none does.
static CRASHED: AtomicI32 = AtomicI32::new(0);

/// Shards stand still from their next signal on.
static HELD: AtomicBool = AtomicBool::new(false);

/// All that the handler needs.
pub(super) struct Prepared {
    version: &'static str,
    pulses: Vec<Arc<Pulse>>,
    blocks: Vec<Arc<Block>>,
    /// What crash files' paths begin with.
    prefix: CString,
    /// Where the files of the process are loaded, as the reporter reads it.
    modules: String,
    stack: Stack,
    room: Room,
}

/// Memory that is written by the one thread that has crashed.
struct Room {
    report: UnsafeCell<Box<[u8]>>,
    path: UnsafeCell<Box<[u8]>>,
}

// SAFETY: only the thread that has set `CRASHED` touches it.
unsafe impl Sync for Room {}

impl Prepared {
    /// Makes everything, and makes it known to the handler.
    pub(super) fn publish(options: Options, prefix: CString) -> io::Result<()> {
        let line = |module: &Module| {
            format!("module {:#x} {:#x} {:#x} {}\n", module.start, module.end, module.base, module.path)
        };
        let room = |size| UnsafeCell::new(vec![0; size].into_boxed_slice());
        let prepared = Self {
            version: options.version,
            pulses: options.pulses,
            blocks: options.blocks,
            prefix,
            modules: Module::of_this_process().iter().map(line).collect(),
            stack: Stack::new()?,
            room: Room { report: room(REPORT_ROOM), path: room(PATH_ROOM) },
        };
        PREPARED.set(prepared).map_err(|_| io::ErrorKind::AlreadyExists.into())
    }
}

/// What the kernel has told the handler.
struct Call {
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
}

/// What the kernel calls.
pub(super) unsafe extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let mut call = Call { signal, info, context };
    // SAFETY: the call takes nothing.
    let thread = unsafe { libc::gettid() };
    match CRASHED.compare_exchange(0, thread, SeqCst, SeqCst) {
        Ok(_) => {}
        // A crash while telling of the crash: nothing more can be done.
        Err(first) if first == thread => die(&call),
        Err(_) => wait_for_the_end(),
    }
    if let Some(prepared) = PREPARED.get() {
        set_last_resort();
        // SAFETY: the thread is the one that has crashed, and no other comes to this place.
        unsafe { prepared.stack.run(tell, (&raw mut call).cast()) };
    }
    die(&call)
}

/// Called in the handler of the signal that asks for a stack: doesn't come back once a thread has crashed.
pub(crate) fn stand_still() {
    if HELD.load(SeqCst) {
        wait_for_the_end();
    }
}

fn wait_for_the_end() -> ! {
    loop {
        // SAFETY: the call takes nothing; it returns after each signal that is handled.
        unsafe { libc::pause() };
    }
}

/// Dies by the signal, with the information that came with it, as if it had never been handled.
fn die(call: &Call) -> ! {
    // SAFETY: structures are made here and read by the calls. The information is that which the kernel gave, and is sent to
    // this thread itself, for which the kernel takes it as it is.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(call.signal, &action, ptr::null_mut());
        let (process, thread) = (libc::getpid(), libc::gettid());
        if libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, call.signal, call.info) != 0 {
            libc::syscall(libc::SYS_tgkill, process, thread, call.signal);
        }
        let mut only = std::mem::zeroed();
        libc::sigemptyset(&mut only);
        libc::sigaddset(&mut only, call.signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &only, ptr::null_mut());
        // Not reached, as the signal is taken before the call above returns.
        libc::_exit(128 + call.signal)
    }
}

/// A timer whose signal can't be handled.
fn set_last_resort() {
    // SAFETY: zeros are a valid form of the structure, and the calls read what is made here. The bare system call, as it
    // needs nothing of the C library.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        let mut timer: libc::c_int = 0;
        if libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &mut event, &mut timer) == 0 {
            let mut setting: libc::itimerspec = std::mem::zeroed();
            setting.it_value.tv_sec = LAST_RESORT.as_secs() as libc::time_t;
            libc::syscall(libc::SYS_timer_settime, timer, 0, &setting, 0);
        }
    }
}

/// Tells all there is to tell. Runs on the handler's own stack.
extern "C" fn tell(call: *mut c_void) {
    // SAFETY: `on_signal` gives its own record, which lives until this returns.
    let call = unsafe { &*call.cast::<Call>() };
    let Some(prepared) = PREPARED.get() else { return };
    let until = Until::after(PATIENCE);
    // SAFETY: the thread is the one that has crashed.
    let (report, path) = unsafe { (&mut **prepared.room.report.get(), &mut **prepared.room.path.get()) };
    let output = Output::open(prepared.prefix.as_bytes(), path);
    let mut text = Text::new(report);
    headline(&mut text, prepared, call);
    // At once, since all that follows may fail.
    output.write(text.bytes());
    let told = text.bytes().len();
    hold(&prepared.pulses);
    // Writing to a text doesn't fail, here and below.
    let _ = text.write_str("\n");
    table::write(&mut text, &prepared.pulses, &prepared.blocks);
    let _ = write!(text, "\n{}", prepared.modules);
    output.write(&text.bytes()[told..]);
    let told = text.bytes().len();
    stacks(&mut text, prepared, call);
    output.write(&text.bytes()[told..]);
    if !process::report(text.bytes(), &output, until) {
        output.write(b"\nno names: the report was not made, or not in time; the addresses above lead to them\n");
    }
}

/// What happened, to whom.
fn headline(text: &mut Text<'_>, prepared: &Prepared, call: &Call) {
    let mut name = [0u8; 16];
    // SAFETY: the call writes at most 16 bytes, a zero at their end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let thread = std::str::from_utf8(&name[..length]).unwrap_or("?");
    // SAFETY: the calls take nothing; the information is the kernel's, and says by its code what else is in it.
    let (process, number, code, sender) =
        unsafe { (libc::getpid(), libc::gettid(), (*call.info).si_code, (*call.info).si_pid()) };
    let _ = write!(text, "\nringpost {} has crashed: {}", prepared.version, signal_name(call.signal));
    if code <= 0 {
        let _ = write!(text, ", sent by process {sender}");
    } else if call.signal != libc::SIGABRT {
        // SAFETY: a code above zero is that of a fault, which has an address.
        let address = unsafe { (*call.info).si_addr() } as usize;
        let _ = write!(text, " at address {address:#x} (code {code})");
        // SAFETY: the kernel gives the context of what it interrupted.
        let pointer = unsafe { stack_pointer(call.context) };
        if matches!(call.signal, libc::SIGSEGV | libc::SIGBUS) && address.abs_diff(pointer) < NEAR {
            let _ = write!(text, ", the end of the thread's stack: it has overflowed");
        }
    }
    let _ = write!(text, ", in thread {thread} ({number}) of process {process}, ");
    moment(text);
    let _ = text.write_str("\n");
}

fn signal_name(signal: libc::c_int) -> &'static str {
    const NAMES: [&str; FATAL.len()] = ["SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGILL"];
    FATAL.iter().position(|fatal| *fatal == signal).map_or("?", |at| NAMES[at])
}

/// # Safety
/// `context` is what the kernel has given to the handler.
unsafe fn stack_pointer(context: *mut c_void) -> usize {
    // SAFETY: by the caller's word.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    return context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    return context.uc_mcontext.sp as usize;
}

/// Has the other shards leave their stacks and stand still, as far as they can.
fn hold(pulses: &[Arc<Pulse>]) {
    HELD.store(true, SeqCst);
    // SAFETY: the call takes nothing.
    let own = unsafe { libc::gettid() };
    let others = || pulses.iter().filter(|pulse| pulse.thread().is_some_and(|thread| thread != own));
    for pulse in others() {
        // A slot that is being written for the watchdog has its answer soon.
        let _ = pulse.slot.ask();
        let _ = stack::ask(pulse);
    }
    let until = Until::after(SHARDS_PATIENCE);
    let look = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    while !others().all(|pulse| pulse.slot.has_answer()) && !until.has_passed() {
        // SAFETY: the call reads a time.
        unsafe { libc::nanosleep(&look, ptr::null_mut()) };
    }
}

/// The addresses on the stack that crashed, then those of the shards.
fn stacks(text: &mut Text<'_>, prepared: &Prepared, call: &Call) {
    // SAFETY: the calls take nothing, and the kernel gives the context of what it interrupted.
    let (own, at) = unsafe { (libc::gettid(), interrupted_at(call.context)) };
    let _ = writeln!(text, "\nstack of the thread that crashed");
    stack(text, at);
    for pulse in prepared.pulses.iter().filter(|pulse| pulse.thread().is_some_and(|thread| thread != own)) {
        if pulse.slot.has_answer() {
            let _ = writeln!(text, "\nstack of shard {}", pulse.shard());
            for address in pulse.slot.addresses() {
                let _ = writeln!(text, "{address:#x}");
            }
        } else {
            let _ = writeln!(text, "\nshard {} gives no answer", pulse.shard());
        }
    }
}

/// The addresses on this thread's stack, from `at` on: all, or as many of both ends as are told.
fn stack(text: &mut Text<'_>, at: usize) {
    let mut last = [0; OUTERMOST];
    let mut frames = 0;
    unwind(at, |address| {
        if frames < INNERMOST {
            let _ = writeln!(text, "{address:#x}");
        }
        last[frames % OUTERMOST] = address;
        frames += 1;
        frames < FRAMES_MAX
    });
    let rest = frames.saturating_sub(INNERMOST);
    if rest > OUTERMOST {
        let _ = writeln!(text, "... {} more", rest - OUTERMOST);
    }
    for frame in frames - rest.min(OUTERMOST)..frames {
        let _ = writeln!(text, "{:#x}", last[frame % OUTERMOST]);
    }
}
