//! Temporary: part 1 of the integration tests alone.
#![allow(dead_code, reason = "temporary")]

mod support {
    #[path = "../../integration/support/load.rs"] pub(crate) mod load;
    #[path = "../../integration/support/maildir.rs"] pub(crate) mod maildir;
    #[path = "../../integration/support/metrics.rs"] pub(crate) mod metrics;
    #[path = "../../integration/support/net.rs"] pub(crate) mod net;
    #[path = "../../integration/support/postfix.rs"] pub(crate) mod postfix;
    #[path = "../../integration/support/programs.rs"] pub(crate) mod programs;
    #[path = "../../integration/support/server.rs"] pub(crate) mod server;
    #[path = "../../integration/support/settings.rs"] pub(crate) mod settings;
    #[path = "../../integration/support/smtp.rs"] pub(crate) mod smtp;
    #[path = "../../integration/support/text.rs"] pub(crate) mod text;
    use std::time::{Duration, Instant};
    pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
    const POLL: Duration = Duration::from_millis(10);
    pub(crate) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() { return Some(found); }
            if Instant::now() >= deadline { return None; }
            std::thread::sleep(POLL);
        }
    }
    pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        assert!(eventually(|| condition().then_some(())).is_some(), "not within {PATIENCE:?}: {what}");
    }
}
#[path = "../integration/postfix.rs"] mod postfix;
#[path = "../integration/delivery.rs"] mod delivery;
