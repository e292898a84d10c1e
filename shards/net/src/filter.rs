//! Classic BPF: the instructions that our programs are made of, and how a program is attached to a socket.

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MOD,
    BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX, BPF_W, BPF_X, BPF_XOR, c_int, sock_filter,
};
use std::{io, os::fd::AsFd, os::fd::AsRawFd};

/// A program; the accumulator is A, the index register X.
pub(crate) type Program = Vec<sock_filter>;

fn op(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// A becomes the byte at an offset.
pub(crate) fn load_byte(offset: u32) -> sock_filter {
    op(BPF_LD | BPF_B | BPF_ABS, offset)
}

/// A becomes the four bytes at an offset, most significant first.
pub(crate) fn load_word(offset: u32) -> sock_filter {
    op(BPF_LD | BPF_W | BPF_ABS, offset)
}

/// A becomes a number that chance decides.
pub(crate) fn load_random() -> sock_filter {
    load_word((libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned())
}

/// A becomes A and `k`, bit by bit.
pub(crate) fn and(k: u32) -> sock_filter {
    op(BPF_ALU | BPF_AND | BPF_K, k)
}

/// A becomes the lower half of A times `k`.
pub(crate) fn multiply(k: u32) -> sock_filter {
    op(BPF_ALU | BPF_MUL | BPF_K, k)
}

/// A becomes A without its lowest bits.
pub(crate) fn shift_right(bits: u32) -> sock_filter {
    op(BPF_ALU | BPF_RSH | BPF_K, bits)
}

/// A becomes the rest of A divided by `k`, which is not zero.
pub(crate) fn modulo(k: u32) -> sock_filter {
    op(BPF_ALU | BPF_MOD | BPF_K, k)
}

/// A becomes A XOR X.
pub(crate) fn xor_index() -> sock_filter {
    op(BPF_ALU | BPF_XOR | BPF_X, 0)
}

/// X becomes A.
pub(crate) fn keep_in_index() -> sock_filter {
    op(BPF_MISC | BPF_TAX, 0)
}

/// A is kept in the one word of memory that our programs need.
pub(crate) fn store() -> sock_filter {
    op(BPF_ST, 0)
}

/// X becomes what was stored.
pub(crate) fn recall() -> sock_filter {
    op(BPF_LDX | BPF_MEM | BPF_W, 0)
}

/// Leaves out the next instruction unless A is `k`.
pub(crate) fn only_if(k: u32) -> sock_filter {
    only_if_or_skip(k, 1)
}

/// Leaves out as many of the next instructions unless A is `k`.
pub(crate) fn only_if_or_skip(k: u32, instructions: u8) -> sock_filter {
    sock_filter { jf: instructions, ..op(BPF_JMP | BPF_JEQ | BPF_K, k) }
}

/// Ends with a number.
pub(crate) fn give(k: u32) -> sock_filter {
    op(BPF_RET | BPF_K, k)
}

/// Ends with A.
pub(crate) fn give_accumulator() -> sock_filter {
    op(BPF_RET | BPF_A, 0)
}

/// Attaches a program to a socket, by a socket option that takes one.
pub(crate) fn attach(socket: &impl AsFd, option: c_int, mut program: Program) -> io::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points to a program of the length it says; the kernel copies both during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a program away, whoever has attached it, by the socket option for that. Nothing happens where there is none.
pub(crate) fn detach(socket: &impl AsFd, option: c_int) -> io::Result<()> {
    let nothing: c_int = 0;
    // SAFETY: the option takes an integer, of which a pointer and the size are given, and looks at nothing else.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const nothing).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        },
    }
}
