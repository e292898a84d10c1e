//! The options of `ringpost queue`.

use super::RunningServer;
use clap::{Args, Subcommand};
use ringpost_admin::api::{AddressFilter, MessageId, PAGE_MAX, QueueFilter, QueueState};
use ringpost_base::{Priority, Span};
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum QueueCommand {
    /// Tells how much mail waits, for which targets, and why.
    Status(QueueStatusOptions),
    /// Lists messages, the oldest first, page by page.
    List(QueueListOptions),
    /// Tells all about one message.
    Show(QueueShowOptions),
    /// Has messages tried at once. Dead letters come to life again.
    Retry(QueueOrderOptions),
    /// Holds messages: they are neither tried nor given up until they are released.
    Hold(QueueOrderOptions),
    /// Releases messages that are held.
    Release(QueueOrderOptions),
    /// Destroys messages: they are neither delivered nor reported to their senders.
    Drop(QueueDropOptions),
    /// Writes messages to files, ID.eml as it is stored and ID.json with its envelope. They stay in the queue.
    Export(QueueExportOptions),
    /// Reads every stored message back and names those that are damaged. Exits 1 if there is one.
    Verify(QueueVerifyOptions),
}

#[derive(Args)]
pub(crate) struct QueueStatusOptions {
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

/// Which messages; those that fit all that is given.
#[derive(Args, Clone, Default)]
pub(crate) struct Filters {
    /// In one of these states: ready, deferred, active, held, dead.
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<QueueState>,
    /// From this sender, such as a@example.org, @example.org for all of a domain, or <> for reports.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<AddressFilter>,
    /// On its way to this target.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Of this priority: high, normal or low.
    #[arg(long, value_name = "PRIORITY", value_parser = priority)]
    priority: Option<Priority>,
    /// Accepted longer ago than this, such as 2h.
    #[arg(long, value_name = "TIME")]
    older: Option<Span>,
    /// Accepted less long ago than this, such as 5m.
    #[arg(long, value_name = "TIME")]
    newer: Option<Span>,
}

impl Filters {
    /// With the recipient, the whole filter.
    pub(crate) fn with(&self, to: Option<&AddressFilter>) -> QueueFilter {
        let Self { state, from, target, priority, older, newer } = self.clone();
        QueueFilter { state, from, to: to.cloned(), target, priority, older, newer }
    }
}

#[derive(Args)]
pub(crate) struct QueueListOptions {
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// To this recipient, such as b@example.org or @example.org, perhaps among others.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<AddressFilter>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=PAGE_MAX as i64))]
    pub(crate) limit: u32,
    /// Only messages after this one, as the end of a page says.
    #[arg(long, value_name = "ID", value_parser = message_id)]
    pub(crate) after: Option<MessageId>,
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct QueueShowOptions {
    /// The message's id, as it is in the 250.
    #[arg(value_name = "ID", value_parser = message_id)]
    pub(crate) id: MessageId,
    /// Its header section too.
    #[arg(long)]
    pub(crate) headers: bool,
    /// Prints JSON, as the server sends it.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

/// Which messages an order is for: ids, or filters, or all.
#[derive(Args)]
pub(crate) struct Selection {
    /// Ids of messages, as they are in the 250.
    #[arg(value_name = "ID", value_parser = message_id)]
    pub(crate) ids: Vec<MessageId>,
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// To this recipient, such as b@example.org or @example.org, perhaps among others.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: Option<AddressFilter>,
    /// Every message. Needed where neither ids nor filters are given.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args)]
pub(crate) struct QueueOrderOptions {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Prints JSON: how many messages it was done to.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct QueueDropOptions {
    #[command(flatten)]
    pub(crate) order: QueueOrderOptions,
    /// Really. Needed where messages are not given by their ids; without it, it is told how many there are.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct QueueExportOptions {
    /// Ids of messages, as they are in the 250.
    #[arg(value_name = "ID", value_parser = message_id)]
    pub(crate) ids: Vec<MessageId>,
    #[command(flatten)]
    pub(crate) filters: Filters,
    /// To this recipient, such as b@example.org or @example.org, perhaps among others.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) recipient: Option<AddressFilter>,
    /// Every message. Needed where neither ids nor filters are given.
    #[arg(long)]
    pub(crate) all: bool,
    /// The directory to write to; made if it is not there. Files that are there already are left alone.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

#[derive(Args)]
pub(crate) struct QueueVerifyOptions {
    /// Prints JSON, as the server sends it at the end.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: RunningServer,
}

fn priority(text: &str) -> Result<Priority, String> {
    text.parse().map_err(|_| "not a priority: there are high, normal and low".to_owned())
}

/// An id as ids are printed; brackets that were copied along with it from a reply or a header are no part of it.
fn message_id(text: &str) -> Result<MessageId, String> {
    let bare = text.trim().trim_matches(['[', ']', '<', '>']);
    bare.parse().map_err(|_| {
        let length = ringpost_base::SpoolId::TEXT_LEN;
        format!("not the id of a message: it has {length} letters and digits, as printed in replies and log lines")
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Arguments, Command};
    use super::*;
    use clap::Parser;

    const ID: &str = "01JD4VXK2Q000000020000000A";

    fn parse(line: &str) -> Result<QueueCommand, String> {
        match Arguments::try_parse_from(line.split(' ')) {
            Ok(Arguments { command: Command::Queue(command) }) => Ok(command),
            Ok(_) => panic!("{line}: another command"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_wrong_in_itself_is_told_in_words() {
        for (line, words) in [
            ("ringpost queue list --state lost", "not a state"),
            ("ringpost queue list --from example.org", "not an address"),
            ("ringpost queue list --older 2hours", "not a duration"),
            ("ringpost queue list --limit 1001", "1..=1000"),
            ("ringpost queue list --limit 0", "1..=1000"),
            ("ringpost queue list --after 7", "26 letters and digits"),
            ("ringpost queue list --priority urgent", "high, normal and low"),
            ("ringpost queue show", "<ID>"),
            ("ringpost queue show 6P01GGM06A0FQ", "26 letters and digits"),
            ("ringpost queue export 01JD4VXK2Q000000020000000A", "--to <DIR>"),
            ("ringpost queue", "Usage"),
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line}: no error"));
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn filters_are_taken_as_they_are_written() {
        let line = "ringpost queue list --state held,dead --state ready --from <> --to @example.org --target hop \
                    --priority low --older 2h --newer 1d --limit 7";
        let Ok(QueueCommand::List(options)) = parse(line) else { panic!("not a list") };
        let filter = options.filters.with(options.to.as_ref());
        assert_eq!(filter.state, [QueueState::Held, QueueState::Dead, QueueState::Ready]);
        assert_eq!((filter.from, filter.to), (Some(AddressFilter::Null), "@example.org".parse().ok()));
        assert_eq!((filter.target.as_deref(), filter.priority), (Some("hop"), Some(Priority::Low)));
        assert_eq!((filter.older, filter.newer), (Some(Span::seconds(7_200)), Some(Span::seconds(86_400))));
        assert_eq!((options.limit, options.after), (7, None));
    }

    #[test]
    fn ids_are_taken_as_they_were_copied() {
        for text in [ID, "<01jd4vxk2q000000020000000a>", "[01JD4VXK2Q000000020000000A]"] {
            let Ok(QueueCommand::Drop(options)) = parse(&format!("ringpost queue drop {text}")) else {
                panic!("{text}")
            };
            assert_eq!(options.order.selection.ids, [ID.parse().expect("an id")]);
            assert!(!options.yes);
        }
    }
}
