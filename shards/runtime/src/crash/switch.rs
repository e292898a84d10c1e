//! A stack of the crash handler's own.
//!
//! The alternate stacks that the standard library gives its threads have 8 KiB, of which the kernel takes up to 3 for the
//! registers of a large processor, and more on the largest. Unwinding needs about as much. So the handler goes over to a
//! stack with room enough, in a way that the unwinder can follow back.

use std::ffi::c_void;
use std::io;
use std::ptr;

/// Bytes of the stack. Unwinding and writing take some 10 KiB.
const SIZE: usize = 256 << 10;

/// Memory for a stack.
pub(super) struct Stack {
    top: *mut c_void,
}

// SAFETY: it is memory that stays; who runs on it is one thread, the one that has crashed.
unsafe impl Send for Stack {}
// SAFETY: as above.
unsafe impl Sync for Stack {}

impl Stack {
    /// Maps one, for as long as the process lives.
    pub(super) fn new() -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the call makes a mapping where there is none.
        let bottom = unsafe { libc::mmap(ptr::null_mut(), SIZE, protection, flags, -1, 0) };
        if bottom == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { top: bottom.wrapping_byte_add(SIZE) })
    }

    /// Runs `function` on it.
    ///
    /// # Safety
    /// Nobody else runs on it, and `function` doesn't unwind.
    pub(super) unsafe fn run(&self, function: extern "C" fn(*mut c_void), argument: *mut c_void) {
        // SAFETY: by the caller's word; the top is that of a mapping of `SIZE` bytes, and aligned.
        unsafe { call_on(function, argument, self.top) }
    }
}

/// Calls `function(argument)` with the stack pointer at `top`. The frame pointer keeps the way back, and the directives tell
/// the unwinder so.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn call_on(function: extern "C" fn(*mut c_void), argument: *mut c_void, top: *mut c_void) {
    std::arch::naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsp, rdx",
        "call rax",
        "mov rsp, rbp",
        "pop rbp",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
    )
}

/// The same for the other architecture.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn call_on(function: extern "C" fn(*mut c_void), argument: *mut c_void, top: *mut c_void) {
    std::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x29, -16",
        ".cfi_offset x30, -8",
        "mov x29, sp",
        ".cfi_def_cfa x29, 16",
        "mov x9, x0",
        "mov x0, x1",
        "mov sp, x2",
        "blr x9",
        "mov sp, x29",
        "ldp x29, x30, [sp], #16",
        "ret",
        ".cfi_endproc",
    )
}
