//! The arguments of MAIL, RCPT and BDAT.
//!
//! ```text
//! MAIL FROM:<reverse-path> [ SP parameter ]...     RFC 5321 section 4.1.1.2
//! RCPT TO:<forward-path>   [ SP parameter ]...     RFC 5321 section 4.1.1.3
//! BDAT SP chunk-size [ SP LAST ]                   RFC 3030 section 2
//! ```
//!
//! Parameters are as RFC 5321 section 4.1.2 has them, those of RFC 3461 section 4.5 and RFC 1870 section 6 once in a
//! command. A parameter that is not offered gets 555 (RFC 5321 section 4.1.1.11); so does AUTH=, since AUTH is not
//! offered (RFC 4954 section 5).

use crate::address::{LOCAL_MAX, Path};
use crate::dsn::{MailDsn, Notify, Ret, is_envid, is_orcpt};
use crate::reply::{Reply, replies};

/// How the client says the body is encoded (RFC 6152 section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyKind {
    /// BODY=7BIT, or nothing said.
    #[default]
    SevenBit,
    /// BODY=8BITMIME.
    EightBitMime,
    /// BODY=BINARYMIME (RFC 3030 section 3): octets that need not be lines, which come by BDAT only.
    Binary,
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
    /// REQUIRETLS (RFC 8689 section 2).
    pub require_tls: bool,
    /// RET= and ENVID=.
    pub dsn: MailDsn,
}

/// A RCPT command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rcpt {
    /// The forward-path: an address or postmaster.
    pub to: Path,
    /// NOTIFY=.
    pub notify: Option<Notify>,
    /// ORCPT=, the address in xtext, as given.
    pub orcpt: Option<Box<str>>,
}

impl Mail {
    /// MAIL from a path, without parameters.
    pub fn new(from: Path) -> Self {
        let (body, dsn) = (BodyKind::default(), MailDsn::default());
        Mail { from, size: None, body, utf8: false, require_tls: false, dsn }
    }

    pub(crate) fn parse(arguments: &str) -> Result<Self, Reply> {
        let path = after_keyword(arguments, "FROM:").ok_or_else(|| syntax("MAIL FROM:<address>"))?;
        let (from, rest) = Path::parse(path).map_err(|e| replies::BAD_SENDER.with_detail(&e.to_string()))?;
        if from == Path::Postmaster {
            return Err(replies::BAD_SENDER.with_detail("address has no domain"));
        }
        let mut mail = Mail::new(from);
        for parameter in parameters(rest, "MAIL FROM:<address> [parameters]")? {
            mail.take(parameter)?;
        }
        // RFC 6531 section 3.5.
        if mail.from.is_international() && !mail.utf8 {
            return Err(replies::NEEDS_SMTPUTF8);
        }
        Ok(mail)
    }

    fn take(&mut self, (name, value): Parameter<'_>) -> Result<(), Reply> {
        match (name.to_ascii_uppercase().as_str(), value) {
            ("SIZE", Some(digits)) => {
                // RFC 1870 section 3: up to twenty digits; what is larger than we can count is too big anyway.
                if digits.is_empty() || digits.len() > 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(syntax("SIZE=number of octets"));
                }
                self.size = Some(digits.parse().unwrap_or(u64::MAX));
            }
            ("BODY", kind) => {
                let form = "BODY=7BIT, BODY=8BITMIME or BODY=BINARYMIME";
                self.body = kind.and_then(body_kind).ok_or_else(|| syntax(form))?;
            }
            ("RET", Some(ret)) => self.dsn.ret = Some(Ret::parse(ret).ok_or_else(|| syntax("RET=FULL or RET=HDRS"))?),
            ("ENVID", Some(id)) if is_envid(id) => self.dsn.envid = Some(id.into()),
            ("ENVID", Some(_)) => return Err(syntax("ENVID=xtext, up to 100 characters")),
            ("SMTPUTF8", None) => self.utf8 = true,
            ("REQUIRETLS", None) => self.require_tls = true,
            _ => return Err(replies::UNKNOWN_PARAMETER.with_detail(name)),
        }
        Ok(())
    }
}

fn body_kind(text: &str) -> Option<BodyKind> {
    match text.to_ascii_uppercase().as_str() {
        "7BIT" => Some(BodyKind::SevenBit),
        "8BITMIME" => Some(BodyKind::EightBitMime),
        "BINARYMIME" => Some(BodyKind::Binary),
        _ => None,
    }
}

impl Rcpt {
    /// RCPT to a path, without parameters.
    pub fn new(to: Path) -> Self {
        Rcpt { to, notify: None, orcpt: None }
    }

    pub(crate) fn parse(arguments: &str, utf8: bool) -> Result<Self, Reply> {
        let path = after_keyword(arguments, "TO:").ok_or_else(|| syntax("RCPT TO:<address>"))?;
        let (to, rest) = Path::parse(path).map_err(|e| replies::BAD_RECIPIENT.with_detail(&e.to_string()))?;
        if to == Path::Null {
            return Err(replies::BAD_RECIPIENT.with_detail("the null path receives no mail"));
        }
        if to.mailbox().is_some_and(|mailbox| mailbox.local().len() > LOCAL_MAX) {
            return Err(replies::BAD_RECIPIENT.with_detail("local part is longer than 64 octets"));
        }
        let mut rcpt = Rcpt::new(to);
        for parameter in parameters(rest, "RCPT TO:<address> [parameters]")? {
            rcpt.take(parameter, utf8)?;
        }
        if rcpt.to.is_international() && !utf8 {
            return Err(replies::NEEDS_SMTPUTF8);
        }
        Ok(rcpt)
    }

    fn take(&mut self, (name, value): Parameter<'_>, utf8: bool) -> Result<(), Reply> {
        match (name.to_ascii_uppercase().as_str(), value) {
            ("NOTIFY", Some(when)) => {
                let form = "NOTIFY=NEVER, or some of SUCCESS,FAILURE,DELAY";
                self.notify = Some(Notify::parse(when).ok_or_else(|| syntax(form))?);
            }
            ("ORCPT", Some(address)) if is_orcpt(address, utf8) => self.orcpt = Some(address.into()),
            ("ORCPT", Some(_)) => return Err(syntax("ORCPT=type;xtext, up to 500 characters")),
            _ => return Err(replies::UNKNOWN_PARAMETER.with_detail(name)),
        }
        Ok(())
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

/// The most parameters of a command: more than are known, so that among so many one is unknown or repeated, and few
/// enough to be compared with each other.
const PARAMETERS_MAX: usize = 12;

/// A parameter's name, and its value if it has one.
type Parameter<'a> = (&'a str, Option<&'a str>);

/// The parameters after a path. Text directly behind the bracket is refused, and a parameter given twice.
fn parameters<'a>(rest: &'a str, form: &str) -> Result<Vec<Parameter<'a>>, Reply> {
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(syntax(form));
    }
    let mut found: Vec<Parameter<'a>> = Vec::new();
    for word in rest.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        if found.len() == PARAMETERS_MAX {
            return Err(replies::SYNTAX.with_detail("too many parameters"));
        }
        if found.iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name)) {
            return Err(replies::SYNTAX.with_detail("a parameter is given twice"));
        }
        found.push((name, value));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_with_parameters() {
        let mail = Mail::parse("FROM:<a@b.example> size=99999999999999999999 BODY=8bitmime SMTPUTF8").expect("parses");
        assert_eq!((mail.size, mail.body, mail.utf8), (Some(u64::MAX), BodyKind::EightBitMime, true));
        let mail = Mail::parse("from: <>").expect("parses");
        assert_eq!(mail, Mail::new(Path::Null));
        let mail = Mail::parse("FROM:<> RET=hdrs ENVID=a+20b REQUIRETLS BODY=BinaryMime").expect("parses");
        assert_eq!((mail.dsn.ret, mail.dsn.envid.as_deref()), (Some(Ret::Headers), Some("a+20b")));
        assert_eq!((mail.require_tls, mail.body), (true, BodyKind::Binary));
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
            ("FROM:<a@b> RET=ALL", 501),
            ("FROM:<a@b> RET", 555),
            ("FROM:<a@b> ENVID=", 501),
            ("FROM:<a@b> ENVID=a=b", 501),
            ("FROM:<a@b> ENVID=x ENVID=x", 501),
            ("FROM:<a@b> REQUIRETLS=YES", 555),
            ("FROM:<a@b> AUTH=<>", 555),
            ("FROM:<é@b>", 553),
            ("FROM:<postmaster>", 501),
        ] {
            assert_eq!(Mail::parse(text).unwrap_err().code(), code, "{text}");
        }
    }

    #[test]
    fn rcpt_refused() {
        let long = format!("TO:<{}@b>", "l".repeat(65));
        for (text, code) in [
            ("TO:<>", 501),
            ("TO:<a@b> NOTIFY=", 501),
            ("TO:<a@b> RET=FULL", 555),
            ("TO:<é@b>", 553),
            ("TO <a@b>", 501),
            (&long, 501),
        ] {
            assert_eq!(Rcpt::parse(text, false).unwrap_err().code(), code, "{text}");
        }
        assert!(Rcpt::parse("TO:<é@b>", true).is_ok());
        let rcpt = Rcpt::parse("TO:<a@b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bd@b", false).expect("parses");
        assert_eq!((rcpt.notify.map(Notify::bits), rcpt.orcpt.as_deref()), (Some(10), Some("rfc822;c+2Bd@b")));
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
