//! `ringpost queue status`: how much waits, for which targets, and why.

use super::{QUEUE, named, reason, silence};
use crate::cli::QueueStatusOptions;
use crate::client::Client;
use crate::commands::table::{Column, Side, draw};
use crate::commands::words::{in_words, messages, plain};
use crate::commands::{now, print, print_json};
use anyhow::Result;
use ringpost_admin::api::{QueueState, QueueStatus, TargetStatus};
use ringpost_base::{Priority, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) fn status(options: &QueueStatusOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    if options.json {
        return print_json(&client, QUEUE);
    }
    print(&report(&client.get(QUEUE)?, now()))
}

fn report(status: &QueueStatus, now: Timestamp) -> String {
    let mut told = messages(status.messages);
    if let Some(seconds) = status.oldest_seconds {
        told.push_str(&format!(", the oldest for {}", in_words(Duration::from_secs(seconds))));
    }
    told.push('\n');
    if status.messages > 0 {
        told.push_str(&counts("state", QueueState::ALL.map(QueueState::name), &status.states));
        told.push_str(&counts("priority", Priority::ALL.map(Priority::name), &status.priorities));
    }
    told.push_str(&silence(&status.silent));
    if !status.targets.is_empty() {
        told.push('\n');
        told.push_str(&targets(&status.targets, now));
    }
    told
}

/// A line of counts; those of nothing are left out.
fn counts<const N: usize>(label: &str, names: [&str; N], counted: &BTreeMap<String, u64>) -> String {
    let count = |name: &&str| counted.get(*name).copied().filter(|count| *count > 0);
    let told: Vec<String> =
        names.iter().filter_map(|name| count(name).map(|count| format!("{count} {name}"))).collect();
    format!("by {label}: {}\n", told.join(", "))
}

fn targets(targets: &[TargetStatus], now: Timestamp) -> String {
    const COLUMNS: [Column; 8] = [
        ("TARGET", Side::Left),
        ("READY", Side::Right),
        ("DEFERRED", Side::Right),
        ("ACTIVE", Side::Right),
        ("HELD", Side::Right),
        ("IN USE", Side::Right),
        ("BREAKER", Side::Left),
        ("LAST ERROR", Side::Left),
    ];
    let row = |target: &TargetStatus| {
        let in_use = match (target.in_use, target.concurrency) {
            (Some(in_use), Some(concurrency)) => format!("{in_use}/{concurrency}"),
            _ => String::new(),
        };
        vec![
            named(&target.target),
            target.ready.to_string(),
            target.deferred.to_string(),
            target.active.to_string(),
            target.held.to_string(),
            in_use,
            breaker(target, now),
            target.last_error.as_ref().map_or(String::new(), reason),
        ]
    };
    draw(&COLUMNS, &targets.iter().map(row).collect::<Vec<_>>())
}

fn breaker(target: &TargetStatus, now: Timestamp) -> String {
    let state = target.breaker.as_deref().map_or(String::new(), plain);
    match target.breaker_until {
        Some(until) => format!("{state}, {} left", in_words(until.0.since(now))),
        None => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_admin::api::ReasonView;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

    fn counted(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn check(status: &QueueStatus, expected: &str) {
        assert_eq!(report(status, NOW), expected);
    }

    #[test]
    fn a_queue_of_nothing() {
        check(&QueueStatus::default(), "0 messages\n");
    }

    #[test]
    fn a_queue_with_a_target_that_is_left_alone() {
        let hop = TargetStatus {
            target: "hop".to_owned(),
            ready: 3,
            deferred: 12,
            active: 0,
            held: 1,
            in_use: Some(0),
            concurrency: Some(20),
            breaker: Some("open".to_owned()),
            breaker_until: Some(NOW.after(Duration::from_secs(90)).into()),
            last_error: Some(ReasonView {
                status: "4.4.1".to_owned(),
                text: "connection refused\r\n".to_owned(),
                remote: Some("10.0.0.1:25".to_owned()),
                code: None,
            }),
        };
        let mail = TargetStatus { target: "mail".to_owned(), active: 1, ..TargetStatus::default() };
        let status = QueueStatus {
            messages: 17,
            states: counted(&[("ready", 3), ("deferred", 12), ("active", 1), ("held", 1)]),
            priorities: counted(&[("normal", 15), ("high", 1)]),
            oldest_seconds: Some(4_000),
            targets: vec![hop, mail],
            silent: vec![1],
        };
        check(
            &status,
            "\
17 messages, the oldest for 1 hour 6 minutes
by state: 3 ready, 12 deferred, 1 active, 1 held
by priority: 1 high, 15 normal
no answer in time from shard 1: what it has is not in here

TARGET  READY  DEFERRED  ACTIVE  HELD  IN USE  BREAKER                         LAST ERROR
hop         3        12       0     1    0/20  open, 1 minute 30 seconds left  10.0.0.1:25: 4.4.1 connection refused\\r\\n
mail        0         0       1     0
",
        );
    }
}
