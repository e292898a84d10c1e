//! What a response, or that there is none, means for the recipients.
//!
//! A status of 2xx is a delivery, and of all others most are put off: a mistake in somebody's configuration must not send
//! mail back. That goes for 403, 404 and 410 too: they are what a firewall says for the server, or a proxy whose server is being
//! exchanged. Refused is what a server says of the request as such (other 4xx, 501, 505). The enhanced status of a refusal is
//! 5.3.x, of the mail system: whether a mailbox is there HTTP has no word for. Who wants to say that answers 207.

use super::exchange::{Came, Fault, FaultKind, MULTI_STATUS, Response};
use crate::parcel::{Done, Parcel};
use hyper::StatusCode;
use ringpost_metrics::Counter;
use ringpost_queue::{How, Outcome, Reason, Status};
use serde_json::Value;
use std::rc::Rc;

/// Characters of a server's text that become part of a reason.
const TEXT_CHARS_MAX: usize = 200;

/// What a status means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judgement {
    Accepted,
    /// Each recipient has its own.
    Apart,
    /// To be tried later. `blamed`: it is the target that does not work, and not this message.
    Later {
        status: Status,
        blamed: bool,
    },
    Refused {
        status: Status,
    },
}

fn judge(status: u16) -> Judgement {
    let blamed = |subject, detail| Judgement::Later { status: Status(4, subject, detail), blamed: true };
    let later = |subject, detail| Judgement::Later { status: Status(4, subject, detail), blamed: false };
    let refused = |subject, detail| Judgement::Refused { status: Status(5, subject, detail) };
    match status {
        MULTI_STATUS => Judgement::Apart,
        200..=299 => Judgement::Accepted,
        // Redirections are not followed: who has the message is for the config to say.
        300..=399 => blamed(3, 5),
        // Credentials, a path, a method or a host that is not taken from anybody are a matter of configuration.
        401..=405 | 407 | 410 | 421 | 426 => blamed(3, 5),
        408 => blamed(4, 2),
        // An earlier request for the same message is still under way, or holds something that this one needs.
        409 | 423 | 425 => later(3, 2),
        413 => refused(3, 4),
        429 => blamed(4, 5),
        400..=499 => refused(3, 0),
        501 | 505 => refused(3, 3),
        503 => blamed(3, 2),
        504 => blamed(4, 1),
        507 => blamed(3, 1),
        _ => blamed(3, 0),
    }
}

/// What becomes of a parcel, and the row that the request is counted in. `remote` is who answered.
pub(super) fn verdict(parcel: &Parcel, came: Option<Came>, remote: &Rc<str>) -> (Done, Counter) {
    let recipients = &parcel.recipients;
    let all = |outcome: Outcome, blamed| Done::all(recipients, &outcome, blamed);
    let response = match came {
        Some(Ok(response)) => response,
        Some(Err(fault)) => {
            let (reason, blamed) = of_fault(&fault, remote);
            return (all(Outcome::Deferred(reason), blamed), Counter::WebhookDeferred);
        }
        None => {
            let reason = Reason::ours(Status(4, 3, 0), "the request could not be made");
            return (all(Outcome::Deferred(reason), false), Counter::WebhookDeferred);
        }
    };
    let later = |text: &str, blamed| {
        let reason = Reason { code: 0, status: Status(4, 3, 0), text: text.into(), remote: Some(remote.clone()) };
        (all(Outcome::Deferred(reason), blamed), Counter::WebhookDeferred)
    };
    let reason = |status| Reason { code: 0, status, text: in_words(&response).into(), remote: Some(remote.clone()) };
    match judge(response.status) {
        Judgement::Accepted | Judgement::Apart if response.early => {
            later("the server says that it has the message, before it was sent", true)
        }
        Judgement::Accepted => (all(Outcome::Delivered(How::Final), false), Counter::WebhookRequests),
        Judgement::Apart => match apart(parcel, &response, remote) {
            Some(outcomes) => (Done::of(outcomes, false), Counter::WebhookRequests),
            None => later("HTTP 207 without a JSON object that has \"recipients\"", true),
        },
        Judgement::Later { status, blamed } => {
            (all(Outcome::Deferred(reason(status)), blamed), Counter::WebhookDeferred)
        }
        Judgement::Refused { status } => (all(Outcome::Failed(reason(status)), false), Counter::WebhookFailed),
    }
}

fn of_fault(fault: &Fault, remote: &Rc<str>) -> (Reason, bool) {
    let (status, blamed) = match fault.kind {
        FaultKind::Connection => (Status(4, 4, 1), true),
        FaultKind::Broken | FaultKind::Timeout => (Status(4, 4, 2), true),
        FaultKind::Tls => (Status(4, 7, 5), true),
        // A message that can't be read, or a thread that is gone, says nothing about the target.
        FaultKind::Unreadable => {
            return (Reason::ours(Status(4, 3, 0), "the message can't be read from the spool"), false);
        }
        FaultKind::Services => (Status(4, 3, 0), false),
    };
    let text = clean(&fault.text);
    (Reason::ours(status, &if blamed { format!("{remote}: {text}") } else { text }), blamed)
}

/// The outcome of each recipient, as the server tells them: `{"recipients": {"a@b.example": {"code": 550, "text": "no such
/// user", "status": "5.1.1"}}}`. Nothing, if the response is not of this form.
fn apart(parcel: &Parcel, response: &Response, remote: &Rc<str>) -> Option<Vec<(u32, Outcome)>> {
    if !response.whole {
        return None;
    }
    let value: Value = serde_json::from_slice(&response.body).ok()?;
    let told = value.get("recipients")?.as_object()?;
    let outcome = |number: u32| {
        let recipient = parcel.envelope.recipients.get(number as usize);
        of_recipient(recipient.and_then(|recipient| told.get(&*recipient.address)), remote)
    };
    Some(parcel.recipients.iter().map(|number| (*number, outcome(*number))).collect())
}

/// Codes are those of SMTP. A recipient of whom nothing is said, or nothing that has a meaning, was not served.
fn of_recipient(told: Option<&Value>, remote: &Rc<str>) -> Outcome {
    let field = |name: &str| told.and_then(|told| told.get(name));
    let code = field("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let text = field("text").and_then(Value::as_str);
    let status = |class| {
        let (subject, detail) = field("status").and_then(Value::as_str).and_then(parts_of_status).unwrap_or((0, 0));
        Status(class, subject, detail)
    };
    let reason = |class| {
        let text = clean(text.unwrap_or("refused without a reason")).into();
        Reason { code: code.unwrap_or(0), status: status(class), text, remote: Some(remote.clone()) }
    };
    match code {
        Some(200..=299) => Outcome::Delivered(How::Final),
        Some(400..=499) => Outcome::Deferred(reason(4)),
        Some(500..=599) => Outcome::Failed(reason(5)),
        _ => {
            let text = "HTTP 207 says nothing about this recipient";
            let status = Status(4, 3, 0);
            Outcome::Deferred(Reason { code: 0, status, text: text.into(), remote: Some(remote.clone()) })
        }
    }
}

/// Subject and detail of an enhanced status code (RFC 3463 section 2).
fn parts_of_status(text: &str) -> Option<(u16, u16)> {
    let (_, rest) = text.split_once('.')?;
    let (subject, detail) = rest.split_once('.')?;
    let part = |text: &str| text.parse().ok().filter(|part| *part < 1000);
    Some((part(subject)?, part(detail)?))
}

/// A response as a reason.
fn in_words(response: &Response) -> String {
    let status = StatusCode::from_u16(response.status).ok();
    let mut text = format!("HTTP {}", response.status);
    if let Some(phrase) = status.and_then(|status| status.canonical_reason()) {
        text.push(' ');
        text.push_str(phrase);
    }
    let body = String::from_utf8_lossy(&response.body);
    let line = body.lines().map(str::trim).find(|line| !line.is_empty()).map(clean).unwrap_or_default();
    if !response.html && !line.is_empty() {
        text.push_str(": ");
        text.push_str(&line);
    }
    if let Some(after) = &response.retry_after {
        text.push_str("; it asks to be tried again after ");
        text.push_str(&clean(after));
    }
    text
}

/// A stranger's text for reports and the log: one line, and not too long.
fn clean(text: &str) -> String {
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    visible.take(TEXT_CHARS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, want: &str) {
        let told = |Status(class, subject, detail): Status| format!("{class}.{subject}.{detail}");
        let got = match judge(status) {
            Judgement::Accepted => "accepted".to_owned(),
            Judgement::Apart => "apart".to_owned(),
            Judgement::Later { status, blamed: true } => format!("blamed {}", told(status)),
            Judgement::Later { status, blamed: false } => format!("later {}", told(status)),
            Judgement::Refused { status } => format!("refused {}", told(status)),
        };
        assert_eq!(got, want, "{status}");
    }

    #[test]
    fn statuses() {
        for (status, want) in [
            (200, "accepted"),
            (202, "accepted"),
            (204, "accepted"),
            (207, "apart"),
            (301, "blamed 4.3.5"),
            (307, "blamed 4.3.5"),
            (400, "refused 5.3.0"),
            (401, "blamed 4.3.5"),
            (403, "blamed 4.3.5"),
            (404, "blamed 4.3.5"),
            (407, "blamed 4.3.5"),
            (408, "blamed 4.4.2"),
            (409, "later 4.3.2"),
            (410, "blamed 4.3.5"),
            (406, "refused 5.3.0"),
            (413, "refused 5.3.4"),
            (415, "refused 5.3.0"),
            (422, "refused 5.3.0"),
            (425, "later 4.3.2"),
            (429, "blamed 4.4.5"),
            (500, "blamed 4.3.0"),
            (501, "refused 5.3.3"),
            (502, "blamed 4.3.0"),
            (503, "blamed 4.3.2"),
            (504, "blamed 4.4.1"),
            (505, "refused 5.3.3"),
            (507, "blamed 4.3.1"),
            (511, "blamed 4.3.0"),
            (600, "blamed 4.3.0"),
            (999, "blamed 4.3.0"),
        ] {
            check(status, want);
        }
    }

    #[test]
    fn reasons() {
        let response = |status, body: &[u8]| Response {
            status,
            retry_after: None,
            body: body.to_vec(),
            whole: true,
            html: false,
            early: false,
        };
        let check = |response: Response, want: &str| assert_eq!(in_words(&response), want);
        check(response(503, b""), "HTTP 503 Service Unavailable");
        check(response(503, b"\r\n  busy \x1b[31m\r\nsecond line"), "HTTP 503 Service Unavailable: busy  [31m");
        check(response(599, "\u{85}\u{fc}\0".as_bytes()), "HTTP 599: \u{fc}");
        check(response(500, b"\xff"), "HTTP 500 Internal Server Error: \u{fffd}");
        let long = "x".repeat(TEXT_CHARS_MAX + 1);
        check(response(599, long.as_bytes()), &format!("HTTP 599: {}", &long[1..]));
        check(Response { html: true, ..response(404, b"<!DOCTYPE html>") }, "HTTP 404 Not Found");
        let after = Some("12\n0".to_owned());
        let want = "HTTP 429 Too Many Requests: slow; it asks to be tried again after 12 0";
        check(Response { retry_after: after, ..response(429, b"slow") }, want);
    }

    #[test]
    fn recipients_told_apart() {
        let check = |told: &str, want: &str| {
            let value: Value = serde_json::from_str(told).expect("JSON");
            let got = match of_recipient(Some(&value), &"hook.example".into()) {
                Outcome::Delivered(How::Final) => "delivered".to_owned(),
                Outcome::Deferred(reason) => format!("deferred {reason}"),
                Outcome::Failed(reason) => format!("failed {reason}"),
                other => panic!("{other:?}"),
            };
            assert_eq!(got, want, "{told}");
        };
        let nothing = "deferred 4.3.0 HTTP 207 says nothing about this recipient";
        check(r#"{"code": 250}"#, "delivered");
        check(r#"{"code": 550, "status": "5.1.1", "text": "no\nsuch user"}"#, "failed 550 5.1.1 no such user");
        check(r#"{"code": 550, "status": "4.1.1"}"#, "failed 550 5.1.1 refused without a reason");
        check(r#"{"code": 450, "status": "x", "text": "later"}"#, "deferred 450 4.0.0 later");
        check(r#"{"code": 450, "status": "4.1000.1", "text": "later"}"#, "deferred 450 4.0.0 later");
        for told in [r#"{"code": 354}"#, r#"{"code": 65786}"#, r#"{"code": "550"}"#, "{}", "250", "null"] {
            check(told, nothing);
        }
    }
}
