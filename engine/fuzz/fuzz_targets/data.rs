//! DATA: whatever its octets are, the message ends at the first CRLF.CRLF and arrives as it was meant; lines that a
//! client sends with its dots doubled arrive octet for octet.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_base::ByteCount;
use ringpost_fuzz::choices::{Choices, Pieces};
use ringpost_fuzz::play::{BodyRecord, Case, Outcome, Record, open_setup};
use ringpost_fuzz::reference;
use ringpost_smtp::{BareNewline, Options};
use std::rc::Rc;

const BEFORE: &[u8] = b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";

fuzz_target!(|input: &[u8]| {
    let (mut choices, text) = Choices::of(input);
    let bare_newline = choices.pick(&[BareNewline::Reject, BareNewline::Repair]);
    let message_size_max = ByteCount(choices.pick(&[1 << 20, 64, 8, 0]));
    let pieces = Pieces::chosen(&mut choices);
    let mut setup = open_setup();
    setup.options = Rc::new(Options { bare_newline, message_size_max, ..(*setup.options).clone() });

    let sent = [BEFORE, text].concat();
    let case = Case { setup, ..Case::open(&sent) };
    let record = play(&case, &pieces);
    let Some(body) = record.bodies.first() else { panic!("no body after DATA: {record:?}") };
    assert_eq!((body.begin, body.secured), (BEFORE.len(), false));
    let ends = sent[BEFORE.len() - 2..].windows(5).any(|window| window == b"\r\n.\r\n");
    assert_eq!(body.outcome == Outcome::Unfinished, !ends, "{body:?}");

    stuffed(text, &pieces);
});

/// What the reading says of the whole, and of the pieces.
fn play(case: &Case<'_>, pieces: &Pieces) -> Record {
    let record = case.play(&Pieces::Whole);
    reference::check(case, &record);
    assert_eq!(case.play(pieces), record);
    record
}

/// Sends the text as a client does: as lines with CRLF, dots at their start doubled.
fn stuffed(text: &[u8], pieces: &Pieces) {
    let (mut message, mut sent) = (Vec::new(), BEFORE.to_vec());
    for line in text.split(|byte| *byte == b'\n' || *byte == b'\r') {
        message.extend_from_slice(&[line, &b"\r\n"[..]].concat());
        sent.extend_from_slice(if line.starts_with(b".") { b"." } else { b"" });
        sent.extend_from_slice(&[line, &b"\r\n"[..]].concat());
    }
    sent.extend_from_slice(b".\r\nQUIT\r\n");
    let record = play(&Case::open(&sent), pieces);
    let [BodyRecord { outcome: Outcome::Delivered(found), end, .. }] = &record.bodies[..] else {
        panic!("not delivered: {record:?}")
    };
    assert!(*found == message && *end == sent.len() - b"QUIT\r\n".len(), "{record:?}");
}
