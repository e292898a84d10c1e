//! Starting the new process, as a child of the system's first process and not of this one.
//!
//! systemd waits for the end of a main process only if that is a child of its own: it would kill another one in the moment in which it tells
//! it to stop. And nobody would be there to wait for the new process once this one has ended. So a process in between starts it
//! and is gone at once.

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How long a process that has no reason to live on may take to end.
const END: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// The new process.
pub(super) struct Newborn {
    process: Pid,
    /// Means this process also when its number is another's. Nothing if it has ended already: why is in what it said.
    handle: Option<OwnedFd>,
}

impl Newborn {
    /// Starts a program.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC).context("no pipe")?;
        let number = tell.as_raw_fd();
        // SAFETY: what runs between fork and exec makes system calls only and allocates nothing; the pipe is open until then.
        unsafe {
            command.pre_exec(move || step_aside(number));
        }
        let mut between = command.spawn()?;
        drop(tell);
        between.wait().context("the process in between can't be waited for")?;
        let mut process = [0; size_of::<i32>()];
        File::from(told).read_exact(&mut process).context("the new process is not known")?;
        let process =
            Pid::from_raw(i32::from_ne_bytes(process)).ok_or_else(|| anyhow!("the new process is not known"))?;
        let handle = match pidfd_open(process, PidfdFlags::empty()) {
            Ok(handle) => Some(handle),
            Err(Errno::SRCH) => None,
            Err(error) => return Err(error).context("the new process can't be watched"),
        };
        Ok(Self { process, handle })
    }

    /// Its number.
    pub(super) fn process(&self) -> u32 {
        self.process.as_raw_nonzero().get().cast_unsigned()
    }

    /// Another handle of it; nothing if it has ended already.
    pub(super) fn handle(&self) -> Option<OwnedFd> {
        self.handle.as_ref()?.try_clone().ok()
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        if let Some(handle) = &self.handle {
            // It may have ended in this moment.
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }

    /// Waits a moment for its end, and ends it otherwise.
    pub(super) fn end(&self) {
        let Some(handle) = &self.handle else { return };
        let mut waited = [PollFd::new(handle, PollFlags::IN)];
        if !matches!(retry_on_intr(|| poll(&mut waited, Some(&END))), Ok(1)) {
            // It may have ended in this moment.
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }
}

/// In the process in between: starts another one that goes on, tells its number, and ends.
fn step_aside(number: RawFd) -> io::Result<()> {
    // SAFETY: this process has one thread. The child goes on to exec; what the parent does until its end is a write of what
    // is on its stack.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            process => {
                let bytes = process.to_ne_bytes();
                let written = libc::write(number, bytes.as_ptr().cast(), bytes.len());
                libc::_exit(i32::from(written != bytes.len().cast_signed()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent_of(process: u32) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it is there");
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
        line.trim().parse().expect("a number")
    }

    #[test]
    fn the_new_process_is_nobodys_child_here() {
        let newborn = Newborn::start(Command::new("sleep").arg("600")).expect("started");
        let name = std::fs::read_to_string(format!("/proc/{}/comm", newborn.process())).expect("it is there");
        assert_eq!(name.trim(), "sleep");
        assert_ne!(parent_of(newborn.process()), std::process::id());
        let handle = newborn.handle.as_ref().expect("it is there");
        pidfd_send_signal(handle, Signal::TERM).expect("it is there");
        newborn.end();
        let mut waited = [PollFd::new(handle, PollFlags::IN)];
        assert_eq!(poll(&mut waited, Some(&Timespec::default())), Ok(1), "it has not ended");
    }

    #[test]
    fn a_program_that_can_not_be_started_is_told() {
        let error = Newborn::start(&mut Command::new("/no/such/program")).err().expect("there is none");
        assert!(format!("{error:#}").contains("No such file"), "{error:#}");
    }
}
