//! What becomes of a message by what the server answers.

use super::server::{Answer, Server, say, say_with};
use super::shard::{Given, deliver, options};

#[track_caller]
fn check(answer: Answer, want: &str) {
    let server = Server::start(&[answer]);
    let got = deliver(options(&server), vec![Given { recipients: vec![0, 2], ..Given::default() }]);
    assert_eq!(got, [want.replace("HOST", &server.address.to_string())]);
    assert_eq!(server.stop().len(), 1, "one attempt is one request");
}

#[track_caller]
fn check_blamed(answer: Answer, status: &str, text: &str) {
    check(answer, &format!("0 deferred {status} {text}, 2 deferred {status} {text}; hop failed"));
}

#[test]
fn statuses() {
    for (answer, want) in [
        (say("200 OK", "thanks"), "0 delivered, 2 delivered"),
        (say("202 Accepted", ""), "0 delivered, 2 delivered"),
        (Answer::Say("HTTP/1.1 204 No Content\r\n\r\n".into()), "0 delivered, 2 delivered"),
        (
            say("400 Gone Fishing", "no such\tthing\nmore"),
            "0 failed 5.3.0 HTTP 400 Bad Request: no such thing, 2 failed 5.3.0 HTTP 400 Bad Request: no such thing",
        ),
        (say("413 x", ""), "0 failed 5.3.4 HTTP 413 Payload Too Large, 2 failed 5.3.4 HTTP 413 Payload Too Large"),
        (say("409 x", ""), "0 deferred 4.3.2 HTTP 409 Conflict, 2 deferred 4.3.2 HTTP 409 Conflict"),
    ] {
        check(answer, want);
    }
}

#[test]
fn statuses_that_speak_of_the_target() {
    for (answer, status, text) in [
        (
            say_with("503 x", "Retry-After: 120\r\nContent-Type: text/html; charset=x\r\n", "<html>"),
            "4.3.2",
            "HTTP 503 Service Unavailable; it asks to be tried again after 120",
        ),
        (say("500 x", "oh"), "4.3.0", "HTTP 500 Internal Server Error: oh"),
        (say("401 x", "who?"), "4.3.5", "HTTP 401 Unauthorized: who?"),
    ] {
        check_blamed(answer, status, text);
    }
}

/// An ingress whose server is being exchanged, and a firewall in front of it: mail waits until that is over.
#[test]
fn what_stands_in_front_of_the_server_sends_no_mail_back() {
    for (status, text) in [
        ("403 x", "HTTP 403 Forbidden: default backend"),
        ("404 x", "HTTP 404 Not Found: default backend"),
        ("410 x", "HTTP 410 Gone: default backend"),
    ] {
        check_blamed(say(status, "default backend"), "4.3.5", text);
    }
}

#[test]
fn redirections_are_not_followed() {
    let elsewhere = Server::start(&[say("200 OK", "")]);
    let location = format!("Location: http://{}/mail\r\n", elsewhere.address);
    for (status, phrase) in [("301", "Moved Permanently"), ("307", "Temporary Redirect"), ("308", "Permanent Redirect")]
    {
        let text = format!("HTTP {status} {phrase}");
        let want = format!("0 deferred 4.3.5 {text}, 2 deferred 4.3.5 {text}; hop failed");
        check(say_with(&format!("{status} x"), &location, ""), &want);
    }
    assert!(elsewhere.stop().is_empty());
}

#[test]
fn recipients_are_told_apart() {
    let refused = r#"{"recipients": {"r0@example.net": {"code": 250, "text": "ok"},
                      "r2@example.net": {"code": 550, "status": "5.1.1", "text": "no such user"},
                      "other@example.net": {"code": 250}}}"#;
    check(say("207 Multi-Status", refused), "0 delivered, 2 failed 550 5.1.1 no such user");
    let nothing = "4.3.0 HTTP 207 says nothing about this recipient";
    let silent = r#"{"recipients": {"r0@example.net": {"code": 250}, "R2@example.net": {"code": 250}}}"#;
    check(say("207 x", silent), &format!("0 delivered, 2 deferred {nothing}"));
    check(say("207 x", r#"{"recipients": {}}"#), &format!("0 deferred {nothing}, 2 deferred {nothing}"));
    let text = "deferred 4.3.0 HTTP 207 without a JSON object that has \"recipients\"";
    let none = format!("0 {text}, 2 {text}; hop failed");
    for body in ["", "ok", "[]", r#"{"recipients": []}"#, r#"{"recipients": {"r0@example.net": {"code": 250}}"#] {
        check(say("207 x", body), &none);
    }
    // One that ends too early, and one that is longer than anybody reads.
    check(
        Answer::Say("HTTP/1.1 207 x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n".into()),
        &none,
    );
    let long = format!("{{\"recipients\": {{\"r0@example.net\": {{\"code\": 250}}}}}}{}", " ".repeat(70_000));
    check(say("207 x", &long), &none);
}

#[test]
fn an_answer_without_an_end_is_not_waited_for() {
    let server = Server::start(&[
        Answer::Say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nok".into()),
        Answer::Say("HTTP/1.1 500 x\r\nContent-Length: 1000\r\n\r\nbroken\n".into()),
    ]);
    let got = deliver(options(&server), vec![Given::default(), Given::default()]);
    let want = ["0 delivered", "0 deferred 4.3.0 HTTP 500 Internal Server Error: broken; hop failed"];
    assert_eq!(got, want);
    server.stop();
}

#[test]
fn a_connection_serves_several_messages() {
    let server = Server::start(&vec![say("200 OK", "thanks"); 3]);
    assert_eq!(deliver(options(&server), vec![Given::default(); 3]), ["0 delivered"; 3]);
    assert_eq!(server.stop().iter().map(|request| request.connection).collect::<Vec<_>>(), [0, 0, 0]);
}
