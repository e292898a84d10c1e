//! Certificates: the right one for each name, new ones without a session lost, broken ones refused; staples; and what clients
//! show of theirs.

use crate::support::authority::{Authority, Issued, Standing};
use crate::support::presented::{Story, inputs};
use crate::support::programs::{make_certificate, program, run};
use crate::support::secure::{Dialect, certificate_in};
use crate::support::server::{BINARY, Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::{Client, session_id};
use crate::support::text::message;
use crate::support::wait_until;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

const NAME: &str = "mx.example.com";

/// What the server says of changed files that it can't use.
const REFUSED: &str = "changed files can't be taken up; the former ones stay in force";

fn certificates(entries: &[String]) -> Settings {
    Settings::default().set("tls", &format!("certificates = [{}]", entries.join(", ")))
}

/// A server with a certificate whose files are copies of an authority's, to be replaced.
struct Renewing {
    server: Server,
    authority: Authority,
    files: Issued,
    dialect: Dialect,
}

impl Renewing {
    fn start() -> Self {
        let home = Home::new(1);
        let authority = Authority::new(home.path());
        let first = authority.server("first", "ec", &[NAME]);
        let files = Issued { cert: home.path().join("mx.pem"), key: home.path().join("mx.key") };
        put(&first, &files);
        let server = Server::start_at(home, certificates(&[files.entry()]));
        let dialect = Dialect::trusting(&authority.cert());
        let renewing = Self { server, authority, files, dialect };
        assert_eq!(renewing.shown(), certificate_in(&first.cert));
        renewing
    }

    /// The certificate that a new session sees.
    fn shown(&self) -> Vec<u8> {
        let client = self.dialect.starttls(self.server.smtp(), NAME);
        let shown = client.certificate();
        client.quit();
        shown
    }

    fn make(&self, file: &str) -> Issued {
        self.authority.server(file, "ec", &[NAME])
    }
}

/// Puts files in the place of others, in one moment each, as renewal programs do.
fn put(from: &Issued, to: &Issued) {
    for (from, to) in [(&from.key, &to.key), (&from.cert, &to.cert)] {
        replace(from, to);
    }
}

fn replace(from: &Path, to: &Path) {
    let beside = to.with_extension("beside");
    fs::copy(from, &beside).expect("copied");
    fs::rename(beside, to).expect("renamed");
}

#[test]
fn every_name_has_its_certificate_on_every_listener() {
    let home = Home::new(2);
    let authority = Authority::new(home.path());
    let names: [&[&str]; 3] = [&[NAME, "mail.example.com"], &["mx.example.net"], &["*.example.org"]];
    let issued: Vec<Issued> =
        names.iter().enumerate().map(|(n, names)| authority.server(&format!("of-{n}"), "ec", names)).collect();
    let settings = certificates(&issued.iter().map(Issued::entry).collect::<Vec<_>>());
    let server = Server::start_at(home, settings.listener("mx", "starttls").listener("mxs", "implicit"));
    let [starttls, implicit] = server.home.smtp[..] else { panic!("two listeners") };
    // The client verifies: it speaks on only if the certificate is for the name.
    let dialect = Dialect::trusting(&authority.cert());
    for (name, of) in [(NAME, 0), ("mail.example.com", 0), ("mx.example.net", 1), ("any.example.org", 2)] {
        for client in [dialect.starttls(starttls, name), dialect.implicit(implicit, name)] {
            assert_eq!(client.certificate(), certificate_in(&issued[of].cert), "{name}");
            client.quit();
        }
    }
}

#[test]
fn a_reload_takes_new_certificates_up_and_loses_no_session() {
    let renewing = Renewing::start();
    let server = &renewing.server;
    let mut open = renewing.dialect.starttls(server.smtp(), NAME);
    open.begin("a@example.org", &["alice@example.com"]);
    let mut greeted = Client::hello(server.smtp());
    let second = renewing.make("second");
    put(&second, &renewing.files);
    server.tell(&["reload"]).ok();
    assert_eq!(renewing.shown(), certificate_in(&second.cert));
    // What was open goes on, in the middle of a message; what had only greeted gets the new one.
    assert_eq!(open.content(&message("open", "session\r\n")).code, 250);
    open.quit();
    greeted.say("NOOP", 250);
    let upgraded = renewing.dialect.upgrade(greeted, NAME);
    assert_eq!(upgraded.certificate(), certificate_in(&second.cert));
    server.maildir("example.com/alice").only();
}

/// Without being told, once the files have come to rest.
#[test]
fn replaced_certificates_are_taken_up_by_themselves() {
    let renewing = Renewing::start();
    let mut open = renewing.dialect.starttls(renewing.server.smtp(), NAME);
    let second = renewing.make("second");
    put(&second, &renewing.files);
    wait_until("the new certificate", || renewing.shown() == certificate_in(&second.cert));
    open.deliver("a@example.org", &["alice@example.com"], &message("open", "session\r\n"));
    open.quit();
}

#[test]
fn broken_certificates_are_refused_and_the_former_ones_stay() {
    let renewing = Renewing::start();
    let (server, files) = (&renewing.server, &renewing.files);
    let first = renewing.shown();
    let third = renewing.make("third");
    // The certificate without its key: as when a renewal is half done, or half failed.
    replace(&third.cert, &files.cert);
    let line = server.wait_for_line(REFUSED, |_| true);
    let reason = line["error"].as_str().expect("a reason");
    assert!(reason.contains(&files.key.display().to_string()) && reason.contains("is not the key of"), "{line}");
    let told = server.tell(&["reload"]);
    assert!(told.status.code() == Some(1) && told.err.contains("is not the key of"), "{}", told.all());
    assert_eq!(renewing.shown(), first);
    // The other half.
    replace(&third.key, &files.key);
    wait_until("the whole pair", || renewing.shown() == certificate_in(&third.cert));
    // No certificate at all.
    fs::write(&files.cert, "-----BEGIN CERTIFICATE-----\nAAAA\n").expect("written");
    let path = files.cert.display().to_string();
    server.wait_for_line(REFUSED, |line| line["error"].as_str().is_some_and(|error| error.starts_with(&path)));
    assert_eq!(renewing.shown(), certificate_in(&third.cert));
    Client::hello(server.smtp()).deliver("a@example.org", &["alice@example.com"], &message("still", "here\r\n"));
}

/// A start that must fail with one line that has these words.
#[track_caller]
fn check_refused(entry: &str, words: &[&str]) {
    let home = Home::new(1);
    let config = home.configure(&certificates(&[entry.to_owned()]));
    let mut command = Command::new(BINARY);
    let finished = run(command.arg("serve").arg("--config").arg(config).current_dir(home.path()), "");
    assert_eq!(finished.status.code(), Some(1), "{}", finished.all());
    assert_eq!(finished.err.lines().count(), 1, "{}", finished.err);
    for word in words {
        assert!(finished.err.contains(word), "no {word:?} in {}", finished.err);
    }
}

#[test]
fn files_that_do_not_go_together_stop_a_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path());
    let [one, two] = ["one", "two"].map(|file| authority.server(file, "ec", &[NAME]));
    let stapled = |ocsp: &Path| one.stapled_entry(ocsp);
    let path = |path: &Path| path.display().to_string();
    let mixed = Issued { cert: one.cert.clone(), key: two.key.clone() };
    check_refused(&mixed.entry(), &[&path(&two.key), "is not the key of", &path(&one.cert)]);
    let swapped = Issued { cert: one.key.clone(), key: one.cert.clone() };
    check_refused(&swapped.entry(), &[&path(&one.key), "holds no certificate"]);
    let gone = folder.path().join("gone.pem");
    check_refused(&Issued { cert: gone.clone(), key: one.key.clone() }.entry(), &[&path(&gone), "can't be read"]);
    for (content, words) in [(&b""[..], "is empty"), (b"-----BEGIN", "is not an OCSP response")] {
        let bad = folder.path().join("bad.ocsp");
        fs::write(&bad, content).expect("written");
        check_refused(&stapled(&bad), &[&path(&bad), words]);
    }
    check_refused(&stapled(&one.cert), &[&path(&one.cert), "is not an OCSP response"]);
    check_refused(&stapled(&gone), &[&path(&gone), "can't be read"]);
}

/// What OpenSSL's client sees of a staple, asked for it as RFC 6066 section 8 has it.
fn status_seen(address: SocketAddr, authority: &Authority) -> String {
    let mut command = Command::new(program("openssl", "openssl"));
    command.args(["s_client", "-starttls", "smtp", "-status", "-servername", NAME, "-verify_hostname", NAME]);
    let verify = ["-connect", &address.to_string(), "-verify_return_error", "-CAfile"];
    run(command.args(verify).arg(authority.cert()), "QUIT\r\n").ok().out
}

#[test]
fn staples_are_shown_and_renewed() {
    let home = Home::new(1);
    let authority = Authority::new(home.path());
    let issued = authority.server("mx", "ec", &[NAME]);
    let staple = home.path().join("staple");
    replace(&authority.staple(&issued, Standing::Good, 2), &staple);
    let server = Server::start_at(home, certificates(&[issued.stapled_entry(&staple)]));
    let seen = status_seen(server.smtp(), &authority);
    assert!(seen.contains("OCSP Response Status: successful") && seen.contains("Cert Status: good"), "{seen}");
    let next = |seen: &str| seen.lines().find(|line| line.contains("Next Update:")).map(str::to_owned);
    let first = next(&seen);
    // A renewed one is taken up by itself.
    replace(&authority.staple(&issued, Standing::Good, 9), &staple);
    wait_until("the renewed staple", || next(&status_seen(server.smtp(), &authority)) != first);
    // One that speaks against the certificate is not shown, and said.
    replace(&authority.staple(&issued, Standing::Revoked, 9), &staple);
    wait_until("no staple", || status_seen(server.smtp(), &authority).contains("OCSP response: no response sent"));
    let file = |line: &serde_json::Value| line["file"].as_str() == staple.to_str() && line["level"] == "warn";
    server.wait_for_line("OCSP response is not stapled", file);
}

/// One for another certificate is no reason not to start.
#[test]
fn a_staple_for_another_certificate_is_left_out() {
    let home = Home::new(1);
    let authority = Authority::new(home.path());
    let [issued, other] = ["mx", "other"].map(|file| authority.server(file, "ec", &[NAME]));
    let staple = authority.staple(&other, Standing::Good, 2);
    let server = Server::start_at(home, certificates(&[issued.stapled_entry(&staple)]));
    let seen = status_seen(server.smtp(), &authority);
    assert!(seen.contains("OCSP response: no response sent"), "{seen}");
    let line = server.wait_for_line("OCSP response is not stapled", |_| true);
    assert_eq!(line["why"], "it is for another certificate");
}

/// A client with a certificate of its own, or with none: it is served, and its certificate told.
#[track_caller]
fn check_client(server: &Server, dialect: &Dialect, shown: Option<(&Issued, bool)>) {
    let mut client = Client::connect(server.smtp());
    let id = session_id(&client.expect(220));
    client.say("EHLO client.example.org", 250);
    let mut client = dialect.upgrade(client, NAME);
    client.deliver("a@example.org", &["alice@example.com"], &message("from", "a client\r\n"));
    client.quit();
    let told = Story::of(server, &id);
    let told: Vec<String> = told.steps("tls").into_iter().map(inputs).collect();
    let Some((issued, verified)) = shown else {
        assert!(!told.concat().contains("sha256="), "{told:?}");
        return;
    };
    let fingerprint = issued.fingerprint();
    let line = server.wait_for_line("client certificate", |line| line["session"] == id.as_str());
    assert_eq!((&line["fingerprint"], &line["verified"]), (&fingerprint.as_str().into(), &verified.into()), "{line}");
    assert_eq!((&line["peer"], &line["level"]), (&"127.0.0.1".into(), &"info".into()), "{line}");
    let wanted = format!("sha256={fingerprint} verified={}", u8::from(verified));
    assert!(told.iter().any(|step| step.ends_with(&wanted)), "no {wanted} in {told:?}");
}

#[test]
fn clients_certificates_are_told_and_refuse_nobody() {
    let home = Home::new(1);
    let authority = Authority::new(home.path());
    let server_side = authority.server("mx", "ec", &[NAME]);
    let ours = authority.client("relay");
    // From nobody we know, and for a server: both are no more than not verified.
    let (cert, key) = make_certificate(home.path(), "stranger", "rsa:2048", &["stranger.example"]);
    let stranger = Issued { cert, key };
    let line = format!("client_ca = \"{}\"", authority.cert().display());
    let settings = certificates(&[server_side.entry()]).set("tls", "client_certificates = \"ask\"").set("tls", &line);
    let mut server = Server::start_at(home, settings);
    let dialect = Dialect::trusting(&authority.cert());
    check_client(&server, &dialect, None);
    check_client(&server, &dialect.clone().showing(&ours), Some((&ours, true)));
    check_client(&server, &dialect.clone().showing(&stranger), Some((&stranger, false)));
    check_client(&server, &dialect.clone().showing(&server_side), Some((&server_side, false)));
    let line = server.wait_for_line("client certificate", |line| line["verified"] == true);
    assert_eq!(line["subject"], "relay.example.org");
    let metrics = server.metrics();
    for (verified, count) in [("yes", 1), ("no", 2)] {
        let label = format!("verified=\"{verified}\"");
        assert_eq!(metrics.sum("ringpost_tls_client_certificates_total", &label), count, "{verified}");
    }
    server.maildir("example.com/alice").wait_for(4);
    // Not asked, clients show none.
    server.reconfigure(|settings| settings.set("tls", "client_certificates = \"off\"").set("tls", "client_ca = \"\""));
    server.tell(&["reload"]).ok();
    check_client(&server, &dialect.showing(&ours), None);
}
