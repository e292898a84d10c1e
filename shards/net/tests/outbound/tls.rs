//! The same with TLS: who is believed, and what happens where it goes wrong.

use crate::world::{Authority, Identity, PATIENCE, Peer, SHORT, on_shard, secure, server};
use crate::{body, read_all};
use ringpost_net::{Awaited, ClientTls, ClientTlsOptions, Outbound, OutboundError, TlsFacts, self_signed};
use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::time::Duration;

const NAME: &str = "mx.example.org";

/// A year that is far enough away, within what a certificate's short form of a date can say.
const LATER: i32 = 2049;

fn by_itself() -> Identity {
    let pem = self_signed(NAME).expect("certificate");
    Identity { certificate: pem.certificate, key: pem.key }
}

fn verifying(ca: &str) -> ClientTlsOptions {
    ClientTlsOptions { verify: true, ca: Some(ca.into()), identity: None }
}

/// Shakes hands with a server that has a certificate, asking for a name, and is greeted by it.
fn shake(identity: &Identity, options: &ClientTlsOptions, name: &str) -> Result<TlsFacts, OutboundError> {
    let config = server(identity, None);
    let peer = Peer::start(1, move |socket| {
        // A client that does not like the certificate goes away.
        let _ = secure(&config, socket).write_all(b"220 hello\r\n");
    });
    let (endpoint, options, name) = (peer.endpoint(), options.clone(), name.to_owned());
    let shaken = on_shard(move || async move {
        let tls = ClientTls::new(&options).expect("set up");
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        let facts = outbound.start_tls(&name, &tls, PATIENCE).await?;
        assert!(outbound.is_secure());
        assert_eq!(read_all(&mut outbound, 3).await, b"220 hello\r\n");
        Ok(facts)
    });
    peer.done();
    shaken
}

fn check_taken(identity: &Identity, options: &ClientTlsOptions, name: &str) {
    let facts = shake(identity, options, name).expect("shaken");
    let want =
        TlsFacts { version: "TLSv1.3", cipher: "TLS13_AES_256_GCM_SHA384", verified: options.verify, resumed: false };
    assert_eq!(facts, want, "{name}");
}

fn check_refused(identity: &Identity, options: &ClientTlsOptions, name: &str, want: &str) {
    let error = shake(identity, options, name).expect_err("refused");
    assert!(matches!(error, OutboundError::Tls { .. }) && error.is_of_tls(), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("TLS with 127.0.0.1:") && text.contains(want), "{text}");
}

#[test]
fn certificates_that_are_right() {
    let authority = Authority::new("right");
    let trusting = verifying(&authority.pem);
    check_taken(&authority.issue(NAME, LATER), &trusting, NAME);
    check_taken(&authority.issue(NAME, LATER), &trusting, "MX.example.org.");
    check_taken(&authority.issue("*.example.org", LATER), &trusting, NAME);
    check_taken(&authority.issue("127.0.0.1", LATER), &trusting, "127.0.0.1");
    let alone = by_itself();
    check_taken(&alone, &verifying(&alone.certificate), NAME);
    let both = verifying(&format!("{}{}", Authority::new("other").pem, authority.pem));
    check_taken(&authority.issue(NAME, LATER), &both, NAME);
}

#[test]
fn certificates_that_are_wrong() {
    let authority = Authority::new("right");
    let trusting = verifying(&authority.pem);
    let stranger = Authority::new("stranger").issue(NAME, LATER);
    check_refused(&stranger, &trusting, NAME, "from an authority that is not trusted here (set tls_ca");
    check_refused(&by_itself(), &trusting, NAME, "from an authority that is not trusted here (set tls_ca");
    let of_other = authority.issue("mx.example.com", LATER);
    let want = "not for mx.example.org, but for mx.example.com (set tls_name";
    check_refused(&of_other, &trusting, NAME, want);
    check_refused(&authority.issue(NAME, LATER), &trusting, "127.0.0.1", "not for 127.0.0.1");
    check_refused(&authority.issue(NAME, 2001), &trusting, NAME, "has expired");
    check_refused(&authority.issue(NAME, LATER), &trusting, "no name", "neither a host name nor an address");
}

#[test]
fn whoever_answers_is_believed() {
    let authority = Authority::new("any");
    let believing = ClientTlsOptions::default();
    check_taken(&by_itself(), &believing, NAME);
    check_taken(&by_itself(), &believing, "elsewhere.example.com");
    check_taken(&authority.issue(NAME, 2001), &believing, NAME);
}

#[test]
fn authorities_of_the_system() {
    let options = ClientTlsOptions { verify: true, ca: None, identity: None };
    match ClientTls::new(&options) {
        Ok(_) => check_refused(&by_itself(), &options, NAME, "from an authority that is not trusted here"),
        Err(error) => assert!(error.to_string().contains("install its package ca-certificates"), "{error}"),
    }
}

#[test]
fn what_can_not_be_set_up() {
    let (one, other) = (by_itself(), by_itself());
    let mixed = Identity { key: other.key, ..one.clone() };
    let of = |identity: Identity| ClientTlsOptions { identity: Some(identity.as_client()), ..Default::default() };
    for (options, want) in [
        (verifying(""), "the file of authorities (tls_ca) holds no certificate"),
        (verifying("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "certificate 1 in tls_ca"),
        (of(mixed), "tls_cert and tls_key do not go together"),
        (of(Identity { key: String::new(), ..one.clone() }), "our key (tls_key) can't be read"),
        (of(Identity { certificate: String::new(), ..one.clone() }), "our certificate (tls_cert) holds no certificate"),
    ] {
        let error = ClientTls::new(&options).expect_err("refused").to_string();
        assert!(error.contains(want), "{error}");
        assert!(!format!("{options:?}").contains("PRIVATE KEY"), "a key is in no log");
    }
}

#[test]
fn what_we_show_of_ourselves() {
    let authority = Authority::new("of clients");
    let ours = authority.issue("client.example.org", LATER);
    for (identity, want) in [(Some(ours.as_client()), true), (None, false)] {
        let config = server(&by_itself(), Some(&authority.pem));
        let peer = Peer::start(1, move |socket| {
            let written = secure(&config, socket).write_all(b"220 hello\r\n");
            assert_eq!(written.is_ok(), want, "{written:?}");
        });
        let endpoint = peer.endpoint();
        let greeted = on_shard(move || async move {
            let tls = ClientTls::new(&ClientTlsOptions { identity, ..Default::default() }).expect("set up");
            let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
            // In TLS 1.3 the client is done before the server has looked at what it shows.
            outbound.start_tls(NAME, &tls, PATIENCE).await.expect("shaken");
            let read = outbound.read(&mut Vec::new(), 100, PATIENCE).await;
            read.inspect_err(|error| assert!(error.to_string().contains("CertificateRequired"), "{error}")).is_ok()
        });
        assert_eq!(greeted, want);
        peer.done();
    }
}

#[test]
fn the_second_session_resumes_the_first() {
    let config = server(&by_itself(), None);
    let peer = Peer::start(2, move |socket| secure(&config, socket).write_all(b"220 hello\r\n").expect("said"));
    let endpoint = peer.endpoint();
    let resumed = on_shard(move || async move {
        let tls = ClientTls::new(&ClientTlsOptions::default()).expect("set up");
        let mut resumed = Vec::new();
        for _ in 0..2 {
            let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
            resumed.push(outbound.start_tls(NAME, &tls, PATIENCE).await.expect("shaken").resumed);
            read_all(&mut outbound, 100).await;
        }
        resumed
    });
    assert_eq!(resumed, [false, true]);
    peer.done();
}

#[test]
fn clear_bytes_before_the_handshake_stay_outside() {
    let config = server(&by_itself(), None);
    let peer = Peer::start(1, move |mut socket| {
        socket.write_all(b"220 go\r\n250 injected\r\n").expect("said");
        secure(&config, socket).write_all(b"250 real\r\n").expect("said");
    });
    let endpoint = peer.endpoint();
    let (clear, secret) = on_shard(move || async move {
        let tls = ClientTls::new(&ClientTlsOptions::default()).expect("set up");
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        let mut clear = Vec::new();
        while clear.len() < 22 {
            outbound.read(&mut clear, 22, PATIENCE).await.expect("read");
        }
        outbound.start_tls(NAME, &tls, PATIENCE).await.expect("shaken");
        (clear, read_all(&mut outbound, 100).await)
    });
    assert_eq!((&clear[..], &secret[..]), (&b"220 go\r\n250 injected\r\n"[..], &b"250 real\r\n"[..]));
    peer.done();
}

/// Checks what comes of a handshake with a server that says something else, or nothing.
fn check_broken(said: Option<&'static [u8]>, want: &str) {
    let (sender, done) = channel::<()>();
    let peer = Peer::start(1, move |mut socket| {
        // All of the hello is read, so that the closing is no reset.
        assert!(socket.read(&mut [0; 4096]).expect("hello") > 0);
        match said {
            Some(said) => socket.write_all(said).expect("said"),
            None => assert!(done.recv().is_err()),
        }
    });
    let endpoint = peer.endpoint();
    let error = on_shard(move || async move {
        let tls = ClientTls::new(&ClientTlsOptions::default()).expect("set up");
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        let timeout = if said.is_some() { PATIENCE } else { SHORT };
        outbound.start_tls(NAME, &tls, timeout).await.expect_err("broken")
    });
    assert!(error.is_of_tls() && error.to_string().contains(want), "{error}");
    assert_eq!(matches!(error, OutboundError::Timeout { awaited: Awaited::Handshake, .. }), said.is_none());
    drop(sender);
    peer.done();
}

#[test]
fn handshakes_that_break() {
    check_broken(Some(b"454 TLS not available\r\n"), "received corrupt message");
    check_broken(Some(b""), "the server closed the connection in the handshake");
    // A server with which nothing is in common: the alert handshake_failure.
    check_broken(Some(&[21, 3, 3, 0, 2, 2, 40]), "HandshakeFailure");
    check_broken(None, "did not finish a TLS handshake within 200ms");
}

#[test]
fn a_large_body_arrives_as_it_was_sent_and_is_answered() {
    const SIZE: usize = 50 << 20;
    let config = server(&by_itself(), None);
    let peer = Peer::start(1, move |socket| {
        let mut stream = secure(&config, socket);
        let mut got = vec![0; SIZE];
        stream.read_exact(&mut got).expect("read");
        assert!(got == body(SIZE), "other bytes");
        stream.write_all(&body(1 << 20)).expect("answered");
        stream.conn.send_close_notify();
        stream.flush().expect("closed");
    });
    let endpoint = peer.endpoint();
    let answer = on_shard(move || async move {
        let tls = ClientTls::new(&ClientTlsOptions::default()).expect("set up");
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        outbound.start_tls(NAME, &tls, PATIENCE).await.expect("shaken");
        outbound.write_all(&body(SIZE), PATIENCE).await.expect("sent");
        read_all(&mut outbound, 1000).await
    });
    assert!(answer == body(1 << 20), "{} bytes, or others", answer.len());
    peer.done();
}

#[test]
fn a_peer_that_does_not_read_is_not_waited_for() {
    let config = server(&by_itself(), None);
    let (sender, done) = channel::<()>();
    let peer = Peer::start(1, move |socket| {
        let mut stream = secure(&config, socket);
        stream.write_all(b"x").expect("said");
        assert!(done.recv().is_err());
    });
    let endpoint = peer.endpoint();
    on_shard(move || async move {
        let tls = ClientTls::new(&ClientTlsOptions::default()).expect("set up");
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        outbound.start_tls(NAME, &tls, PATIENCE).await.expect("shaken");
        let error = outbound.write_all(&body(32 << 20), SHORT).await.expect_err("too late");
        assert!(matches!(error, OutboundError::Timeout { awaited: Awaited::Room, .. }), "{error:?}");
        drop(sender);
    });
    peer.done();
}

#[test]
fn an_idle_session_with_something_unread_is_not_used_again() {
    let config = server(&by_itself(), None);
    let (sender, done) = channel::<()>();
    let peer = Peer::start(1, move |socket| {
        let mut stream = secure(&config, socket);
        stream.write_all(b"250 ok\r\n421 closing\r\n").expect("said");
        assert!(done.recv().is_err());
    });
    let endpoint = peer.endpoint();
    on_shard(move || async move {
        let tls = ClientTls::new(&ClientTlsOptions::default()).expect("set up");
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        outbound.start_tls(NAME, &tls, PATIENCE).await.expect("shaken");
        let mut said = Vec::new();
        assert_eq!(outbound.read(&mut said, 8, PATIENCE).await.expect("read"), 8);
        assert!(!outbound.is_alive(), "TLS holds what the socket no longer does");
        assert_eq!(outbound.read(&mut said, 100, Duration::from_secs(1)).await.expect("read"), 13);
        assert!(outbound.is_alive());
        drop(sender);
    });
    peer.done();
}
