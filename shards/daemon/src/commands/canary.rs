//! `ringpost canary`: the core that tries a new config alone, beside the others.

use super::table::{Column, Side, draw};
use super::words::{in_words, plain};
use super::{now, print, print_json};
use crate::cli::CanaryCommand;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::{CanaryNumbers, CanaryView};
use ringpost_base::Timestamp;

const CANARY: &str = "/api/v1/canary";

pub(crate) fn canary(command: &CanaryCommand) -> Result<()> {
    match command {
        CanaryCommand::Show(options) => {
            let client = Client::find(&options.server)?;
            if options.json {
                return print_json(&client, CANARY);
            }
            print(&report(client.get::<Option<CanaryView>>(CANARY)?.as_ref(), now()))
        }
        CanaryCommand::Stop(server) => {
            let stopped: CanaryView = Client::find(server)?.delete(CANARY)?;
            print(&report(Some(&stopped), now()))
        }
    }
}

fn report(canary: Option<&CanaryView>, now: Timestamp) -> String {
    let Some(canary) = canary else {
        return "no config was tried on one core since the start: `ringpost reload --canary CORE` does it\n".to_owned();
    };
    format!("{}\n\n{}", verdict(canary, now), numbers(canary))
}

/// A canary in a sentence.
pub(super) fn verdict(canary: &CanaryView, now: Timestamp) -> String {
    let CanaryView { core, epoch, since, until, .. } = canary;
    let lasted = in_words(until.0.since(since.0));
    let why = canary.why.as_deref().map_or(String::new(), |why| format!(": {}", plain(why)));
    match canary.state.as_str() {
        "running" => {
            let (so_far, left) = (in_words(now.since(since.0)), in_words(until.0.since(now)));
            format!("config {epoch} runs on core {core} alone, for {so_far} so far; {left} to go{why}")
        }
        "kept" => format!("config {epoch} was tried on core {core} for {lasted} and is in force on every core{why}"),
        "taken back" => {
            format!("config {epoch} was tried on core {core} for {lasted} and taken back at {until:.0}{why}")
        }
        "stopped" => format!("config {epoch} was tried on core {core} for {lasted} and stopped{why}"),
        other => format!("config {epoch} on core {core}: {}{why}", plain(other)),
    }
}

/// What the core did beside the others.
fn numbers(canary: &CanaryView) -> String {
    let columns: [Column; 3] = [("", Side::Left), ("THIS CORE", Side::Right), ("OTHERS", Side::Right)];
    let row = |name: &str, cell: fn(&CanaryNumbers) -> String| {
        vec![name.to_owned(), cell(&canary.canary), cell(&canary.others)]
    };
    let rows = [
        row("messages", |numbers| numbers.messages.to_string()),
        row("replies", |numbers| numbers.replies.to_string()),
        row("replies 5xx", |numbers| of_replies(numbers.rejected, numbers)),
        row("replies 4xx", |numbers| of_replies(numbers.deferred, numbers)),
        row("other failures", |numbers| numbers.errors.to_string()),
        row("answered within, 95 of 100", |numbers| {
            numbers.latency_p95_ms.map_or("-".to_owned(), |millis| format!("{millis:.1} ms"))
        }),
    ];
    draw(&columns, &rows)
}

/// A count, with its share of the replies.
fn of_replies(count: u64, numbers: &CanaryNumbers) -> String {
    match numbers.replies {
        0 => count.to_string(),
        replies => format!("{count} ({:.1}%)", count as f64 * 100.0 / replies as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

    fn view(state: &str, why: Option<&str>) -> CanaryView {
        CanaryView {
            core: 4,
            shard: 1,
            epoch: 5,
            since: Timestamp::from_unix_micros(NOW.unix_micros() - 180_000_000).into(),
            until: NOW.after(Duration::from_secs(120)).into(),
            state: state.to_owned(),
            why: why.map(str::to_owned),
            canary: CanaryNumbers {
                messages: 200,
                replies: 1_000,
                rejected: 4,
                deferred: 0,
                errors: 1,
                latency_p95_ms: Some(3.25),
            },
            others: CanaryNumbers::default(),
        }
    }

    fn check(state: &str, why: Option<&str>, expected: &str) {
        assert_eq!(verdict(&view(state, why), NOW), expected);
    }

    #[test]
    fn a_canary_in_a_sentence() {
        check("running", None, "config 5 runs on core 4 alone, for 3 minutes so far; 2 minutes to go");
        check("kept", None, "config 5 was tried on core 4 for 5 minutes and is in force on every core");
        check(
            "taken back",
            Some("rejects 12%, of the others 2%"),
            "config 5 was tried on core 4 for 5 minutes and taken back at 2026-11-20T13:02:00Z: rejects 12%, of the \
             others 2%",
        );
        check("stopped", None, "config 5 was tried on core 4 for 5 minutes and stopped");
        check("odd\u{1b}", None, "config 5 on core 4: odd\\u{1b}");
    }

    #[test]
    fn a_canary_beside_the_others() {
        let expected = "\
config 5 runs on core 4 alone, for 3 minutes so far; 2 minutes to go

                            THIS CORE  OTHERS
messages                          200       0
replies                          1000       0
replies 5xx                  4 (0.4%)       0
replies 4xx                  0 (0.0%)       0
other failures                      1       0
answered within, 95 of 100     3.2 ms       -
";
        assert_eq!(report(Some(&view("running", None)), NOW), expected);
        assert!(report(None, NOW).starts_with("no config was tried"));
    }
}
