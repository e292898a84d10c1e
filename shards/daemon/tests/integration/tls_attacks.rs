//! Attacks on the border between clear text and TLS.

use crate::support::net::reset;
use crate::support::programs::python;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::message;

/// Sends some bytes in one packet with STARTTLS, shakes hands, and prints what the server says inside TLS to NOOP.
const INJECT: &str = "
import socket, ssl, sys
host, port, injected = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode().decode('unicode_escape').encode()
plain = socket.create_connection((host, port), timeout=30)

def reply(stream):
    lines = []
    while not lines or lines[-1][3:4] == b'-':
        lines.append(stream.readline())
        assert lines[-1].endswith(b'\\r\\n'), lines
    return lines

# Unbuffered, so that nothing of the handshake is read with the reply.
before = plain.makefile('rb', buffering=0)
assert reply(before)[0].startswith(b'220 ')
plain.sendall(b'EHLO client.example.org\\r\\n')
assert reply(before)[0].startswith(b'250')
plain.sendall(b'STARTTLS\\r\\n' + injected)
assert reply(before)[0].startswith(b'220 2.0.0')
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
secure = context.wrap_socket(plain)
inside = secure.makefile('rb')
# The first thing said inside must be answered first, as if nothing had been said before it.
for command in [b'MAIL FROM:<a@example.org>', b'EHLO again.example.org', b'RCPT TO:<alice@example.com>', b'QUIT']:
    secure.sendall(command + b'\\r\\n')
    print(reply(inside)[0].decode().strip())
assert inside.read() == b'', 'more was said'
";

fn inject(server: &Server, injected: &str) -> String {
    let (host, port) = (server.smtp().ip().to_string(), server.smtp().port().to_string());
    python(INJECT, &[&host, &port, injected]).out
}

/// RFC 3207 section 6; CVE-2011-0411 and its many likes.
#[test]
fn commands_injected_behind_starttls_are_never_run() {
    let server = Server::start(Settings::default());
    let attacks = [
        "RSET\\r\\nMAIL FROM:<x@y>\\r\\n",
        "EHLO evil.example\\r\\nMAIL FROM:<x@y.example>\\r\\nRCPT TO:<alice@example.com>\\r\\n",
        "EHLO evil.example\\r\\nMAIL FROM:<x@y.example>\\r\\nRCPT TO:<alice@example.com>\\r\\nDATA\\r\\nx\\r\\n.\\r\\n",
        "MAIL FR",
        "\\r\\n",
    ];
    for (number, attack) in attacks.iter().enumerate() {
        let said = inject(&server, attack);
        let replies: Vec<&str> = said.lines().collect();
        assert_eq!(replies.len(), 4, "{said}");
        // RFC 3207 section 4.2: EHLO is to be said again, and what was said before TLS is forgotten.
        for (reply, start) in replies.iter().zip(["503 5.5.1 ", "250-", "503 5.5.1 ", "221 2.0.0 "]) {
            assert!(reply.starts_with(start), "to {attack:?}, not {start:?}: {said}");
        }
        assert_eq!(server.metrics().total("ringpost_starttls_injections_total"), number as u64 + 1);
    }
    server.wait_for_rest();
    assert_eq!(server.metrics().total("ringpost_messages_accepted_total"), 0);
}

#[test]
fn an_honest_handshake_is_no_injection() {
    let server = Server::start(Settings::default());
    let said = inject(&server, "");
    assert!(said.starts_with("503 5.5.1 "), "{said}");
    assert_eq!(server.metrics().total("ringpost_starttls_injections_total"), 0);
}

#[test]
fn what_is_no_handshake_ends_the_session_alone() {
    let server = Server::start(Settings::default());
    for garbage in
        [&b"EHLO still.in.the.clear\r\n"[..], b"\x16\x03\x01\xff\xff", &[0; 20_000], b"\x16\x03\x01\0\x05\x01"]
    {
        let mut client = Client::hello(server.smtp());
        client.say("STARTTLS", 220);
        client.send(garbage);
        reset(client.into_stream());
    }
    server.wait_for_rest();
    let metrics = server.metrics();
    assert_eq!(metrics.total("ringpost_sessions_panicked_total"), 0);
    assert_eq!(metrics.total("ringpost_tls_handshakes_total"), 0);
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("still", "here\r\n"));
}

#[test]
fn starttls_has_no_words_and_no_place_in_a_transaction() {
    let server = Server::start(Settings::default());
    let mut client = Client::connect(server.smtp());
    client.expect(220);
    client.refused("STARTTLS", 503, "5.5.1");
    client.say("EHLO client.example.org", 250);
    client.refused("STARTTLS now", 501, "5.5.4");
    client.say("MAIL FROM:<a@example.org>", 250);
    client.refused("STARTTLS", 503, "5.5.1");
    client.say("RSET", 250);
    client.say("STARTTLS", 220);
}
