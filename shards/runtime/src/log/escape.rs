//! Text that others chose, made harmless for one line of the log.
//!
//! Invariants: what [`json`] appends stands inside a JSON string (RFC 8259 section 7) and reads back as what went in;
//! what either function appends has no control character in it, C0, DEL or C1, so that no value ends a line or starts a
//! terminal escape sequence. [`text`] also takes the characters that turn the direction of text around or end a line
//! for some readers. Neither refuses input, neither allocates beyond the buffer.

use super::VALUE_MAX;
use std::fmt::{self, Write};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Whether any of eight bytes is not plain: outside of 0x20 to 0x7e, a quote or a backslash.
const fn any_special(word: u64) -> bool {
    const fn zero_bytes(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word
    }
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zero_bytes(word ^ (ONES * b'"' as u64));
    let backslash = zero_bytes(word ^ (ONES * b'\\' as u64));
    let delete = zero_bytes(word ^ (ONES * 0x7f));
    (word | below_space | quote | backslash | delete) & HIGHS != 0
}

fn is_special(byte: u8) -> bool {
    !(0x20..0x7f).contains(&byte) || byte == b'"' || byte == b'\\'
}

/// The length of the plain start of `bytes`: what can be copied as it is.
fn plain_len(bytes: &[u8]) -> usize {
    let words = bytes.as_chunks::<8>().0;
    let start = 8 * words.iter().take_while(|word| !any_special(u64::from_le_bytes(**word))).count();
    start + bytes[start..].iter().take_while(|byte| !is_special(**byte)).count()
}

/// Appends the plain start of `value` and returns the rest with its first character, until nothing is left.
fn next_special<'a>(out: &mut Vec<u8>, value: &'a str) -> Option<(char, &'a str)> {
    let (plain, rest) = value.split_at(plain_len(value.as_bytes()));
    out.extend_from_slice(plain.as_bytes());
    let mut chars = rest.chars();
    chars.next().map(|special| (special, chars.as_str()))
}

/// Appends `value` as the inside of a JSON string.
pub(super) fn json(out: &mut Vec<u8>, mut value: &str) {
    while let Some((special, rest)) = next_special(out, value) {
        value = rest;
        match special {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            control if control.is_control() => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                // Control characters all lie below U+00A0.
                let code = control as usize;
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[code >> 4 & 15], HEX[code & 15]]);
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Appends `value` for a terminal, and returns whether it needs quotes around it to read as one value.
pub(super) fn text(out: &mut Vec<u8>, mut value: &str) -> bool {
    let mut wants_quotes = value.bytes().any(|byte| byte == b' ' || byte == b'=');
    while let Some((special, rest)) = next_special(out, value) {
        value = rest;
        if special == '"' || special == '\\' || special.is_control() || turns_around(special) {
            wants_quotes = true;
            out.extend(special.escape_default().map(|c| c as u8));
        } else {
            wants_quotes |= special.is_whitespace();
            out.extend_from_slice(special.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    wants_quotes
}

/// Appends `value` for a terminal where it stands on its own, as a message does: quotes and backslashes as they are.
pub(super) fn message(out: &mut Vec<u8>, value: &str) {
    let mut rest = value;
    while let Some((special, after)) = next_special(out, rest) {
        rest = after;
        if special.is_control() || turns_around(special) {
            out.extend(special.escape_default().map(|c| c as u8));
        } else {
            out.extend_from_slice(special.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// Characters that are no control characters to Unicode but move text about, hide it, or end a line.
fn turns_around(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The start of `value` that a line shows, at most [`VALUE_MAX`] bytes, and whether something was cut off.
pub(super) fn shortened(value: &str) -> (&str, bool) {
    let end = value.floor_char_boundary(VALUE_MAX);
    (&value[..end], end < value.len())
}

/// Lets `Debug` and `Display` write through an escaping function, and stops them at [`VALUE_MAX`] bytes.
pub(super) struct Escaped<F: FnMut(&str)> {
    put: F,
    left: usize,
    is_cut: bool,
}

/// Formats `value` through `put`, cut off at [`VALUE_MAX`] bytes; returns whether it was.
pub(super) fn formatted(value: fmt::Arguments<'_>, put: impl FnMut(&str)) -> bool {
    let mut escaped = Escaped { put, left: VALUE_MAX, is_cut: false };
    // The only error of ours is that the value was cut off; one of the value's own leaves what came before it.
    let _ = escaped.write_fmt(value);
    escaped.is_cut
}

impl<F: FnMut(&str)> Write for Escaped<F> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if part.len() <= self.left {
            self.left -= part.len();
            (self.put)(part);
            return Ok(());
        }
        (self.put)(&part[..part.floor_char_boundary(self.left)]);
        (self.put)("…");
        self.left = 0;
        self.is_cut = true;
        Err(fmt::Error)
    }
}

/// Appends a whole number.
pub(super) fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a whole number that may be negative.
pub(super) fn signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    unsigned(out, value.unsigned_abs());
}
