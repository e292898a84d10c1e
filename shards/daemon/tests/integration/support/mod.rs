//! What the tests share: a server, a client, and readers of what comes out of it.

pub(crate) mod authority;
pub(crate) mod collector;
pub(crate) mod disk;
pub(crate) mod dovecot;
pub(crate) mod haproxy;
pub(crate) mod hop;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod load;
pub(crate) mod maildir;
pub(crate) mod metrics;
pub(crate) mod net;
pub(crate) mod postfix;
pub(crate) mod presented;
pub(crate) mod programs;
pub(crate) mod queue;
pub(crate) mod report;
pub(crate) mod secure;
pub(crate) mod server;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod smtp;
pub(crate) mod text;
pub(crate) mod unbound;

use std::time::{Duration, Instant};

/// How long anything may take that takes a moment on an idle machine. Tests run side by side on few cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(10);

/// Looks again and again until `look` finds something; nothing if [`PATIENCE`] runs out before.
pub(crate) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Waits until `condition` holds; a failure that names it if it does not in time.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(eventually(|| condition().then_some(())).is_some(), "not within {PATIENCE:?}: {what}");
}
