//! What a restart makes of a spool with undelivered mail in it.

use crate::support::maildir::delivered_below;
use crate::support::net::client_address;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A size that goes into a body file with [`settings`]: above the limit, and not all of it in one read.
const LARGE: usize = 150_000;

/// Sessions, each from a network of its own, so that steering spreads them over the cores.
const SESSIONS: u8 = 20;

fn settings() -> Settings {
    let settings = Settings::default().cores(2).set("spool", "inline_max = \"8KiB\"");
    settings.set("queue", "retry_first = \"100ms\"").set("queue", "retry_max = \"200ms\"")
}

/// Sends one small and one large message in each of some sessions; gives what must arrive, by subject.
fn send_some(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let mut sent = BTreeMap::new();
    let from = |network| Client::hello_from(client_address(network, 1), server.smtp());
    let mut clients: Vec<Client> = (0..SESSIONS).map(from).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for size in [500, LARGE] {
            let subject = format!("message-{number}-{size}");
            let content = message(&subject, &lines(number as u64, size));
            client.deliver("a@example.org", &["alice@example.com"], &content);
            sent.insert(subject, content);
        }
    }
    clients.into_iter().for_each(Client::quit);
    let accepted = server.metrics().by_shard("ringpost_messages_accepted_total");
    assert!(accepted.iter().all(|count| *count > 0), "not all cores have got mail: {accepted:?}");
    sent
}

/// Every message is there once, as it was sent.
fn check_arrived(server: &Server, sent: &BTreeMap<String, Vec<u8>>) {
    let delivered = server.maildir("example.com/alice").wait_for(sent.len());
    let mut arrived: Vec<&[u8]> = delivered.iter().map(|message| message.sent()).collect();
    let mut wanted: Vec<&[u8]> = sent.values().map(Vec::as_slice).collect();
    arrived.sort_unstable();
    wanted.sort_unstable();
    assert!(arrived == wanted, "what arrived is not what was sent");
}

#[test]
fn undelivered_mail_survives_kill_9_and_fewer_cores() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = send_some(&server);
    let count = sent.len() as u64;
    server.wait_for_metric("ringpost_queue_deferred_messages", count);
    server.kill();
    server.change(|settings| settings.cores(1));
    server.start_again();
    assert_eq!(server.metrics().total("ringpost_spool_recovered_total"), count);
    assert!(delivered_below(&server.mail()).is_empty());
    assert!(!server.home.state_dir().join("spool/shard-0001").exists(), "the former core's log is still there");
    server.unblock("example.com");
    check_arrived(&server, &sent);
    server.wait_for_rest();
    // Once more, with as many cores as at first: nothing comes again.
    server.stop();
    server.change(|settings| settings.cores(2));
    server.start_again();
    assert_eq!(server.metrics().total("ringpost_spool_recovered_total"), 0);
    check_arrived(&server, &sent);
}

#[test]
fn undelivered_mail_survives_an_orderly_stop() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = send_some(&server);
    server.stop();
    server.start_again();
    assert_eq!(server.metrics().total("ringpost_spool_recovered_total"), sent.len() as u64);
    server.unblock("example.com");
    check_arrived(&server, &sent);
    server.wait_for_rest();
}

/// Messages around and far above every limit of the smallest spool there can be.
#[test]
fn the_smallest_spool_takes_messages_of_all_sizes_and_gives_them_back() {
    let smallest = Settings::default().set("spool", "inline_max = \"4KiB\"").set("spool", "batch_max = \"8KiB\"");
    let mut server = Server::start(smallest.set("spool", "segment_size = \"1MiB\""));
    server.block("example.com");
    let mut sent = BTreeMap::new();
    for round in 0..8 {
        let mut client = Client::hello(server.smtp());
        for size in [1, 3_800, 4_200, 8_300, 30_000, 65_000, 66_000, 140_000, 400_000] {
            let subject = format!("message-{round}-{size}");
            let content = message(&subject, &lines(size as u64, size));
            client.deliver("a@example.org", &["alice@example.com"], &content);
            sent.insert(subject, content);
        }
        client.quit();
    }
    server.kill();
    server.start_again();
    assert_eq!(server.metrics().total("ringpost_spool_recovered_total"), sent.len() as u64);
    assert_eq!(server.metrics().total("ringpost_spool_damaged_total"), 0);
    server.change(|settings| settings.set("queue", "retry_first = \"100ms\""));
    server.stop();
    server.unblock("example.com");
    server.start_again();
    check_arrived(&server, &sent);
    server.wait_for_rest();
}

/// A start with fewer cores moves a body file and then writes its record; the plug is pulled in between.
#[test]
fn kill_9_while_a_former_core_is_taken_over_loses_nothing() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = send_some(&server);
    server.wait_for_metric("ringpost_queue_deferred_messages", sent.len() as u64);
    server.kill();
    let bodies = |shard: &str| server.home.state_dir().join("spool").join(shard).join("body");
    let files: Vec<PathBuf> =
        fs::read_dir(bodies("shard-0001")).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert!(!files.is_empty(), "the second core has got no large message");
    for file in files {
        fs::rename(&file, bodies("shard-0000").join(file.file_name().expect("a name"))).expect("renamed");
    }
    server.change(|settings| settings.cores(1));
    server.start_again();
    server.unblock("example.com");
    check_arrived(&server, &sent);
}

/// A body file without a record is of a message that was never acknowledged.
#[test]
fn stray_body_files_go_and_the_others_stay() {
    let mut server = Server::start(settings());
    server.block("example.com");
    let sent = send_some(&server);
    server.wait_for_metric("ringpost_queue_deferred_messages", sent.len() as u64);
    server.kill();
    let stray = server.home.state_dir().join("spool/shard-0000/body/00000000000000000000000000.body");
    fs::write(&stray, "a body that no record names").expect("written");
    server.start_again();
    assert!(!stray.exists(), "a body file that no record names is removed");
    server.unblock("example.com");
    check_arrived(&server, &sent);
    wait_until("nothing is left of the body files", || {
        let body = |shard: &str| server.home.state_dir().join("spool").join(shard).join("body");
        ["shard-0000", "shard-0001"].iter().all(|shard| fs::read_dir(body(shard)).is_ok_and(|all| all.count() == 0))
    });
}
