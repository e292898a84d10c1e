//! The queue over the socket: what handlers make of requests, and what they hand out.

use super::socket::{ask, connect, folder, only};
use super::{Fake, Server};
use crate::Refusal;
use crate::api::{
    AddressFilter, EnvelopeView, IDS_MAX, LegView, MessageId, MessageRow, MessageView, QueueCursor, QueueFilter,
    QueueOrder, QueueOrdered, QueuePage, QueueQuery, QueueState, QueueStatus, QueueVerb, QueueVerification, ReasonView,
};
use crate::control::{BoxFuture, MessageContent, QueueControl};
use ringpost_base::{Priority, Span, SpoolId};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The message that there is, and one that there is not.
const THERE: &str = "01JD4VXK2Q000000020000000A";
const MISSING: &str = "01JD4VXK2Q000000020000000B";

/// What the fake was asked, and the file that it hands out if there is one.
#[derive(Default)]
pub(super) struct Asked {
    queries: Mutex<Vec<QueueQuery>>,
    orders: Mutex<Vec<QueueOrder>>,
    verifying: Mutex<bool>,
    file: Mutex<Option<PathBuf>>,
}

fn id(text: &str) -> MessageId {
    text.parse().expect("an id")
}

fn row() -> MessageRow {
    let last = ReasonView {
        code: Some(450),
        status: "4.2.0".to_owned(),
        text: "later".to_owned(),
        remote: Some("mx.example.org".to_owned()),
    };
    let leg = LegView {
        target: "hop".to_owned(),
        state: QueueState::Deferred,
        attempts: 3,
        next_seconds: Some(60),
        recipients: 1,
        last: Some(last),
    };
    MessageRow {
        id: id(THERE),
        shard: 1,
        age_seconds: 90,
        size: 1_000,
        state: QueueState::Deferred,
        priority: Priority::Normal,
        from: Some(String::new()),
        to: vec!["b@example.org".to_owned()],
        recipients: 1,
        targets: vec![leg],
    }
}

impl QueueControl for Fake {
    fn queue_status(&self, _: Option<Duration>) -> BoxFuture<'_, Result<QueueStatus, Refusal>> {
        Box::pin(async { Ok(QueueStatus { messages: 7, silent: vec![1], ..QueueStatus::default() }) })
    }

    fn queue_page(&self, query: QueueQuery) -> BoxFuture<'_, Result<QueuePage, Refusal>> {
        self.queue.queries.lock().expect("whole").push(query);
        Box::pin(async {
            Ok(QueuePage { messages: vec![row()], next: Some(id(THERE)), scanned: 1, ..QueuePage::default() })
        })
    }

    fn message(&self, wanted: SpoolId, headers: bool) -> BoxFuture<'_, Result<MessageView, Refusal>> {
        Box::pin(async move {
            if MessageId(wanted) != id(THERE) {
                return Err(Refusal::not_found(format!("there is no message {wanted}")));
            }
            Ok(MessageView {
                row: row(),
                envelope: Some(EnvelopeView { helo: "c.example".to_owned(), ..EnvelopeView::default() }),
                fault: None,
                kept: "log".to_owned(),
                body_file: None,
                headers: headers.then(|| "Subject: x\r\n".to_owned()),
            })
        })
    }

    fn message_content(&self, wanted: SpoolId) -> BoxFuture<'_, Result<MessageContent, Refusal>> {
        let file = self.queue.file.lock().expect("whole").clone();
        Box::pin(async move {
            match (MessageId(wanted) == id(THERE), file) {
                (false, _) => Err(Refusal::not_found("there is no such message")),
                (true, Some(path)) => Ok(MessageContent::File(path)),
                (true, None) => Ok(MessageContent::Memory(Arc::new(b"Subject: \xff\0\r\n".to_vec()))),
            }
        })
    }

    fn order_queue(&self, order: QueueOrder) -> BoxFuture<'_, Result<QueueOrdered, Refusal>> {
        self.queue.orders.lock().expect("whole").push(order);
        let next = Some(QueueCursor::from([(1, id(THERE))]));
        Box::pin(async { Ok(QueueOrdered { changed: 2, unknown: vec![id(MISSING)], next, ..QueueOrdered::default() }) })
    }

    fn verify_queue(&self) -> BoxFuture<'_, Result<QueueVerification, Refusal>> {
        *self.queue.verifying.lock().expect("whole") = true;
        self.queue_verification()
    }

    fn queue_verification(&self) -> BoxFuture<'_, Result<QueueVerification, Refusal>> {
        let running = *self.queue.verifying.lock().expect("whole");
        Box::pin(async move { Ok(QueueVerification { running, bytes: 3, ..QueueVerification::default() }) })
    }
}

#[test]
fn queries_reach_the_queue_as_they_were_meant() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let status: QueueStatus = serde_json::from_str(&ask(&path, "GET", "/api/v1/queue", "").body).expect("a status");
    assert_eq!((status.messages, status.silent), (7, vec![1]));
    let reply = ask(&path, "GET", "/api/v1/queue/messages", "");
    let page: QueuePage = serde_json::from_str(&reply.body).expect("a page");
    assert_eq!((page.messages, page.next), (vec![row()], Some(id(THERE))));
    assert_eq!(reply.json()["messages"][0]["state"], json!("deferred"));
    let query = format!("?state=held&to=%40example.org&older=2h&limit=7&after={THERE}");
    assert_eq!(ask(&path, "GET", &format!("/api/v1/queue/messages{query}"), "").status, 200);
    let filter = QueueFilter {
        state: vec![QueueState::Held],
        to: Some(AddressFilter::Domain("example.org".to_owned())),
        older: Some(Span::seconds(7_200)),
        ..QueueFilter::default()
    };
    let wanted = [
        QueueQuery { limit: Some(50), ..QueueQuery::default() },
        QueueQuery { filter, limit: Some(7), after: Some(id(THERE)) },
    ];
    assert_eq!(*server.control.queue.queries.lock().expect("whole"), wanted);
    server.stop();
}

#[test]
fn a_message_is_shown_and_handed_out() {
    let (folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let target = format!("/api/v1/queue/messages/{}", THERE.to_lowercase());
    let view: MessageView = serde_json::from_str(&ask(&path, "GET", &target, "").body).expect("a message");
    assert_eq!((view.row, view.headers), (row(), None));
    let reply = ask(&path, "GET", &format!("{target}?headers=true"), "");
    assert_eq!((&reply.json()["headers"], &reply.json()["id"]), (&json!("Subject: x\r\n"), &json!(THERE)));
    let request = format!("GET {target}/message HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n");
    let handed_out = || {
        let mut stream = connect(&path);
        stream.write_all(request.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a header");
        let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
        (head.to_lowercase(), bytes.split_off(end + 4))
    };
    let (head, body) = handed_out();
    assert!(head.contains("content-type: message/rfc822") && head.contains("ringpost-api: 1"), "{head}");
    assert_eq!(body, b"Subject: \xff\0\r\n");
    for length in [0, 1, 256 * 1024, 256 * 1024 + 1, 3_000_000] {
        let bytes: Vec<u8> = (0..length).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let file = folder.path().join("body");
        fs::write(&file, &bytes).expect("written");
        *server.control.queue.file.lock().expect("whole") = Some(file);
        let (head, body) = handed_out();
        assert!(head.contains(&format!("content-length: {length}")), "{head}");
        assert!(body == bytes, "{length}");
    }
    *server.control.queue.file.lock().expect("whole") = Some(folder.path().join("gone"));
    assert!(handed_out().0.starts_with("http/1.1 404 "));
    server.stop();
}

#[test]
fn orders_reach_the_queue_and_tell_where_to_go_on() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let by_ids = json!({ "order": "retry", "ids": [THERE, MISSING] }).to_string();
    let reply = ask(&path, "POST", "/api/v1/queue/orders", &by_ids);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let next = json!({ "1": THERE });
    assert_eq!(reply.json(), json!({ "changed": 2, "unchanged": 0, "unknown": [MISSING], "next": next, "silent": [] }));
    let by_filter = json!({ "order": "drop", "filter": { "from": "<>" }, "after": next, "dry": true }).to_string();
    assert_eq!(ask(&path, "POST", "/api/v1/queue/orders", &by_filter).status, 200);
    let from = Some(AddressFilter::Null);
    let filter = Some(QueueFilter { from, ..QueueFilter::default() });
    let after = Some(QueueCursor::from([(1, id(THERE))]));
    let ids = vec![id(THERE), id(MISSING)];
    let wanted = [
        QueueOrder { order: QueueVerb::Retry, ids, filter: None, after: None, dry: false },
        QueueOrder { order: QueueVerb::Drop, ids: Vec::new(), filter, after, dry: true },
    ];
    assert_eq!(*server.control.queue.orders.lock().expect("whole"), wanted);
    server.stop();
}

#[test]
fn a_verification_is_begun_and_watched() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let target = "/api/v1/queue/verification";
    let running = |method: &str| ask(&path, method, target, "").json()["running"].clone();
    assert_eq!([running("GET"), running("POST"), running("GET")], [false, true, true]);
    server.stop();
}

#[test]
fn requests_about_the_queue_that_cannot_be_meant_are_refused_and_not_carried_out() {
    let (_folder, path) = folder();
    let server = Server::start_at(only(&path), 1, &[]);
    let many = json!({ "order": "hold", "ids": vec![THERE; IDS_MAX + 1] }).to_string();
    for (method, target, body, status, words) in [
        ("GET", "messages?state=lost", "", 400, "not a state"),
        ("GET", "messages?limit=1001", "", 400, "from 1 to 1000"),
        ("GET", "messages?form=%40example.org", "", 400, "unknown field `form`"),
        ("GET", "messages/1", "", 400, "not an id"),
        ("GET", "messages/01JD4VXK2Q000000020000000A?header=true", "", 400, "?headers=true"),
        ("GET", "messages/01JD4VXK2Q000000020000000B", "", 404, "no message 01JD4VXK2Q000000020000000B"),
        ("GET", "messages/01JD4VXK2Q000000020000000B/message", "", 404, "no such message"),
        ("GET", "messages/%1B/message", "", 400, "not an id"),
        ("POST", "orders", r#"{"order":"drop"}"#, 400, "names no messages"),
        ("POST", "orders", r#"{"order":"drop","filter":{"form":"@a.b"}}"#, 400, "unknown field"),
        ("POST", "orders", r#"{"order":"destroy","filter":{}}"#, 400, "destroy"),
        ("POST", "orders", &many, 400, "1000 are the most"),
    ] {
        let reply = ask(&path, method, &format!("/api/v1/queue/{target}"), body);
        assert_eq!(reply.status, status, "{method} {target}: {}", reply.body);
        assert!(reply.error().contains(words), "{target}: {}", reply.error());
    }
    assert!(server.control.queue.queries.lock().expect("whole").is_empty());
    assert!(server.control.queue.orders.lock().expect("whole").is_empty());
    let most = json!({ "order": "hold", "ids": vec![THERE; IDS_MAX] }).to_string();
    assert_eq!(ask(&path, "POST", "/api/v1/queue/orders", &most).status, 200);
    server.stop();
}
