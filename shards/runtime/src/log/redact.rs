//! Values as the rules of redaction let them be shown.
//!
//! Invariants: with a rule on, no value has an address of its kind in it that is written the usual way, alone or in
//! the midst of text. For mail that is the addr-spec of RFC 5322 section 3.4.1, of which the domain stays and the local
//! part becomes `~` and six digits: a keyed hash of the whole address, so that lines of one address can be put together
//! while the process runs, and not compared with a list of addresses afterwards. For hosts it is an IP address, bare,
//! in brackets, before a port, or turned around as in a question to the DNS; its network stays. A redaction may take
//! more than an address from a text that only looks like one, never less.
//!
//! What it refuses: to find addresses in disguise (`user at example.org`, `host-192-0-2-7.example.net` in free text);
//! to hide the server's own, such as 127.0.0.1 and `::`.

use super::Redaction;
use super::fields::Kind;
use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

/// What stands in the place of a secret.
pub(super) const SECRET: &str = "***";

/// The bits of an IPv4 address that are shown.
const V4_SHOWN: u8 = 24;

/// The bits of an IPv6 address that are shown.
const V6_SHOWN: u8 = 48;

/// Parts of a client's name that are shown: the domain, in most of the world.
const NAME_PARTS_SHOWN: usize = 2;

/// Digits of IPv6 under ip6.arpa.
const NIBBLES: usize = 32;

/// Bytes of the longest text of an IPv6 address, with punctuation or a port behind it.
const V6_TEXT_MAX: usize = 53;

/// Appends `value`, a field of this kind, as the rules let it be shown.
pub(super) fn apply(out: &mut String, kind: Kind, rules: Redaction, value: &str) {
    match kind {
        Kind::Secret => out.push_str(SECRET),
        Kind::Plain => out.push_str(value),
        Kind::Mailbox if rules.mail => mailbox(out, rules, value),
        Kind::Client if rules.client => match value.parse::<SocketAddr>() {
            // The port of a client tells it from others behind one address.
            Ok(address) => address_shown(out, address.ip()),
            Err(_) => text(out, rules, value),
        },
        Kind::Name if rules.client && is_name(value) => name(out, value),
        Kind::Mailbox | Kind::Client | Kind::Name | Kind::Host | Kind::Text => text(out, rules, value),
    }
}

/// A field that is one address: everything before the last `@` is its local part.
fn mailbox(out: &mut String, rules: Redaction, value: &str) {
    match value.rsplit_once('@') {
        Some((local, domain)) if !local.is_empty() => {
            pseudonym(out, local, domain);
            out.push('@');
            text(out, rules, domain);
        }
        // The null sender, `postmaster`, or something else that is nobody's.
        _ => text(out, rules, value),
    }
}

fn text(out: &mut String, rules: Redaction, value: &str) {
    let mut value = Cow::Borrowed(value);
    if rules.mail && value.contains('@') {
        value = Cow::Owned(without_mail(&value));
    }
    if rules.client { hosts(out, &value) } else { out.push_str(&value) }
}

/// The key of the process, which nobody knows.
fn key() -> &'static RandomState {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    KEY.get_or_init(RandomState::new)
}

/// Appends the stand-in of what comes before `rest`.
fn pseudonym(out: &mut String, before: &str, rest: &str) {
    let mut hasher = key().build_hasher();
    for byte in before.bytes().chain([0]).chain(rest.bytes()) {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    let _ = write!(out, "~{:06x}", hasher.finish() & 0xff_ffff);
}

fn without_mail(value: &str) -> String {
    let (bytes, mut out, mut done) = (value.as_bytes(), String::with_capacity(value.len()), 0);
    while let Some(mut at) = value[done..].find('@').map(|n| done + n) {
        let (start, mut end) = (local_start(bytes, done, at), domain_end(bytes, at + 1));
        // Of several in a row only the last has a domain behind it.
        while bytes.get(end) == Some(&b'@') && domain_end(bytes, end + 1) > end + 1 {
            (at, end) = (end, domain_end(bytes, end + 1));
        }
        out.push_str(&value[done..start]);
        if start < at && end > at + 1 {
            pseudonym(&mut out, &value[start..at], &value[at + 1..end]);
        } else {
            out.push_str(&value[start..at]);
            end = at + 1;
        }
        out.push_str(&value[at..end]);
        done = end;
    }
    out.push_str(&value[done..]);
    out
}

/// Whether a byte can stand in a dot-atom (RFC 5322 section 3.2.3), or in a character beyond ASCII (RFC 6531 section
/// 3.3).
fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte)
}

/// Where the local part before `at` begins, not before `from`.
fn local_start(bytes: &[u8], from: usize, at: usize) -> usize {
    let back = |start: usize, goes_on: &dyn Fn(u8) -> bool| {
        start - bytes[from..start].iter().rev().take_while(|byte| goes_on(**byte)).count()
    };
    if at > from && bytes[at - 1] == b'"' {
        let inner = back(at - 1, &|byte| byte != b'"');
        // Without an opening quote it is no address, and taken for one to the next blank all the same.
        return if inner > from { inner - 1 } else { back(at, &|byte| byte != b' ') };
    }
    let start = back(at, &is_atom);
    // A quotation mark around the address is no part of it, though it could be.
    start
        + bytes[start..at]
            .iter()
            .take_while(|byte| b"'`*{|=".contains(byte))
            .count()
            .min((at - start).saturating_sub(1))
}

/// Where the domain that begins at `start` ends.
fn domain_end(bytes: &[u8], start: usize) -> usize {
    let rest = &bytes[start..];
    if rest.first() == Some(&b'[') {
        let in_literal = |byte: &&u8| byte.is_ascii_alphanumeric() || b"[:.-".contains(byte);
        let inner = rest.iter().take_while(in_literal).count();
        return start + inner + usize::from(rest.get(inner) == Some(&b']'));
    }
    let in_name = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte >= 0x80 || b"-._".contains(byte);
    let name = &rest[..rest.iter().take_while(in_name).count()];
    // The full stop of the sentence.
    start + name.len() - name.iter().rev().take_while(|byte| b".-_".contains(byte)).count()
}

fn is_name(value: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80 || b"-._".contains(&byte);
    let last = value.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    value.bytes().all(fits) && last.starts_with(char::is_alphabetic)
}

/// The last parts of a client's name: what comes before them often has its address in it.
fn name(out: &mut String, value: &str) {
    let ends = value.trim_end_matches('.').rmatch_indices('.');
    match ends.map(|(at, _)| at).nth(NAME_PARTS_SHOWN - 1) {
        Some(cut) => {
            pseudonym(out, &value[..cut], &value[cut..]);
            out.push_str(&value[cut..]);
        }
        None => out.push_str(value),
    }
}

/// Appends `value` with every IP address in it cut down to its network.
fn hosts(out: &mut String, value: &str) {
    let bytes = value.as_bytes();
    let (mut done, mut at) = (0, 0);
    while at < bytes.len() {
        if let Some((end, shown)) = host(value, at) {
            out.push_str(&value[done..at]);
            out.push_str(&shown);
            (done, at) = (end, end);
        } else {
            at += 1;
        }
    }
    out.push_str(&value[done..]);
}

/// The address that begins exactly here: where it ends, and what is shown of it.
fn host(value: &str, at: usize) -> Option<(usize, String)> {
    let bytes = value.as_bytes();
    if !(bytes[at].is_ascii_hexdigit() || bytes[at] == b':') {
        return None;
    }
    let in_word = at > 0 && bytes[at - 1].is_ascii_alphanumeric();
    let is_plain_start = !in_word && (at == 0 || bytes[at - 1] != b'.');
    if let Some(end) = nibbles(bytes, at).filter(|_| is_plain_start) {
        // The digits of the network are the last ones.
        return Some((end, format!("~.{}", &value[end - 2 * usize::from(V6_SHOWN / 4)..end])));
    }
    if let Some((end, address)) = v6(value, at).filter(|_| !in_word) {
        return Some(network(value, at, end, IpAddr::V6(address)));
    }
    let (end, octets) = v4(bytes, at).filter(|_| at == 0 || !bytes[at - 1].is_ascii_digit())?;
    let part_before = at > 1 && bytes[at - 1] == b'.' && bytes[at - 2].is_ascii_alphanumeric();
    let part_after = bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_alphanumeric);
    if part_before || part_after {
        // Within a name, and perhaps turned around: neither end of it is shown.
        return Some((end, format!("~.{}.{}.~", octets[1], octets[2])));
    }
    Some(network(value, at, end, IpAddr::from(octets)))
}

/// Where the 32 digits of a name under ip6.arpa, or under a list, end.
fn nibbles(bytes: &[u8], at: usize) -> Option<usize> {
    let end = at + 2 * NIBBLES;
    let digits = bytes.get(at..end)?.as_chunks::<2>().0;
    digits.iter().all(|[digit, dot]| digit.is_ascii_hexdigit() && *dot == b'.').then_some(end)
}

fn v6(value: &str, at: usize) -> Option<(usize, Ipv6Addr)> {
    let is_part = |byte: &&u8| byte.is_ascii_hexdigit() || matches!(**byte, b':' | b'.');
    let length = value.as_bytes()[at..].iter().take(V6_TEXT_MAX).take_while(is_part).count();
    let whole = &value[at..at + length];
    if whole.bytes().filter(|byte| *byte == b':').count() < 2 {
        return None;
    }
    // Punctuation may follow, or a port behind a dot.
    let bare = whole.trim_end_matches('.');
    let before_port = bare.split_once('.').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let forms = [whole, bare, bare.strip_suffix(':').unwrap_or(bare), before_port.map_or(bare, |(address, _)| address)];
    let (end, address) = forms.iter().find_map(|form| Some((at + form.len(), form.parse().ok()?)))?;
    let goes_on = value.as_bytes().get(end).is_some_and(u8::is_ascii_alphanumeric);
    (!goes_on).then_some((end, address))
}

fn v4(bytes: &[u8], at: usize) -> Option<(usize, [u8; 4])> {
    let (mut octets, mut end) = ([0; 4], at);
    for (n, octet) in octets.iter_mut().enumerate() {
        if n > 0 {
            end += usize::from(*bytes.get(end)? == b'.');
        }
        let digits = bytes[end..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let value =
            bytes[end..end + digits].iter().try_fold(0_u8, |sum, byte| sum.checked_mul(10)?.checked_add(byte - b'0'));
        *octet = value.filter(|_| (1..=3).contains(&digits))?;
        end += digits;
    }
    Some((end, octets))
}

/// What is shown of an address, and where it ends with the length of a network that may stand behind it.
fn network(value: &str, at: usize, end: usize, address: IpAddr) -> (usize, String) {
    let behind = value[end..].strip_prefix('/').unwrap_or_default();
    let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
    let goes_on = behind[digits..].starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | ':'));
    let (end, given) = match digits {
        1..=3 if !goes_on => (end + 1 + digits, behind[..digits].parse().ok()),
        _ => (end, None),
    };
    let shown: u8 = if address.is_ipv4() { V4_SHOWN } else { V6_SHOWN };
    let mut text = String::new();
    if given.is_some_and(|given: u8| given <= shown) || is_own(address) {
        text.push_str(&value[at..end]);
    } else {
        address_shown(&mut text, address);
    }
    (end, text)
}

/// Addresses that any machine has.
fn is_own(address: IpAddr) -> bool {
    address.is_unspecified() || address.is_loopback()
}

fn address_shown(out: &mut String, address: IpAddr) {
    let _ = match address.to_canonical() {
        own if is_own(own) => write!(out, "{own}"),
        IpAddr::V4(address) => {
            write!(out, "{}/{V4_SHOWN}", Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - V4_SHOWN))))
        }
        IpAddr::V6(address) => {
            write!(out, "{}/{V6_SHOWN}", Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - V6_SHOWN))))
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: Redaction = Redaction { mail: true, client: false };
    const CLIENT: Redaction = Redaction { mail: false, client: true };
    const BOTH: Redaction = Redaction { mail: true, client: true };

    fn shown(kind: Kind, rules: Redaction, value: &str) -> String {
        let mut out = String::new();
        apply(&mut out, kind, rules, value);
        out
    }

    /// The text with each hash, which is another one in each process, as `~#`.
    fn without_hashes(text: &str) -> String {
        let mut out = String::new();
        for (n, part) in text.split('~').enumerate() {
            let is_hash = n > 0 && part.len() >= 6 && part.bytes().take(6).all(|byte| byte.is_ascii_hexdigit());
            out.push_str(if n > 0 { "~" } else { "" });
            out.push_str(&if is_hash { format!("#{}", &part[6..]) } else { part.to_owned() });
        }
        out
    }

    #[track_caller]
    fn check(kind: Kind, rules: Redaction, value: &str, expected: &str) {
        assert_eq!(without_hashes(&shown(kind, rules, value)), expected, "{value}");
    }

    #[test]
    fn addresses_of_mail_keep_their_domain() {
        for (value, expected) in [
            ("alice@example.org", "~#@example.org"),
            ("\"a b@c\"@example.org", "~#@example.org"),
            ("élise@exämple.org", "~#@exämple.org"),
            ("a/b=c@[192.0.2.7]", "~#@[192.0.2.7]"),
            ("", ""),
            ("postmaster", "postmaster"),
            ("/var/mail/shard-0", "/var/mail/shard-0"),
        ] {
            check(Kind::Mailbox, MAIL, value, expected);
            check(Kind::Mailbox, CLIENT, "alice@example.org", "alice@example.org");
        }
        check(Kind::Mailbox, BOTH, "a@[192.0.2.7]", "~#@[192.0.2.0/24]");
        check(Kind::Mailbox, BOTH, "a@[IPv6:2001:db8:1:2::7]", "~#@[IPv6:2001:db8:1::/48]");
    }

    #[test]
    fn addresses_of_mail_are_found_in_text() {
        for (value, expected) in [
            ("550 5.1.1 <alice@example.org>: user unknown", "550 5.1.1 <~#@example.org>: user unknown"),
            ("no such user 'alice@example.org'.", "no such user '~#@example.org'."),
            ("alice@example.org,bob@example.net", "~#@example.org,~#@example.net"),
            ("rfc822;alice+tag@example.org", "rfc822;~#@example.org"),
            ("to \"al ice\"@example.org now", "to ~#@example.org now"),
            ("Some(\"alice@example.org\")", "Some(\"~#@example.org\")"),
            ("al ice\"@example.org", "al ~#@example.org"),
            ("«élise@exämple.org»", "~#@exämple.org»"),
            ("alice@[192.0.2.1]", "~#@[192.0.2.1]"),
            ("alice@[192.0.2.1 and @[bob@example.org]", "~#@[192.0.2.1 and ~#@example.org]"),
            ("a@b@c", "~#@c"),
            ("a@ba@b", "~#@b"),
            ("an @ alone, @handle and end@", "an @ alone, @handle and end@"),
            ("alice@example.org@", "~#@example.org@"),
            ("@", "@"),
            ("\"@\"@", "\"@\"@"),
        ] {
            check(Kind::Text, MAIL, value, expected);
            assert!(!shown(Kind::Text, CLIENT, value).contains('~'), "{value}");
        }
    }

    #[test]
    fn one_address_has_one_hash_and_others_have_others() {
        let field = shown(Kind::Mailbox, MAIL, "alice@example.org");
        assert_eq!(shown(Kind::Text, MAIL, "<Alice@EXAMPLE.org>").to_lowercase(), format!("<{field}>"));
        assert_eq!(shown(Kind::Text, MAIL, "'alice@example.org'"), format!("'{field}'"));
        let other = shown(Kind::Mailbox, MAIL, "alice@example.net");
        assert_ne!(field.split('@').next(), other.split('@').next(), "a local part is not known again elsewhere");
        assert_ne!(field, shown(Kind::Mailbox, MAIL, "bob@example.org"));
    }

    #[test]
    fn addresses_of_hosts_keep_their_network() {
        for (value, expected) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("192.0.2.77:50123", "192.0.2.0/24"),
            ("[2001:db8:1:2::77]:50123", "2001:db8:1::/48"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::ffff:192.0.2.77", "192.0.2.0/24"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.1.2.3:25", "127.1.2.3"),
            ("", ""),
            ("unix", "unix"),
        ] {
            check(Kind::Client, CLIENT, value, expected);
            check(Kind::Client, MAIL, value, value);
        }
        check(Kind::Client, CLIENT, "a name (192.0.2.77)", "a name (192.0.2.0/24)");
    }

    #[test]
    fn addresses_of_hosts_are_found_in_text() {
        for (value, expected) in [
            ("client host [192.0.2.77] blocked", "client host [192.0.2.0/24] blocked"),
            ("connect to 192.0.2.77:25: refused", "connect to 192.0.2.0/24:25: refused"),
            ("[2001:db8:1:2::77]:25: refused", "[2001:db8:1::/48]:25: refused"),
            ("::192.0.2.77::a", "::192.0.2.0/24::a"),
            ("see 2001:db8:1:2::77.", "see 2001:db8:1::/48."),
            ("2001:db8:1:2::77: refused", "2001:db8:1::/48: refused"),
            ("2001:db8:1:2::77.25 > x", "2001:db8:1::/48.25 > x"),
            ("IPv6:2001:db8:1:2::77", "IPv6:2001:db8:1::/48"),
            ("client:192.0.2.77,ip=192.0.2.78", "client:192.0.2.0/24,ip=192.0.2.0/24"),
            ("fe80::1%eth0", "fe80::/48%eth0"),
            ("from 192.0.2.77. Then", "from 192.0.2.0/24. Then"),
            ("192.0.2.77/32 and 192.0.2.0/25", "192.0.2.0/24 and 192.0.2.0/24"),
            ("10.0.0.0/8 and 2001:db8::/32", "10.0.0.0/8 and 2001:db8::/32"),
            ("2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("0.0.0.0:25 [::]:25 ::1", "0.0.0.0:25 [::]:25 ::1"),
            ("77.2.0.192.zen.example", "~.2.0.~.zen.example"),
            ("x.77.2.0.192.in-addr.arpa", "x.~.2.0.~.in-addr.arpa"),
            ("Some(192.0.2.77)", "Some(192.0.2.0/24)"),
            ("ip192.0.2.77é", "ip192.0.2.0/24é"),
            ("300.192.0.2.77", "300.~.0.2.~"),
        ] {
            check(Kind::Text, CLIENT, value, expected);
            check(Kind::Host, BOTH, value, expected);
        }
        let nibbles = |host: &str| format!("{host}2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
        check(Kind::Text, CLIENT, &nibbles("7.7.0.0.0.0.0.0.0.0.0.0.0.0.0.0."), "~.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
    }

    #[test]
    fn what_is_no_address_stays() {
        for value in [
            "",
            "10:31:25.123",
            "5.7.1 not this",
            "version 0.1.0",
            "1.2.3",
            "1.2.3.256",
            "1.2.3.1000",
            "1..2.3.4",
            "00:11:22:33:44:55",
            "std::fs::File",
            "ringpost_serve::mx",
            "a: b: c",
            "....:::::",
            "2026-11-20T10:31:25.123456Z",
            "é.1.2.é",
        ] {
            check(Kind::Text, BOTH, value, value);
        }
    }

    #[test]
    fn names_of_clients_keep_their_end() {
        for (value, expected) in [
            ("dyn-192-0-2-77.pool.example.net", "~#.example.net"),
            ("mx.example.org.", "~#.example.org."),
            ("example.org", "example.org"),
            ("localhost", "localhost"),
            ("", ""),
            ("[192.0.2.77]", "[192.0.2.0/24]"),
            ("192.0.2.77", "192.0.2.0/24"),
            ("1.2.3.4.example.net", "~#.example.net"),
            ("x.192.0.2.77", "x.~.0.2.~"),
            ("a b@example", "a b@example"),
        ] {
            check(Kind::Name, CLIENT, value, expected);
            check(Kind::Name, Redaction::default(), value, value);
        }
    }

    #[test]
    fn secrets_are_never_shown_and_plain_values_always() {
        for rules in [Redaction::default(), MAIL, CLIENT, BOTH] {
            check(Kind::Secret, rules, "hunter2", SECRET);
            check(Kind::Secret, rules, "", SECRET);
            check(Kind::Plain, rules, "<a@192.0.2.77>", "<a@192.0.2.77>");
        }
    }

    /// Whatever stands there: no panic, and no address is left.
    #[test]
    fn texts_of_any_pieces_end_without_an_address() {
        const PIECES: [&str; 15] =
            ["a@b", "192.0.2.77", "2001:db8:1:2::7", "\"", "@", ".", ":", "/", "é", "~", "[", "]", " ", "f", "::"];
        let value = |mut n: usize| {
            let mut value = String::new();
            for _ in 0..4 {
                value.push_str(PIECES[n % PIECES.len()]);
                n /= PIECES.len();
            }
            value
        };
        for value in (0..PIECES.len().pow(4)).map(value) {
            // With another digit beside it, it is no address.
            if value.contains("7192.") || value.contains("2.772") || value.contains("2.77192") {
                continue;
            }
            for kind in [Kind::Text, Kind::Mailbox, Kind::Client, Kind::Name] {
                let shown = without_hashes(&shown(kind, BOTH, &value));
                assert!(!shown.contains("2.77") && !shown.contains("a@b"), "{value} as {kind:?}: {shown}");
            }
        }
    }
}
