//! TLS as OpenSSL's client sees it.

use crate::support::programs::{Finished, make_certificate, program, python, run};
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What is said inside TLS; the server's answer to QUIT ends the client.
const TALK: &str = "EHLO client.example.org\r\nQUIT\r\n";

/// Connects and speaks; with STARTTLS unless `arguments` begin with `implicit`.
fn s_client(to: SocketAddr, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("openssl", "openssl"));
    command.args(["s_client", "-connect", &to.to_string(), "-ign_eof"]);
    let rest = match arguments {
        ["implicit", rest @ ..] => rest,
        all => {
            command.args(["-starttls", "smtp"]);
            all
        }
    };
    run(command.args(rest), TALK)
}

/// A handshake that must succeed, with all of `words` in what OpenSSL says of it.
#[track_caller]
fn check(to: SocketAddr, arguments: &[&str], words: &[&str]) {
    let finished = s_client(to, arguments).ok();
    let text = finished.all();
    for word in words.iter().chain(&["221 2.0.0"]) {
        assert!(text.contains(word), "{arguments:?}: no {word:?} in {text}");
    }
    // RFC 3207 section 4.2: not offered again.
    assert!(!text.contains("250-STARTTLS"), "{text}");
}

/// A handshake that must fail with this alert.
#[track_caller]
fn check_fails(to: SocketAddr, arguments: &[&str], alert: &str) {
    let finished = s_client(to, arguments);
    assert!(!finished.status.success() && finished.all().contains(alert), "{}", finished.all());
}

/// Settings with these certificates, in this order.
fn certificates(home: &Home, all: &[(&str, &str, &[&str])]) -> String {
    let pairs = all.iter().map(|(file, kind, names)| {
        let (cert, key) = make_certificate(home.path(), file, kind, names);
        format!("{{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display())
    });
    format!("certificates = [{}]", pairs.collect::<Vec<_>>().join(", "))
}

#[test]
fn both_versions_are_spoken() {
    let server = Server::start(Settings::default().cores(2));
    check(server.smtp(), &["-tls1_2"], &["New, TLSv1.2, Cipher is ECDHE-ECDSA-"]);
    check(server.smtp(), &["-tls1_3"], &["New, TLSv1.3, Cipher is TLS_"]);
    let metrics = server.metrics();
    for version in ["1.2", "1.3"] {
        assert_eq!(metrics.sum("ringpost_tls_handshakes_total", &format!("version=\"{version}\"")), 1);
    }
}

#[test]
fn a_least_version_is_kept_to() {
    let server = Server::start(Settings::default().set("tls", "min_version = \"1.3\""));
    check_fails(server.smtp(), &["-tls1_2"], "alert protocol version");
    check(server.smtp(), &["-tls1_3"], &["TLSv1.3"]);
    server.wait_for_rest();
    assert_eq!(server.metrics().sum("ringpost_sessions_closed_total", "how=\"tls\""), 1);
}

#[test]
fn old_versions_are_refused() {
    let server = Server::start(Settings::default());
    check_fails(server.smtp(), &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "SSL alert number");
}

#[test]
fn the_certificate_is_one_that_the_client_can_check() {
    let home = Home::new(1);
    let names = &["mx.example.com"][..];
    let line = certificates(&home, &[("of-rsa", "rsa:2048", names), ("of-ecdsa", "ec", names)]);
    let server = Server::start_at(home, Settings::default().set("tls", &line));
    let (ecdsa, rsa) = ("subject=CN = of-ecdsa", "subject=CN = of-rsa");
    check(server.smtp(), &["-tls1_3"], &[ecdsa]);
    check(server.smtp(), &["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], &[rsa, "RSA-PSS"]);
    check(server.smtp(), &["-tls1_2", "-sigalgs", "RSA+SHA256", "-cipher", "aRSA"], &[rsa, "ECDHE-RSA-"]);
    check(server.smtp(), &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], &[ecdsa]);
}

/// OpenSSL leaves the signature algorithms as they are when only its ciphers are restricted.
#[test]
fn ciphers_that_go_with_one_certificate_choose_it() {
    let home = Home::new(1);
    let names = &["mx.example.com"][..];
    let line = certificates(&home, &[("of-rsa", "rsa:2048", names), ("of-ecdsa", "ec", names)]);
    let server = Server::start_at(home, Settings::default().set("tls", &line));
    check(server.smtp(), &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], &["subject=CN = of-rsa"]);
}

#[test]
fn the_certificate_is_the_one_for_the_name_asked_for() {
    let home = Home::new(1);
    let line = certificates(
        &home,
        &[
            ("first", "ec", &["mx.example.com"]),
            ("second", "ec", &["mx.example.net", "*.wild.example"]),
            ("second-rsa", "rsa:2048", &["mx.example.net"]),
        ],
    );
    let server = Server::start_at(home, Settings::default().set("tls", &line));
    for (name, subject) in [
        ("mx.example.com", "first"),
        ("mx.example.net", "second"),
        ("MX.example.net", "second"),
        ("a.wild.example", "second"),
        ("unknown.example", "first"),
    ] {
        check(server.smtp(), &["-servername", name], &[&format!("subject=CN = {subject}\n")]);
    }
    check(server.smtp(), &["-noservername"], &["subject=CN = first\n"]);
    let rsa = ["-servername", "mx.example.net", "-sigalgs", "rsa_pss_rsae_sha256"];
    check(server.smtp(), &rsa, &["subject=CN = second-rsa\n"]);
}

/// The sessions of one core are resumed on any other.
#[test]
fn sessions_are_resumed() {
    let server = Server::start(Settings::default().cores(2));
    for version in ["-tls1_2", "-tls1_3"] {
        let file = server.home.path().join("session").display().to_string();
        check(server.smtp(), &[version, "-sess_out", &file], &["New, TLSv1"]);
        for _ in 0..8 {
            check(server.smtp(), &[version, "-sess_in", &file], &["Reused, TLSv1"]);
        }
    }
    assert_eq!(server.metrics().total("ringpost_tls_resumed_total"), 16);
    let used = server.metrics().by_shard("ringpost_sessions_opened_total");
    eprintln!("sessions by core: {used:?}");
}

#[test]
fn implicit_tls_begins_with_the_handshake() {
    let settings = Settings::default().listener("mx", "off").listener("mxs", "implicit");
    let server = Server::start(settings);
    let [plain, implicit] = server.home.smtp[..] else { panic!("two listeners") };
    check(implicit, &["implicit"], &["220 mx.example.com", "TLSv1.3"]);
    let mut client = Client::connect(plain);
    client.expect(220);
    let offers = client.say("EHLO client.example.org", 250);
    assert!(!offers.lines.iter().any(|line| line.contains("STARTTLS")), "{}", offers.text());
    client.refused("STARTTLS", 502, "5.5.1");
    client.quit();
    // A client that speaks in the clear gets an alert, and no word of SMTP.
    let mut clear = Client::connect(implicit);
    clear.send(b"EHLO client.example.org\r\n");
    assert!(!matches!(clear.try_reply(), Ok(Some(_))));
    server.wait_for_rest();
    assert_eq!(server.metrics().sum("ringpost_sessions_closed_total", "how=\"tls\""), 1);
}

#[test]
fn required_starttls_comes_before_mail() {
    let server = Server::start(Settings::default().listener("mx", "starttls-required"));
    let mut client = Client::hello(server.smtp());
    for command in ["MAIL FROM:<a@example.org>", "RCPT TO:<alice@example.com>", "DATA", "VRFY alice"] {
        client.refused(command, 530, "5.7.0");
    }
    client.refused("BDAT 6 LAST\r\nNOOP", 530, "5.7.0");
    client.say("NOOP", 250);
    client.quit();
    let mut command = Command::new(program("swaks", "swaks"));
    let (host, port) = (server.smtp().ip().to_string(), server.smtp().port().to_string());
    command.args(["--server", &host, "--port", &port, "--tls", "--helo", "client.example.org"]);
    run(command.args(["--from", "a@example.org", "--to", "alice@example.com"]), "").ok();
    server.maildir("example.com/alice").only();
}

#[test]
fn a_self_signed_certificate_is_made_once() {
    let mut server = Server::start(Settings::default());
    let folder = server.home.state_dir().join("tls");
    let (cert, key) = (folder.join("self-signed.crt"), folder.join("self-signed.key"));
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    let before = (fs::read(&cert).expect("a certificate"), fs::read(&key).expect("a key"));
    let shown = ["subject=CN = mx.example.com\n", "Verify return code: 0 (ok)"];
    let path = cert.display().to_string();
    let arguments = ["-verify_hostname", "mx.example.com", "-CAfile", &path];
    check(server.smtp(), &arguments, &shown);
    server.stop();
    server.start_again();
    check(server.smtp(), &arguments, &shown);
    assert!(before == (fs::read(&cert).expect("a certificate"), fs::read(&key).expect("a key")));
}

/// Sends very many commands in one go inside TLS, and prints how many were answered.
const MANY: &str = "
import socket, ssl, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
plain = socket.create_connection((host, port), timeout=30)
before = plain.makefile('rb', buffering=0)
before.readline()
plain.sendall(b'HELO x\\r\\nSTARTTLS\\r\\n')
before.readline()
before.readline()
secure = context.wrap_socket(plain)
inside = secure.makefile('rb')
# One thread, since an SSLSocket is not for two: the commands fit the buffers of the kernel.
secure.sendall(b'EHLO client.example.org\\r\\n' * count + b'QUIT\\r\\n')
print(sum(line.startswith(b'250 ') for line in inside))
";

/// More replies than rustls holds at a time, and many times longer than the commands.
#[test]
fn many_replies_in_one_go_pass_through_tls() {
    let server = Server::start(Settings::default().set("limits", "commands_without_progress = 0"));
    let (host, port) = (server.smtp().ip().to_string(), server.smtp().port().to_string());
    assert_eq!(python(MANY, &[&host, &port, "3000"]).out.trim(), "3000");
}
