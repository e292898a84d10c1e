//! TLS: wanted, offered, refused, broken.

use super::certificate::{NAME, pem};
use super::shard::{Act, Message, hasty, patient, times};
use super::{GREETING, MESSAGE, greeting};
use ringpost_config::{HopOptions, HopTls};

/// One server that gets these connections.
fn check(options: HopOptions, scripts: &[&str], acts: Vec<Act>, want: &str) {
    super::check(options, &[scripts], acts, &[want]);
}

fn with(tls: HopTls) -> HopOptions {
    HopOptions { tls, ..patient() }
}

/// Up to the answer to STARTTLS.
fn offered() -> String {
    format!("{}C STARTTLS\n", greeting(&["STARTTLS"]))
}

/// Up to where a message can be sent, over TLS.
fn secured(extension: &str) -> String {
    format!("{}S 220 go on\nTLS\nC EHLO mx.example.org\nS 250-mx.example.net\nS 250 {extension}\n", offered())
}

#[test]
fn tls_is_used_where_it_is_offered() {
    let (secure, clear) = (format!("{}{MESSAGE}", secured("HELP")), format!("{GREETING}{MESSAGE}"));
    check(with(HopTls::Opportunistic), &[&secure], times(1), "relayed");
    check(with(HopTls::Required), &[&secure], times(1), "relayed");
    check(with(HopTls::Opportunistic), &[&clear], times(1), "relayed");
    let offered = format!("{}{MESSAGE}", greeting(&["STARTTLS"]));
    check(with(HopTls::Off), &[&offered], times(1), "relayed");
}

#[test]
fn a_secure_connection_is_used_again() {
    let script = format!("{}{MESSAGE}{MESSAGE}", secured("HELP"));
    super::check(with(HopTls::Required), &[&[&script]], times(2), &["relayed"; 2]);
}

#[test]
fn required_tls_that_is_not_there() {
    let refused = format!("{}S 454 4.7.0 not now\nC QUIT", offered());
    let not_offered = format!("{GREETING}C QUIT");
    for tls in [HopTls::Required, HopTls::Verified] {
        check(
            with(tls),
            &[&refused],
            times(1),
            "deferred 454 4.7.4 TLS is required, and the server refuses it: not now; hop failed",
        );
        check(with(tls), &[&not_offered], times(1), "deferred 4.7.4; hop failed");
    }
}

#[test]
fn opportunistic_tls_that_fails_is_gone_without() {
    let taken = format!("{GREETING}{MESSAGE}");
    let junk = format!("{}S 220 go on\nJUNK", offered());
    let silent = format!("{}S 220 go on\nHANG", offered());
    // STARTTLS is offered the second time too, and not used.
    let again = format!("{}{MESSAGE}", greeting(&["STARTTLS"]));
    check(with(HopTls::Opportunistic), &[&junk, &taken], times(1), "relayed");
    check(with(HopTls::Opportunistic), &[&junk, &again], times(1), "relayed");
    let connect_timeout = hasty().command_timeout;
    check(HopOptions { connect_timeout, ..with(HopTls::Opportunistic) }, &[&silent, &again], times(1), "relayed");
    // A refusal leaves the connection as it is.
    let refused = format!("{}S 454 4.7.0 not now\n{MESSAGE}", offered());
    check(with(HopTls::Opportunistic), &[&refused], times(1), "relayed");
    check(with(HopTls::Required), &[&junk], times(1), "deferred 4.7.5; hop failed");
}

#[test]
fn starttls_injection_is_no_session() {
    let script = format!("{}S 220 go on\nS 250 injected\nHANG", offered());
    // Whether it comes with the 220 or a moment later, it is nothing that TLS could begin with.
    let (came, _) = super::meet(with(HopTls::Required), &[&[&script]], times(1));
    let want = ["deferred 4.7.0; hop failed", "deferred 4.7.5; hop failed"];
    assert!(want.contains(&&*came.deliveries[0]), "{:?}", came.deliveries);
}

#[test]
fn certificates_are_verified_where_that_is_asked_for() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, pem()).expect("written");
    let ca = Some(path.to_str().expect("text").to_owned());
    let verified = HopOptions { tls_ca: ca, ..with(HopTls::Verified) };
    let right = HopOptions { tls_name: Some(NAME.into()), ..verified.clone() };
    check(right.clone(), &[&format!("{}{MESSAGE}", secured("HELP"))], times(1), "relayed");
    // The client gives up the handshake, so the server's comes to nothing.
    let handshake = format!("{}S 220 go on\nHANG", offered());
    let wrong = HopOptions { tls_name: Some("other.example.net".into()), ..verified };
    let hello_only = HopOptions { connect_timeout: hasty().command_timeout, ..wrong };
    check(hello_only, &[&handshake], times(1), "deferred 4.7.5; hop failed");
}

#[test]
fn a_message_that_requires_tls() {
    let message =
        || vec![Act::Deliver(Message { envelope: |envelope| envelope.require_tls = true, ..Message::default() })];
    // On this machine there is no network to be afraid of.
    check(with(HopTls::Opportunistic), &[&format!("{GREETING}{MESSAGE}")], message(), "relayed");
    // But TLS that does not work is not gone without.
    let junk = format!("{}S 220 go on\nJUNK", offered());
    check(with(HopTls::Opportunistic), &[&junk], message(), "deferred 4.7.5; hop failed");
}
