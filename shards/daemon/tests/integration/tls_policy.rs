//! Who has to use TLS, and what TLS there is: listeners, domains, versions, ciphers, groups.

use crate::support::authority::Authority;
use crate::support::presented::{Story, inputs};
use crate::support::programs::{program, run};
use crate::support::secure::Dialect;
use crate::support::server::{BINARY, Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::{Client, session_id};
use crate::support::text::message;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;

const NAME: &str = "mx.example.com";

/// A home with a certificate of each kind of key, and the settings for them.
fn certified() -> (Home, Authority, Settings) {
    certified_for(1)
}

fn certified_for(listeners: usize) -> (Home, Authority, Settings) {
    let home = Home::new(listeners);
    let authority = Authority::new(home.path());
    let entries = ["ec", "rsa:2048"].map(|kind| authority.server(&kind.replace(':', "-"), kind, &[NAME]).entry());
    let settings = Settings::default().set("tls", &format!("certificates = [{}]", entries.join(", ")));
    (home, authority, settings)
}

/// Whether a client that has greeted is offered STARTTLS.
fn offers_starttls<S: Read + Write>(client: &mut Client<S>) -> bool {
    client.say("EHLO client.example.org", 250).lines.iter().any(|line| line.ends_with("STARTTLS"))
}

/// MAIL, RCPT and DATA are refused for want of TLS, and nothing else is.
#[track_caller]
fn check_required(address: SocketAddr) -> Client {
    let mut client = Client::hello(address);
    for command in ["MAIL FROM:<a@example.org>", "RCPT TO:<alice@example.com>", "DATA", "MAIL FROM:<> SIZE=1"] {
        client.refused(command, 530, "5.7.0");
    }
    client.say("NOOP", 250);
    client
}

#[test]
fn every_listener_has_its_own_policy() {
    let (home, authority, settings) = certified_for(4);
    let settings = ["off", "starttls", "starttls-required", "implicit"]
        .into_iter()
        .fold(settings, |settings, tls| settings.listener(tls, tls));
    let server = Server::start_at(home, settings);
    let [off, starttls, required, implicit] = server.home.smtp[..] else { panic!("four listeners") };
    let dialect = Dialect::trusting(&authority.cert());
    // In the clear.
    for (address, offered) in [(off, false), (starttls, true)] {
        let mut client = Client::hello(address);
        assert_eq!(offers_starttls(&mut client), offered, "{address}");
        client.deliver("a@example.org", &["alice@example.com"], &message("clear", "text\r\n"));
    }
    let mut client = Client::hello(off);
    client.refused("STARTTLS", 502, "5.5.1");
    let mut refused = check_required(required);
    assert!(offers_starttls(&mut refused));
    // Inside TLS; the same session may go on to what was refused.
    let inside = [dialect.starttls(starttls, NAME), dialect.upgrade(refused, NAME), dialect.implicit(implicit, NAME)];
    for mut client in inside {
        assert!(!offers_starttls(&mut client), "offered inside TLS");
        client.refused("STARTTLS", 503, "5.5.1");
        client.deliver("a@example.org", &["alice@example.com"], &message("secure", "text\r\n"));
    }
    let delivered = server.maildir("example.com/alice").wait_for(5);
    let secure = delivered.iter().filter(|message| message.trace().contains("with ESMTPS\r\n\t(version=TLSv1.3 "));
    assert_eq!(secure.count(), 3);
}

/// `tls.required`: on every listener, whatever it says itself.
#[test]
fn tls_can_be_required_of_everybody() {
    let (home, authority, settings) = certified_for(3);
    let settings = settings.set("tls", "required = true").listener("mx", "starttls").listener("mxs", "implicit");
    let settings = settings.listener("lmtp", "starttls").listener_line("kind = \"lmtp\"");
    let server = Server::start_at(home, settings);
    let [mx, implicit, lmtp] = server.home.smtp[..] else { panic!("three listeners") };
    let dialect = Dialect::trusting(&authority.cert());
    let refused = check_required(mx);
    for mut client in [dialect.upgrade(refused, NAME), dialect.implicit(implicit, NAME)] {
        client.deliver("a@example.org", &["alice@example.com"], &message("required", "of all\r\n"));
    }
    let mut client = Client::connect(lmtp);
    client.expect(220);
    client.say("LHLO mailstore.example.com", 250);
    client.refused("MAIL FROM:<a@example.org>", 530, "5.7.0");
    server.maildir("example.com/alice").wait_for(2);
    // A listener without TLS would take no mail then: that is a mistake, and told as one.
    let home = Home::new(1);
    let config = home.configure(&Settings::default().set("tls", "required = true").listener("mx", "off"));
    let finished = run(Command::new(BINARY).arg("check").arg("--config").arg(config), "");
    assert!(finished.status.code() == Some(1) && finished.err.contains("tls.required"), "{}", finished.all());
}

/// `tls_required` of a domain: its recipients are refused in the clear, those of others are not.
#[test]
fn tls_can_be_required_for_a_domain() {
    let (home, authority, settings) = certified();
    let settings = settings
        .domain("example.com", "[\"alice\"]", "mail/{domain}/{local}")
        .domain("secret.example", "[\"bob\"]", "mail/{domain}/{local}")
        .domain_line("tls_required = true");
    let server = Server::start_at(home, settings);
    let mut client = Client::connect(server.smtp());
    let id = session_id(&client.expect(220));
    client.say("EHLO client.example.org", 250);
    client.say("MAIL FROM:<a@example.org>", 250);
    // Before it is told who exists.
    for to in ["bob", "nobody", "postmaster"] {
        client.refused(&format!("RCPT TO:<{to}@Secret.Example>"), 530, "5.7.0");
    }
    client.say("RCPT TO:<alice@example.com>", 250);
    client.say("DATA", 354);
    assert_eq!(client.content(&message("clear", "for others\r\n")).code, 250);
    server.maildir("example.com/alice").only();
    let told = Story::of(&server, &id);
    assert_eq!(told.steps("rcpt")[0]["rule"], "domain[secret.example].tls_required");
    let mut client = Dialect::trusting(&authority.cert()).upgrade(client, NAME);
    client.deliver("a@example.org", &["bob@secret.example"], &message("secret", "in TLS\r\n"));
    server.maildir("secret.example/bob").only();
}

/// OpenSSL's client: whether a handshake with these arguments succeeds, and what it says of it.
fn openssl(to: SocketAddr, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(program("openssl", "openssl"));
    command.args(["s_client", "-starttls", "smtp", "-connect", &to.to_string(), "-brief"]);
    let finished = run(command.args(arguments), "QUIT\r\n");
    (finished.status.success(), finished.all())
}

/// The ciphers that OpenSSL has for TLS 1.2 and before, by its own names.
fn all_ciphers() -> BTreeSet<String> {
    let mut command = Command::new(program("openssl", "openssl"));
    let listed = run(command.args(["ciphers", "-v", "ALL:COMPLEMENTOFALL:eNULL:@SECLEVEL=0"]), "").ok().out;
    let names = listed.lines().filter(|line| !line.contains("TLSv1.3"));
    names.map(|line| line.split(' ').next().expect("a name").to_owned()).collect()
}

/// The suites of TLS 1.2 with ephemeral keys and authenticated encryption, and no other.
#[test]
fn only_ephemeral_and_authenticated_ciphers_are_spoken() {
    let (home, _, settings) = certified();
    let server = Server::start_at(home, settings);
    let mut rest = all_ciphers();
    for of in ["ECDSA", "RSA"] {
        for cipher in ["AES256-GCM-SHA384", "AES128-GCM-SHA256", "CHACHA20-POLY1305"] {
            let cipher = format!("ECDHE-{of}-{cipher}");
            let (ok, said) = openssl(server.smtp(), &["-tls1_2", "-cipher", &cipher]);
            assert!(ok && said.contains(&format!("Ciphersuite: {cipher}\n")), "{cipher}: {said}");
            assert!(rest.remove(&cipher), "{cipher} is none of OpenSSL's");
        }
    }
    // By kind, so that a failure names one, and then everything together: a handshake takes any that both have.
    for kind in ["kRSA", "kDHE", "aNULL", "eNULL", "SHA1", "SHA256", "SHA384"] {
        let of_kind = format!("{kind}:!AESGCM:!CHACHA20:@SECLEVEL=0");
        let (ok, said) = openssl(server.smtp(), &["-tls1_2", "-cipher", &of_kind]);
        assert!(!ok && said.contains("alert handshake failure"), "{kind}: {said}");
    }
    assert!(rest.len() > 50 && rest.contains("AES128-GCM-SHA256") && rest.contains("DHE-RSA-AES256-GCM-SHA384"));
    let rest: Vec<String> = rest.into_iter().collect();
    let (ok, said) = openssl(server.smtp(), &["-tls1_2", "-cipher", &format!("{}:@SECLEVEL=0", rest.join(":"))]);
    assert!(!ok && said.contains("alert handshake failure"), "{said}");
    for old in ["-tls1", "-tls1_1"] {
        let (ok, said) = openssl(server.smtp(), &[old, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(!ok && said.contains("SSL alert number"), "{old}: {said}");
    }
}

/// `min_strength = 256` leaves AES-128 out, in both versions.
#[test]
fn weak_ciphers_can_be_left_out() {
    let (home, _, settings) = certified();
    let server = Server::start_at(home, settings.set("tls", "min_strength = 256"));
    let address = server.smtp();
    for cipher in ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"] {
        let (ok, said) = openssl(address, &["-tls1_2", "-cipher", cipher]);
        assert!(ok && said.contains(cipher), "{said}");
    }
    for suite in ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let (ok, said) = openssl(address, &["-tls1_3", "-ciphersuites", suite]);
        assert!(ok && said.contains(suite), "{said}");
    }
    for weak in [
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
    ] {
        let (ok, said) = openssl(address, weak);
        assert!(!ok && said.contains("alert handshake failure"), "{weak:?}: {said}");
    }
}

/// `min_version = "1.3"`, where TLS comes first too.
#[test]
fn a_least_version_holds_on_every_listener() {
    let (home, authority, settings) = certified_for(2);
    let settings = settings.set("tls", "min_version = \"1.3\"").listener("mx", "starttls").listener("mxs", "implicit");
    let server = Server::start_at(home, settings);
    let [starttls, implicit] = server.home.smtp[..] else { panic!("two listeners") };
    let (ok, said) = openssl(starttls, &["-tls1_2"]);
    assert!(!ok && said.contains("alert protocol version"), "{said}");
    let mut command = Command::new(program("openssl", "openssl"));
    let finished = run(command.args(["s_client", "-tls1_2", "-connect", &implicit.to_string()]), "");
    assert!(!finished.status.success() && finished.all().contains("alert protocol version"), "{}", finished.all());
    let dialect = Dialect::trusting(&authority.cert());
    dialect.starttls(starttls, NAME).quit();
    dialect.implicit(implicit, NAME).quit();
}

/// The key exchange that a client offers and the one that comes of it, as `explain` tells it too.
#[track_caller]
fn check_group(server: &Server, dialect: &Dialect, offered: &[&'static dyn SupportedKxGroup], agreed: &str) {
    let mut client = Client::connect(server.smtp());
    let id = session_id(&client.expect(220));
    client.say("EHLO client.example.org", 250);
    let client = dialect.clone().groups(offered).upgrade(client, NAME);
    assert_eq!(client.group(), agreed);
    client.quit();
    let told = inputs(Story::of(server, &id).last("tls"));
    assert!(told.contains(&format!(" group={agreed} ")), "{told}");
}

#[test]
fn key_exchange_is_safe_from_quantum_computers_unless_configured_otherwise() {
    let (home, authority, settings) = certified();
    let dialect = Dialect::trusting(&authority.cert());
    let mut server = Server::start_at(home, settings);
    let modern: &[&'static dyn SupportedKxGroup] = &[kx_group::X25519MLKEM768, kx_group::X25519];
    check_group(&server, &dialect, modern, "X25519MLKEM768");
    check_group(&server, &dialect, &[kx_group::X25519], "X25519");
    check_group(&server, &dialect, &[kx_group::SECP256R1], "secp256r1");
    check_group(&server, &dialect, &[kx_group::SECP384R1], "secp384r1");
    server.reconfigure(|settings| settings.set("tls", "post_quantum = false"));
    server.tell(&["reload"]).ok();
    check_group(&server, &dialect, modern, "X25519");
}
