//! The arguments of MAIL, RCPT and BDAT.
//!
//! ```text
//! MAIL FROM:<reverse-path> [ SP parameter ]...     RFC 5321 section 4.1.1.2
//! RCPT TO:<forward-path>   [ SP parameter ]...     RFC 5321 section 4.1.1.3
//! BDAT SP chunk-size [ SP LAST ]                   RFC 3030 section 2
//! ```

use crate::address::{LOCAL_MAX, Path};
use crate::reply::{Reply, replies};

/// How the client says the body is encoded (RFC 6152 section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyKind {
    /// BODY=7BIT, or nothing said.
    #[default]
    SevenBit,
    /// BODY=8BITMIME.
    EightBitMime,
}

/// A MAIL command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The reverse-path.
    pub from: Path,
    /// SIZE=, in bytes (RFC 1870 section 5).
    pub size: Option<u64>,
    /// BODY=.
    pub body: BodyKind,
    /// SMTPUTF8 (RFC 6531 section 3.4).
    pub utf8: bool,
}

/// A RCPT command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rcpt {
    /// The forward-path: an address or postmaster.
    pub to: Path,
}

impl Mail {
    pub(crate) fn parse(arguments: &str) -> Result<Self, Reply> {
        let path = after_keyword(arguments, "FROM:").ok_or_else(|| syntax("MAIL FROM:<address>"))?;
        let (from, rest) = Path::parse(path).map_err(|e| replies::BAD_SENDER.with_detail(&e.to_string()))?;
        if from == Path::Postmaster {
            return Err(replies::BAD_SENDER.with_detail("address has no domain"));
        }
        let mut mail = Mail { from, size: None, body: BodyKind::default(), utf8: false };
        let mut seen = Vec::new();
        for parameter in parameters(rest).ok_or_else(|| syntax("MAIL FROM:<address> [parameters]"))? {
            let name = parameter.split('=').next().unwrap_or_default();
            if seen.iter().any(|earlier: &&str| earlier.eq_ignore_ascii_case(name)) {
                return Err(replies::SYNTAX.with_detail("a parameter is given twice"));
            }
            seen.push(name);
            mail.take(parameter)?;
        }
        // RFC 6531 section 3.5.
        if mail.from.is_international() && !mail.utf8 {
            return Err(replies::NEEDS_SMTPUTF8);
        }
        Ok(mail)
    }

    fn take(&mut self, parameter: &str) -> Result<(), Reply> {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (parameter, None),
        };
        match (name.to_ascii_uppercase().as_str(), value) {
            ("SIZE", Some(digits)) => {
                // RFC 1870 section 3: up to twenty digits; what is larger than we can count is too big anyway.
                if digits.is_empty() || digits.len() > 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(syntax("SIZE=number of octets"));
                }
                self.size = Some(digits.parse().unwrap_or(u64::MAX));
            }
            ("BODY", Some(kind)) if kind.eq_ignore_ascii_case("7BIT") => self.body = BodyKind::SevenBit,
            ("BODY", Some(kind)) if kind.eq_ignore_ascii_case("8BITMIME") => self.body = BodyKind::EightBitMime,
            ("BODY", _) => return Err(syntax("BODY=7BIT or BODY=8BITMIME")),
            ("SMTPUTF8", None) => self.utf8 = true,
            // RFC 5321 section 4.1.1.11.
            _ => return Err(replies::UNKNOWN_PARAMETER.with_detail(name)),
        }
        Ok(())
    }
}

impl Rcpt {
    pub(crate) fn parse(arguments: &str, utf8: bool) -> Result<Self, Reply> {
        let path = after_keyword(arguments, "TO:").ok_or_else(|| syntax("RCPT TO:<address>"))?;
        let (to, rest) = Path::parse(path).map_err(|e| replies::BAD_RECIPIENT.with_detail(&e.to_string()))?;
        if to == Path::Null {
            return Err(replies::BAD_RECIPIENT.with_detail("the null path receives no mail"));
        }
        if to.mailbox().is_some_and(|mailbox| mailbox.local().len() > LOCAL_MAX) {
            return Err(replies::BAD_RECIPIENT.with_detail("local part is longer than 64 octets"));
        }
        if let Some(parameter) = parameters(rest).ok_or_else(|| syntax("RCPT TO:<address>"))?.next() {
            let name = parameter.split('=').next().unwrap_or_default();
            return Err(replies::UNKNOWN_PARAMETER.with_detail(name));
        }
        if to.is_international() && !utf8 {
            return Err(replies::NEEDS_SMTPUTF8);
        }
        Ok(Rcpt { to })
    }
}

/// One BDAT command: how many octets follow its line, and whether they are the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) size: u64,
    pub(crate) last: bool,
}

impl Chunk {
    pub(crate) fn parse(arguments: &str) -> Option<Self> {
        let mut words = arguments.split(' ').filter(|word| !word.is_empty());
        let digits = words.next()?;
        if digits.len() > 19 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let size = digits.parse().ok()?;
        match (words.next(), words.next()) {
            (None, _) => Some(Self { size, last: false }),
            (Some(word), None) if word.eq_ignore_ascii_case("LAST") => Some(Self { size, last: true }),
            _ => None,
        }
    }
}

fn syntax(form: &str) -> Reply {
    replies::SYNTAX.with_detail(form)
}

/// What follows `keyword`, which is compared without regard to case. Blanks after the colon are not in the grammar, but
/// so many senders write them that refusing would lose mail.
fn after_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let head = text.get(..keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| text[keyword.len()..].trim_start_matches(' '))
}

/// The parameters after a path, or nothing if text stands directly behind the bracket.
fn parameters(rest: &str) -> Option<impl Iterator<Item = &str>> {
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.split(' ').filter(|word| !word.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_with_parameters() {
        let mail = Mail::parse("FROM:<a@b.example> size=99999999999999999999 BODY=8bitmime SMTPUTF8").expect("parses");
        assert_eq!((mail.size, mail.body, mail.utf8), (Some(u64::MAX), BodyKind::EightBitMime, true));
        let mail = Mail::parse("from: <>").expect("parses");
        assert_eq!(mail.from, Path::Null);
    }

    #[test]
    fn mail_refused() {
        for (text, code) in [
            ("", 501),
            ("TO:<a@b>", 501),
            ("FROM:a@b", 501),
            ("FROM:<a@b>x", 501),
            ("FROM:<a@b> SIZE=", 501),
            ("FROM:<a@b> SIZE=-1", 501),
            ("FROM:<a@b> SIZE", 555),
            ("FROM:<a@b> BODY=BINARY", 501),
            ("FROM:<a@b> SMTPUTF8=1", 555),
            ("FROM:<a@b> FOO=bar", 555),
            ("FROM:<a@b> SIZE=1 size=2", 501),
            ("FROM:<é@b>", 553),
            ("FROM:<postmaster>", 501),
        ] {
            assert_eq!(Mail::parse(text).unwrap_err().code(), code, "{text}");
        }
    }

    #[test]
    fn rcpt_refused() {
        let long = format!("TO:<{}@b>", "l".repeat(65));
        for (text, code) in
            [("TO:<>", 501), ("TO:<a@b> NOTIFY=NEVER", 555), ("TO:<é@b>", 553), ("TO <a@b>", 501), (&long, 501)]
        {
            assert_eq!(Rcpt::parse(text, false).unwrap_err().code(), code, "{text}");
        }
        assert!(Rcpt::parse("TO:<é@b>", true).is_ok());
    }

    #[test]
    fn chunks() {
        assert_eq!(Chunk::parse("10"), Some(Chunk { size: 10, last: false }));
        assert_eq!(Chunk::parse("0 last"), Some(Chunk { size: 0, last: true }));
        for bad in ["", "LAST", "-1", "1 LAST LAST", "1 FIRST", "99999999999999999999", "0x10"] {
            assert_eq!(Chunk::parse(bad), None, "{bad}");
        }
    }
}
