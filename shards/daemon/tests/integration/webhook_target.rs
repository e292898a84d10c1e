//! The target of kind `webhook`: what is posted, and what the answers come to.

use crate::support::http::{Http, Request};
use crate::support::queue::{SENDERS, hasty, last_reason, report, target};
use crate::support::server::{Home, Server};
use crate::support::settings::Settings;
use crate::support::smtp::Client;
use crate::support::text::{lines, message};
use crate::support::wait_until;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const SECRET: &str = "a secret of more than sixteen bytes";

const ALICE: &str = "alice@example.com";
const BOB: &str = "bob@example.com";

/// Mail for a domain is posted to a server.
fn posted(settings: Settings, domain: &str, http: &Http, lines: &[&str]) -> Settings {
    let url = format!("url = \"http://{}/mail?for={domain}\"", http.address);
    settings.target(domain, "webhook", &[&[url.as_str()], lines].concat()).domain_to(
        domain,
        &format!("\"{domain}\""),
        &[],
    )
}

fn obliging() -> Http {
    Http::start(|_, _| (200, String::new()))
}

/// A server whose mail for example.com is posted.
fn start(http: &Http) -> Server {
    Server::start(posted(hasty(), "example.com", http, &[]))
}

fn envelope_of(value: &Value) -> Value {
    let mut envelope = value.clone();
    let all = envelope.as_object_mut().expect("an object");
    for unlike in ["id", "arrived", "session", "size", "message"] {
        assert!(all.remove(unlike).is_some(), "no {unlike} in {value}");
    }
    envelope
}

/// What is posted in either form: nothing is lost on the way, and the signature is right by another's count.
#[test]
fn both_forms_carry_the_envelope_and_every_byte() {
    let http = obliging();
    let home = Home::new(1);
    let secret = home.path().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).expect("written");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).expect("may be set");
    let secret = format!("secret_file = \"{}\"", secret.display());
    let more = "headers = { X-Tenant = \"acme\" }";
    let settings = posted(hasty(), "json.example", &http, &["format = \"json\"", &secret, more]);
    let settings = posted(settings, "form.example", &http, &["format = \"multipart\"", &secret]);
    let server = Server::start_at(home, settings);
    let folder = tempfile::tempdir().expect("a folder");
    let mut client = Client::hello(server.smtp());
    let odd = message("odd", ".\r\n--\r\ngrün\r\n");
    // The second goes into a body file, and is read from it in pieces.
    for sent in [odd, message("large", &lines(1, 600_000))] {
        for domain in ["json.example", "form.example"] {
            let before = http.requests().len();
            client.say("MAIL FROM:<a@sender.example> BODY=8BITMIME RET=FULL ENVID=abc", 250);
            client.say(&format!("RCPT TO:<alice@{domain}> ORCPT=rfc822;al@example.org"), 250);
            client.say(&format!("RCPT TO:<bob@{domain}>"), 250);
            client.say("DATA", 354);
            let reply = client.content(&sent);
            assert_eq!(reply.code, 250);
            let id = crate::support::smtp::queued_id(&reply);
            let request = http.wait_for(before + 1).remove(before);
            assert_eq!(request.line, format!("POST /mail?for={domain} HTTP/1.1"));
            request.verify(SECRET, folder.path());
            assert_eq!((request.field("ringpost-id"), request.field("ringpost-attempt")), (id.as_str(), "1"));
            assert_eq!(request.field("ringpost-host"), "mx.example.com");
            assert_eq!(request.find("x-tenant").is_some(), domain == "json.example");
            let (envelope, content) = taken_apart(&request, folder.path());
            assert!(content.ends_with(&sent), "{domain}: the message is another");
            let trace = &content[..content.len() - sent.len()];
            assert!(trace.starts_with(b"Received: from client.example.org ") && trace.ends_with(b"\r\n"));
            assert_eq!((&envelope["id"], &envelope["size"]), (&json!(id), &json!(content.len())));
            let wanted = json!({
                "version": 1, "attempt": 1, "from": "a@sender.example", "client": "127.0.0.1",
                "helo": "client.example.org", "smtputf8": false, "eight_bit": true, "binary": false,
                "require_tls": false, "ret": "full", "envid": "abc",
                "recipients": [
                    {"address": format!("alice@{domain}"), "original": "rfc822;al@example.org"},
                    {"address": format!("bob@{domain}"), "original": null},
                ],
            });
            assert_eq!(envelope_of(&envelope), wanted);
        }
    }
    server.wait_until_delivered();
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_webhook_requests_total", "outcome=\"accepted\""), 4);
    assert_eq!(metrics.sum("ringpost_deliveries_total", "outcome=\"delivered\""), 8);
}

/// The envelope and the message of a request of either form.
fn taken_apart(request: &Request, folder: &std::path::Path) -> (Value, Vec<u8>) {
    if request.field("content-type") == "application/json" {
        return (request.json(), request.message(folder));
    }
    let [envelope, content] = &request.parts(folder)[..] else { panic!("two parts") };
    assert_eq!((envelope.name.as_str(), envelope.kind.as_str()), ("envelope", "application/json"));
    assert_eq!((content.name.as_str(), content.kind.as_str()), ("message", "message/rfc822"));
    let mut value: Value = serde_json::from_slice(&envelope.bytes).expect("JSON");
    // As in the other form, so that the two can be compared.
    value["message"] = Value::Null;
    (value, content.bytes.clone())
}

#[test]
fn a_server_that_fails_for_now_gets_the_message_again() {
    let statuses = [503, 500, 429, 302, 401, 200];
    let http = Http::start(move |number, _| (statuses[(number - 1).min(5)], "not now\n".to_owned()));
    let server = Server::start(posted(hasty(), "example.com", &http, &["breaker_failures = 0"]));
    let id = Client::hello(server.smtp()).deliver("a@sender.example", &[ALICE, BOB], &message("again", "x\r\n"));
    let requests = http.wait_for(6);
    server.wait_until_delivered();
    for (number, request) in (1..).zip(&requests) {
        assert_eq!(request.field("ringpost-attempt"), number.to_string());
        assert_eq!(request.field("idempotency-key"), requests[0].field("idempotency-key"));
        assert_eq!(request.json()["id"], id.as_str());
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("ringpost_webhook_requests_total", "outcome=\"deferred\""), 5);
    assert_eq!(metrics.sum("ringpost_webhook_requests_total", "outcome=\"accepted\""), 1);
    assert_eq!(metrics.total("ringpost_reports_total"), 0);
    assert_eq!(http.requests().len(), 6);
}

#[test]
fn a_server_that_refuses_has_the_sender_told() {
    let http = Http::start(|_, _| (400, "\nno such tenant\nand more\n".to_owned()));
    let server = start(&http);
    Client::hello(server.smtp()).deliver("a@sender.example", &[ALICE, BOB], &message("refused", "x\r\n"));
    let report = report(&server, "a");
    for address in [ALICE, BOB] {
        report.says(address, "failed", "5.3.0", "HTTP 400 Bad Request: no such tenant");
        assert_eq!(report.of(address)["remote-mta"], format!("dns; [{}]", http.address.ip()));
    }
    assert!(!report.contains(b"and more"));
    server.wait_until_delivered();
    assert_eq!(server.metrics().sum("ringpost_webhook_requests_total", "outcome=\"failed\""), 1);
    assert_eq!(http.wait_for(1).len(), 1);
}

/// 207: one is delivered, one refused, one put off, and of one nothing is said.
#[test]
fn an_answer_may_tell_recipients_apart() {
    let http = Http::start(|number, _| {
        let told = match number {
            1 => json!({
                "alice@example.com": {"code": 250},
                "bob@example.com": {"code": 550, "status": "5.1.1", "text": "nobody called bob"},
                "carol@example.com": {"code": 450, "text": "later"},
            }),
            _ => json!({"carol@example.com": {"code": 250}, "dora@example.com": {"code": 250}}),
        };
        (207, json!({ "recipients": told }).to_string())
    });
    let server = start(&http);
    let to = [ALICE, BOB, "carol@example.com", "dora@example.com"];
    Client::hello(server.smtp()).deliver("a@sender.example", &to, &message("apart", "x\r\n"));
    let requests = http.wait_for(2);
    let recipients = |request: &Request| -> Vec<String> {
        let body = request.json();
        let all = body["recipients"].as_array().expect("recipients").iter();
        all.map(|recipient| recipient["address"].as_str().expect("an address").to_owned()).collect()
    };
    assert_eq!(
        (recipients(&requests[0]), recipients(&requests[1])),
        (to.map(Into::into).to_vec(), to[2..].iter().map(|to| (*to).to_owned()).collect())
    );
    assert_ne!(requests[0].field("idempotency-key"), requests[1].field("idempotency-key"));
    let report = report(&server, "a");
    report.says(BOB, "failed", "5.1.1", "nobody called bob");
    assert_eq!(report.recipients.len(), 1);
    server.wait_until_delivered();
    let metrics = server.metrics();
    for (outcome, count) in [("delivered", 3), ("deferred", 2), ("failed", 1)] {
        let label = format!("outcome=\"{outcome}\"");
        // The report is delivered too.
        let reports = u64::from(outcome == "delivered");
        assert_eq!(metrics.sum("ringpost_deliveries_total", &label), count + reports, "{outcome}");
    }
}

/// Nobody listens, then somebody does.
#[test]
fn a_server_that_is_away_is_left_alone_and_gets_all_when_it_is_back() {
    let http = obliging();
    let address = http.address;
    drop(http);
    let url = format!("url = \"http://{address}/\"");
    let lines = [url.as_str(), "breaker_failures = 2", "breaker_pause = \"300ms\"", "breaker_pause_max = \"600ms\""];
    let settings = hasty().target("hook", "webhook", &lines).domain_to("example.com", "\"hook\"", &[]);
    let server = Server::start(settings);
    let mut client = Client::hello(server.smtp());
    let ids: Vec<String> = (0..5)
        .map(|number| client.deliver("a@sender.example", &[ALICE], &message(&format!("m{number}"), "x\r\n")))
        .collect();
    wait_until("the breaker is open", || target(&server, "hook")["breaker"] == "open");
    wait_until("the reason is told", || {
        ids.iter().any(|id| last_reason(&server, id).starts_with(&format!("4.4.1 {address}: ")))
    });
    let http = Http::start_at(address, |_, _| (204, String::new()));
    http.wait_for(5);
    server.wait_until_delivered();
    assert_eq!(server.maildir(&format!("{SENDERS}/a")).count(), 0);
}
