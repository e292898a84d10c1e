//! Where the crash handler writes to: standard error and the crash file.
//!
//! Everything here is plain code and system calls that a signal handler may make. A reader of standard error who doesn't read
//! costs a second and what is written to it, and nothing else.

use crate::log::Clock;
use std::cell::Cell;
use std::fmt::{self, Write};
use std::time::Duration;

/// A text of bounded length in memory that was there before. What doesn't fit is left out.
pub(super) struct Text<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, length: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[..self.length]
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.len().min(self.room.len() - self.length);
        self.room[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

/// A moment after which nothing is waited for.
#[derive(Clone, Copy)]
pub(super) struct Until(u64);

impl Until {
    pub(super) fn after(span: Duration) -> Self {
        Self(crate::tick().nanos() + span.as_nanos() as u64)
    }

    /// What is left of it, as poll(2) wants it.
    pub(super) fn milliseconds(self) -> libc::c_int {
        (self.0.saturating_sub(crate::tick().nanos()) / 1_000_000) as libc::c_int
    }

    pub(super) fn has_passed(self) -> bool {
        self.milliseconds() == 0
    }
}

/// Bytes written at once, so many that a pipe that is ready takes them all.
const PIECE: usize = 4096;

/// How long a reader of standard error may take for a piece. After that it is not written to any more.
const READER_PATIENCE: Duration = Duration::from_secs(1);

/// Standard error, and the crash file if there is one.
pub(super) struct Output {
    /// Below zero if there is none.
    file: libc::c_int,
    /// Whether somebody reads it, as far as is known.
    stderr_is_read: Cell<bool>,
}

impl Output {
    /// Makes the crash file: `prefix`, the time, the process. Path and time are written into `room`.
    pub(super) fn open(prefix: &[u8], room: &mut [u8]) -> Self {
        let mut path = Text::new(room);
        // Writing to a text doesn't fail. A prefix that isn't text names a directory that somebody else must have made.
        let _ = write!(path, "{}", std::str::from_utf8(prefix).unwrap_or_default());
        stamp(&mut path);
        // SAFETY: the call takes nothing.
        let _ = write!(path, "-{}.txt\0", unsafe { libc::getpid() });
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_APPEND;
        let file = match path.bytes().last() {
            // SAFETY: the path ends with the zero that this looks for.
            Some(0) => unsafe { libc::open(path.bytes().as_ptr().cast(), flags, 0o600) },
            // There was no room for all of it.
            _ => -1,
        };
        Self { file, stderr_is_read: Cell::new(true) }
    }

    /// Writes, the file first, since it waits for nobody.
    pub(super) fn write(&self, bytes: &[u8]) {
        if self.file >= 0 {
            write_all(self.file, bytes);
        }
        if self.stderr_is_read.get() {
            self.stderr_is_read.set(write_all(libc::STDERR_FILENO, bytes));
        }
    }
}

/// Writes all, unless it takes too long or fails. Whether it did.
fn write_all(to: libc::c_int, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let mut ready = libc::pollfd { fd: to, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one record is given, and the call writes into it; the other reads as many bytes as there are.
        let written = unsafe {
            if libc::poll(&mut ready, 1, READER_PATIENCE.as_millis() as libc::c_int) != 1 {
                return false;
            }
            libc::write(to, bytes.as_ptr().cast(), bytes.len().min(PIECE))
        };
        if written <= 0 {
            return false;
        }
        bytes = &bytes[written as usize..];
    }
    true
}

/// The time now, as in `20261120T103125Z`.
fn stamp(text: &mut Text<'_>) {
    let mut clock = Clock::new();
    let moment = clock.render(crate::now().wall.unix_seconds(), 0);
    for byte in moment[..19].iter().filter(|byte| byte.is_ascii_alphanumeric()) {
        let _ = text.write_char(char::from(*byte));
    }
    let _ = text.write_char('Z');
}

/// The time now, as in the log.
pub(super) fn moment(text: &mut Text<'_>) {
    let (mut clock, wall) = (Clock::new(), crate::now().wall);
    let micros = (wall.unix_micros() % 1_000_000) as u32;
    let _ = text.write_str(std::str::from_utf8(clock.render(wall.unix_seconds(), micros)).unwrap_or_default());
}
