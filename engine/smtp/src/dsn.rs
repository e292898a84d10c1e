//! What a sender asks of delivery reports: the parameters of RFC 3461, kept as given for whoever delivers (RFC 3461
//! section 5.1).
//!
//! ```text
//! MAIL ... RET=FULL | RET=HDRS, ENVID=xtext                          RFC 3461 section 4.3, RFC 3461 section 4.4
//! RCPT ... NOTIFY=NEVER | NOTIFY=SUCCESS,FAILURE,DELAY (any of them)  RFC 3461 section 4.1
//! RCPT ... ORCPT=address-type;xtext                                  RFC 3461 section 4.2
//! xtext = *( "!".."~" but not "+" or "=" / "+" 2upper-hex )          RFC 3461 section 4
//! an address of the type utf-8 = 1*( "!".."~" but not "+", "=" or "\" / "\x{" upper-hex "}" / beyond ASCII )
//!                                                                    RFC 6533 section 3
//! ```

use std::fmt::Write;

/// Longest ENVID as it is written (RFC 3461 section 5.4).
const ENVID_MAX: usize = 100;
/// Longest ORCPT as it is written, type included (RFC 3461 section 5.4).
const ORCPT_MAX: usize = 500;

/// How much of a message a report of failure returns (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header section.
    Headers,
}

/// What MAIL says of reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailDsn {
    /// RET=.
    pub ret: Option<Ret>,
    /// ENVID=, in xtext as given.
    pub envid: Option<Box<str>>,
}

/// When the sender wants a report about a recipient: NOTIFY=, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notify(u8);

impl Notify {
    const NEVER: u8 = 1;
    const SUCCESS: u8 = 2;
    const FAILURE: u8 = 4;
    const DELAY: u8 = 8;

    /// The bits: 1 never, 2 on success, 4 on failure, 8 on delay.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Never.
    pub fn never(self) -> bool {
        self.0 & Self::NEVER != 0
    }

    /// When it is delivered.
    pub fn success(self) -> bool {
        self.0 & Self::SUCCESS != 0
    }

    /// When it can't be delivered.
    pub fn failure(self) -> bool {
        self.0 & Self::FAILURE != 0
    }

    /// When its delivery takes long.
    pub fn delay(self) -> bool {
        self.0 & Self::DELAY != 0
    }

    /// Reads `NEVER`, or some of the others with commas between: NEVER stands alone.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("NEVER") {
            return Some(Self(Self::NEVER));
        }
        text.split(',').try_fold(Self(0), |bits, word| {
            let bit = match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => Self::SUCCESS,
                "FAILURE" => Self::FAILURE,
                "DELAY" => Self::DELAY,
                _ => return None,
            };
            Some(Self(bits.0 | bit))
        })
    }
}

impl Ret {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "FULL" => Some(Self::Full),
            "HDRS" => Some(Self::Headers),
            _ => None,
        }
    }
}

/// Whether `text` is an ENVID: xtext of printable characters.
pub(crate) fn is_envid(text: &str) -> bool {
    !text.is_empty() && text.len() <= ENVID_MAX && xtext(text).is_some_and(|plain| is_printable(&plain))
}

/// Whether `text` is an ORCPT: the type of an address, a semicolon, and an address in xtext. One of the type `utf-8` has
/// a form of its own, and may hold characters beyond ASCII if the message has SMTPUTF8 (RFC 6533 section 3).
pub(crate) fn is_orcpt(text: &str, utf8: bool) -> bool {
    let Some((kind, address)) = text.split_once(';') else { return false };
    let of_type = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !of_type || address.is_empty() || text.len() > ORCPT_MAX {
        return false;
    }
    if kind.eq_ignore_ascii_case("utf-8") {
        return is_utf8_address(address) && (utf8 || address.is_ascii());
    }
    xtext(address).is_some_and(|plain| is_printable(&plain))
}

/// Whether all is printable, also what is written by its number.
fn is_utf8_address(text: &str) -> bool {
    let mut pieces = text.split('\\');
    let plain = |piece: &str| piece.chars().all(|c| !c.is_control() && !" +=".contains(c));
    pieces.next().is_some_and(plain) && pieces.all(|piece| numbered(piece).is_some_and(plain))
}

/// What stands behind a character that is written by its number, without the backslash before it.
fn numbered(text: &str) -> Option<&str> {
    let (digits, rest) = text.strip_prefix("x{")?.split_once('}')?;
    let written = (2..=6).contains(&digits.len()) && digits.bytes().all(|digit| upper_hex(digit).is_some());
    let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    (written && !c.is_control()).then_some(rest)
}

/// Decodes xtext; nothing if it is none.
pub(crate) fn xtext(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (*first, after) {
            (b'+', [high, low, after @ ..]) => {
                decoded.push((upper_hex(*high)? << 4) | upper_hex(*low)?);
                after
            }
            (b'+' | b'=', _) => return None,
            (plain, after) if plain.is_ascii_graphic() => {
                decoded.push(plain);
                after
            }
            _ => return None,
        };
    }
    Some(decoded)
}

/// The ORCPT of an address: of the type `rfc822` and in xtext, or, if it has characters beyond ASCII, of the type `utf-8` and
/// in the form of that (RFC 6533 section 3).
pub fn to_orcpt(address: &str) -> String {
    if !address.is_ascii() {
        return address.chars().fold("utf-8;".to_owned(), |mut text, c| {
            let plain = !c.is_ascii() || (c.is_ascii_graphic() && !"+=\\".contains(c));
            let _ = if plain { text.write_char(c) } else { write!(text, "\\x{{{:02X}}}", c as u32) };
            text
        });
    }
    address.bytes().fold("rfc822;".to_owned(), |mut text, byte| {
        let plain = byte.is_ascii_graphic() && !b"+=".contains(&byte);
        let _ = if plain { text.write_char(byte.into()) } else { write!(text, "+{byte:02X}") };
        text
    })
}

/// Lower-case digits are not in the grammar.
fn upper_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn is_printable(plain: &[u8]) -> bool {
    plain.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_decoded() {
        for (text, want) in [
            ("", Some("")),
            ("plain", Some("plain")),
            ("a+20b+3D+2B", Some("a b=+")),
            ("+0D+0A", Some("\r\n")),
            ("a=b", None),
            ("a+", None),
            ("a+4", None),
            ("a+4g", None),
            ("a+2b", None),
            ("a b", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(xtext(text).as_deref(), want.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn original_recipients_of_our_own() {
        for (address, want) in [
            ("bob@example.com", "rfc822;bob@example.com"),
            ("bob+tag@example.com", "rfc822;bob+2Btag@example.com"),
            ("\"b =\\\"\"@example.com", "rfc822;\"b+20+3D\\\"\"@example.com"),
            ("bób@example.com", "utf-8;bób@example.com"),
            ("\"b ó+=\\\"\"@example.com", "utf-8;\"b\\x{20}ó\\x{2B}\\x{3D}\\x{5C}\"\"@example.com"),
        ] {
            assert_eq!(to_orcpt(address), want);
            assert!(is_orcpt(want, true), "{want}");
        }
        assert_eq!(xtext("\"b+20+3D\\\"\"").as_deref(), Some(&b"\"b =\\\"\""[..]));
    }

    #[test]
    fn envelope_ids_and_original_recipients() {
        for (text, want) in [
            ("QQ314159", true),
            ("a+20b", true),
            ("a+0Ab", false),
            ("", false),
            (&"x".repeat(100), true),
            (&"x".repeat(101), false),
        ] {
            assert_eq!(is_envid(text), want, "{text}");
        }
        let long = format!("rfc822;{}", "x".repeat(494));
        for (text, utf8, want) in [
            ("rfc822;bob@example.com", false, true),
            ("RFC822;bob+2Btag@example.com", false, true),
            ("x400;+20", false, true),
            ("utf-8;b\\x{F3}b@example.com", false, true),
            ("utf-8;bób@example.com", true, true),
            ("utf-8;bób@example.com", false, false),
            ("rfc822;bób@example.com", true, false),
            ("utf-8;bób +@example.com", true, false),
            ("utf-8;b+C3+B3b@example.com", true, false),
            ("utf-8;b\\x{20}b@example.com", false, true),
            ("utf-8;b\\x{f3}b@example.com", false, false),
            ("utf-8;b\\x{0A}b@example.com", false, false),
            ("utf-8;b\\x{D800}b@example.com", false, false),
            ("utf-8;b\\x{1F600}", false, true),
            ("utf-8;b\\x{F3", false, false),
            ("utf-8;b\\b@example.com", false, false),
            ("rfc822;bob+0D+0AX:@example.com", false, false),
            ("rfc822;", false, false),
            (";bob@example.com", false, false),
            ("rfc 822;bob@example.com", false, false),
            ("bob@example.com", false, false),
            (&long, false, false),
            (&long[..500], false, true),
        ] {
            assert_eq!(is_orcpt(text, utf8), want, "{text}");
        }
    }

    #[test]
    fn notify_and_ret() {
        let bits = |text| Notify::parse(text).map(Notify::bits);
        for (text, want) in [
            ("NEVER", Some(1)),
            ("success", Some(2)),
            ("FAILURE,DELAY", Some(12)),
            ("DELAY,SUCCESS,FAILURE", Some(14)),
            ("SUCCESS,SUCCESS", Some(2)),
            ("NEVER,SUCCESS", None),
            ("SUCCESS,NEVER", None),
            ("SUCCESS,", None),
            ("", None),
            ("ALWAYS", None),
        ] {
            assert_eq!(bits(text), want, "{text}");
        }
        let some = Notify::parse("FAILURE,DELAY").expect("parses");
        assert_eq!((some.never(), some.success(), some.failure(), some.delay()), (false, false, true, true));
        assert_eq!(
            (Ret::parse("full"), Ret::parse("HDRS"), Ret::parse("")),
            (Some(Ret::Full), Some(Ret::Headers), None)
        );
    }
}
