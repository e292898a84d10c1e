//! Large messages: whole, and never all in memory.

use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::{Client, stuffed};
use crate::support::text::{lines, message};
use std::net::SocketAddr;

/// Size of each message, in bytes.
const LARGE: usize = 40 << 20;

/// How many arrive at once.
const AT_ONCE: usize = 3;

/// What the server's memory may grow by meanwhile, in bytes: a fifth of what it would hold them in.
const GROWTH_MAX: u64 = 24 << 20;

/// Bytes of a chunk of BDAT.
const CHUNK: usize = 1 << 20;

/// A number of /proc/PID/status, in bytes.
fn status(id: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the server runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("is in status");
    let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// Sends the same large message in several sessions at once and checks what arrives and what it takes.
fn check(send: fn(SocketAddr, &str, &[u8])) {
    let server = Server::start(Settings::default().cores(2).set("limits", "message_size = \"64MiB\""));
    let id = server.id();
    let sent = message("large", &lines(3, LARGE));
    for _ in 0..10 {
        send(server.smtp(), "warm@example.com", &message("warm", "x\r\n"));
    }
    server.wait_for_rest();
    let before = status(id, "VmRSS");
    // Starts the high-water mark of the memory anew.
    std::fs::write(format!("/proc/{id}/clear_refs"), "5").expect("may be written");
    std::thread::scope(|scope| {
        for number in 0..AT_ONCE {
            let (sent, smtp) = (&sent, server.smtp());
            scope.spawn(move || send(smtp, &format!("user{number}@example.com"), sent));
        }
    });
    for number in 0..AT_ONCE {
        let delivered = server.maildir(&format!("example.com/user{number}")).only();
        assert!(delivered.sent() == sent, "user{number} got something else");
    }
    server.wait_for_rest();
    let growth = status(id, "VmHWM").saturating_sub(before);
    eprintln!("grew by {} KiB at most", growth >> 10);
    assert!(growth < GROWTH_MAX, "the server grew by {} KiB", growth >> 10);
}

#[test]
fn large_messages_arrive_whole_in_little_memory() {
    check(|to, recipient, sent| {
        let mut client = Client::hello(to);
        client.begin("a@example.org", &[recipient]);
        client.send(&stuffed(sent));
        client.expect(250);
        client.quit();
    });
}

#[test]
fn large_chunks_arrive_whole_in_little_memory() {
    check(|to, recipient, sent| {
        let mut client = Client::hello(to);
        client.say("MAIL FROM:<a@example.org>", 250);
        client.say(&format!("RCPT TO:<{recipient}>"), 250);
        let chunks = sent.chunks(CHUNK);
        let last = chunks.len() - 1;
        for (number, chunk) in chunks.enumerate() {
            let end = if number == last { " LAST" } else { "" };
            client.send(format!("BDAT {}{end}\r\n", chunk.len()).as_bytes());
            client.send(chunk);
            client.expect(250);
        }
        client.quit();
    });
}
