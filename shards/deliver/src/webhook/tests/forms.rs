//! What is sent, of messages in memory and in files.

use super::files::{File, signed};
use super::server::{Request, Server, say};
use super::shard::{Content, Given, HOST, MESSAGE, deliver, options};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringpost_config::{WebhookFormat, WebhookOptions};
use serde_json::{Value, json};

fn envelope(recipients: &Value, attempt: u32, size: usize) -> Value {
    json!({
        "version": 1, "attempt": attempt, "arrived": "2023-11-14T22:13:20.25Z", "from": "sender@example.com",
        "recipients": recipients, "session": "S", "client": "192.0.2.7", "helo": "client.example", "size": size,
        "smtputf8": false, "eight_bit": true, "binary": false, "require_tls": false, "ret": null, "envid": null,
    })
}

/// Sends messages and gives the requests.
fn sent(format: WebhookFormat, secret: Option<&File>, given: Vec<Given>) -> Vec<Request> {
    let server = Server::start(&vec![say("200 OK", ""); given.len()]);
    let secret_file = secret.map(File::name);
    let count = given.len();
    let got = deliver(WebhookOptions { format, secret_file, ..options(&server) }, given);
    assert!(got.iter().all(|told| told.ends_with("delivered")), "{got:?}");
    let requests = server.stop();
    assert!(requests.len() == count && requests.iter().all(|request| request.complete));
    requests
}

/// The envelope and the message that came as JSON.
fn from_json(request: &Request) -> (Value, Vec<u8>) {
    assert_eq!(request.field("content-type"), "application/json");
    let mut value: Value = serde_json::from_slice(&request.body).expect("JSON");
    let fields = value.as_object_mut().expect("an object");
    let message = fields.remove("message").expect("a message");
    (value, STANDARD.decode(message.as_str().expect("a text")).expect("base64"))
}

/// The envelope and the message that came as a form.
fn from_form(request: &Request) -> (Value, Vec<u8>) {
    let boundary = request.field("content-type").strip_prefix("multipart/form-data; boundary=").expect("a form");
    let id = request.field("ringpost-id");
    let start = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"envelope\"\r\nContent-Type: application/json\r\n\r\n"
    );
    let middle = format!(
        "\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"message\"; filename=\"{id}.eml\"\r\n\
         Content-Type: message/rfc822\r\n\r\n"
    );
    let end = format!("\r\n--{boundary}--\r\n");
    let rest = request.body.strip_prefix(start.as_bytes()).expect("the first part");
    let at = memchr::memmem::find(rest, middle.as_bytes()).expect("the second part");
    let message = rest[at + middle.len()..].strip_suffix(end.as_bytes()).expect("the end");
    (serde_json::from_slice(&rest[..at]).expect("JSON"), message.to_vec())
}

fn check(format: WebhookFormat, content: Content, message: &[u8]) {
    let secret = File::new(b"a secret of some length\n");
    let given = Given { recipients: vec![0, 2], content, number: 3, ..Given::default() };
    let request = &sent(format, Some(&secret), vec![given])[0];
    let (mut got, bytes) = match format {
        WebhookFormat::Json => from_json(request),
        WebhookFormat::Multipart => from_form(request),
    };
    assert!(bytes == message, "the message is what it was: {} and {} bytes", bytes.len(), message.len());
    let id = got.as_object_mut().expect("an object").remove("id");
    assert_eq!(id, Some(request.field("ringpost-id").into()));
    let recipients = ["r0@example.net", "r2@example.net"].map(|to| json!({ "address": to, "original": null }));
    assert_eq!(got, envelope(&recipients.into_iter().collect(), 3, message.len()));
    let at = request.field("ringpost-timestamp");
    assert_eq!(request.field("ringpost-signature"), signed(b"a secret of some length", at, &request.body));
}

/// A message of several pieces that does not come out even, in base64 or otherwise.
fn long() -> Vec<u8> {
    (0..500_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn messages_come_as_they_were() {
    for format in [WebhookFormat::Json, WebhookFormat::Multipart] {
        for message in [b"x".to_vec(), b"xy".to_vec(), MESSAGE.to_vec(), long(), vec![b'y'; 2 * (192 << 10)]] {
            check(format, Content::Memory(message.clone()), &message);
            let file = File::new(&message);
            check(format, file.content(), &message);
        }
    }
}

#[test]
fn header_fields() {
    let server = Server::start(&[say("200 OK", "")]);
    let headers = vec![("Authorization".to_owned(), "Bearer x".to_owned()), ("X-Empty".to_owned(), String::new())];
    let url = format!("http://{}?to=%20y&z", server.address);
    deliver(WebhookOptions { headers, url, ..options(&server) }, vec![Given { number: 7, ..Given::default() }]);
    let server_address = server.address.to_string();
    let request = &server.stop()[0];
    assert_eq!(request.line, "POST /?to=%20y&z HTTP/1.1");
    for (name, want) in [
        ("host", &*server_address),
        ("user-agent", concat!("ringpost/", env!("CARGO_PKG_VERSION"))),
        ("ringpost-host", HOST),
        ("ringpost-attempt", "7"),
        ("authorization", "Bearer x"),
        ("x-empty", ""),
        ("content-length", &request.body.len().to_string()),
    ] {
        assert_eq!(request.field(name), want, "{name}");
    }
    assert!(request.fields.iter().all(|(name, _)| name != "ringpost-signature"), "there is no secret");
    assert_eq!(request.fields.len(), 11, "{:?}", request.fields);
}

/// A server that answers by key from memory must not take the second half of the recipients for the first.
#[test]
fn keys_tell_recipients_apart_and_not_attempts() {
    let given = |recipients: &[u32], number| Given { recipients: recipients.to_vec(), number, ..Given::default() };
    let all = vec![given(&[0, 2], 1), given(&[0, 2], 2), given(&[2], 3)];
    let keys: Vec<String> = sent(WebhookFormat::Json, None, all)
        .iter()
        .map(|request| {
            let key = request.field("idempotency-key");
            assert!(key.starts_with(&format!("{}-", request.field("ringpost-id"))), "{key}");
            key.to_owned()
        })
        .collect();
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
}

#[test]
fn boundaries_are_never_the_same() {
    let requests = sent(WebhookFormat::Multipart, None, vec![Given::default(); 2]);
    assert_ne!(requests[0].field("content-type"), requests[1].field("content-type"));
}
