//! SMTP smuggling: what is not CRLF.CRLF never ends a message (RFC 5321 section 4.1.1.4).

use crate::support::maildir::delivered_below;
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::smtp::Client;

/// Ends of data that some other server took, or takes, for one.
const ENDS: [&str; 14] = [
    "\n.\n",
    "\r\n.\n",
    "\n.\r\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\n\n.\r\n",
    "\r\r\n.\r\r\n",
    "\r\n.\r\r\n",
    "\r\n\r.\r\n",
    "\r\n.\r\0\n",
    "\n\r.\n\r",
];

/// What the attacker wants to have taken for a second message.
const SECOND: &str = "MAIL FROM:<admin@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nsmuggled\r\n";

/// Sends an attack, split into two writes at each of some places; gives the reply to the one message there is.
fn attack(server: &Server, end: &str, split: usize) -> u16 {
    let mut client = Client::hello(server.smtp());
    client.begin("a@example.org", &["honest@example.com"]);
    let wire = format!("Subject: one\r\n\r\nfirst{end}{SECOND}.\r\nNOOP\r\nQUIT\r\n").into_bytes();
    let (first, second) = wire.split_at(split.min(wire.len()));
    client.send(first);
    // A reply here would be one to an end that is none: it would come before the ones below.
    client.send(second);
    let reply = client.reply();
    // Exactly one for the message, one for NOOP, one for QUIT: nothing of the second was taken for a command.
    client.expect(250);
    client.expect(221);
    client.ended();
    reply.code
}

/// Where the attack is split: within and around the end that is none.
fn splits() -> impl Iterator<Item = usize> {
    let before = "Subject: one\r\n\r\nfirst".len();
    (before..before + 6).chain([0])
}

#[test]
fn a_false_end_of_data_is_refused_with_its_message() {
    let server = Server::start(Settings::default());
    for end in ENDS {
        for split in splits() {
            assert_eq!(attack(&server, end, split), 550, "{end:?} split at {split}");
        }
    }
    server.wait_for_rest();
    assert_eq!(server.metrics().total("ringpost_messages_accepted_total"), 0);
    assert!(delivered_below(&server.home.state_dir()).is_empty());
}

#[test]
fn a_repaired_newline_ends_nothing_either() {
    let server = Server::start(Settings::default().set("smtp", "bare_newline = \"repair\""));
    let mut count = 0;
    for end in ENDS {
        for split in splits() {
            assert_eq!(attack(&server, end, split), 250, "{end:?} split at {split}");
            count += 1;
        }
    }
    let delivered = server.maildir("example.com/honest").wait_for(count);
    server.wait_for_rest();
    assert_eq!(server.maildir("example.com/victim").count(), 0);
    for message in delivered {
        let text = String::from_utf8_lossy(message.sent()).into_owned();
        assert!(text.ends_with(SECOND), "the second message is not within the first: {text:?}");
        let rest = text.replace("\r\n", "");
        assert!(!rest.contains(['\r', '\n']), "a bare newline is left: {text:?}");
    }
}

#[test]
fn bare_newlines_in_chunks_are_refused_too() {
    let server = Server::start(Settings::default());
    for content in ["a\nb\r\n", "a\rb\r\n", "a\r\n.\nb\r\n", "a\r", "\n"] {
        let mut client = Client::hello(server.smtp());
        client.say("MAIL FROM:<a@example.org>", 250);
        client.say("RCPT TO:<alice@example.com>", 250);
        let command = format!("BDAT {} LAST\r\n{content}", content.len());
        client.send(command.as_bytes());
        assert_eq!(client.reply().code, 550, "{content:?}");
        client.quit();
    }
    server.wait_for_rest();
    assert!(delivered_below(&server.home.state_dir()).is_empty());
}

/// A proxy or a web page that speaks SMTP through a form: commands need CRLF as well.
#[test]
fn a_bare_newline_ends_no_command() {
    let server = Server::start(Settings::default());
    let mut client = Client::hello(server.smtp());
    client.send(b"NOOP\nMAIL FROM:<a@example.org>\r\n");
    client.expect(500);
    client.expect(250);
    client.say("RCPT TO:<alice@example.com>", 250);
    client.send(b"DATA\n");
    client.expect(500);
    client.send(b"RSET\rDATA\r\n");
    client.expect(500);
    client.quit();
}
