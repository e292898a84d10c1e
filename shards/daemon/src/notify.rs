//! What the service manager is told: sd_notify(3). Where none asked to be told, nothing happens.

use anyhow::Result;
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

/// The server serves, by the config that it was told to read.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The config is being read again; [`ready`] ends that.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(since) => tell(&[NotifyState::Reloading, since]),
        Err(error) => tracing::warn!(%error, "no monotonic clock for the service manager"),
    }
}

/// The server ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The server needs more time to end, at most so much until it says so again.
pub(crate) fn still_stopping(at_most: Duration) {
    tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX))]);
}

/// Another process goes on in place of this one.
pub(crate) fn main_process(id: u32) {
    tell(&[NotifyState::MainPid(id)]);
}

/// Tells how the server is, and that it lives.
#[derive(Default)]
pub(crate) struct Signs {
    status: String,
    /// Between two signs of life; nothing if nobody waits for them.
    every: Option<Duration>,
    last: Option<Instant>,
}

impl Signs {
    /// Signs of life come four times as often as they have to.
    pub(crate) fn new() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 4);
        Self { every, ..Self::default() }
    }

    /// The state in one line, told when it is another one.
    pub(crate) fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            tell(&[NotifyState::Status(status)]);
        }
    }

    /// The server lives: told when it is time again.
    pub(crate) fn alive(&mut self) {
        let Some(every) = self.every else { return };
        if self.last.is_none_or(|last| last.elapsed() >= every) {
            self.last = Some(Instant::now());
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// The sockets that the service manager has opened for this process, with their names.
pub(crate) fn sockets() -> Result<Vec<(std::os::fd::RawFd, String)>> {
    Ok(sd_notify::listen_fds_with_names()?.collect())
}
