//! What can go wrong: with the server, the way to it, the message, and ourselves.

use super::files::File;
use super::server::{Answer, Server, say};
use super::shard::{Content, Given, deliver, on_shard, options, told};
use crate::webhook::check;
use ringpost_base::Span;
use ringpost_config::{Certificate, WebhookFormat, WebhookOptions};
use ringpost_runtime::after;
use std::time::Duration;

const FORMATS: [WebhookFormat; 2] = [WebhookFormat::Json, WebhookFormat::Multipart];

fn long() -> Given {
    // More than the buffers of a connection take.
    Given { content: Content::Memory(vec![b'x'; 16 << 20]), ..Given::default() }
}

/// Delivers to a server that fails in some way.
#[track_caller]
fn check_fails(answer: Answer, given: Given, timeout: Span, wants: &[&str]) {
    let server = Server::start(&[answer]);
    let got = deliver(WebhookOptions { timeout, ..options(&server) }, vec![given]);
    let prefix = format!("0 deferred {} ", wants[0]);
    assert!(got[0].starts_with(&prefix) && got[0].ends_with("; hop failed"), "{got:?} is {wants:?}");
    assert!(wants.iter().all(|want| got[0].contains(want)), "{got:?} has {wants:?}");
    server.stop();
}

#[test]
fn servers_that_do_not_work() {
    let patient = Span::seconds(20);
    check_fails(Answer::Close, Given::default(), patient, &["4.4.2"]);
    check_fails(Answer::Say("220 mx.example.net ESMTP\r\n".into()), Given::default(), patient, &["4.4.2"]);
    check_fails(Answer::Hang, Given::default(), Span::millis(300), &["4.4.2", "no answer within 300ms"]);
}

#[test]
fn nobody_listens() {
    let server = Server::start(&[]);
    let options = options(&server);
    let address = server.address;
    server.stop();
    let got = deliver(options, vec![Given::default()]);
    assert!(got[0].starts_with(&format!("0 deferred 4.4.1 {address}: ")), "{got:?}");
    assert!(got[0].contains("refused") && got[0].ends_with("; hop failed"), "{got:?}");
}

/// It can't know what it says it has.
#[test]
fn thanks_before_the_message_was_sent_are_no_delivery() {
    let early = |status: &str| Answer::SayEarly(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    for status in ["200 OK", "207 x"] {
        check_fails(early(status), long(), Span::seconds(20), &["4.3.0", "before it was sent"]);
    }
}

/// A refusal needs no whole message.
#[test]
fn a_refusal_may_come_early() {
    let text = "HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n";
    let server = Server::start(&[Answer::SayEarly(text.into())]);
    assert_eq!(deliver(options(&server), vec![long()]), ["0 failed 5.3.4 HTTP 413 Payload Too Large"]);
    server.stop();
}

/// Damages a message in a file, and gives what became of the delivery and what came of the message.
fn damaged(format: WebhookFormat, secret: Option<&File>, damage: impl FnOnce(&File)) -> (String, Vec<bool>) {
    let server = Server::start(&[say("200 OK", "")]);
    let file = File::new(&vec![b'x'; 1 << 20]);
    damage(&file);
    let secret_file = secret.map(File::name);
    let given = Given { content: file.content(), ..Given::default() };
    let got = deliver(WebhookOptions { format, secret_file, ..options(&server) }, vec![given]);
    (got[0].clone(), server.stop().iter().map(|request| request.complete).collect())
}

#[test]
fn damaged_messages_are_not_sent_to_their_end() {
    let mut altered = vec![b'x'; 1 << 20];
    altered[700_000] = b'y';
    let damages: [&dyn Fn(&File); 3] =
        [&|file| file.becomes(&altered), &|file| file.becomes(&altered[..600_000]), &|file| file.goes()];
    let want = "0 deferred 4.3.0 the message can't be read from the spool";
    for format in FORMATS {
        for damage in damages {
            let (told, came) = damaged(format, None, damage);
            assert_eq!(told, want);
            assert!(came.iter().all(|complete| !complete), "{came:?}");
            // Who signs has read it before.
            let secret = File::new(b"0123456789abcdef");
            assert_eq!(damaged(format, Some(&secret), damage), (want.to_owned(), Vec::new()));
        }
    }
}

/// Nobody must be told to have a message that nobody waits for any more.
#[test]
fn a_delivery_that_is_given_up_closes_its_connection() {
    let server = Server::start(&[Answer::Hang]);
    let ((), counted) = on_shard(options(&server), async |webhook, _services| {
        let parcel = Given::default().parcel();
        let came = after(Duration::from_millis(300), webhook.deliver(&parcel)).await;
        assert!(came.is_none(), "the server hangs");
        // Its request comes to its end because the connection is closed, which the shard outlives.
        ringpost_runtime::sleep(Duration::from_millis(300)).await;
    });
    assert!(server.request().complete);
    assert_eq!(counted, [0, 0, 0]);
    server.stop();
}

#[test]
fn a_services_thread_that_is_gone() {
    let server = Server::start(&[]);
    let (got, counted) = on_shard(options(&server), async |webhook, services| {
        services.stop();
        told(&webhook.deliver(&Given::default().parcel()).await)
    });
    assert_eq!((got.as_str(), counted), ("0 deferred 4.3.0 the request could not be made", [0, 1, 0]));
    server.stop();
}

#[test]
fn a_message_that_requires_tls_is_not_sent_in_clear() {
    let given = Given { require_tls: true, ..Given::default() };
    let server = Server::start(&[say("200 OK", "")]);
    assert_eq!(deliver(options(&server), vec![given.clone()]), ["0 delivered"], "on this machine");
    server.stop();
    let elsewhere = WebhookOptions { url: "http://192.0.2.1/".into(), ..WebhookOptions::default() };
    let (got, counted) =
        on_shard(elsewhere, async move |webhook, _services| told(&webhook.deliver(&given.parcel()).await));
    assert!(got.starts_with("0 failed 5.7.30 ") && !got.contains("hop failed"), "{got}");
    assert_eq!(counted, [0, 0, 0], "nothing was requested");
}

#[test]
fn what_can_not_be_made() {
    let (short, empty, right) = (File::new(b"secret\n"), File::new(b""), File::new(b"0123456789abcdef\n"));
    let with = |change: &dyn Fn(&mut WebhookOptions)| {
        let mut options = WebhookOptions { url: "https://hook.example/".into(), ..WebhookOptions::default() };
        change(&mut options);
        check(&options, "mx.example.org").err().map(|error| error.to_string()).unwrap_or_default()
    };
    let pair = |cert: &File, key: &File| Some(Certificate { cert: cert.name(), key: key.name(), ocsp: None });
    for (got, wants) in [
        (with(&|options| options.secret_file = Some(short.name())), [&*short.name(), "has 6 bytes"]),
        (with(&|options| options.secret_file = Some("/nowhere/x".into())), ["/nowhere/x", "No such file"]),
        (with(&|options| options.ca = Some(empty.name())), ["(ca)", "holds no certificate"]),
        (with(&|options| options.ca = Some("/nowhere/x".into())), ["can't read /nowhere/x", "No such file"]),
        (with(&|options| options.certificate = pair(&empty, &right)), ["(cert)", "holds no certificate"]),
        (with(&|options| options.url = "gopher://x/".into()), ["the url can't be used", "https://"]),
        (with(&|options| options.headers = vec![("a b".into(), "c".into())]), ["a b", "can't be sent"]),
    ] {
        assert!(wants.iter().all(|want| got.contains(want)), "{got:?} has {wants:?}");
    }
    let plain = WebhookOptions { url: "http://hook.example/".into(), ..WebhookOptions::default() };
    let signing = WebhookOptions { secret_file: Some(right.name()), ..plain };
    assert!(check(&signing, "mx.example.org").is_ok());
}
