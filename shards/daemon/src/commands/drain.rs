//! `ringpost drain`: the server takes no more mail, ends its sessions, and then itself.

use super::print;
use super::words::{in_words, messages};
use crate::cli::DrainOptions;
use crate::client::Client;
use crate::commands::now;
use anyhow::Result;
use ringpost_admin::api::{DrainOrder, Draining};
use ringpost_base::Timestamp;

pub(crate) fn drain(options: &DrainOptions) -> Result<()> {
    let order = DrainOrder { queue: options.queue };
    let draining: Draining = Client::find(&options.server)?.post("/api/v1/drain", Some(&order))?;
    print(&outcome(&draining, options.queue.is_some(), now()))
}

fn outcome(draining: &Draining, delivers: bool, now: Timestamp) -> String {
    let sessions = match draining.sessions {
        1 => "1 session is left to end".to_owned(),
        count => format!("{count} sessions are left to end"),
    };
    let queue = match (draining.queue, delivers) {
        (0, _) => "the queue is empty".to_owned(),
        (count, true) => format!("{} of the queue to be delivered", messages(count)),
        (count, false) => format!("{} of the queue stay in the spool for the next start", messages(count)),
    };
    let (until, left) = (draining.until, in_words(draining.until.0.since(now)));
    format!(
        "no new connections are taken; {sessions}, {queue}\nthe server ends at {until:.0} at the latest, in {left}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

    fn check(sessions: u64, queue: u64, delivers: bool, expected: &str) {
        let draining = Draining { sessions, queue, until: NOW.after(Duration::from_secs(90)).into() };
        let told = outcome(&draining, delivers, NOW);
        let (first, second) = told.split_once('\n').expect("two lines");
        assert_eq!(first, expected);
        assert_eq!(second, "the server ends at 2026-11-20T13:01:30Z at the latest, in 1 minute 30 seconds\n");
    }

    #[test]
    fn what_is_left_to_do() {
        check(0, 0, true, "no new connections are taken; 0 sessions are left to end, the queue is empty");
        check(
            1,
            12,
            true,
            "no new connections are taken; 1 session is left to end, 12 messages of the queue to be delivered",
        );
        check(
            7,
            12,
            false,
            "no new connections are taken; 7 sessions are left to end, 12 messages of the queue stay in the spool for \
             the next start",
        );
    }
}
