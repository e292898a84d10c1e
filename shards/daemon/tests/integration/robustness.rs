//! Clients that come and go as they like: the server stays, and forgets them.

use crate::support::net::reset;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{Random, message};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

/// Connections in all.
const CONNECTIONS: u64 = 2000;

/// Clients at a time.
const CLIENTS: u64 = 8;

/// What is said, cut off anywhere. Some of it is nonsense.
const TALKS: [&[u8]; 7] = [
    b"EHLO a.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n",
    b"EHLO a.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<alice@example.com>\r\nBDAT 4\r\na\r\n\r\nBDAT 900 LAST\r\nx",
    b"EHLO a.example\r\nSTARTTLS\r\n\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage that is no handshake",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0\0\0",
    b"GET / HTTP/1.1\r\nHost: mx.example.com\r\n\r\n",
    b"\0\0\0\0\xff\xff\xff\xff\r\n\r\n\n\n\r\r....\r\n.\r\n",
    b"EHLO a.example\r\nNOOP\r\nRSET\r\nHELP\r\nVRFY a\r\nQUIT\r\nNOOP\r\n",
];

/// One connection that is ended at some moment in some way.
fn abuse(to: SocketAddr, random: &mut Random) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let talk = TALKS[random.below(TALKS.len() as u64) as usize];
    let mut rest = &talk[..random.below(talk.len() as u64 + 1) as usize];
    while !rest.is_empty() {
        let piece = 1 + random.below(rest.len() as u64) as usize;
        stream.write_all(&rest[..piece])?;
        rest = &rest[piece..];
        if random.below(4) == 0 {
            std::thread::yield_now();
        }
    }
    match random.below(4) {
        0 => drop(stream),
        1 => stream.shutdown(Shutdown::Write)?,
        _ => reset(stream),
    }
    Ok(())
}

#[test]
fn two_thousand_abrupt_clients_leave_nothing_behind() {
    let server = Server::start(Settings::default().cores(2));
    let seed = Random::seed();
    eprintln!("seed {seed}");
    let smtp = server.smtp();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut random = Random::new(seed ^ client << 32);
                for _ in 0..CONNECTIONS / CLIENTS {
                    // The server may close first: what then fails is what an abrupt client is.
                    let _ = abuse(smtp, &mut random);
                }
            });
        }
    });
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_sessions_panicked_total"), 0);
    assert_eq!(metrics.total("ringpost_accept_errors_total"), 0);
    let opened = metrics.total("ringpost_sessions_opened_total");
    assert!(opened <= CONNECTIONS && opened > CONNECTIONS / 4, "{opened}");
    assert_eq!(metrics.total("ringpost_sessions_closed_total"), opened);
    for _ in 0..4 {
        let mut client = Client::hello(smtp);
        client.deliver("a@example.org", &["survivor@example.com"], &message("still", "here\r\n"));
        client.quit();
    }
    server.maildir("example.com/survivor").wait_for(4);
    assert_eq!(server.errors(), "");
}

/// A client that says nothing more but does not go either, as behind a dead link, must not keep descriptors for ever.
#[test]
fn descriptors_come_back() {
    let server = Server::start(Settings::default());
    let descriptors = || {
        let folder = format!("/proc/{}/fd", server.id());
        std::fs::read_dir(folder).expect("the server runs").count()
    };
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("first", "x\r\n"));
    server.wait_for_rest();
    let before = descriptors();
    let clients: Vec<Client> = (0..200).map(|_| Client::hello(server.smtp())).collect();
    assert!(descriptors() > before + 150);
    drop(clients);
    server.wait_for_rest();
    crate::support::wait_until("descriptors are closed", || descriptors() <= before + 2);
}
