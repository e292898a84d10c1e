//! BDAT: whatever octets come in whatever chunks, with whatever between them, the message is what the chunks hold, and
//! it is there exactly when the last one is. The input is also sent as it is, for chunks that lie.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_base::ByteCount;
use ringpost_fuzz::choices::{Choices, Pieces};
use ringpost_fuzz::play::{Case, Outcome, open_setup};
use ringpost_fuzz::reference;
use ringpost_smtp::{BareNewline, Options};
use std::rc::Rc;

fuzz_target!(|input: &[u8]| {
    let (mut choices, octets) = Choices::of(input);
    let binary = choices.pick(&[false, true]);
    let bare_newline = choices.pick(&[BareNewline::Reject, BareNewline::Repair]);
    let message_size_max = ByteCount(choices.pick(&[1 << 20, 64, 8, 0]));
    let between = choices.pick(&["", "NOOP\r\n", "XYZ\r\n", "DATA\r\n", "MAIL FROM:<>\r\n", "\r\n.\r\n", "\n.\n"]);
    let ends = choices.pick(&[" LAST\r\n", " last \r\n", "\r\n"]);
    let chunks = Pieces::chosen(&mut choices);
    let pieces = Pieces::chosen(&mut choices);
    let mut setup = open_setup();
    setup.options = Rc::new(Options { bare_newline, message_size_max, ..(*setup.options).clone() });

    let before = envelope(binary);
    let raw = [&before, octets].concat();
    let case = Case { setup: setup.clone(), ..Case::open(&raw) };
    let record = case.play(&Pieces::Whole);
    reference::check(&case, &record);
    assert_eq!(case.play(&pieces), record);

    let sent = [before, in_chunks(octets, chunks, between, ends)].concat();
    let case = Case { setup, ..Case::open(&sent) };
    let record = case.play(&Pieces::Whole);
    reference::check(&case, &record);
    assert_eq!(case.play(&pieces), record);
    let last = ends != "\r\n";
    let outcome = &record.bodies.first().unwrap_or_else(|| panic!("no body after BDAT: {record:?}")).outcome;
    match outcome {
        Outcome::Delivered(found) => assert!(last && (!binary || found == octets), "{record:?}"),
        Outcome::Unfinished => assert!(!last, "{record:?}"),
        Outcome::Abandoned(_) => {
            let too_big = octets.len() as u64 * 2 > message_size_max.0;
            assert!(too_big || (!binary && bare_newline == BareNewline::Reject), "{record:?}");
        }
        Outcome::Refused | Outcome::Forgotten => panic!("nothing refuses here: {record:?}"),
    }
});

fn envelope(binary: bool) -> Vec<u8> {
    let body = if binary { " BODY=BINARYMIME" } else { "" };
    format!("EHLO client.example\r\nMAIL FROM:<a@b.example>{body}\r\nRCPT TO:<c@d.example>\r\n").into_bytes()
}

/// The octets in chunks of these sizes, and behind them a last one that is empty.
fn in_chunks(mut octets: &[u8], sizes: Pieces, between: &str, ends: &str) -> Vec<u8> {
    let mut sent = Vec::new();
    for size in sizes {
        let (chunk, rest) = octets.split_at(size.min(octets.len()));
        sent.extend_from_slice(&[format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk, between.as_bytes()].concat());
        octets = rest;
        if rest.is_empty() {
            break;
        }
    }
    sent.extend_from_slice(format!("BDAT 0{ends}").as_bytes());
    sent
}
