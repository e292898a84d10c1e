//! A plain reading of where a message ends and what is in it: over the whole input at once, with nothing of the
//! machine's scanner in it.

use crate::play::{BodyRecord, Case, Outcome, Record};
use ringpost_smtp::{BareNewline, Options, PLAIN_LINE_MAX};

/// What the client sent as one message.
struct Reading {
    /// Where it ends.
    end: usize,
    /// Its octets, dots unstuffed, line ends as sent.
    octets: Vec<u8>,
}

/// Holds all bodies of a session against the plain reading.
pub fn check(case: &Case<'_>, record: &Record) {
    let ends = [case.clear, case.secured].map(ends_of_messages).iter().sum();
    let delivered = record.bodies.iter().filter(|body| matches!(body.outcome, Outcome::Delivered(_))).count();
    assert!(delivered <= ends, "{delivered} messages with {ends} ends");
    for body in &record.bodies {
        check_body(if body.secured { case.secured } else { case.clear }, body, &case.setup.options);
    }
}

/// An upper bound that needs no reading at all: every CRLF.CRLF, and every line with BDAT and LAST in it.
fn ends_of_messages(input: &[u8]) -> usize {
    let dots = input.windows(5).filter(|window| *window == b"\r\n.\r\n").count();
    let has = |line: &[u8], word: &[u8]| line.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    let lasts = input.split(|byte| *byte == b'\n').filter(|line| has(line, b"BDAT") && has(line, b"LAST"));
    dots + lasts.count()
}

fn check_body(input: &[u8], body: &BodyRecord, options: &Options) {
    let chunks = chunk(last_line(&input[..body.begin])).is_some();
    let reading = if chunks { read_chunks(input, body.begin) } else { read_data(input, body.begin) };
    let Some(reading) = reading else {
        let given_up = chunks && !matches!(body.outcome, Outcome::Delivered(_) | Outcome::Refused);
        assert!(given_up || body.outcome == Outcome::Unfinished, "not ended by the client: {body:?}");
        return;
    };
    let lines = repaired(&reading.octets);
    let bare = !body.binary && lines != reading.octets;
    let octets = if body.binary { reading.octets } else { lines };
    let faulty =
        (bare && options.bare_newline == BareNewline::Reject) || octets.len() as u64 > options.message_size_max.0;
    match &body.outcome {
        Outcome::Delivered(found) => assert!(*found == octets && !faulty, "{body:?}"),
        Outcome::Refused => assert!(!faulty, "{body:?}"),
        Outcome::Abandoned(_) => assert!(faulty || chunks, "{body:?}"),
        // Chunks can be given up between them, and the reading doesn't know.
        Outcome::Unfinished | Outcome::Forgotten => assert!(chunks, "{body:?}"),
    }
    if !chunks || matches!(body.outcome, Outcome::Delivered(_) | Outcome::Refused) {
        assert_eq!(body.end, reading.end, "{body:?}");
    }
}

/// DATA ends at the first CRLF.CRLF, of which the first CRLF may be the command's (RFC 5321 section 4.1.1.4).
fn read_data(input: &[u8], begin: usize) -> Option<Reading> {
    let from_command = &input[begin - 2..];
    let end = from_command.windows(5).position(|window| window == b"\r\n.\r\n")?;
    let text = &from_command[2..(end + 2).max(2)];
    let unstuffed: Vec<&[u8]> =
        split_lines(text).into_iter().map(|line| line.strip_prefix(b".").unwrap_or(line)).collect();
    Some(Reading { end: begin - 2 + end + 5, octets: unstuffed.join(&b"\r\n"[..]) })
}

/// Splits at CRLF; what is behind the last is a line too.
fn split_lines(mut text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = text.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&text[..at]);
        text = &text[at + 2..];
    }
    lines.push(text);
    lines
}

/// Chunk after chunk, with any other lines between them, up to the one that is the last (RFC 3030 section 2).
fn read_chunks(input: &[u8], begin: usize) -> Option<Reading> {
    let (mut octets, mut at, mut line) = (Vec::new(), begin, last_line(&input[..begin]));
    loop {
        if let Some((size, last)) = chunk(line) {
            octets.extend_from_slice(input.get(at..at.checked_add(size)?)?);
            at += size;
            if last {
                return Some(Reading { end: at, octets });
            }
        }
        let newline = input[at..].iter().position(|byte| *byte == b'\n')?;
        line = &input[at..at + newline + 1];
        at += newline + 1;
    }
}

/// The last line of `text`, which ends with a line end.
fn last_line(text: &[u8]) -> &[u8] {
    let before = text[..text.len() - 1].iter().rposition(|byte| *byte == b'\n');
    &text[before.map_or(0, |at| at + 1)..]
}

/// Size and LAST of a BDAT line. Blanks at the end of a line don't count.
fn chunk(line: &[u8]) -> Option<(usize, bool)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?.trim_end_matches([' ', '\t']);
    let line = line.to_ascii_uppercase();
    if line.len() + 2 > PLAIN_LINE_MAX {
        return None;
    }
    let words: Vec<&str> = line.strip_prefix("BDAT ")?.split(' ').filter(|word| !word.is_empty()).collect();
    match words[..] {
        [size] => Some((size.parse().ok()?, false)),
        [size, "LAST"] => Some((size.parse().ok()?, true)),
        _ => None,
    }
}

/// Every CR and LF outside a pair made a pair.
fn repaired(octets: &[u8]) -> Vec<u8> {
    let lines = split_lines(octets).into_iter().map(|line| {
        let ends = |byte: &u8| *byte == b'\r' || *byte == b'\n';
        line.split(ends).collect::<Vec<_>>().join(&b"\r\n"[..])
    });
    lines.collect::<Vec<_>>().join(&b"\r\n"[..])
}
