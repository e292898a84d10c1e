//! `ringpost queue show`: all about one message.

use super::{named, path_of, reason};
use crate::cli::QueueShowOptions;
use crate::client::Client;
use crate::commands::table::{Side, draw};
use crate::commands::words::{bytes, in_words, plain};
use crate::commands::{print, print_json};
use anyhow::Result;
use ringpost_admin::api::{EnvelopeView, LegView, MessageView, RecipientView};
use std::time::Duration;

pub(super) fn show(options: &QueueShowOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    let headers = if options.headers { "?headers=true" } else { "" };
    let path = format!("{}{headers}", path_of(options.id));
    if options.json {
        return print_json(&client, &path);
    }
    print(&account(&client.get(&path)?))
}

fn account(message: &MessageView) -> String {
    let row = &message.row;
    let mut facts = vec![
        ("message", row.id.to_string()),
        ("state", format!("{}, on shard {}", row.state, row.shard)),
        ("age", in_words(Duration::from_secs(row.age_seconds))),
        ("size", bytes(row.size)),
        ("priority", row.priority.to_string()),
        ("kept in", plain(&message.kept)),
    ];
    facts.extend(message.body_file.iter().map(|path| ("body file", plain(path))));
    facts.extend(message.fault.iter().map(|fault| ("fault", plain(fault))));
    if let Some(envelope) = &message.envelope {
        facts.extend(origin(envelope));
    }
    let facts: Vec<Vec<String>> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let mut told = draw(&[("", Side::Left), ("", Side::Left)], &facts);
    if !row.targets.is_empty() {
        told.push('\n');
        told.push_str(&legs(&row.targets));
    }
    for recipient in message.envelope.iter().flat_map(|envelope| &envelope.recipients) {
        told.push_str(&about(recipient));
    }
    if let Some(headers) = &message.headers {
        told.push('\n');
        headers.lines().for_each(|line| told.push_str(&format!("{}\n", plain(line))));
    }
    told
}

/// Where a message came from.
fn origin(envelope: &EnvelopeView) -> Vec<(&'static str, String)> {
    let arrived = envelope.arrived.map(|moment| ("arrived", format!("{moment:.3}")));
    let from = if envelope.from.is_empty() { "<>".to_owned() } else { plain(&envelope.from) };
    let client = format!("{} ({})", plain(&envelope.client), plain(&envelope.helo));
    let mut facts: Vec<_> = arrived.into_iter().collect();
    facts.extend([("session", plain(&envelope.session)), ("client", client), ("from", from)]);
    if !envelope.parameters.is_empty() {
        facts.push(("said with MAIL", plain(&envelope.parameters.join(" "))));
    }
    facts
}

fn legs(legs: &[LegView]) -> String {
    let columns = [
        ("TARGET", Side::Left),
        ("STATE", Side::Left),
        ("RECIPIENTS", Side::Right),
        ("TRIES", Side::Right),
        ("NEXT IN", Side::Left),
        ("LAST ERROR", Side::Left),
    ];
    let row = |leg: &LegView| {
        vec![
            named(&leg.target),
            leg.state.to_string(),
            leg.recipients.to_string(),
            leg.attempts.to_string(),
            leg.next_seconds.map_or(String::new(), |seconds| in_words(Duration::from_secs(seconds))),
            leg.last.as_ref().map_or(String::new(), reason),
        ]
    };
    draw(&columns, &legs.iter().map(row).collect::<Vec<_>>())
}

/// A recipient in a line, and a line for all that is known of it.
fn about(recipient: &RecipientView) -> String {
    let mut told = format!("\nto {}\n", plain(&recipient.address));
    let more = [
        ("original", recipient.original.clone()),
        ("mailbox", recipient.mailbox.clone()),
        ("notify", (!recipient.notify.is_empty()).then(|| recipient.notify.join(","))),
    ];
    for (name, value) in more {
        told.extend(value.map(|value| format!("  {name} {}\n", plain(&value))));
    }
    for target in &recipient.targets {
        let at = target.target.as_ref().map_or(String::new(), |name| format!(" at {}", named(name)));
        let why = target.reason.as_ref().map_or(String::new(), |why| format!(": {}", reason(why)));
        told.push_str(&format!("  {}{at}{why}\n", plain(&target.state)));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_admin::api::{MessageRow, QueueState, ReasonView, RecipientTarget};
    use ringpost_base::{Priority, Timestamp};

    fn example() -> MessageView {
        let last = ReasonView { code: Some(450), text: "later".to_owned(), ..ReasonView::default() };
        let leg = LegView {
            target: "hop".to_owned(),
            state: QueueState::Deferred,
            attempts: 2,
            next_seconds: Some(61),
            recipients: 1,
            last: Some(last.clone()),
        };
        let row = MessageRow {
            id: "01JD4VXK2Q000000020000000A".parse().expect("an id"),
            shard: 1,
            age_seconds: 3_660,
            size: 2_000,
            state: QueueState::Deferred,
            priority: Priority::High,
            from: Some("a@example.org".to_owned()),
            to: vec!["b@example.com".to_owned()],
            recipients: 2,
            targets: vec![leg],
        };
        let waiting =
            RecipientTarget { target: Some("hop".to_owned()), state: "pending".to_owned(), reason: Some(last) };
        let done = RecipientTarget { target: None, state: "done".to_owned(), reason: None };
        let recipients = vec![
            RecipientView {
                address: "b@example.com".to_owned(),
                original: Some("rfc822;b+x@example.com".to_owned()),
                mailbox: None,
                notify: vec!["FAILURE".to_owned(), "DELAY".to_owned()],
                targets: vec![waiting],
            },
            RecipientView { address: "c@example.com".to_owned(), targets: vec![done], ..RecipientView::default() },
        ];
        let envelope = EnvelopeView {
            arrived: Some(Timestamp::from_unix_micros(1_795_179_600_000_000).into()),
            session: "6P01GGM06A0FQ".to_owned(),
            client: "192.0.2.1".to_owned(),
            helo: "c\u{1b}[1m.example".to_owned(),
            from: "a@example.org".to_owned(),
            recipients,
            parameters: vec!["BODY=8BITMIME".to_owned(), "RET=HDRS".to_owned()],
        };
        let (kept, body_file) = ("file".to_owned(), Some("/var/lib/x.body".to_owned()));
        MessageView { row, envelope: Some(envelope), fault: None, kept, body_file, headers: None }
    }

    fn check(message: &MessageView, expected: &str) {
        assert_eq!(account(message), expected);
    }

    #[test]
    fn a_message_told_whole() {
        let headers = Some("Subject: \u{1b}]0;owned\u{7}\r\n\tfolded\r\n".to_owned());
        check(
            &MessageView { headers, ..example() },
            "\
message         01JD4VXK2Q000000020000000A
state           deferred, on shard 1
age             1 hour 1 minute
size            2000
priority        high
kept in         file
body file       /var/lib/x.body
arrived         2026-11-20T13:00:00.000Z
session         6P01GGM06A0FQ
client          192.0.2.1 (c\\u{1b}[1m.example)
from            a@example.org
said with MAIL  BODY=8BITMIME RET=HDRS

TARGET  STATE     RECIPIENTS  TRIES  NEXT IN            LAST ERROR
hop     deferred           1      2  1 minute 1 second  450 later

to b@example.com
  original rfc822;b+x@example.com
  notify FAILURE,DELAY
  pending at hop: 450 later

to c@example.com
  done

Subject: \\u{1b}]0;owned\\u{7}
\\tfolded
",
        );
    }

    #[test]
    fn a_message_that_cannot_be_read() {
        let fault = Some("checksum is wrong".to_owned());
        let row = MessageRow { targets: Vec::new(), ..example().row };
        let told = account(&MessageView { row, envelope: None, fault, ..example() });
        assert!(told.ends_with("body file  /var/lib/x.body\nfault      checksum is wrong\n"), "{told}");
    }
}
