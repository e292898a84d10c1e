//! What names, host names, domains, local parts, paths, addresses and networks have to look like.
//!
//! Each check takes the text as the file has it and says what is wrong with it in words that fit behind the value.

use crate::reader::{Entry, Table, Trouble};
use ringpost_base::{Network, ParseNetworkError};
use std::net::{IpAddr, SocketAddr};

/// Longest name of a listener or target. They are values of metric labels and words of log lines.
const NAME_MAX: usize = 64;
/// Longest domain and label of one, in octets (RFC 1035 section 2.3.4, less the length octet and the root).
const DOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// Longest zone of a DNS list: the 32 digits of an IPv6 address and their dots stand before it in a name.
const ZONE_MAX: usize = DOMAIN_MAX - 64;
/// The port of DNS.
const DNS_PORT: u16 = 53;
/// Longest local part in octets.
const LOCAL_PART_MAX: usize = 64; // RFC 5321 section 4.5.3.1.1

/// The name of a listener or target.
pub(crate) fn name(text: &str) -> Result<(), Trouble> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(fits) {
        return Err(format!("{text:?} is not a name: 1 to {NAME_MAX} letters, digits, \"-\", \"_\" or \".\"").into());
    }
    Ok(())
}

/// The server's host name, or nothing.
pub(crate) fn hostname(text: &str) -> Result<(), Trouble> {
    if text.is_empty() {
        return Ok(());
    }
    if !text.is_ascii() {
        return Err(format!("{text:?} is not a host name: it has to be in ASCII, with \"xn--\" labels").into());
    }
    domain_name(text, "host name")
}

/// A domain that mail is accepted for. Labels may be in any script, as in the addresses of RFC 6531.
pub(crate) fn domain(text: &str) -> Result<(), Trouble> {
    domain_name(text, "domain")
}

/// The zone of a DNS list.
pub(crate) fn zone(text: &str) -> Result<(), Trouble> {
    if !text.is_ascii() {
        return Err(format!("{text:?} is not a zone: it has to be in ASCII, with \"xn--\" labels").into());
    }
    if text.len() > ZONE_MAX && text.len() <= DOMAIN_MAX {
        return Err(format!("{text:?} is not a zone: with an IPv6 address before it, it is too long for a name").into());
    }
    domain_name(text, "zone")
}

fn domain_name(text: &str, what: &str) -> Result<(), Trouble> {
    let reason = if text.is_empty() {
        "is empty"
    } else if text.len() > DOMAIN_MAX {
        "is longer than 253 octets"
    } else if text.contains('@') {
        "has an \"@\""
    } else if text.ends_with('.') {
        "ends with a dot"
    } else if text.split('.').any(str::is_empty) {
        "has an empty label"
    } else if text.split('.').any(|label| label.len() > LABEL_MAX) {
        "has a label longer than 63 octets"
    } else if text.split('.').any(|label| label.starts_with('-') || label.ends_with('-')) {
        "has a label that starts or ends with \"-\""
    } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c) || is_u_label(c)) {
        "has a character that is not a letter, a digit, \"-\" or \".\""
    } else if text.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        "has a last label of digits only, as an IP address has"
    } else {
        return Ok(());
    };
    let without_dot = text.strip_suffix('.').filter(|rest| domain_name(rest, what).is_ok());
    Err(Trouble::from(format!("{text:?} is not a {what}: it {reason}")).suggest(without_dot.map(str::to_owned)))
}

/// Whether a label in the form for people may have this character. Combining marks are neither letters nor digits.
fn is_u_label(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// A local part of a domain's list.
pub(crate) fn local_part(text: &str) -> Result<(), Trouble> {
    let reason = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > LOCAL_PART_MAX {
        format!("is longer than {LOCAL_PART_MAX} octets")
    } else if text.contains('@') {
        "has an \"@\"; only what stands before it belongs here".to_owned()
    } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        "has a blank or control character".to_owned()
    } else {
        return Ok(());
    };
    let (local, _) = text.split_once('@').unwrap_or_default();
    let guess = if local.is_empty() { None } else { Some(local.to_owned()) };
    Err(Trouble::from(format!("{text:?} is not a local part: it {reason}")).suggest(guess))
}

/// A file or directory.
pub(crate) fn path(text: &str) -> Result<(), Trouble> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} is not a path: it has a control character").into());
    }
    Ok(())
}

/// The name or number of a user or group.
pub(crate) fn account(text: &str) -> Result<(), Trouble> {
    // What neither the files of users and groups nor the paths that names become part of can hold.
    let misfit = |c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/';
    if text.is_empty() || text.chars().any(misfit) {
        let reason = "it has a blank, a colon, a slash or a control character";
        return Err(format!("{text:?} is not the name of a user or group: {reason}").into());
    }
    Ok(())
}

/// An IP address with a port.
pub(crate) fn address(entry: &Entry<'_>) -> Result<SocketAddr, Trouble> {
    let wanted = "an IP address and port, such as \"127.0.0.1:2525\" or \"[::1]:2525\"";
    let text = entry.text().ok_or_else(|| entry.wants(wanted))?;
    text.parse().map_err(|_| format!("{text:?} is not {wanted}").into())
}

/// The address of a DNS server, with or without a port.
pub(crate) fn dns_server(entry: &Entry<'_>) -> Result<SocketAddr, Trouble> {
    let wanted = "an IP address, with a port or without, such as \"127.0.0.1:5353\" or \"::1\"";
    let text = entry.text().ok_or_else(|| entry.wants(wanted))?;
    let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::from((ip, DNS_PORT))));
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|ip| ip.parse::<IpAddr>().is_ok());
    match address {
        Ok(address) if address.port() == 0 => Err(format!("{text:?} has the port 0, at which nothing answers").into()),
        Ok(address) => Ok(address),
        Err(_) => Err(Trouble::from(format!("{text:?} is not {wanted}")).suggest(bare.map(str::to_owned))),
    }
}

/// A list of at most `max` networks, each given once.
pub(crate) fn networks(table: &Table<'_>, name: &'static str, max: usize) -> Vec<Network> {
    let list = table.list(name, network);
    let reader = table.reader;
    reader.distinct(&list.value, |network, earlier| format!("{network} is in the list already, as {earlier}"));
    let count = list.value.len();
    reader.require(count <= max, &[list.spot()], || {
        format!("{count} networks are more than {max}; join them to larger ones")
    });
    list.value.into_iter().map(|network| network.value).collect()
}

fn network(entry: &Entry<'_>) -> Result<Network, Trouble> {
    let wanted = "an address or network, such as \"192.0.2.1\" or \"192.0.2.0/24\"";
    let text = entry.text().ok_or_else(|| entry.wants(wanted))?;
    text.parse().map_err(|error| match error {
        ParseNetworkError::HostBits(meant) => {
            Trouble::from(format!("{text:?} has bits set behind its prefix")).suggest(Some(meant.to_string()))
        }
        ParseNetworkError::Malformed => format!("{text:?} is not {wanted}").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: fn(&str) -> Result<(), Trouble>, good: &[&str], bad: &[&str]) {
        good.iter().for_each(|text| assert!(test(text).is_ok(), "{text}"));
        bad.iter().for_each(|text| assert!(test(text).is_err(), "{text}"));
    }

    #[test]
    fn names_and_paths() {
        let long = "a".repeat(NAME_MAX + 1);
        check(name, &["mx", "mx-25_a.b", &long[1..]], &["", "m x", "mx\n", "é", &long]);
        check(path, &["/a b", "ä"], &["", "a\0b", "a\nb"]);
    }

    #[test]
    fn host_names_and_domains() {
        let label = "a".repeat(LABEL_MAX);
        let long = format!("{label}.{label}.{label}.{label}");
        let bad = [
            ".",
            "a..b",
            "a.",
            ".a",
            "-a.org",
            "a-.org",
            "a_b.org",
            "a b",
            "a@b",
            "1.2.3.4",
            "[1.2.3.4]",
            &long,
            "*.org",
        ];
        let good = ["localhost", "mx.example.org", "xn--bcher-kva.example", "1a.2b", &long[2..]];
        check(hostname, &good, &bad);
        check(hostname, &[""], &["bücher.example"]);
        check(domain, &good, &bad);
        check(domain, &["bücher.example", "Example.ORG"], &["", "a\u{a0}b"]);
    }

    #[test]
    fn zones_leave_room_for_an_address() {
        let label = "a".repeat(LABEL_MAX);
        let long = format!("{label}.{label}.{label}");
        check(zone, &["zen.example.org", &long[2..]], &["", "bücher.example", "zen.example.org.", &long[1..]]);
    }

    #[test]
    fn local_parts() {
        let long = "a".repeat(LOCAL_PART_MAX + 1);
        check(local_part, &["alice", "a.b+c", "jürgen", &long[1..]], &["", "a@b", "a b", "a\r", &long]);
    }
}
