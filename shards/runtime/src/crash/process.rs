//! Starts `ringpost crash-report` from a signal handler, feeds it and takes what it says.

use super::output::{Output, Until};
use std::ffi::CStr;
use std::ptr;

/// The program that has crashed, also if another has been installed in its place.
const PROGRAM: &CStr = c"/proc/self/exe";

/// What it is started with.
const ARGUMENTS: [&CStr; 2] = [c"ringpost", c"crash-report"];

/// Bytes of a report that are taken; the longest, of 64 shards, has some hundred thousand.
const REPORT_MAX: usize = 4 << 20;

/// How long is waited between two looks whether the process has ended.
const LOOK: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Gives `input` to the reporter and writes what it answers, until it ends or `until`. Whether it ended well.
pub(super) fn report(input: &[u8], output: &Output, until: Until) -> bool {
    let (mut to, mut from) = ([0; 2], [0; 2]);
    // SAFETY: each call writes the two descriptors it is given room for.
    let refused =
        unsafe { libc::pipe2(to.as_mut_ptr(), libc::O_CLOEXEC) | libc::pipe2(from.as_mut_ptr(), libc::O_CLOEXEC) };
    if refused != 0 {
        return false;
    }
    let [their_input, our_output] = to;
    let [our_input, their_output] = from;
    let Some(child) = start(their_input, their_output) else { return false };
    // SAFETY: the descriptors are this function's own; the ends that the child has must not be open here, or the end of its
    // answer would never be seen.
    unsafe {
        libc::close(their_input);
        libc::close(their_output);
        libc::fcntl(our_output, libc::F_SETFL, libc::O_NONBLOCK);
    }
    let complete = talk(input, our_output, our_input, output, until);
    wait(child, until) && complete
}

/// Starts the program with these descriptors for standard input and output.
fn start(input: libc::c_int, output: libc::c_int) -> Option<libc::pid_t> {
    let arguments = [ARGUMENTS[0].as_ptr(), ARGUMENTS[1].as_ptr(), ptr::null()];
    let environment = [ptr::null()];
    // The bare system call: the C library's would first take the locks of its own allocator and of others.
    // SAFETY: without a stack and flags the call is a fork. The child makes system calls only, and none that returns here.
    unsafe {
        let child = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t;
        if child != 0 {
            return (child > 0).then_some(child);
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        if libc::dup2(input, libc::STDIN_FILENO) >= 0 && libc::dup2(output, libc::STDOUT_FILENO) >= 0 {
            // Sockets and rings are closed by the exec; this is for what was opened without care for it.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
            libc::execve(PROGRAM.as_ptr(), arguments.as_ptr(), environment.as_ptr());
        }
        libc::_exit(127);
    }
}

/// Writes to the reporter and reads from it by turns, as either is ready. True once it has said all.
fn talk(mut input: &[u8], to: libc::c_int, from: libc::c_int, output: &Output, until: Until) -> bool {
    let mut to = to;
    let mut taken = 0;
    let mut piece = [0u8; 4096];
    while taken < REPORT_MAX {
        if input.is_empty() && to >= 0 {
            // SAFETY: the descriptor is open, and not used again. Its end tells the reporter that it has all.
            unsafe { libc::close(to) };
            to = -1;
        }
        // A descriptor below zero is passed over by poll(2).
        let mut ready = [
            libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: to, events: libc::POLLOUT, revents: 0 },
        ];
        // SAFETY: as many records are given as are said.
        if unsafe { libc::poll(ready.as_mut_ptr(), 2, until.milliseconds()) } <= 0 {
            return false;
        }
        if ready[0].revents != 0 {
            // SAFETY: the call writes no more than there is room for.
            match unsafe { libc::read(from, piece.as_mut_ptr().cast(), piece.len()) } {
                0 => return true,
                length if length > 0 => {
                    output.write(&piece[..length as usize]);
                    taken += length as usize;
                }
                _ => return false,
            }
        }
        if ready[1].revents != 0 {
            // SAFETY: the call reads as many bytes as there are.
            match unsafe { libc::write(to, input.as_ptr().cast(), input.len()) } {
                written if written > 0 => input = &input[written as usize..],
                // It doesn't read any more; what it has to say may still come.
                _ => input = &[],
            }
        }
    }
    false
}

/// Waits for the reporter to end, and ends it where it doesn't. Whether it ended well.
fn wait(child: libc::pid_t, until: Until) -> bool {
    let mut status = 0;
    loop {
        // SAFETY: the calls write the status they are given room for, and read a time.
        unsafe {
            match libc::waitpid(child, &mut status, libc::WNOHANG) {
                0 if until.has_passed() => {
                    libc::kill(child, libc::SIGKILL);
                    return false;
                }
                0 => {
                    libc::nanosleep(&LOOK, ptr::null_mut());
                }
                ended => return ended == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            }
        }
    }
}
