//! Addresses in reports, and ORCPT values read back.
//!
//! ```text
//! Original-Recipient: address-type; address        RFC 3464 section 2.3.1
//! address-type is rfc822, or utf-8                  RFC 3461 section 9.1, RFC 6533 section 3
//! ```

use super::fold::clean;
use std::borrow::Cow;
use std::fmt::Write;

/// An address as it may stand in a field or a text. Beyond ASCII it is written by numbers where there may be ASCII only, and
/// a control character, which no address that was accepted has, is a question mark.
pub(super) fn shown(address: &str, utf8: bool) -> Cow<'_, str> {
    if address.chars().all(|c| !c.is_control() && (utf8 || c.is_ascii())) {
        return address.into();
    }
    let mut text = String::new();
    for c in address.chars() {
        if c.is_control() {
            text.push('?');
        } else if c.is_ascii() || utf8 {
            text.push(c);
        } else {
            // Writing to a String can't fail.
            let _ = write!(text, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    text.into()
}

/// The value of Final-Recipient (RFC 3464 section 2.3.2). In ASCII, the form of the type `utf-8` for that writes some
/// characters by their number (RFC 6533 section 3).
pub(super) fn typed(address: &str, utf8: bool) -> String {
    if address.is_ascii() {
        return format!("rfc822; {}", shown(address, utf8));
    }
    if utf8 {
        return format!("utf-8; {}", shown(address, true));
    }
    let quoted = |c: char| " +=\\".contains(c);
    let plain = address.chars().fold(String::new(), |mut text, c| {
        let _ = if quoted(c) { write!(text, "\\x{{{:02X}}}", u32::from(c)) } else { text.write_char(c) };
        text
    });
    format!("utf-8; {}", shown(&plain, false))
}

/// The value of Original-Recipient for an ORCPT value: what was written by numbers is read back, where it may stand
/// (RFC 3461 section 6.3).
pub(super) fn original(orcpt: &str, utf8: bool) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let kind = clean(kind, false);
    if kind.is_empty() || kind.contains(' ') {
        return None;
    }
    if kind.eq_ignore_ascii_case("utf-8") {
        return Some(typed_utf8(address, utf8));
    }
    Some(format!("{kind}; {}", shown(&xtext(address)?, utf8)))
}

fn typed_utf8(address: &str, utf8: bool) -> String {
    let decoded = if utf8 { numbered(address) } else { address.into() };
    format!("utf-8; {}", shown(&decoded, utf8))
}

/// The address that an ORCPT value names, for a person.
pub(super) fn named(orcpt: &str, utf8: bool) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let address = if kind.eq_ignore_ascii_case("utf-8") { numbered(address) } else { xtext(address)? };
    Some(shown(&address, utf8).into_owned())
}

/// Decodes xtext (RFC 3461 section 4); nothing if it is none.
pub(super) fn xtext(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (*first, after) {
            (b'+', [high, low, after @ ..]) => {
                decoded.push(hex(*high)? << 4 | hex(*low)?);
                after
            }
            (b'+', _) => return None,
            (plain, after) => {
                decoded.push(plain);
                after
            }
        };
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Reads back the characters that are written by their numbers, as `\x{F3}`. What is not such stays as it is.
fn numbered(text: &str) -> String {
    let mut pieces = text.split("\\x{");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |mut decoded, piece| {
        let read = piece.split_once('}').and_then(|(digits, rest)| {
            let number = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() <= 6)?;
            Some((char::from_u32(number)?, rest))
        });
        match read {
            Some((c, rest)) => {
                decoded.push(c);
                decoded.push_str(rest);
            }
            None => {
                decoded.push_str("\\x{");
                decoded.push_str(piece);
            }
        }
        decoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn original_recipients() {
        for (orcpt, utf8, want) in [
            ("rfc822;bob@example.com", false, Some("rfc822; bob@example.com")),
            ("RFC822;bob+2Btag@example.com", false, Some("RFC822; bob+tag@example.com")),
            ("rfc822;\"b+20c\"@example.com", false, Some("rfc822; \"b c\"@example.com")),
            ("rfc822;bob+0D+0AAction:+20x@example.com", false, Some("rfc822; bob??Action: x@example.com")),
            ("rfc822;bob+4", false, None),
            ("rfc822;+ff", false, None),
            ("bob@example.com", false, None),
            ("x y;bob", false, None),
            ("utf-8;b\\x{F3}b@example.com", true, Some("utf-8; b\u{f3}b@example.com")),
            ("utf-8;b\\x{F3}b@example.com", false, Some("utf-8; b\\x{F3}b@example.com")),
            ("utf-8;b\u{f3}b@example.com", false, Some("utf-8; b\\x{F3}b@example.com")),
            ("utf-8;b\\x{D}\\x{A}X:@example.com", true, Some("utf-8; b??X:@example.com")),
            ("utf-8;b\\x{D800}\\x{zz}\\x{1", true, Some("utf-8; b\\x{D800}\\x{zz}\\x{1")),
        ] {
            assert_eq!(original(orcpt, utf8).as_deref(), want, "{orcpt} {utf8}");
        }
    }

    #[test]
    fn final_recipients() {
        for (address, utf8, want) in [
            ("bob+tag@example.com", false, "rfc822; bob+tag@example.com"),
            ("bob+tag@example.com", true, "rfc822; bob+tag@example.com"),
            ("b\u{f3}b+tag@example.com", true, "utf-8; b\u{f3}b+tag@example.com"),
            ("b\u{f3}b+tag@example.com", false, "utf-8; b\\x{F3}b\\x{2B}tag@example.com"),
            ("bob\r\nX: y@example.com", false, "rfc822; bob??X: y@example.com"),
        ] {
            assert_eq!(typed(address, utf8), want, "{address} {utf8}");
        }
    }

    #[test]
    fn names_for_a_person() {
        assert_eq!(named("rfc822;bob+2Btag@example.com", false).as_deref(), Some("bob+tag@example.com"));
        assert_eq!(named("utf-8;b\\x{F3}b@example.com", true).as_deref(), Some("b\u{f3}b@example.com"));
        assert_eq!(named("utf-8;b\\x{F3}b@example.com", false).as_deref(), Some("b\\x{F3}b@example.com"));
        assert_eq!(named("nonsense", false), None);
    }
}
