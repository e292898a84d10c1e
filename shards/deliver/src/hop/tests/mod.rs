//! Hops against servers that follow a script.

mod certificate;
mod dialogues;
mod failover;
mod reuse;
mod server;
mod shard;
mod tls;

use ringpost_config::{HopHost, HopOptions, TargetKind};
use server::Server;
use shard::{Act, Came, host, place, play};

/// A greeting by which no extension is offered: every reply is waited for.
const GREETING: &str = "S 220 mx.example.net\nC EHLO mx.example.org\nS 250 mx.example.net\n";

/// A message to one recipient, in lock-step.
const MESSAGE: &str = "C MAIL FROM:<sender@example.com>\nS 250 ok\nC RCPT TO:<r0@example.net>\nS 250 ok\n\
                       C DATA\nS 354 go on\nBODY\nS 250 2.0.0 taken\n";

/// The farewell.
const FAREWELL: &str = "C QUIT\nS 221 bye\n";

/// A greeting by which these are offered.
fn greeting(extensions: &[&str]) -> String {
    let lines: Vec<String> = extensions.iter().map(|extension| format!("S 250-{extension}\n")).collect();
    format!("S 220 mx.example.net\nC EHLO mx.example.org\nS 250-mx.example.net\n{}S 250 HELP\n", lines.concat())
}

/// What happens with servers of these scripts, all of the same weight: a list of servers, each with a script for each
/// connection. Gives what came of it, and the messages that each server took.
fn meet(options: HopOptions, servers: &[&[&str]], acts: Vec<Act>) -> (Came, Vec<Vec<Vec<u8>>>) {
    let servers: Vec<Server> = servers.iter().map(|scripts| Server::start(scripts)).collect();
    let hosts: Vec<HopHost> = servers.iter().map(|server| host(place(server), 1)).collect();
    let came = play(TargetKind::Smtp(HopOptions { hosts, ..options }), acts);
    (came, servers.into_iter().map(Server::end).collect())
}

/// The same, compared with what is wanted of the deliveries.
fn check(options: HopOptions, servers: &[&[&str]], acts: Vec<Act>, want: &[&str]) -> (Came, Vec<Vec<Vec<u8>>>) {
    let (came, bodies) = meet(options, servers, acts);
    assert_eq!(came.deliveries, want, "{servers:#?}");
    (came, bodies)
}
