//! `ringpost queue`: the mail that waits, looked at and acted upon.

mod export;
mod list;
mod order;
mod show;
mod status;
mod verify;

use super::words::{plain, shell_word};
use crate::cli::{QueueCommand, RunningServer};
use anyhow::Result;
use ringpost_admin::api::{MessageId, QueueFilter, QueueVerb, ReasonView};

const QUEUE: &str = "/api/v1/queue";

pub(crate) fn queue(command: &QueueCommand) -> Result<()> {
    match command {
        QueueCommand::Status(options) => status::status(options),
        QueueCommand::List(options) => list::list(options),
        QueueCommand::Show(options) => show::show(options),
        QueueCommand::Retry(options) => order::order(QueueVerb::Retry, options),
        QueueCommand::Hold(options) => order::order(QueueVerb::Hold, options),
        QueueCommand::Release(options) => order::order(QueueVerb::Release, options),
        QueueCommand::Drop(options) => order::drop_messages(options),
        QueueCommand::Export(options) => export::export(options),
        QueueCommand::Verify(options) => verify::verify(options),
    }
}

/// The path of a message.
fn path_of(id: MessageId) -> String {
    format!("{QUEUE}/messages/{id}")
}

/// A reason in a line: who said it, the codes, the words.
fn reason(reason: &ReasonView) -> String {
    let mut told = reason.remote.as_deref().map_or(String::new(), |remote| format!("{}: ", plain(remote)));
    if let Some(code) = reason.code {
        told.push_str(&format!("{code} "));
    }
    if !reason.status.is_empty() {
        told.push_str(&format!("{} ", plain(&reason.status)));
    }
    told.push_str(&plain(&reason.text));
    told.trim_end().to_owned()
}

/// The name of a target; mail that no domain or route takes any more has none.
fn named(target: &str) -> String {
    if target.is_empty() { "(none)".to_owned() } else { plain(target) }
}

/// Shards that did not answer, as a line; nothing if all have.
pub(super) fn silence(shards: &[u16]) -> String {
    if shards.is_empty() {
        return String::new();
    }
    let named: Vec<String> = shards.iter().map(ToString::to_string).collect();
    format!("no answer in time from shard {}: what it has is not in here\n", named.join(", "))
}

/// The filter and the server as options of a command line that is typed next.
fn as_options(filter: &QueueFilter, server: &RunningServer) -> String {
    let QueueFilter { state, from, to, target, priority, older, newer } = filter;
    let states: Vec<&str> = state.iter().map(|state| state.name()).collect();
    let options = [
        ("--state", (!states.is_empty()).then(|| states.join(","))),
        ("--from", from.as_ref().map(ToString::to_string)),
        ("--to", to.as_ref().map(ToString::to_string)),
        ("--target", target.clone()),
        ("--priority", priority.map(|priority| priority.to_string())),
        ("--older", older.map(|span| span.to_string())),
        ("--newer", newer.map(|span| span.to_string())),
        ("--config", server.config.config.as_ref().map(|path| path.display().to_string())),
        ("--socket", server.socket.as_ref().map(|path| path.display().to_string())),
    ];
    options
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| format!(" {name} {}", shell_word(&value))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ConfigFile;
    use ringpost_admin::api::QueueState;
    use ringpost_base::{Priority, Span};

    #[test]
    fn reasons_in_a_line() {
        let whole = ReasonView {
            code: Some(550),
            status: "5.1.1".to_owned(),
            text: "no\u{1b}[2Jbody".to_owned(),
            remote: Some("mx.example.org".to_owned()),
        };
        assert_eq!(reason(&whole), "mx.example.org: 550 5.1.1 no\\u{1b}[2Jbody");
        let own = ReasonView { text: "connection refused".to_owned(), ..ReasonView::default() };
        assert_eq!(reason(&own), "connection refused");
        assert_eq!(silence(&[]), "");
        assert!(silence(&[0, 3]).contains("shard 0, 3"));
    }

    #[test]
    fn the_next_command_says_what_this_one_did() {
        let server = |config: Option<&str>, socket: Option<&str>| RunningServer {
            config: ConfigFile { config: config.map(Into::into) },
            socket: socket.map(Into::into),
        };
        assert_eq!(as_options(&QueueFilter::default(), &server(None, None)), "");
        let filter = QueueFilter {
            state: vec![QueueState::Held, QueueState::Dead],
            from: "<>".parse().ok(),
            to: "@example.org".parse().ok(),
            target: Some("the hop".to_owned()),
            priority: Some(Priority::High),
            older: Some(Span::seconds(7_200)),
            newer: None,
        };
        let expected = " --state held,dead --from '<>' --to @example.org --target 'the hop' --priority high --older 2h \
                        --config /etc/r.toml --socket /run/r";
        assert_eq!(as_options(&filter, &server(Some("/etc/r.toml"), Some("/run/r"))), expected);
    }
}
