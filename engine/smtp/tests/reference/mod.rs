//! A naive reading of where a message ends and what is in it, to hold the machine's against: slow, over the whole input at
//! once, and written without a look at the machine's scanner.

use proptest::prelude::*;
use ringpost_smtp::{BareNewline, Options, PLAIN_LINE_MAX, Step};

/// A message that was begun: what the client sent in the whole session, where in it the body begins, and whether it was
/// declared to be binary.
pub(crate) struct Asked<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) begin: usize,
    pub(crate) binary: bool,
}

/// What the client asked for.
struct Reading {
    /// Where the message ends in the input.
    end: usize,
    /// Its octets, dots unstuffed, line ends as sent.
    octets: Vec<u8>,
}

/// Checks what came of a message: the step that followed and the octets delivered.
pub(crate) fn check(
    asked: &Asked<'_>,
    options: &Options,
    ended: Option<(usize, &Step)>,
    delivered: Option<&[u8]>,
) -> Result<(), TestCaseError> {
    let Asked { input, begin, binary } = *asked;
    let in_chunks = bdat(last_line(&input[..begin])).is_some();
    let reading = if in_chunks { read_chunks(input, begin) } else { read_data(input, begin) };
    let Some(reading) = reading else {
        prop_assert_eq!(delivered, None, "the client has not ended this message");
        // A message in chunks can be given up between them; one of DATA only ends.
        prop_assert!(in_chunks || ended.is_none(), "{:?}", ended);
        return Ok(());
    };
    let repaired = if binary { reading.octets.clone() } else { repaired(&reading.octets) };
    let refused = options.bare_newline == BareNewline::Reject && repaired != reading.octets;
    let too_big = repaired.len() as u64 > options.message_size_max.0;
    if let Some(delivered) = delivered {
        prop_assert_eq!(ended.map(|(end, _)| end), Some(reading.end));
        prop_assert_eq!(delivered, &repaired[..]);
        prop_assert!(!refused && !too_big);
    } else if !in_chunks {
        prop_assert_eq!(ended.map(|(end, _)| end), Some(reading.end));
        prop_assert!(refused || too_big, "{:?}", ended);
    }
    Ok(())
}

/// DATA ends at the first CRLF.CRLF, of which the first CRLF may be the command's.
fn read_data(input: &[u8], begin: usize) -> Option<Reading> {
    let from_command = &input[begin - 2..];
    let end = from_command.windows(5).position(|window| window == b"\r\n.\r\n")?;
    let text = &from_command[2..(end + 2).max(2)];
    let lines: Vec<&[u8]> = split_lines(text);
    let unstuffed: Vec<&[u8]> = lines.into_iter().map(|line| line.strip_prefix(b".").unwrap_or(line)).collect();
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

/// Chunk after chunk, with any other lines between them, up to the one that is the last.
fn read_chunks(input: &[u8], begin: usize) -> Option<Reading> {
    let mut octets = Vec::new();
    let mut at = begin;
    let mut line = last_line(&input[..begin]);
    loop {
        if let Some((size, last)) = bdat(line) {
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

/// Size and LAST of a BDAT line.
fn bdat(line: &[u8]) -> Option<(usize, bool)> {
    if line.len() > PLAIN_LINE_MAX {
        return None;
    }
    let line = std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?.to_ascii_uppercase();
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["BDAT", size] => Some((size.parse().ok()?, false)),
        ["BDAT", size, "LAST"] => Some((size.parse().ok()?, true)),
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
