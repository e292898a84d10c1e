//! Paths and mailboxes.
//!
//! RFC 5321 section 4.1.2, with UTF-8 where RFC 6531 section 3.3 allows it:
//!
//! ```text
//! Path        = "<" [ A-d-l ":" ] Mailbox ">"      A-d-l (source route) is read and ignored
//! Mailbox     = Local-part "@" ( Domain / address-literal )
//! Local-part  = Dot-string / Quoted-string
//! ```

use std::fmt;

/// Longest path, brackets included (RFC 5321 section 4.5.3.1.3).
const PATH_MAX: usize = 256;
/// Longest domain (RFC 5321 section 4.5.3.1.2).
const DOMAIN_MAX: usize = 255;
/// Longest label of a domain (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;
/// Longest local part of an address we serve (RFC 5321 section 4.5.3.1.1). Senders may be longer, as bounce addresses
/// of mailing lists often are; the path limit holds for them.
pub(crate) const LOCAL_MAX: usize = 64;

const _: () = assert!(LOCAL_MAX < PATH_MAX && LABEL_MAX < DOMAIN_MAX);

/// An address: local part, `@`, domain or address literal, as the client wrote it. What the local part means is for its
/// domain to say (RFC 5321 section 2.3.11).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    text: Box<str>,
    at: usize,
}

impl Mailbox {
    /// Reads `local@domain`, with no brackets around it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let rest = local_part(text)?;
        let at = text.len() - rest.len();
        let domain = rest.strip_prefix('@').ok_or(AddressError::NoDomain)?;
        check_domain(domain)?;
        Ok(Self { text: text.into(), at })
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, quotes included.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// What stands after the `@`; an address literal keeps its brackets.
    pub fn domain(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or_default()
    }

    /// Whether the address needs SMTPUTF8 (RFC 6531 section 3.2).
    pub fn is_international(&self) -> bool {
        !self.text.is_ascii()
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What MAIL or RCPT names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// `<>`: the sender of bounces (RFC 5321 section 4.5.5).
    Null,
    /// `<postmaster>` without a domain: the postmaster of this server (RFC 5321 section 4.5.1).
    Postmaster,
    /// An address.
    Mailbox(Mailbox),
}

impl Path {
    /// The address as text; empty for the null path.
    pub fn as_str(&self) -> &str {
        match self {
            Path::Null => "",
            Path::Postmaster => "postmaster",
            Path::Mailbox(mailbox) => mailbox.as_str(),
        }
    }

    /// The address, if the path has one.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Path::Mailbox(mailbox) => Some(mailbox),
            Path::Null | Path::Postmaster => None,
        }
    }

    /// Whether the path needs SMTPUTF8.
    pub fn is_international(&self) -> bool {
        self.mailbox().is_some_and(Mailbox::is_international)
    }

    /// Reads a bracketed path from the start of `text`; returns it and what follows the bracket.
    pub(crate) fn parse(text: &str) -> Result<(Self, &str), AddressError> {
        let inner = text.strip_prefix('<').ok_or(AddressError::NoBrackets)?;
        let end = closing_bracket(inner).ok_or(AddressError::NoBrackets)?;
        if end + 2 > PATH_MAX {
            return Err(AddressError::TooLong);
        }
        let (path, rest) = (&inner[..end], &inner[end + 1..]);
        let path = match path {
            "" => Path::Null,
            name if name.eq_ignore_ascii_case("postmaster") => Path::Postmaster,
            address => Path::Mailbox(Mailbox::parse(without_route(address)?)?),
        };
        Ok((path, rest))
    }
}

/// Why an address can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// No `<` at the start or no `>` at the end.
    NoBrackets,
    /// No `@` and domain.
    NoDomain,
    /// The local part breaks the grammar.
    BadLocal,
    /// The domain or address literal breaks the grammar.
    BadDomain,
    /// The source route breaks the grammar.
    BadRoute,
    /// A length limit of RFC 5321 is exceeded.
    TooLong,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBrackets => "address must stand in <>",
            Self::NoDomain => "address has no domain",
            Self::BadLocal => "local part is malformed",
            Self::BadDomain => "domain is malformed",
            Self::BadRoute => "source route is malformed",
            Self::TooLong => "address is too long",
        })
    }
}

impl std::error::Error for AddressError {}

/// The closing bracket, which may not be the first `>`: a quoted local part may hold one.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// RFC 5321 section 3.6.1 and appendix C: a source route is accepted and ignored.
fn without_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(AddressError::BadRoute)?;
    for hop in route.split(',') {
        check_domain(hop.strip_prefix('@').ok_or(AddressError::BadRoute)?).map_err(|_| AddressError::BadRoute)?;
    }
    Ok(mailbox)
}

/// RFC 5322 section 3.2.3, and any character beyond ASCII (RFC 6531 section 3.3).
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

/// Checks the local part at the start of `text` and returns what follows it.
fn local_part(text: &str) -> Result<&str, AddressError> {
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted_string(quoted);
    }
    let end = text.find('@').unwrap_or(text.len());
    let atoms_hold = text[..end].split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
    if atoms_hold { Ok(&text[end..]) } else { Err(AddressError::BadLocal) }
}

fn quoted_string(text: &str) -> Result<&str, AddressError> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            c if c.is_control() => return Err(AddressError::BadLocal),
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(&text[at + 1..]),
            _ => {}
        }
    }
    Err(AddressError::BadLocal)
}

/// A domain name or an address literal (RFC 5321 section 4.1.3).
pub(crate) fn check_domain(text: &str) -> Result<(), AddressError> {
    if text.len() > DOMAIN_MAX {
        return Err(AddressError::TooLong);
    }
    if let Some(literal) = text.strip_prefix('[') {
        let inner = literal.strip_suffix(']').ok_or(AddressError::BadDomain)?;
        return if is_literal(inner) { Ok(()) } else { Err(AddressError::BadDomain) };
    }
    if !text.is_empty() && text.split('.').all(is_label) { Ok(()) } else { Err(AddressError::BadDomain) }
}

fn is_literal(inner: &str) -> bool {
    match inner.split_once(':') {
        None => inner.parse::<std::net::Ipv4Addr>().is_ok(),
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6") => address.parse::<std::net::Ipv6Addr>().is_ok(),
        Some(_) => false,
    }
}

/// Letters, digits and hyphens (RFC 5321 section 2.3.5), and underscores, which exist in the wild; U-labels as they
/// are.
fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (!c.is_ascii() && !c.is_control());
    !label.is_empty()
        && label.len() <= LABEL_MAX
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_read() {
        for (text, want, rest) in [
            ("<a@b.example>", "a@b.example", ""),
            ("<a.b+c@[192.0.2.1]> SIZE=1", "a.b+c@[192.0.2.1]", " SIZE=1"),
            ("<x@[IPv6:2001:db8::1]>", "x@[IPv6:2001:db8::1]", ""),
            ("<\"a > b\\\"@\"@c.example>", "\"a > b\\\"@\"@c.example", ""),
            ("<@r.example,@s.example:a@b.example>", "a@b.example", ""),
            ("<żółw@przykład.example>", "żółw@przykład.example", ""),
            ("<Postmaster>", "postmaster", ""),
            ("<>", "", ""),
        ] {
            let (path, left) = Path::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((path.as_str(), left), (want, rest), "{text}");
        }
    }

    #[test]
    fn paths_that_are_refused() {
        for (text, why) in [
            ("a@b", AddressError::NoBrackets),
            ("<a@b", AddressError::NoBrackets),
            ("<a>", AddressError::NoDomain),
            ("<a..b@c>", AddressError::BadLocal),
            ("<.a@c>", AddressError::BadLocal),
            ("<a b@c>", AddressError::BadLocal),
            ("<@b>", AddressError::BadRoute),
            ("<@@x:a@b>", AddressError::BadRoute),
            ("<a@>", AddressError::BadDomain),
            ("<a@b..c>", AddressError::BadDomain),
            ("<a@-b>", AddressError::BadDomain),
            ("<a@[1.2.3]>", AddressError::BadDomain),
            ("<a@[IPv9:::1]>", AddressError::BadDomain),
            ("<a@b@c>", AddressError::BadDomain),
        ] {
            assert_eq!(Path::parse(text).unwrap_err(), why, "{text}");
        }
        let long = format!("<{}@b.example>", "a".repeat(250));
        assert_eq!(Path::parse(&long).unwrap_err(), AddressError::TooLong);
    }

    #[test]
    fn local_and_domain() {
        let mailbox = Mailbox::parse("\"a@b\"@c.example").expect("parses");
        assert_eq!((mailbox.local(), mailbox.domain()), ("\"a@b\"", "c.example"));
    }
}
