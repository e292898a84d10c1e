//! Tables of headers, cut everywhere, and what holds for any bytes.

use super::*;
use proptest::prelude::*;

fn proxied(source: &str, destination: &str) -> Source {
    let address = |text: &str| text.parse().expect("an address");
    Source::Proxied { source: address(source), destination: address(destination) }
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

/// 192.0.2.7:54321 to 198.51.100.25:25.
const TCP4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 25, 0xd4, 0x31, 0, 25];

fn with_fields(fields: &[u8]) -> Vec<u8> {
    binary(0x21, 0x11, &[&TCP4[..], fields].concat())
}

/// A header is found in every prefix that has it, and never before, and what follows it stays.
#[track_caller]
fn check(header: impl AsRef<[u8]>, source: Source) {
    let header = header.as_ref();
    for cut in 0..header.len() {
        assert_eq!(parse(&header[..cut]), Parsed::NeedMore, "{:?}", header[..cut].escape_ascii().to_string());
    }
    for behind in ["", "E", "PROXY TCP4 ", "\r\n"] {
        let input = [header, behind.as_bytes()].concat();
        assert_eq!(parse(&input), Parsed::Header { used: header.len(), source });
    }
}

/// The input is refused from its last byte on, and not before.
#[track_caller]
fn check_refused(input: impl AsRef<[u8]>, error: Error) {
    let input = input.as_ref();
    let before = &input[..input.len() - 1];
    assert_eq!(parse(before), Parsed::NeedMore, "{:?}", before.escape_ascii().to_string());
    for behind in ["", "x", "\r\n"] {
        let input = [input, behind.as_bytes()].concat();
        assert_eq!(parse(&input), Parsed::Malformed(error), "{:?}", input.escape_ascii().to_string());
    }
}

#[test]
fn lines_that_are_read() {
    check("PROXY TCP4 192.0.2.7 198.51.100.25 54321 25\r\n", proxied("192.0.2.7:54321", "198.51.100.25:25"));
    check("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", proxied("0.0.0.0:0", "255.255.255.255:65535"));
    check("PROXY TCP6 2001:db8::7 2001:DB8::19 1 25\r\n", proxied("[2001:db8::7]:1", "[2001:db8::19]:25"));
    let longest = ["ffff"; 8].join(":");
    check(
        format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n"),
        proxied(&format!("[{longest}]:65535"), &format!("[{longest}]:65535")),
    );
    check("PROXY TCP6 :: ::1 1 2\r\n", proxied("[::]:1", "[::1]:2"));
    check("PROXY TCP6 1:2:3:4:5:6:7:: 1::3:4:5:6:7:8 1 2\r\n", proxied("[1:2:3:4:5:6:7:0]:1", "[1:0:3:4:5:6:7:8]:2"));
}

#[test]
fn lines_without_addresses() {
    check("PROXY UNKNOWN\r\n", Source::Local);
    check("PROXY UNKNOWN \r\n", Source::Local);
    check(b"PROXY UNKNOWN \x00\xff as it likes\r\n", Source::Local);
    check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_MAX - 16)), Source::Local);
}

#[test]
fn mapped_addresses_are_those_of_the_client() {
    let client = proxied("192.0.2.7:54321", "198.51.100.25:25");
    check("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.25 54321 25\r\n", client);
    check("PROXY TCP6 ::ffff:c000:207 0:0:0:0:0:ffff:198.51.100.25 54321 25\r\n", client);
    let mapped = |v4: [u8; 4]| Ipv4Addr::from(v4).to_ipv6_mapped().octets();
    let ports = [0xd4, 0x31, 0, 25];
    let block = [&mapped([192, 0, 2, 7])[..], &mapped([198, 51, 100, 25]), &ports].concat();
    check(binary(0x21, 0x21, &block), client);
}

#[test]
fn lines_that_are_refused_at_the_first_wrong_byte() {
    for (line, error) in [
        ("E", Error::NoHeader),
        ("p", Error::NoHeader),
        ("PROXX", Error::NoHeader),
        ("PROXY\t", Error::NoHeader),
        ("PROXY  ", Error::Protocol),
        ("PROXY t", Error::Protocol),
        ("PROXY TCP5", Error::Protocol),
        ("PROXY TCP4\r", Error::Protocol),
        ("PROXY TCP46", Error::Protocol),
        ("PROXY UNKNOWNX", Error::Protocol),
        ("PROXY UNKNOWN\n", Error::Protocol),
        ("PROXY UNKNOWN x\n", Error::LineEnd),
        ("PROXY UNKNOWN x\rx", Error::LineEnd),
        ("PROXY TCP4  ", Error::Address),
        ("PROXY TCP4 :", Error::Address),
        ("PROXY TCP4 01", Error::Address),
        ("PROXY TCP4 256", Error::Address),
        ("PROXY TCP4 1.2.3.4.", Error::Address),
        ("PROXY TCP4 1.2.3 ", Error::Address),
        ("PROXY TCP4 1.2.3.4\r", Error::Address),
        ("PROXY TCP4 1.2.3.4  ", Error::Address),
        ("PROXY TCP4 1.2.3.4\t", Error::Address),
        ("PROXY TCP4 1.2.3.4 \u{661}", Error::Address),
        ("PROXY TCP6 1.", Error::Address),
        ("PROXY TCP6 12345", Error::Address),
        ("PROXY TCP6 g", Error::Address),
        ("PROXY TCP6 [", Error::Address),
        ("PROXY TCP6 fe80::1%", Error::Address),
        ("PROXY TCP6 :::", Error::Address),
        ("PROXY TCP6 :1", Error::Address),
        ("PROXY TCP6 1::2::", Error::Address),
        ("PROXY TCP6 1:2:3:4:5:6:7:8:", Error::Address),
        ("PROXY TCP6 1::3:4:5:6:7:8:", Error::Address),
        ("PROXY TCP6 ::ffff:1.2.3.4:", Error::Address),
        ("PROXY TCP6 1: ", Error::Address),
        ("PROXY TCP4 1.2.3.4 1.2.3.4  ", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 -", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 00", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 65536", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 25 ", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 25\n", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r", Error::Port),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 25\rX", Error::LineEnd),
    ] {
        // The bytes of one character come one by one.
        let wrong = line.char_indices().last().map_or(0, |(at, _)| at) + 1;
        if line.is_ascii() {
            check_refused(line, error);
        } else {
            assert_eq!(parse(&line.as_bytes()[..wrong]), Parsed::Malformed(error), "{line}");
        }
    }
}

#[test]
fn a_line_that_never_ends_is_refused_at_its_limit() {
    check_refused(format!("PROXY UNKNOWN {}", "x".repeat(LINE_MAX - 14)), Error::LineTooLong);
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255";
    let line = format!("PROXY TCP6 {long} {long} 65535 65535\r\n");
    check_refused(&line[..LINE_MAX], Error::LineTooLong);
}

#[test]
fn binary_headers_that_are_read() {
    let client = proxied("192.0.2.7:54321", "198.51.100.25:25");
    check(binary(0x21, 0x11, &TCP4), client);
    let tcp6: Vec<u8> = (0..36).collect();
    let addresses = ["1:203:405:607:809:a0b:c0d:e0f", "1011:1213:1415:1617:1819:1a1b:1c1d:1e1f"];
    check(binary(0x21, 0x21, &tcp6), proxied(&format!("[{}]:8225", addresses[0]), &format!("[{}]:8739", addresses[1])));
    check(with_fields(b"\x04\0\0\x02\0\x0amx.example\xee\0\x01x"), client);
    check(with_fields(&[&[0xe0, 0x0f, 0xe1][..], &[7; HEADER_MAX - FIXED - 15]].concat()), client);
}

#[test]
fn binary_headers_without_addresses_of_a_client() {
    for family in [0x00, 0x01, 0x02, 0x10, 0x20, 0x30] {
        check(binary(0x21, family, b""), Source::Local);
        check(binary(0x21, family, b"as it likes"), Source::Local);
    }
    for (family, length) in [(0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)] {
        check(binary(0x21, family, &vec![1; length]), Source::Local);
    }
    // A proxy's own check of health: the rest means nothing.
    for family in [0x00, 0x11, 0x21, 0xff] {
        check(binary(0x20, family, b""), Source::Local);
        check(binary(0x20, family, &TCP4), Source::Local);
    }
}

#[test]
fn binary_headers_that_are_refused_at_the_first_wrong_field() {
    let headed = |rest: &[u8]| [&SIGNATURE[..], rest].concat();
    for (input, error) in [
        (b"\r\n\r\nQ".to_vec(), Error::NoHeader),
        (headed(&[0x11]), Error::Version),
        (headed(&[0x31]), Error::Version),
        (headed(&[0x22]), Error::Command),
        (headed(&[0x2f]), Error::Command),
        (headed(&[0x21, 0x41]), Error::Family),
        (headed(&[0x21, 0xf1]), Error::Family),
        (headed(&[0x21, 0x13]), Error::Transport),
        (headed(&[0x21, 0x03]), Error::Transport),
        (headed(&[0x21, 0x11, 0, 11]), Error::TooShort),
        (headed(&[0x21, 0x12, 0, 11]), Error::TooShort),
        (headed(&[0x21, 0x21, 0, 35]), Error::TooShort),
        (headed(&[0x21, 0x31, 0, 215]), Error::TooShort),
        (headed(&[0x21, 0x11, 0x0f, 0xf1]), Error::TooLong),
        (headed(&[0x20, 0x00, 0xff, 0xff]), Error::TooLong),
    ] {
        check_refused(input, error);
    }
}

#[test]
fn additional_fields_that_do_not_fill_the_header() {
    // Two bytes are no field, which the lengths alone tell.
    check_refused(&with_fields(b"\x04\0")[..FIXED], Error::Fields);
    // One byte too many for the field, which its length tells.
    check_refused(&with_fields(b"\x02\0\x04abc")[..FIXED + 15], Error::Fields);
    // One byte of no field.
    check_refused(&with_fields(b"\x02\0\x01ab")[..FIXED + 15], Error::Fields);
    check_refused(&with_fields(b"\x03\0\x03abc")[..FIXED + 15], Error::Fields);
}

#[test]
fn checksums() {
    // Counted by another program.
    let stored = [0x4b, 0xb5, 0x9f, 0x5d];
    let header = with_fields(&[&[3, 0, 4], &stored[..]].concat());
    check(&header, proxied("192.0.2.7:54321", "198.51.100.25:25"));
    for bit in FIXED * 8..header.len() * 8 {
        // A byte of type or length that is another one makes another field of it.
        if (FIXED + 12..FIXED + 15).contains(&(bit / 8)) {
            continue;
        }
        let mut damaged = header.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(parse(&damaged), Parsed::Malformed(Error::Checksum), "bit {bit}");
    }
}

#[test]
fn every_error_has_words_of_its_own() {
    use Error::*;
    let all = [
        NoHeader,
        Protocol,
        Address,
        Port,
        LineEnd,
        LineTooLong,
        Version,
        Command,
        Family,
        Transport,
        TooLong,
        TooShort,
        Fields,
        Checksum,
    ];
    let words: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), all.len());
    assert!(TooLong.to_string().contains(&HEADER_MAX.to_string()));
    assert!(LineTooLong.to_string().contains(&LINE_MAX.to_string()));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![any::<Ipv4Addr>().prop_map(IpAddr::V4), any::<Ipv6Addr>().prop_map(IpAddr::V6)];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

/// Two addresses of one family.
fn pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    (address(), address()).prop_filter("one family", |(a, b)| a.is_ipv4() == b.is_ipv4())
}

fn encode_1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { 4 } else { 6 };
    let ports = (source.port(), destination.port());
    format!("PROXY TCP{family} {} {} {} {}\r\n", source.ip(), destination.ip(), ports.0, ports.1).into_bytes()
}

fn encode_2(source: SocketAddr, destination: SocketAddr, fields: &[(u8, Vec<u8>)], sum: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => block.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => block.extend_from_slice(&ip.octets()),
        }
    }
    block.extend_from_slice(&source.port().to_be_bytes());
    block.extend_from_slice(&destination.port().to_be_bytes());
    let sum_at = FIXED + block.len() + 3;
    if sum {
        block.extend_from_slice(&[CHECKSUM, 0, 4, 0, 0, 0, 0]);
    }
    for (kind, value) in fields {
        block.push(*kind);
        block.extend_from_slice(&(value.len() as u16).to_be_bytes());
        block.extend_from_slice(value);
    }
    let mut header = binary(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &block);
    if sum {
        let counted = crc32c::crc32c(&header).to_be_bytes();
        header[sum_at..sum_at + 4].copy_from_slice(&counted);
    }
    header
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Headers with something wrong in them, and what is none at all.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        pair().prop_map(|(a, b)| encode_1(a, b)),
        pair().prop_map(|(a, b)| encode_2(a, b, &[(2, b"mx".to_vec())], true)),
    ];
    let change = (any::<prop::sample::Index>(), any::<u8>());
    prop_oneof![
        4 => (header, prop::collection::vec(change, 0..3), prop::collection::vec(any::<u8>(), 0..9)).prop_map(
            |(mut header, changes, behind)| {
                for (at, byte) in changes {
                    *at.get_mut(&mut header) = byte;
                }
                [header, behind].concat()
            }
        ),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_proxy_writes_is_read((source, destination) in pair(), behind in prop::collection::vec(any::<u8>(), 0..9)) {
        let header = encode_1(source, destination);
        let read = Source::Proxied { source: canonical(source), destination: canonical(destination) };
        prop_assert_eq!(parse(&[&header[..], &behind].concat()), Parsed::Header { used: header.len(), source: read });
    }

    #[test]
    fn what_a_proxy_writes_in_binary_is_read(
        (source, destination) in pair(),
        fields in prop::collection::vec((4..=255u8, prop::collection::vec(any::<u8>(), 0..40)), 0..5),
        sum in any::<bool>(),
        behind in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let header = encode_2(source, destination, &fields, sum);
        let read = Source::Proxied { source: canonical(source), destination: canonical(destination) };
        prop_assert_eq!(parse(&[&header[..], &behind].concat()), Parsed::Header { used: header.len(), source: read });
    }

    /// However the input comes, the first answer that isn't `NeedMore` is the answer to the whole.
    #[test]
    fn a_split_changes_nothing(input in nearly()) {
        let whole = parse(&input);
        let first = (0..=input.len()).map(|cut| parse(&input[..cut])).find(|parsed| *parsed != Parsed::NeedMore);
        prop_assert_eq!(first.unwrap_or(Parsed::NeedMore), whole);
        if let Parsed::Header { used, .. } = whole {
            prop_assert!(used <= input.len() && used <= HEADER_MAX);
        }
        if whole == Parsed::NeedMore {
            prop_assert!(input.len() < HEADER_MAX);
        }
    }
}
