//! What a running server says of its queue.

use super::report::Report;
use super::server::Server;
use super::settings::Settings;
use serde_json::Value;

/// The domain whose users send what the tests are about, and get the reports.
pub(crate) const SENDERS: &str = "sender.example";

/// Settings with which what fails is tried again soon, and senders have a Maildir each.
pub(crate) fn hasty() -> Settings {
    Settings::default().set("queue", "retry_first = \"50ms\"").set("queue", "retry_max = \"100ms\"").domain(
        SENDERS,
        "\"any\"",
        "mail/{domain}/{local}",
    )
}

/// What a command of the queue says as JSON.
#[track_caller]
pub(crate) fn queue(server: &Server, arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["queue"].into_iter().chain(arguments.iter().copied()).chain(["--json"]).collect();
    let out = server.tell(&all).ok().out;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// What `queue status` says of a target; null if nothing.
#[track_caller]
pub(crate) fn target(server: &Server, name: &str) -> Value {
    let status = queue(server, &["status"]);
    let mut targets = status["targets"].as_array().expect("targets").iter();
    targets.find(|target| target["target"] == name).cloned().unwrap_or_default()
}

/// How many messages are in this state.
#[track_caller]
pub(crate) fn in_state(server: &Server, state: &str) -> usize {
    queue(server, &["list", "--limit", "1000", "--state", state])["messages"].as_array().expect("messages").len()
}

/// The last reason why a message could not be delivered to its only target, with its status.
#[track_caller]
pub(crate) fn last_reason(server: &Server, id: &str) -> String {
    let view = queue(server, &["show", id]);
    let [leg] = &view["targets"].as_array().expect("targets")[..] else { panic!("{view:#}") };
    let word = |name: &str| leg["last"][name].as_str().unwrap_or_default().to_owned();
    format!("{} {}", word("status"), word("text"))
}

/// Waits for exactly so many reports to a sender.
#[track_caller]
pub(crate) fn reports(server: &Server, sender: &str, count: usize) -> Vec<Report> {
    let maildir = server.maildir(&format!("{SENDERS}/{sender}"));
    maildir.wait_for(count).into_iter().map(Report::read).collect()
}

/// Waits for exactly one report.
#[track_caller]
pub(crate) fn report(server: &Server, sender: &str) -> Report {
    reports(server, sender, 1).remove(0)
}
