//! PROXY protocol headers: no answer changes when more comes, each is the one of a plain reading of the specification,
//! and what is said to be the beginning of a header is one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_smtp::proxy::{HEADER_MAX, Parsed, Source, parse};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

/// The longest line of version 1.
const LINE_MAX: usize = 107;

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    splits(input, whole);
    match whole {
        Parsed::Header { used, source } => {
            assert!(used <= input.len() && used <= HEADER_MAX);
            written_and_read(source);
        }
        Parsed::NeedMore => {
            assert!(input.len() < HEADER_MAX);
            assert!(input.is_empty() || !input.starts_with(b"P") || becomes_a_line(input), "no line comes of this");
        }
        Parsed::Malformed(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some(end) = input.windows(2).take(LINE_MAX - 1).position(|pair| pair == b"\r\n")
        && input.starts_with(b"PROXY")
    {
        let found = match whole {
            Parsed::Header { used, source } if used == end + 2 => Some(source),
            _ => None,
        };
        assert_eq!(found, plain_line(&input[..end]));
    }
});

/// The first answer that isn't `NeedMore` is the answer to the whole. Long inputs are cut at some places only.
fn splits(input: &[u8], whole: Parsed) {
    let cuts = (0..input.len()).filter(|cut| *cut < 200 || cut % 61 == 0);
    let first = cuts.map(|cut| parse(&input[..cut])).find(|parsed| *parsed != Parsed::NeedMore);
    assert_eq!(first.unwrap_or(whole), whole);
}

/// A line of version 1 without its end, read with nothing but splits; none if it is no header.
fn plain_line(line: &[u8]) -> Option<Source> {
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        let one_line = !line.contains(&b'\r') && !line.contains(&b'\n');
        return one_line.then_some(Source::Local);
    }
    let text = std::str::from_utf8(line).ok()?;
    let ["PROXY", family, source, destination, source_port, destination_port] = text.split(' ').collect::<Vec<_>>()[..]
    else {
        return None;
    };
    let ip = |text: &str| match family {
        "TCP4" => text.parse().ok().map(IpAddr::V4),
        "TCP6" => text.parse().ok().map(IpAddr::V6),
        _ => None,
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == text);
    let address = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    let source = address(ip(source)?, port(source_port)?);
    let destination = address(ip(destination)?, port(destination_port)?);
    Some(Source::Proxied { source, destination })
}

/// Whether something can be put behind the beginning of a line so that it is a header, its length apart.
fn becomes_a_line(input: &[u8]) -> bool {
    let whole = b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n";
    let unknown = b"PROXY UNKNOWN\r\n";
    if whole.starts_with(input) || unknown.starts_with(input) || b"PROXY TCP6 ".starts_with(input) {
        return true;
    }
    if input.starts_with(b"PROXY UNKNOWN") {
        let rest = &input[b"PROXY UNKNOWN".len()..];
        let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
        return !rest.contains(&b'\r') && !rest.contains(&b'\n');
    }
    let address = if input.starts_with(b"PROXY TCP4") { "1.1.1.1" } else { "::1" };
    let rests = [format!(" {address} 1 1"), " 1 1".to_owned(), " 1".to_owned(), String::new()];
    let ends = ["", "1", ":", "::", "1.1.1.1", ".1", ".1.1", ".1.1.1", "1.1", "1.1.1"];
    let line = input.strip_suffix(b"\r").unwrap_or(input);
    rests
        .iter()
        .any(|rest| ends.iter().any(|end| plain_line(&[line, end.as_bytes(), rest.as_bytes()].concat()).is_some()))
}

/// Writes a header of each version that says this and reads it again.
fn written_and_read(source: Source) {
    let Source::Proxied { source: client, destination } = source else { return };
    let ports = [client.port(), destination.port()];
    let [from, to] = [client, destination].map(|address| match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    });
    check_line("TCP6", from, to, ports, source);
    let block = [&from.octets()[..], &to.octets(), &ports[0].to_be_bytes(), &ports[1].to_be_bytes()].concat();
    let header = [b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24", &block[..]].concat();
    assert_eq!(parse(&header), Parsed::Header { used: header.len(), source });
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (client.ip(), destination.ip()) {
        check_line("TCP4", from, to, ports, source);
    }
}

fn check_line(family: &str, from: impl Display, to: impl Display, ports: [u16; 2], source: Source) {
    let line = format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1]);
    assert_eq!(parse(line.as_bytes()), Parsed::Header { used: line.len(), source });
}
