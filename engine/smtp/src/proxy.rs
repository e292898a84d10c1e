//! The PROXY protocol, versions 1 and 2: what a proxy puts before a connection to say where it really comes from.
//!
//! [`parse`] looks at the first bytes of a connection and says whether a header is there, may still come, or can't come
//! any more. It keeps nothing between two calls: give it all bytes again with more behind them. It says nothing of
//! trust: only a listener's list of proxies tells whether a header is required or an error, never the bytes.
//!
//! ```text
//! version 1  "PROXY" SP ( "TCP4" / "TCP6" ) SP source SP destination SP source-port SP destination-port CRLF
//!            "PROXY" SP "UNKNOWN" [ SP anything ] CRLF
//! version 2  signature (12)  version and command (1)  family and transport (1)  length of the rest (2)
//!            [ addresses and ports ] [ type (1) length (2) value ]...
//! ```
//!
//! The grammar is the one of proxy-protocol.txt of the HAProxy project, sections 2.1 and 2.2. Of version 1 each byte is
//! judged as it comes; of version 2 each field as soon as it is whole.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header. The protocol means headers to fit a TCP segment of 536 bytes, but proxies that pass on names and
/// certificates write longer ones. Longer than this is no header that helps, and must not be kept for every connection.
pub const HEADER_MAX: usize = 4096;

/// Longest line of version 1, CRLF included, as its specification counts it.
const LINE_MAX: usize = 107;

/// How version 2 begins: it breaks every protocol that reads lines.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, command, family and length of version 2.
const FIXED: usize = 16;

const _: () = assert!(LINE_MAX < HEADER_MAX && FIXED + 2 * 108 < HEADER_MAX);

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header; more must come.
    NeedMore,
    /// A header. The connection proper begins behind it.
    Header {
        /// The header's length in bytes.
        used: usize,
        /// Where the connection comes from.
        source: Source,
    },
    /// No header, whatever would follow.
    Malformed(Error),
}

/// Where a proxied connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a client of the proxy. IPv4 addresses written as IPv6 are IPv4 here.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
    /// From the proxy itself, or from a client that the header gives no address of TCP for (UNKNOWN, UNSPEC, UNIX,
    /// datagrams): the connection's own addresses count.
    Local,
}

/// Why the first bytes of a connection are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Neither version's first bytes.
    NoHeader,
    /// Version 1: not TCP4, TCP6 or UNKNOWN.
    Protocol,
    /// Version 1: not an address of the protocol.
    Address,
    /// Version 1: not a port.
    Port,
    /// Version 1: CR or LF alone, or more behind the ports.
    LineEnd,
    /// Version 1: no CRLF within 107 bytes.
    LineTooLong,
    /// Signature of version 2, with another version.
    Version,
    /// Version 2: neither LOCAL nor PROXY.
    Command,
    /// Version 2: an address family that is not assigned.
    Family,
    /// Version 2: a transport that is not assigned.
    Transport,
    /// Version 2: longer than [`HEADER_MAX`].
    TooLong,
    /// Version 2: shorter than the addresses it must hold.
    TooShort,
    /// Version 2: the fields behind the addresses don't fill the header.
    Fields,
    /// Version 2: the header's checksum is another one.
    Checksum,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHeader => "no PROXY protocol header where one must be",
            Self::Protocol => "PROXY line: protocol is not TCP4, TCP6 or UNKNOWN",
            Self::Address => "PROXY line: an address is malformed or not of the protocol given",
            Self::Port => "PROXY line: a port is malformed",
            Self::LineEnd => "PROXY line: CRLF missing",
            Self::LineTooLong => "PROXY line: longer than 107 bytes",
            Self::Version => "PROXY header: version is not 2",
            Self::Command => "PROXY header: command is neither LOCAL nor PROXY",
            Self::Family => "PROXY header: unknown address family",
            Self::Transport => "PROXY header: unknown transport",
            Self::TooLong => "PROXY header: longer than 4096 bytes",
            Self::TooShort => "PROXY header: shorter than its addresses",
            Self::Fields => "PROXY header: additional fields don't fill it",
            Self::Checksum => "PROXY header: checksum doesn't match",
        })
    }
}

impl std::error::Error for Error {}

/// Looks at all bytes of a connection so far.
pub fn parse(input: &[u8]) -> Parsed {
    let parsed = match input.first() {
        None => Err(Stop::NeedMore),
        Some(b'P') => version_1(input),
        Some(_) => version_2(input),
    };
    match parsed {
        Ok((used, source)) => Parsed::Header { used, source },
        Err(Stop::NeedMore) => Parsed::NeedMore,
        Err(Stop::Malformed(error)) => Parsed::Malformed(error),
    }
}

/// Why reading ends before a header does.
enum Stop {
    NeedMore,
    Malformed(Error),
}

type Found = Result<(usize, Source), Stop>;

fn version_1(input: &[u8]) -> Found {
    let mut line = Line { input: &input[..input.len().min(LINE_MAX)], at: 0 };
    match line.read() {
        Ok(source) => Ok((line.at, source)),
        Err(Stop::NeedMore) if input.len() >= LINE_MAX => Err(Stop::Malformed(Error::LineTooLong)),
        Err(stop) => Err(stop),
    }
}

/// A line of version 1 that is being read.
struct Line<'a> {
    input: &'a [u8],
    at: usize,
}

impl Line<'_> {
    fn read(&mut self) -> Result<Source, Stop> {
        self.expect(b"PROXY ", Error::NoHeader)?;
        match self.input.get(self.at) {
            None => Err(Stop::NeedMore),
            Some(b'U') => {
                self.expect(b"UNKNOWN", Error::Protocol)?;
                self.ignored()
            }
            Some(_) => {
                self.expect(b"TCP", Error::Protocol)?;
                match self.input.get(self.at) {
                    None => Err(Stop::NeedMore),
                    Some(b'4') => self.addresses::<Ipv4Addr>(b"4 "),
                    Some(_) => self.addresses::<Ipv6Addr>(b"6 "),
                }
            }
        }
    }

    fn addresses<A: std::str::FromStr + Into<IpAddr>>(&mut self, family: &[u8]) -> Result<Source, Stop> {
        self.expect(family, Error::Protocol)?;
        let (source, destination) = (self.address::<A>()?, self.address::<A>()?);
        let (source_port, destination_port) = (self.port(b' ')?, self.port(b'\r')?);
        self.expect(b"\n", Error::LineEnd)?;
        let [source, destination] = [(source, source_port), (destination, destination_port)].map(SocketAddr::from);
        Ok(Source::Proxied { source, destination })
    }

    /// What stands behind UNKNOWN has no meaning, but is of one line.
    fn ignored(&mut self) -> Result<Source, Stop> {
        let rest = &self.input[self.at..];
        if !matches!(rest.first(), None | Some(b' ' | b'\r')) {
            return Err(Stop::Malformed(Error::Protocol));
        }
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).ok_or(Stop::NeedMore)?;
        self.at += end;
        self.expect(b"\r\n", Error::LineEnd)?;
        Ok(Source::Local)
    }

    fn address<A: std::str::FromStr + Into<IpAddr>>(&mut self) -> Result<IpAddr, Stop> {
        let address = self.field(b' ', Error::Address, |text| text.parse::<A>().ok(), begins_address::<A>)?;
        // Dual-stack proxies write clients of IPv4 as IPv6. All that decides by address means the client.
        Ok(address.into().to_canonical())
    }

    fn port(&mut self, end: u8) -> Result<u16, Stop> {
        self.field(end, Error::Port, port, |text| text.is_empty() || port(text).is_some())
    }

    /// Reads up to `end` and over it. Without it, asks whether what is there can become a field.
    fn field<T>(
        &mut self,
        end: u8,
        error: Error,
        whole: impl Fn(&str) -> Option<T>,
        begins: impl Fn(&str) -> bool,
    ) -> Result<T, Stop> {
        let rest = &self.input[self.at..];
        let end = rest.iter().position(|byte| *byte == end);
        let text = std::str::from_utf8(&rest[..end.unwrap_or(rest.len())]).map_err(|_| Stop::Malformed(error))?;
        match end {
            Some(length) => {
                self.at += length + 1;
                whole(text).ok_or(Stop::Malformed(error))
            }
            None if begins(text) => Err(Stop::NeedMore),
            None => Err(Stop::Malformed(error)),
        }
    }

    fn expect(&mut self, text: &[u8], error: Error) -> Result<(), Stop> {
        let rest = &self.input[self.at..];
        self.at += text.len();
        expect(rest, text, error)
    }
}

/// Holds `input` against the text that must stand at its start.
fn expect(input: &[u8], text: &[u8], error: Error) -> Result<(), Stop> {
    let length = input.len().min(text.len());
    if input[..length] != text[..length] {
        return Err(Stop::Malformed(error));
    }
    if length < text.len() { Err(Stop::NeedMore) } else { Ok(()) }
}

/// Decimal, without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// Whether `text` is the beginning of an address. What begins an address can always be ended by one of these: each
/// number begun is a number, the rest can be zeros, and where a colon may stand twice the rest can be left out.
fn begins_address<A: std::str::FromStr>(text: &str) -> bool {
    const ENDS: [&str; 10] = ["", ":", "::", "0", "0.0", "0.0.0", "0.0.0.0", ".0", ".0.0", ".0.0.0"];
    ENDS.iter().any(|end| format!("{text}{end}").parse::<A>().is_ok())
}

fn version_2(input: &[u8]) -> Found {
    expect(input, &SIGNATURE, Error::NoHeader)?;
    let rest = &input[SIGNATURE.len()..];
    let (command, rest) = byte(rest)?;
    // The version is the upper half, LOCAL is 0 and PROXY is 1 in the lower.
    let proxied = match (command >> 4, command & 0xf) {
        (2, 0) => false,
        (2, 1) => true,
        (2, _) => return Err(Stop::Malformed(Error::Command)),
        _ => return Err(Stop::Malformed(Error::Version)),
    };
    let (family, rest) = byte(rest)?;
    // Of LOCAL nothing but the length counts.
    let addresses = if proxied { Addresses::of(family)? } else { Addresses::None };
    let (length, _) = rest.split_first_chunk().ok_or(Stop::NeedMore)?;
    let end = FIXED + usize::from(u16::from_be_bytes(*length));
    if end > HEADER_MAX {
        return Err(Stop::Malformed(Error::TooLong));
    }
    if end < FIXED + addresses.len() {
        return Err(Stop::Malformed(Error::TooShort));
    }
    // Without addresses it isn't known where additional fields would begin, nor is anything taken from the header.
    if addresses != Addresses::None {
        check_fields(input, FIXED + addresses.len(), end)?;
    }
    let header = input.get(..end).ok_or(Stop::NeedMore)?;
    Ok((end, addresses.read(&header[FIXED..])))
}

fn byte(input: &[u8]) -> Result<(u8, &[u8]), Stop> {
    input.split_first().map(|(byte, rest)| (*byte, rest)).ok_or(Stop::NeedMore)
}

/// The addresses of a header of version 2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addresses {
    /// None that are known of.
    None,
    /// Two addresses and two ports of TCP.
    Tcp4,
    Tcp6,
    /// Some that are not TCP's, of this length.
    Other(usize),
}

impl Addresses {
    /// Reads the byte of family (upper half) and transport (lower half).
    fn of(family: u8) -> Result<Self, Stop> {
        let (family, transport) = (family >> 4, family & 0xf);
        if family > 3 {
            return Err(Stop::Malformed(Error::Family));
        }
        if transport > 2 {
            return Err(Stop::Malformed(Error::Transport));
        }
        Ok(match (family, transport) {
            (0, _) | (_, 0) => Self::None,
            (1, 1) => Self::Tcp4,
            (2, 1) => Self::Tcp6,
            (1, _) => Self::Other(2 * (4 + 2)),
            (2, _) => Self::Other(2 * (16 + 2)),
            // Two paths of UNIX sockets.
            _ => Self::Other(2 * 108),
        })
    }

    fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Tcp4 => 2 * (4 + 2),
            Self::Tcp6 => 2 * (16 + 2),
            Self::Other(len) => len,
        }
    }

    fn read(self, block: &[u8]) -> Source {
        match self {
            Self::Tcp4 => proxied::<4>(block),
            Self::Tcp6 => proxied::<16>(block),
            Self::None | Self::Other(_) => Source::Local,
        }
    }
}

/// Two addresses of `N` bytes, then two ports. The block's length is checked.
fn proxied<const N: usize>(block: &[u8]) -> Source
where
    IpAddr: From<[u8; N]>,
{
    let address = |at: usize| {
        let bytes: [u8; N] = std::array::from_fn(|i| block[at * N + i]);
        let port = [block[2 * N + 2 * at], block[2 * N + 2 * at + 1]];
        SocketAddr::new(IpAddr::from(bytes).to_canonical(), u16::from_be_bytes(port))
    };
    Source::Proxied { source: address(0), destination: address(1) }
}

/// The type of the field that holds a CRC-32C of the header, counted with zeros in its own place.
const CHECKSUM: u8 = 3;

/// Walks over the additional fields between `at` and `end`, as far as they have come.
fn check_fields(input: &[u8], mut at: usize, end: usize) -> Result<(), Stop> {
    while at < end {
        if end - at < 3 {
            return Err(Stop::Malformed(Error::Fields));
        }
        let [kind, high, low] = *input.get(at..).and_then(<[u8]>::first_chunk).ok_or(Stop::NeedMore)?;
        at += 3;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > end - at {
            return Err(Stop::Malformed(Error::Fields));
        }
        if kind == CHECKSUM {
            if length != 4 {
                return Err(Stop::Malformed(Error::Fields));
            }
            check_sum(input.get(..end).ok_or(Stop::NeedMore)?, at)?;
        }
        at += length;
    }
    Ok(())
}

fn check_sum(header: &[u8], at: usize) -> Result<(), Stop> {
    let (before, rest) = header.split_at(at);
    let (stored, behind) = rest.split_first_chunk().ok_or(Stop::Malformed(Error::Fields))?;
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    let sum = crc32c::crc32c_append(sum, behind);
    if sum == u32::from_be_bytes(*stored) { Ok(()) } else { Err(Stop::Malformed(Error::Checksum)) }
}

#[cfg(test)]
mod tests;
