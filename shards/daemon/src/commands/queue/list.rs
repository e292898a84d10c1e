//! `ringpost queue list`: a page of the queue as a table, and the command that shows the next one.

use super::{QUEUE, as_options, named, reason, silence};
use crate::cli::{QueueListOptions, RunningServer};
use crate::client::Client;
use crate::commands::table::{Column, Side, draw};
use crate::commands::words::{bytes, in_short, plain_within};
use crate::commands::{print, print_json};
use anyhow::Result;
use ringpost_admin::api::{MessageRow, QueueFilter, QueuePage, QueueQuery};
use std::time::Duration;

/// Characters of an address in the table; `show` has all of it.
const ADDRESS_SHOWN_MAX: usize = 40;

/// Characters of an error in the table.
const ERROR_SHOWN_MAX: usize = 100;

pub(super) fn list(options: &QueueListOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    let filter = options.filters.with(options.to.as_ref());
    let query = QueueQuery { filter, limit: Some(options.limit as usize), after: options.after };
    let path = format!("{QUEUE}/messages?{}", query.text());
    if options.json {
        return print_json(&client, &path);
    }
    let page: QueuePage = client.get(&path)?;
    print(&table(&page, &query, &options.server))
}

fn table(page: &QueuePage, query: &QueueQuery, server: &RunningServer) -> String {
    const COLUMNS: [Column; 11] = [
        ("ID", Side::Left),
        ("AGE", Side::Right),
        ("SIZE", Side::Right),
        ("STATE", Side::Left),
        ("PRIORITY", Side::Left),
        ("FROM", Side::Left),
        ("TO", Side::Left),
        ("TARGET", Side::Left),
        ("TRIES", Side::Right),
        ("NEXT", Side::Right),
        ("LAST ERROR", Side::Left),
    ];
    let mut told = match page.messages.as_slice() {
        [] => nothing(page, &query.filter),
        messages => draw(&COLUMNS, &messages.iter().map(row).collect::<Vec<_>>()),
    };
    told.push_str(&silence(&page.silent));
    if let Some(next) = page.next {
        let limit = query.limit.filter(|limit| *limit != ringpost_admin::api::PAGE_DEFAULT);
        let limit = limit.map_or(String::new(), |limit| format!(" --limit {limit}"));
        let looked = if page.early { format!("{} looked at so far; ", page.scanned) } else { String::new() };
        let options = as_options(&query.filter, server);
        told.push_str(&format!("\n{looked}more: ringpost queue list{options}{limit} --after {next}\n"));
    }
    told
}

/// What is said where no message is shown.
fn nothing(page: &QueuePage, filter: &QueueFilter) -> String {
    match (page.next, filter.is_empty()) {
        (Some(_), _) => "none of those looked at fits\n".to_owned(),
        (None, true) => "no messages\n".to_owned(),
        (None, false) => "no message fits\n".to_owned(),
    }
}

fn row(message: &MessageRow) -> Vec<String> {
    let targets: Vec<String> = message.targets.iter().map(|leg| named(&leg.target)).collect();
    let tries = message.targets.iter().map(|leg| leg.attempts).max().unwrap_or(0);
    let next = message.targets.iter().filter_map(|leg| leg.next_seconds).min();
    let last = message.targets.iter().find_map(|leg| leg.last.as_ref());
    vec![
        message.id.to_string(),
        in_short(Duration::from_secs(message.age_seconds)),
        bytes(message.size),
        message.state.to_string(),
        message.priority.to_string(),
        sender(message),
        recipients(message),
        targets.join(","),
        tries.to_string(),
        next.map_or(String::new(), |seconds| in_short(Duration::from_secs(seconds))),
        last.map_or(String::new(), |last| plain_within(&reason(last), ERROR_SHOWN_MAX)),
    ]
}

fn sender(message: &MessageRow) -> String {
    match message.from.as_deref() {
        Some("") => "<>".to_owned(),
        Some(from) => plain_within(from, ADDRESS_SHOWN_MAX),
        None => "(unreadable)".to_owned(),
    }
}

/// The first recipient, and how many more there are.
fn recipients(message: &MessageRow) -> String {
    let first = message.to.first().map_or(String::new(), |to| plain_within(to, ADDRESS_SHOWN_MAX));
    match message.recipients.saturating_sub(1) {
        0 => first,
        more => format!("{first} +{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ConfigFile;
    use ringpost_admin::api::{LegView, QueueState, ReasonView};
    use ringpost_base::Priority;

    fn leg(target: &str, attempts: u64, next_seconds: Option<u64>, error: &str) -> LegView {
        let last = ReasonView { code: Some(451), text: error.to_owned(), ..ReasonView::default() };
        let last = (!error.is_empty()).then_some(last);
        let target = target.to_owned();
        LegView { target, state: QueueState::Deferred, attempts, next_seconds, recipients: 1, last }
    }

    fn message(number: u8, from: Option<&str>, to: &[&str], targets: Vec<LegView>) -> MessageRow {
        let id = format!("01JD4VXK2Q00000002000000{number:02}").parse().expect("an id");
        MessageRow {
            id,
            shard: 0,
            age_seconds: 4_000,
            size: 20_000,
            state: QueueState::Deferred,
            priority: Priority::Normal,
            from: from.map(str::to_owned),
            to: to.iter().map(|to| (*to).to_owned()).collect(),
            recipients: to.len() as u64,
            targets,
        }
    }

    fn check(page: &QueuePage, query: &QueueQuery, expected: &str) {
        let server = RunningServer { config: ConfigFile { config: None }, socket: None };
        assert_eq!(table(page, query, &server), expected);
    }

    #[test]
    fn a_page_and_the_command_for_the_next() {
        let two = vec![leg("hop", 3, Some(3_700), ""), leg("store", 7, Some(65), "later\u{7}")];
        let messages = vec![
            message(1, Some("a@example.org"), &["b@example.com", "c@example.com", "d@example.com"], two),
            message(2, Some(""), &[&"x".repeat(50)], vec![leg("hop", 0, None, "")]),
            message(3, None, &[], vec![]),
        ];
        let next = messages.last().map(|message| message.id);
        let page = QueuePage { messages, next, scanned: 3, ..QueuePage::default() };
        let query = QueueQuery {
            filter: QueueFilter { from: "<>".parse().ok(), ..QueueFilter::default() },
            limit: Some(3),
            after: None,
        };
        let expected = "\
ID                          AGE   SIZE  STATE     PRIORITY  FROM           TO                                        \
TARGET     TRIES  NEXT  LAST ERROR
01JD4VXK2Q0000000200000001   1h  19KiB  deferred  normal    a@example.org  b@example.com +2                          \
hop,store      7    1m  451 later\\u{7}
01JD4VXK2Q0000000200000002   1h  19KiB  deferred  normal    <>             xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…  \
hop            0
01JD4VXK2Q0000000200000003   1h  19KiB  deferred  normal    (unreadable)                                            \
\x20               0

more: ringpost queue list --from '<>' --limit 3 --after 01JD4VXK2Q0000000200000003
";
        check(&page, &query, expected);
    }

    #[test]
    fn pages_of_nothing() {
        let query = QueueQuery { limit: Some(50), ..QueueQuery::default() };
        check(&QueuePage::default(), &query, "no messages\n");
        let filter = QueueFilter { target: Some("hop".to_owned()), ..QueueFilter::default() };
        let filtered = QueueQuery { filter, ..query };
        check(&QueuePage::default(), &filtered, "no message fits\n");
        let next = "01JD4VXK2Q0000000200000003".parse().ok();
        let early = QueuePage { next, early: true, scanned: 100_000, silent: vec![1], ..QueuePage::default() };
        check(
            &early,
            &filtered,
            "none of those looked at fits\nno answer in time from shard 1: what it has is not in here\n\n100000 looked at \
             so far; more: ringpost queue list --target hop --after 01JD4VXK2Q0000000200000003\n",
        );
    }
}
