//! Walks the stack of the thread it runs on, also from a signal handler.
//!
//! libgcc walks by the tables that the compiler has put beside the code, which are right at every instruction, and passes
//! through the frame that the kernel made for the signal. Frame pointers would be cheaper, but neither the C library nor the
//! assembly of the cryptography keeps them, and that is where threads wait and work. It finds the tables by
//! `_dl_find_object`, which takes no lock; an older C library than 2.35 takes one here that the thread itself may take again.

use std::ffi::c_void;

/// Calls `each` with the addresses on the stack below the interruption, the innermost first: `at` itself, then where each
/// caller goes on. Ends when it says false.
pub(crate) fn unwind(at: usize, mut each: impl FnMut(usize) -> bool) {
    let mut found = false;
    let mut go_on = true;
    let step = |frame: &backtrace::Frame| {
        let address = frame.ip() as usize;
        // What comes before is the handler's own.
        found |= address == at;
        if found && address != 0 {
            go_on = each(address);
        }
        go_on
    };
    // SAFETY: what the synchronised form guards is the lookup of names, which isn't done here.
    unsafe { backtrace::trace_unsynchronized(step) };
    if !found {
        // The tables don't lead through the frame of the signal. Better one address than none.
        each(at);
    }
}

/// Walks once outside of a handler, so that what the unwinder prepares at its first use is prepared.
pub(crate) fn warm_up() {
    unwind(0, |_| true);
}

/// Where the thread was when the signal came.
///
/// # Safety
/// `context` is what the kernel has given to the handler.
pub(crate) unsafe fn interrupted_at(context: *mut c_void) -> usize {
    // SAFETY: by the caller's word.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    return context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    return context.uc_mcontext.pc as usize;
}
