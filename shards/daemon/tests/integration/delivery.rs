//! From the spool into Maildirs.

use crate::support::maildir::delivered_below;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn quick_retries() -> Settings {
    Settings::default().set("queue", "retry_first = \"100ms\"").set("queue", "retry_max = \"200ms\"")
}

#[test]
fn templates_name_maildirs_of_recipients_addresses_and_domains() {
    let settings = Settings::default().domain("local.example", "\"any\"", "mail/of-{local}/Maildir");
    let settings = settings.domain("address.example", "\"any\"", "mail/{address}");
    let server = Server::start(settings.domain("one.example", "\"any\"", "mail/all-of-{domain}"));
    let sent = message("templates", "x\r\n");
    let to = ["Bob@Local.Example", "carol+tag@address.example", "x@one.example", "y@one.example"];
    Client::hello(server.smtp()).deliver("a@example.org", &to, &sent);
    for (path, to) in [
        ("of-bob/Maildir", "Delivered-To: Bob@Local.Example\r\n"),
        // A subaddress is kept in the mailbox of its user.
        ("carol@address.example", "Delivered-To: carol+tag@address.example\r\n"),
        ("all-of-one.example", "Delivered-To: x@one.example\r\nDelivered-To: y@one.example\r\n"),
    ] {
        let delivered = server.maildir(path).only();
        assert_eq!(delivered.sent(), sent);
        let start = format!("Return-Path: <a@example.org>\r\n{to}Received: ");
        assert!(delivered.trace().starts_with(&start), "{path}: {}", delivered.trace());
    }
    server.wait_for_rest();
    assert_eq!(delivered_below(&server.home.state_dir()).len(), 3);
    assert_eq!(server.metrics().sum("ringpost_deliveries_total", "outcome=\"delivered\""), 4);
}

#[test]
fn one_maildir_gets_one_copy() {
    let server = Server::start(Settings::default());
    let to = ["alice@example.com", "alice@example.com", "ALICE@example.com", "alice@EXAMPLE.com"];
    let id = Client::hello(server.smtp()).deliver("a@example.org", &to, &message("once", "x\r\n"));
    let delivered = server.maildir("example.com/alice").only();
    server.wait_for_rest();
    assert_eq!(server.maildir("example.com/alice").count(), 1);
    let name = delivered.path.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(name.contains(&id), "{name} does not say {id}");
}

#[test]
fn files_and_folders_are_for_their_owner_alone() {
    let server = Server::start(Settings::default());
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("private", "x\r\n"));
    let delivered = server.maildir("example.com/alice").only();
    let mode = |path: &std::path::Path| fs::metadata(path).expect("is there").permissions().mode() & 0o7777;
    assert_eq!(mode(&delivered.path), 0o600);
    let maildir = server.maildir("example.com/alice").0;
    for folder in ["", "tmp", "new", "cur"] {
        assert_eq!(mode(&maildir.join(folder)), 0o700, "{folder:?}");
    }
    assert_eq!(fs::read_dir(maildir.join("tmp")).expect("a folder").count(), 0);
}

#[test]
fn an_address_cannot_leave_its_folder() {
    let server = Server::start(Settings::default());
    let to = ["\"../../../evil\"@example.com", "\".\"@example.com", "\"a/b\"@example.com"];
    Client::hello(server.smtp()).deliver("a@example.org", &to, &message("escape", "x\r\n"));
    server.wait_for_rest();
    let delivered = delivered_below(server.home.path());
    assert_eq!(delivered.len(), 3, "{delivered:?}");
    let domain = server.mail().join("example.com");
    let depth = domain.components().count() + 3;
    assert!(delivered.iter().all(|path| path.starts_with(&domain) && path.components().count() == depth));
}

#[test]
fn a_failed_delivery_is_tried_again() {
    let server = Server::start(quick_retries());
    server.block("example.com/alice");
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("retry", "x\r\n"));
    let line = server.wait_for_line("delivery deferred", |_| true);
    assert!(line["reason"].as_str().is_some_and(|reason| reason.contains("example.com/alice")), "{line}");
    server.wait_for_metric("ringpost_queue_deferred_messages", 1);
    server.unblock("example.com/alice");
    assert_eq!(server.maildir("example.com/alice").only().sent(), message("retry", "x\r\n"));
    server.wait_for_rest();
    let metrics = server.metrics();
    assert!(metrics.sum("ringpost_deliveries_total", "outcome=\"deferred\"") >= 1);
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"delivered\""), 1);
}

/// A reader takes the good recipient's copy away, so that a second one would show.
#[test]
fn a_recipient_that_has_its_copy_gets_no_second_one() {
    for crash in [false, true] {
        let mut server = Server::start(quick_retries());
        server.block("example.com/blocked");
        let to = ["good@example.com", "blocked@example.com"];
        Client::hello(server.smtp()).deliver("a@example.org", &to, &message("partial", "x\r\n"));
        let good = server.maildir("example.com/good");
        fs::remove_file(good.only().path).expect("taken away");
        server.wait_for_line("delivery deferred", |_| true);
        // The message's own record, and the one of what is done.
        server.wait_for_metric("ringpost_spool_records_total", 2);
        if crash {
            server.kill();
        } else {
            server.stop();
        }
        server.start_again();
        server.wait_for_line("delivery deferred", |_| true);
        server.unblock("example.com/blocked");
        let delivered = server.maildir("example.com/blocked").only();
        assert!(!delivered.trace().contains("good@example.com"), "{}", delivered.trace());
        server.wait_for_rest();
        assert_eq!(good.count(), 0, "crash: {crash}");
    }
}

/// A reader moved the copy to `cur` while a crash kept the server from noting that it was delivered.
#[test]
fn a_copy_that_was_read_already_is_not_made_again() {
    let mut server = Server::start(quick_retries());
    server.block("example.com/alice");
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("read", "x\r\n"));
    let spool = server.home.state_dir().join("spool");
    let copy = server.home.path().join("spool-before");
    server.wait_for_line("delivery deferred", |_| true);
    server.kill();
    copy_folder(&spool, &copy);
    server.unblock("example.com/alice");
    server.start_again();
    let maildir = server.maildir("example.com/alice");
    let delivered = maildir.only().path;
    let name = delivered.file_name().expect("a name").to_string_lossy().into_owned();
    fs::rename(&delivered, maildir.0.join("cur").join(format!("{name}:2,S"))).expect("read");
    server.wait_for_rest();
    server.stop();
    // The spool as it was before the delivery: what a crash just after it leaves.
    fs::remove_dir_all(&spool).expect("removed");
    fs::rename(&copy, &spool).expect("put back");
    server.start_again();
    server.wait_for_line("delivered", |_| true);
    server.wait_for_rest();
    assert_eq!(maildir.count(), 0);
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, target).expect("copied");
        }
    }
}
