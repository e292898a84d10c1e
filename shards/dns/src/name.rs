//! Names as questions carry them, and the names that stand for addresses.
//!
//! Invariant: a name that comes out of here is in lower case, without the point at its end, made of letters, digits,
//! hyphens and underscores only, and short enough for the DNS. Names come from strangers on both sides, from clients and
//! out of answers, so nothing else gets further: not into a question, not into a log line, not into a header.

use hickory_resolver::proto::rr::Name;
use std::fmt::Write;
use std::net::IpAddr;

/// Characters of a name, RFC 1035 section 2.3.4, without the point at its end.
const NAME_MAX: usize = 253;

/// Characters of a label, RFC 1035 section 2.3.4.
const LABEL_MAX: usize = 63;

/// Bytes of a text that is looked at for a name in other scripts: four for each character of a name.
const TEXT_MAX: usize = 4 * NAME_MAX;

/// The name that `text` is, if it is one. Labels in other scripts come out in their ASCII form (`xn--`).
pub(crate) fn canonical(text: &str) -> Option<Box<str>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_ascii() {
        return plain(text);
    }
    // What is ASCII in it must be plain before the conversion, which knows escapes that aren't wanted here.
    let acceptable = text.len() <= TEXT_MAX && text.chars().all(|c| !c.is_ascii() || c == '.' || is_plain(c));
    if acceptable { plain(&Name::from_utf8(text).ok()?.to_ascii()) } else { None }
}

/// The name in an answer, if it is one that a host may have.
pub(crate) fn received(name: &Name) -> Option<Box<str>> {
    let mut text = String::with_capacity(NAME_MAX);
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        let label = std::str::from_utf8(label).ok()?;
        // A point inside of a label would pass for one between two.
        if label.contains('.') {
            return None;
        }
        text.push_str(label);
    }
    plain(&text)
}

fn plain(text: &str) -> Option<Box<str>> {
    let is_label = |label: &str| (1..=LABEL_MAX).contains(&label.len()) && label.chars().all(is_plain);
    let is_name = text.len() <= NAME_MAX && text.split('.').all(is_label);
    is_name.then(|| text.to_ascii_lowercase().into())
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// The name under which `address` stands in a DNS list: `2.0.0.127.zen.example` for 127.0.0.2, RFC 5782 section 2.1, and
/// 32 hexadecimal digits for an IPv6 address, RFC 5782 section 2.4. An IPv4 address in IPv6 form counts as IPv4.
///
/// ```
/// let name = ringpost_dns::reverse_name([127, 0, 0, 2].into(), "zen.example");
/// assert_eq!(name, "2.0.0.127.zen.example");
/// ```
pub fn reverse_name(address: IpAddr, zone: &str) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.{zone}")
        }
        IpAddr::V6(address) => nibbles(address.octets(), zone),
    }
}

/// The name of the PTR records of `address`, RFC 1035 section 3.5 and RFC 3596 section 2.5.
pub(crate) fn pointer_name(address: IpAddr) -> String {
    let address = address.to_canonical();
    reverse_name(address, if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" })
}

/// The hexadecimal digits of an IPv6 address, the last first, and the zone.
pub(crate) fn nibbles(octets: [u8; 16], zone: &str) -> String {
    let mut name = String::with_capacity(64 + zone.len());
    for octet in octets.iter().rev() {
        // Writing to a String can't fail.
        let _ = write!(name, "{:x}.{:x}.", octet & 15, octet >> 4);
    }
    name + zone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(canonical(text).as_deref(), expected, "{text:?}");
    }

    #[test]
    fn names_come_out_in_one_form() {
        check("example.com", Some("example.com"));
        check("Mail.Example.COM.", Some("mail.example.com"));
        check("_dmarc.a_b.example", Some("_dmarc.a_b.example"));
        check("xn--bcher-kva.example", Some("xn--bcher-kva.example"));
        check("Bücher.example", Some("xn--bcher-kva.example"));
        check("1.2.3.4", Some("1.2.3.4"));
    }

    #[test]
    fn what_is_no_name_is_not_asked() {
        for text in ["", ".", "..", "a..b", ".a", "a b", "a\nb", "a\\.b", "a/b", "a:b", "[1.2.3.4]", "*.a", "a\0b"] {
            check(text, None);
        }
        for text in ["bü cher.example", "bü\\046cher.example", "ü*.example", "ü\r\n.example"] {
            check(text, None);
        }
    }

    #[test]
    fn lengths_are_those_of_the_dns() {
        let label = "a".repeat(63);
        check(&label, Some(&label));
        check(&"a".repeat(64), None);
        let longest = [label.as_str(), &label, &label, &label[..61]].join(".");
        assert_eq!(longest.len(), NAME_MAX);
        check(&longest, Some(&longest));
        check(&format!("{longest}."), Some(&longest));
        check(&format!("{longest}a"), None);
        check(&"ü".repeat(100_000), None);
    }

    #[test]
    fn hostile_names_in_answers_are_no_names() {
        let name = |labels: &[&[u8]]| Name::from_labels(labels.iter().copied()).expect("short enough");
        assert_eq!(received(&name(&[b"Mail", b"example"])).as_deref(), Some("mail.example"));
        for label in [&b"a.b"[..], b"a\r\nX: y", b"\xff", b"a b", b"\x1b[2J", b"<script>"] {
            assert_eq!(received(&name(&[label, b"example"])), None, "{label:?}");
        }
        assert_eq!(received(&Name::root()), None);
    }

    #[test]
    fn addresses_read_backwards() {
        let v6 = "2001:db8:1:2:3:4:567:89ab".parse().expect("an address");
        let digits = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2";
        assert_eq!(reverse_name(v6, "ugly.example"), format!("{digits}.ugly.example"));
        assert_eq!(pointer_name(v6), format!("{digits}.ip6.arpa"));
        let mapped = "::ffff:192.0.2.99".parse().expect("an address");
        assert_eq!(reverse_name(mapped, "bad.example"), "99.2.0.192.bad.example");
        assert_eq!(pointer_name(mapped), "99.2.0.192.in-addr.arpa");
    }
}
