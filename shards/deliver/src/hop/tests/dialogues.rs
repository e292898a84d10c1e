//! What is said to one server, and what its replies come to.

use super::server::Server;
use super::shard::{Act, Content, Message, hasty, host, patient, play, times};
use super::{GREETING, MESSAGE, check, greeting};
use ringpost_config::{HopOptions, HopPlace, TargetKind};
use ringpost_message::{Notify, Ret};
use ringpost_store::BodyFile;
use std::fmt::Write as _;
use std::path::Path;

const HELLO: &[u8] = b"Subject: x\r\n\r\nHello.\r\n";

/// One connection that ends after `rest`, which follows on a greeting with these extensions.
fn check_one(extensions: &[&str], rest: &str, message: Message, want: &str) -> Vec<Vec<u8>> {
    let script = format!("{}{rest}", greeting(extensions));
    check(patient(), &[&[&script]], vec![Act::Deliver(message)], &[want]).1.remove(0)
}

fn to(recipients: u32) -> Message {
    Message { recipients, ..Message::default() }
}

#[test]
fn a_message_in_lock_step() {
    let script = format!("{GREETING}{MESSAGE}");
    let (came, bodies) = check(patient(), &[&[&script]], times(1), &["relayed"]);
    assert_eq!((bodies, came.connections), (vec![vec![HELLO.to_vec()]], [1, 0, 0]));
}

#[test]
fn a_server_that_knows_only_helo() {
    let script = format!("S 220 old\nC EHLO\nS 500 what?\nC HELO mx.example.org\nS 250 old\n{MESSAGE}");
    check(patient(), &[&[&script]], times(1), &["relayed"]);
}

#[test]
fn commands_are_pipelined() {
    let rest = "C MAIL\nC RCPT TO:<r0@\nC RCPT TO:<r1@\nC RCPT TO:<r2@\nC DATA\n\
                S 250 ok\nS 250 ok\nS 550 5.1.1 no such user\nS 450 4.2.1 later\nS 354 go on\nBODY\nS 250 taken";
    let want = "relayed, failed 550 5.1.1 no such user, deferred 450 4.2.1 later";
    assert_eq!(check_one(&["PIPELINING"], rest, to(3), want), [HELLO]);
}

#[test]
fn replies_to_the_envelope_and_to_the_message() {
    let mail = "C MAIL\nS 250 ok\n";
    let rcpt = "C RCPT\nS 250 ok\n";
    let data = "C DATA\nS 354 go on\nBODY\n";
    for (rest, want) in [
        ("C MAIL\nS 554 5.7.1 not from there".to_owned(), "2x failed 554 5.7.1 not from there"),
        ("C MAIL\nS 451 4.3.0 not now".to_owned(), "2x deferred 451 4.3.0 not now"),
        ("C MAIL\nS 530 5.7.0 authenticate first".to_owned(), "2x deferred 530 4.7.0 authenticate first; hop failed"),
        (format!("{mail}C RCPT\nS 550 no\nC RCPT\nS 551 no\n"), "failed 550 5.0.0 no, failed 551 5.0.0 no"),
        (format!("{mail}{rcpt}{rcpt}C DATA\nS 554 5.6.0 no"), "2x failed 554 5.6.0 no"),
        (format!("{mail}{rcpt}{rcpt}C DATA\nS 502 what?"), "2x deferred 502 4.0.0 what?"),
        (
            format!("{mail}C RCPT\nS 504 5.5.2 need fully-qualified address\nC RCPT\nS 503 5.5.1 no\nC QUIT"),
            "failed 504 5.5.2 need fully-qualified address, deferred 503 4.5.1 no",
        ),
        (format!("{mail}{rcpt}{rcpt}{data}S 451 full"), "2x deferred 451 4.0.0 full"),
        (format!("{mail}{rcpt}{rcpt}{data}S 554 5.7.1 spam"), "2x failed 554 5.7.1 spam"),
        (
            format!("{mail}{rcpt}C RCPT\nS 550 5.1.1 who?\n{data}S 554 5.7.1 spam"),
            "failed 554 5.7.1 spam, failed 550 5.1.1 who?",
        ),
        (format!("{mail}{rcpt}{rcpt}{data}S 421 4.3.2 closing"), "2x deferred 421 4.3.2 closing; hop failed"),
        (format!("{mail}{rcpt}{rcpt}{data}"), "2x deferred 4.4.2; hop failed"),
    ] {
        check_one(&[], &rest, to(2), want);
    }
}

#[test]
fn what_its_sender_asked_for_is_passed_on() {
    let message = Message {
        recipients: 2,
        envelope: |envelope| {
            envelope.ret = Some(Ret::Headers);
            envelope.envid = Some("QQ314159".into());
            envelope.recipients[0].notify = Notify::from_bits(6).expect("bits");
            envelope.recipients[0].original = Some("rfc822;alias@example.org".into());
        },
        ..Message::default()
    };
    let first = "C RCPT TO:<r0@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;alias@example.org\nS 250 ok\n";
    let rest = format!(
        "C MAIL FROM:<sender@example.com> RET=HDRS ENVID=QQ314159\nS 250 ok\n{first}\
         C RCPT TO:<r1@example.net>\nS 250 ok\nC DATA\nS 354 go on\nBODY\nS 250 taken"
    );
    check_one(&["DSN"], &rest, message.clone(), "2x passed");
    let rest = "C MAIL FROM:<sender@example.com>\nS 250 ok\nC RCPT TO:<r0@example.net>\nS 250 ok\n\
                C RCPT\nS 250 ok\nC DATA\nS 354 go on\nBODY\nS 250 taken";
    check_one(&[], rest, message, "2x relayed");
}

#[test]
fn lmtp_has_a_reply_for_each_recipient() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("lmtp");
    let greeting = "S 220 store\nC LHLO mx.example.org\nS 250-store\nS 250 PIPELINING\n";
    let envelope =
        "C MAIL\nC RCPT\nC RCPT\nC RCPT\nC DATA\nS 250 ok\nS 250 ok\nS 550 5.1.1 who?\nS 250 ok\nS 354 go on\nBODY\n";
    for (rest, want) in [
        ("S 250 kept\nS 452 4.2.2 full", "final, failed 550 5.1.1 who?, deferred 452 4.2.2 full"),
        ("S 552 5.2.2 full\nS 250 kept", "failed 552 5.2.2 full, failed 550 5.1.1 who?, final"),
        // It dies after the first reply: that one holds.
        ("S 250 kept", "final, failed 550 5.1.1 who?, deferred 4.4.2; hop failed"),
    ] {
        let script = format!("{greeting}{envelope}{rest}");
        let server = Server::start_unix(&path, &[&script]);
        let hosts = vec![host(HopPlace::Unix(path.to_str().expect("text").into()), 1)];
        let came = play(TargetKind::Lmtp(HopOptions { hosts, ..patient() }), vec![Act::Deliver(to(3))]);
        assert_eq!((&came.deliveries[..], server.end()), (&[want.to_owned()][..], vec![HELLO.to_vec()]));
        std::fs::remove_file(&path).expect("it was there");
    }
}

#[test]
fn more_recipients_than_the_server_takes_at_a_time() {
    let mut rest = String::new();
    for (from, to) in [(0, 20), (20, 40), (40, 50)] {
        rest.push_str("C MAIL\n");
        (from..to).for_each(|number| writeln!(rest, "C RCPT TO:<r{number}@").expect("memory"));
        rest.push_str("C DATA\nS 250 ok\n");
        (from..to).for_each(|_| rest.push_str("S 250 ok\n"));
        rest.push_str("S 354 go on\nBODY\nS 250 taken\n");
    }
    let bodies = check_one(&["PIPELINING", "LIMITS RCPTMAX=20"], &rest, to(50), "50x relayed");
    assert_eq!(bodies, [HELLO; 3]);
}

#[test]
fn too_many_recipients_are_found_out() {
    // RFC 5321 section 4.5.3.1.10, with either code. What was learned is remembered for the connection.
    for refusal in ["452 4.5.3 enough", "552 too many recipients"] {
        let data = "C DATA\nS 354 go on\nBODY\nS 250 taken\n";
        let rest = format!(
            "C MAIL\nS 250 ok\nC RCPT TO:<r0@\nS 250 ok\nC RCPT TO:<r1@\nS 250 ok\n\
             C RCPT TO:<r2@\nS {refusal}\nC RCPT TO:<r3@\nS {refusal}\nC RCPT TO:<r4@\nS {refusal}\n{data}\
             C MAIL\nS 250 ok\nC RCPT TO:<r2@\nS 250 ok\nC RCPT TO:<r3@\nS 250 ok\n{data}\
             C MAIL\nS 250 ok\nC RCPT TO:<r4@\nS 250 ok\n{data}"
        );
        assert_eq!(check_one(&[], &rest, to(5), "5x relayed"), [HELLO; 3]);
    }
    // Where it takes none at all there is no use in going on.
    check_one(&[], "C MAIL\nS 250 ok\nC RCPT\nS 452 4.5.3 enough", to(1), "deferred 452 4.5.3 enough");
}

#[test]
fn what_the_server_lacks_is_found_before_anything_is_sent() {
    let eight_bit = Content::Memory("Subject: ż\r\n".into());
    let hangs = "HANG";
    for (message, want) in [
        (
            Message {
                content: eight_bit.clone(),
                envelope: |envelope| envelope.eight_bit = true,
                ..Message::default()
            },
            "failed 5.6.3",
        ),
        (
            Message { content: eight_bit, envelope: |envelope| envelope.utf8 = true, ..Message::default() },
            "failed 5.6.9",
        ),
        (Message { envelope: |envelope| envelope.binary = true, ..Message::default() }, "failed 5.6.1"),
        (Message { envelope: |envelope| envelope.from = "ż@example.com".into(), ..Message::default() }, "failed 5.6.7"),
    ] {
        check_one(&[], hangs, message, want);
    }
    // Announced, and no use made of it.
    let announced = |envelope: &mut ringpost_message::Envelope| (envelope.eight_bit, envelope.utf8) = (true, true);
    check_one(&[], MESSAGE, Message { envelope: announced, ..Message::default() }, "relayed");
    check_one(&["SIZE 10"], hangs, to(2), "2x failed 5.3.4");
}

#[test]
fn a_server_that_has_what_the_message_needs_is_looked_for() {
    let message = Message {
        content: Content::Memory("Subject: x\r\n\r\nż\r\n".into()),
        envelope: |envelope| envelope.eight_bit = true,
        ..Message::default()
    };
    let (lacking, having) = (format!("{GREETING}HANG"), format!("{}{MESSAGE}", greeting(&["8BITMIME"])));
    check(patient(), &[&[&lacking], &[&having]], vec![Act::Deliver(message.clone())], &["relayed"]);
    // However many have it not: the message went back when four had been asked.
    let none: &[&str] = &[&lacking];
    check(patient(), &[none, none, none, none, &[&having]], vec![Act::Deliver(message.clone())], &["relayed"]);
    check(patient(), &[none; 5], vec![Act::Deliver(message.clone())], &["failed 5.6.3"]);
    // One that does not work may have it.
    check(patient(), &[none, &["S 554 no"], none], vec![Act::Deliver(message)], &["deferred 554 4.3.2 no"]);
}

/// A body file; damaged, if it does not hold what its checksum is of.
fn body_file(directory: &Path, bytes: &[u8], damaged: bool) -> Message {
    let path = directory.join("x.body");
    let crc = crc32c(bytes);
    let mut stored = bytes.to_vec();
    if damaged {
        stored[bytes.len() / 3] ^= 1;
    }
    std::fs::write(&path, stored).expect("written");
    Message { content: Content::File(path, BodyFile { len: bytes.len() as u64, crc }), ..Message::default() }
}

/// CRC-32C, bit by bit: what the store's reader computes is not what it is checked with.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Lines with dots at their start, more than is read or written at a time.
fn large() -> Vec<u8> {
    (0..60_000).fold(Vec::new(), |mut body, number| {
        body.extend_from_slice(format!(".{number} {}\r\n", number % 7).as_bytes());
        body
    })
}

#[test]
fn large_bodies() {
    let directory = tempfile::tempdir().expect("directory");
    let body = large();
    assert!(body.len() > 400_000);
    let memory = Message { content: Content::Memory(body.clone()), ..Message::default() };
    let chunked =
        format!("C MAIL FROM:<sender@example.com> SIZE={}\nC RCPT\nS 250 ok\nS 250 ok\nBDAT\nS 250 taken", body.len());
    for message in [memory, body_file(directory.path(), &body, false)] {
        assert!(check_one(&[], MESSAGE, message.clone(), "relayed") == [&body[..]]);
        let bodies = check_one(&["PIPELINING", "CHUNKING", "SIZE"], &chunked, message, "relayed");
        assert!(bodies == [&body[..]]);
    }
}

#[test]
fn small_and_empty_bodies_in_chunks() {
    let rest = "C MAIL\nC RCPT\nBDAT\nS 250 ok\nS 250 ok\nS 250 taken";
    for body in [&b""[..], b"x", HELLO] {
        let message = Message { content: Content::Memory(body.to_vec()), ..Message::default() };
        assert_eq!(check_one(&["PIPELINING", "CHUNKING"], rest, message, "relayed"), [body]);
    }
}

#[test]
fn a_damaged_body_is_never_sent_to_its_end() {
    let directory = tempfile::tempdir().expect("directory");
    let envelope = "C MAIL\nS 250 ok\nC RCPT\nS 250 ok\n";
    for body in [&large()[..], HELLO] {
        let message = body_file(directory.path(), body, true);
        // The server notices only that the connection ends.
        let rest = format!("{envelope}C DATA\nS 354 go on\nUNENDED");
        assert_eq!(check_one(&[], &rest, message.clone(), "deferred 4.3.0").len(), 0);
        let rest = format!("{envelope}UNENDED");
        assert_eq!(check_one(&["CHUNKING"], &rest, message, "deferred 4.3.0").len(), 0);
    }
    let missing = directory.path().join("missing.body");
    let message = Message { content: Content::File(missing, BodyFile { len: 1, crc: 0 }), ..Message::default() };
    check_one(&[], &format!("{envelope}C DATA\nS 354 go on\nUNENDED"), message, "deferred 4.3.0");
}

#[test]
fn a_refusal_in_the_middle_of_a_message_is_heard() {
    // The server refuses, and goes on reading, as it should.
    let envelope = "C MAIL\nS 250 ok\nC RCPT\nS 250 ok\nC DATA\nS 354 go on\n";
    let message = Message { content: Content::Memory(large()), ..Message::default() };
    let refusal = format!("{envelope}S 552 5.3.4 too large\n");
    check_one(&[], &format!("{refusal}BODY"), message.clone(), "failed 552 5.3.4 too large");
    // It refuses and closes at once, before it could have been sent all. It is heard all the same.
    let more_than_fits = Message { content: Content::Memory(large().repeat(30)), ..message };
    check_one(&[], &refusal, more_than_fits, "failed 552 5.3.4 too large");
}

#[test]
fn silence_at_any_stage_is_not_waited_for() {
    let stages = ["C MAIL\n", "S 250 ok\nC RCPT\n", "S 250 ok\nC DATA\n", "S 354 go on\nBODY\n"];
    let mut script = String::new();
    let mut scripts =
        vec!["HANG".to_owned(), "S 220 mx\nHANG".to_owned(), GREETING.replace("S 250", "S 250-") + "HANG"];
    script.push_str(GREETING);
    for stage in stages {
        script.push_str(stage);
        scripts.push(format!("{script}HANG"));
    }
    std::thread::scope(|scope| {
        for script in &scripts {
            scope.spawn(|| check(hasty(), &[&[script]], times(1), &["deferred 4.4.2; hop failed"]));
        }
    });
}

#[test]
fn nonsense_is_no_reply() {
    for rest in ["C MAIL\nS 2x0 ok\nHANG", "C MAIL\nS 250 ok\nC RCPT\nS 354 go on\nHANG", "S 250 nobody asked\nHANG"] {
        check_one(&[], rest, to(1), "deferred 4.5.0; hop failed");
    }
}
