//! Webhooks over TLS: whom we believe, and what we show.

use super::certificates::{Authority, Pair};
use super::server::{Server, say};
use super::shard::{Given, deliver, options};
use ringpost_config::{Certificate, WebhookOptions};

/// Delivers to a server with a certificate, and perhaps shows one.
fn delivered(server: &Pair, clients: Option<&Authority>, trusted: &Authority, shown: Option<&Pair>) -> String {
    let server = Server::start_tls(&[say("200 OK", "")], server.server(clients));
    let (ca, files) = (trusted.file(), shown.map(Pair::files));
    let certificate = files.as_ref().map(|(cert, key)| Certificate { cert: cert.name(), key: key.name(), ocsp: None });
    let url = format!("https://localhost:{}/mail", server.address.port());
    let given = Given { require_tls: true, ..Given::default() };
    let got = deliver(WebhookOptions { url, ca: Some(ca.name()), certificate, ..options(&server) }, vec![given]);
    let delivered = got[0] == "0 delivered";
    assert_eq!(server.stop().len(), usize::from(delivered), "{got:?}");
    got[0].clone()
}

#[track_caller]
fn check_refused(got: &str, why: &str) {
    assert!(got.starts_with("0 deferred 4.7.5 localhost:") && got.ends_with("; hop failed"), "{got}");
    assert!(got.contains(why), "{got} says {why}");
}

#[test]
fn servers_have_to_be_who_they_say() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    assert_eq!(delivered(&ours.signs("localhost"), None, &ours, None), "0 delivered");
    check_refused(&delivered(&other.signs("localhost"), None, &ours, None), "UnknownIssuer");
    check_refused(&delivered(&ours.signs("elsewhere.example"), None, &ours, None), "not valid for name");
}

#[test]
fn clients_show_what_they_have() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("another"));
    let server = ours.signs("localhost");
    let (right, wrong) = (theirs.signs("mx.example.org"), ours.signs("mx.example.org"));
    assert_eq!(delivered(&server, Some(&theirs), &ours, Some(&right)), "0 delivered");
    check_refused(&delivered(&server, Some(&theirs), &ours, Some(&wrong)), "received fatal alert");
    check_refused(&delivered(&server, Some(&theirs), &ours, None), "received fatal alert");
}
