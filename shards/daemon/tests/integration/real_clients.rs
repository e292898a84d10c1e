//! Mail from the clients that people use, byte for byte.

use crate::support::programs::{Finished, program, python, run};
use crate::support::server::Server;
use crate::support::settings::Settings;
use crate::support::text::{lines, message};
use std::path::PathBuf;
use std::process::Command;

/// Dots at the start of lines, which the client must double and the server take away again.
const DOTTED: &str = ".\r\n..\r\n.leading\r\n...\r\nmiddle . dot\r\n\r\n.\r\nlast\r\n";

fn swaks(server: &Server, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("swaks", "swaks"));
    command.args(["--server", &server.smtp().ip().to_string(), "--port", &server.smtp().port().to_string()]);
    command.args(["--helo", "client.example.org", "--from", "a@example.org", "--to", "alice@example.com"]);
    run(command.args(arguments), "").ok()
}

/// A file in the server's folder.
fn file(server: &Server, name: &str, content: &[u8]) -> PathBuf {
    let path = server.home.path().join(name);
    std::fs::write(&path, content).expect("written");
    path
}

#[test]
fn swaks_delivers_dots_byte_for_byte() {
    let server = Server::start(Settings::default());
    let sent = message("dots", DOTTED);
    // Swaks ends the last line itself.
    let data = file(&server, "data", sent.strip_suffix(b"\r\n").expect("whole lines"));
    let finished = swaks(&server, &["--data", &format!("@{}", data.display())]);
    assert!(finished.out.contains("250 2.0.0 queued as "), "{}", finished.out);
    let delivered = server.maildir("example.com/alice").only();
    assert_eq!(String::from_utf8_lossy(delivered.sent()), String::from_utf8_lossy(&sent));
    let trace = delivered.trace();
    assert!(trace.starts_with("Return-Path: <a@example.org>\r\nDelivered-To: alice@example.com\r\n"), "{trace}");
    assert!(trace.contains("Received: from client.example.org ([127.0.0.1])\r\n\tby mx.example.com with ESMTP\r\n"));
}

#[test]
fn swaks_delivers_over_starttls() {
    let server = Server::start(Settings::default());
    swaks(&server, &["--tls", "--body", "hello"]);
    let delivered = server.maildir("example.com/alice").only();
    assert!(delivered.trace().contains("with ESMTPS\r\n\t(version=TLSv1."), "{}", delivered.trace());
    let line = server.wait_for_line("accepted", |_| true);
    assert!(line["tls"].as_str().is_some_and(|version| version.starts_with("TLSv1.")), "{line}");
    assert_eq!(server.metrics().total("ringpost_tls_handshakes_total"), 1);
}

#[test]
fn swaks_delivers_an_attachment() {
    let server = Server::start(Settings::default());
    let content: Vec<u8> = (0..100_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let attachment = file(&server, "attachment.bin", &content);
    let body = file(&server, "body", DOTTED.replace("\r\n", "\n").as_bytes());
    let arguments = [format!("@{}", body.display()), format!("@{}", attachment.display())];
    swaks(&server, &["--body", &arguments[0], "--attach", &arguments[1]]);
    let delivered = server.maildir("example.com/alice").only();
    let out = server.home.path().join("taken-out");
    let script = "
import email, email.policy, sys
message = email.message_from_binary_file(open(sys.argv[1], 'rb'), policy=email.policy.default)
part = next(part for part in message.iter_attachments())
open(sys.argv[2], 'wb').write(part.get_payload(decode=True))
";
    python(script, &[&delivered.path.to_string_lossy(), &out.to_string_lossy()]);
    assert!(std::fs::read(out).expect("taken out") == content, "the attachment is another");
    let text = String::from_utf8_lossy(&delivered.bytes);
    assert!(text.contains(&format!("\r\n\r\n{DOTTED}")), "{}", &text[..2000.min(text.len())]);
}

/// Python's own client: STARTTLS, addresses and a body that are not ASCII, and what it put on the wire.
const SMTPLIB: &str = "
import email.message, email.policy, smtplib, ssl, sys
host, port, folder = sys.argv[1:]

class Noting(smtplib.SMTP):
    def data(self, content):
        with open(folder + '/wire', 'wb') as file:
            file.write(content if content.endswith(b'\\r\\n') else content + b'\\r\\n')
        return super().data(content)

context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
message = email.message.EmailMessage(email.policy.SMTPUTF8)
message['From'] = 'żółw@przykład.example'
message['To'] = 'użytkownik@example.com, alice@example.com'
message['Subject'] = 'zażółć gęślą jaźń'
message.set_content('.\\n..\\nzażółć gęślą jaźń\\n.kropka\\n', cte='8bit')
with Noting(host, int(port), local_hostname='client.example.org') as client:
    client.starttls(context=context)
    refused = client.send_message(message)
    assert not refused, refused
";

#[test]
fn smtplib_delivers_international_mail_over_starttls() {
    let server = Server::start(Settings::default());
    let folder = server.home.path().to_string_lossy().into_owned();
    python(SMTPLIB, &[&server.smtp().ip().to_string(), &server.smtp().port().to_string(), &folder]);
    let wire = std::fs::read(server.home.path().join("wire")).expect("what was sent");
    assert!(wire.windows(2).any(|two| two == "ż".as_bytes()), "nothing beyond ASCII was sent");
    for name in ["użytkownik", "alice"] {
        let delivered = server.maildir(&format!("example.com/{name}")).only();
        assert!(delivered.sent() == wire, "{}", String::from_utf8_lossy(&delivered.bytes));
        let trace = delivered.trace();
        let path = format!("Return-Path: <żółw@przykład.example>\r\nDelivered-To: {name}@example.com\r\n");
        assert!(trace.starts_with(&path), "{trace}");
        assert!(trace.contains("with UTF8SMTPS\r\n"), "{trace}");
    }
}

#[test]
fn smtp_source_delivers_from_many_sessions() {
    let server = Server::start(Settings::default().cores(2));
    let sent = format!("From: a@example.org\nTo: b@example.com\nSubject: many\n\n{}", lines(7, 8000)).replace('\r', "");
    let data = file(&server, "data", sent.as_bytes());
    let mut command = Command::new(program("smtp-source", "postfix"));
    command.args(["-s", "20", "-m", "300", "-f", "a@example.org", "-t", "bob@example.com", "-F"]).arg(data);
    run(command.arg(server.smtp().to_string()), "").ok();
    let delivered = server.maildir("example.com/bob").wait_for(300);
    // smtp-source puts an empty line before the final dot.
    let want = format!("{sent}\n").replace('\n', "\r\n");
    for message in &delivered {
        assert_eq!(String::from_utf8_lossy(message.sent()), want);
    }
    assert_eq!(server.metrics().total("ringpost_messages_accepted_total"), 300);
    server.wait_for_rest();
}
