//! What the command line measures in: rates, sizes, spans of time, ranges of source addresses.
//!
//! Each type parses from the text a person writes and prints back as the same kind of text, so that the run's record
//! shows what was asked for. Nothing here reads a clock or a socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// The most addresses one `--source` gives. A longer range is more likely a typing error than a wish; of a larger network
/// so many are used, spread over all of it.
const SOURCES_MAX: u128 = 65_536;

/// Neighbours in the order of a network's addresses lie this share of it apart, the golden section: however many are
/// taken from the front of the order, they are spread over the whole network, and over whatever it is divided into.
const SPREAD: f64 = 0.618_033_988_749_894_9;

/// The largest message `--size` takes. A generator that needs more memory than this measures itself.
const SIZE_BYTES_MAX: u64 = 1 << 30;

/// The longest `--duration` and its like: 30 days, so that no sum of instants overflows.
const SPAN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Messages per period of time, as in `1000/min`, `200/s` or `5/h`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    count: f64,
    unit: RateUnit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RateUnit {
    Second,
    Minute,
    Hour,
}

impl RateUnit {
    fn seconds(self) -> f64 {
        match self {
            Self::Second => 1.0,
            Self::Minute => 60.0,
            Self::Hour => 3600.0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
        }
    }
}

impl Rate {
    /// How long after the start of the run the message with this number is due.
    pub(crate) fn due(self, number: u64) -> Duration {
        let seconds = number as f64 * self.unit.seconds() / self.count;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// How many messages are due before this much of the run has passed.
    pub(crate) fn due_within(self, span: Duration) -> u64 {
        let count = (span.as_secs_f64() * self.count / self.unit.seconds()).ceil() as u64;
        // The last of them may be due only by a rounding error.
        if count > 0 && self.due(count - 1) >= span { count - 1 } else { count }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wish = || format!("'{text}' is not a rate; write it as 200/s, 1000/min or 5/h");
        let (count, unit) = text.split_once('/').ok_or_else(wish)?;
        let count: f64 = count.trim().parse().map_err(|_| wish())?;
        if !count.is_finite() || count <= 0.0 {
            return Err(wish());
        }
        let unit = match unit.trim() {
            "s" | "sec" | "second" => RateUnit::Second,
            "m" | "min" | "minute" => RateUnit::Minute,
            "h" | "hour" => RateUnit::Hour,
            _ => return Err(wish()),
        };
        Ok(Self { count, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.name())
    }
}

/// How large a message is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Every message has this many bytes.
    Fixed(u64),
    /// A mixture like that of real mail; the table stands in the `message` module.
    Mix,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "mix" {
            return Ok(Self::Mix);
        }
        let bytes = parse_bytes(text)?;
        if bytes > SIZE_BYTES_MAX {
            return Err(format!("'{text}' is more than the largest message, 1GiB"));
        }
        Ok(Self::Fixed(bytes))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(bytes) => write!(f, "{bytes}"),
            Self::Mix => f.write_str("mix"),
        }
    }
}

/// Reads `4096`, `4KiB`, `4kB`, `5MiB`, `1.5MB`: bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wish = || format!("'{text}' is not a size; write it as 4096, 4KiB or 5MB");
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => 1.0,
        "k" | "kB" | "KB" => 1e3,
        "K" | "KiB" => 1024.0,
        "MB" => 1e6,
        "M" | "MiB" => 1024.0 * 1024.0,
        "GB" => 1e9,
        "G" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wish()),
    };
    let number: f64 = number.parse().map_err(|_| wish())?;
    let bytes = number * factor;
    if !bytes.is_finite() || bytes < 0.0 || bytes > u64::MAX as f64 {
        return Err(wish());
    }
    Ok(bytes.round() as u64)
}

/// Reads `500ms`, `60s`, `2min`, `1h`; a bare number is seconds.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let wish = || format!("'{text}' is not a span of time; write it as 500ms, 60s, 2min or 1h");
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "ms" => 1e-3,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wish()),
    };
    let number: f64 = number.parse().map_err(|_| wish())?;
    let span = Duration::try_from_secs_f64(number * factor).map_err(|_| wish())?;
    if span > SPAN_MAX {
        return Err(format!("'{text}' is longer than 30 days"));
    }
    Ok(span)
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Local addresses to connect from: one, all between two, or those of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceRange {
    first: IpAddr,
    last: IpAddr,
    /// The length of the network's prefix, if it was given as one.
    prefix: Option<u32>,
}

impl SourceRange {
    /// The addresses: of a range in order, of a network spread over it.
    pub(crate) fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.first.is_ipv4();
        let (low, high) = self.bounds();
        let size = (high - low).saturating_add(1);
        let count = size.min(SOURCES_MAX);
        let step = size / count;
        let stride = if self.prefix.is_some() { stride(count) } else { 1 };
        (0..count).map(move |index| address_of(low + index * stride % count * step, v4))
    }

    /// The lowest and the highest address. The first and the last of an IPv4 network are no host's.
    fn bounds(self) -> (u128, u128) {
        let (low, high) = (number_of(self.first), number_of(self.last));
        let hosts_only = self.prefix.is_some() && self.first.is_ipv4() && high - low >= 3;
        if hosts_only { (low + 1, high - 1) } else { (low, high) }
    }

    fn network(text: &str, address: &str, prefix: &str) -> Result<Self, String> {
        let base: IpAddr = address.trim().parse().map_err(|_| format!("'{address}' is not an IP address"))?;
        let bits = if base.is_ipv4() { 32 } else { 128 };
        let prefix: u32 = prefix.trim().parse().ok().filter(|prefix| *prefix <= bits).ok_or_else(|| {
            format!("'{text}' is not a network; write it as 127.0.1.0/24, with a prefix of at most {bits} bits")
        })?;
        let hosts = u128::MAX.checked_shr(128 - bits + prefix).unwrap_or(0);
        let low = number_of(base) & !hosts;
        if low != number_of(base) {
            return Err(format!(
                "'{text}' has bits behind its prefix; {}/{prefix} is the network",
                address_of(low, bits == 32)
            ));
        }
        Ok(Self { first: base, last: address_of(low | hosts, bits == 32), prefix: Some(prefix) })
    }
}

/// A step through so many places that comes by each of them, [`SPREAD`] of the way round at a time.
fn stride(count: u128) -> u128 {
    let wish = ((count as f64 * SPREAD) as u128).max(1);
    (wish..).find(|stride| common_divisor(*stride, count) == 1).unwrap_or(1)
}

fn common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address_of(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl FromStr for SourceRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((address, prefix)) = text.split_once('/') {
            return Self::network(text, address, prefix);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let address = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| format!("'{part}' is not an IP address"));
        let (first, last) = (address(first)?, address(last)?);
        if first.is_ipv4() != last.is_ipv4() {
            return Err(format!("'{text}' mixes IPv4 and IPv6"));
        }
        let (low, high) = (number_of(first), number_of(last));
        if low > high {
            return Err(format!("'{text}' ends before it starts"));
        }
        if high - low >= SOURCES_MAX {
            return Err(format!("'{text}' holds more than {SOURCES_MAX} addresses"));
        }
        Ok(Self { first, last, prefix: None })
    }
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.first),
            None if self.first == self.last => write!(f, "{}", self.first),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

macro_rules! serialize_as_text {
    ($($name:ty),*) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )* };
}
serialize_as_text!(Rate, Size, SourceRange);

/// Writes a span as seconds, for the run's record.
pub(crate) fn serialize_span<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

/// Writes a span that may be absent as seconds, for the run's record.
pub(crate) fn serialize_span_option<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => serialize_span(span, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let due = |text: &str, number| text.parse::<Rate>().map(|rate| rate.due(number));
        assert_eq!(due("200/s", 200), Ok(Duration::from_secs(1)));
        assert_eq!(due("1000/min", 500), Ok(Duration::from_secs(30)));
        assert_eq!(due("5/h", 1), Ok(Duration::from_secs(720)));
        assert_eq!(due("0.5/s", 3), Ok(Duration::from_secs(6)));
        assert_eq!("60/min".parse::<Rate>().map(|rate| rate.due_within(Duration::from_secs(10))), Ok(10));
        for wrong in ["", "200", "200/", "/s", "0/s", "-1/s", "200/day", "inf/s", "NaN/s", "x/s"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!("mix".parse(), Ok(Size::Mix));
        assert_eq!("4096".parse(), Ok(Size::Fixed(4096)));
        assert_eq!("4KiB".parse(), Ok(Size::Fixed(4096)));
        assert_eq!("4 kB".parse(), Ok(Size::Fixed(4000)));
        assert_eq!("1.5MiB".parse(), Ok(Size::Fixed(1_572_864)));
        for wrong in ["", "KiB", "4XB", "-4", "1.2.3K", "2GiB", "mixed"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans() {
        assert_eq!(parse_span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_span("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_span("1.5min"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("10"), Ok(Duration::from_secs(10)));
        for wrong in ["", "s", "-1s", "10 days", "1000h", "1e3s"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn source_ranges() {
        let list = |text: &str| {
            text.parse::<SourceRange>().map(|range| range.addresses().map(|a| a.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(list("127.0.0.2"), Ok(vec!["127.0.0.2".to_owned()]));
        assert_eq!(
            list("127.0.0.254-127.0.1.1").map(|l| l.join(" ")),
            Ok("127.0.0.254 127.0.0.255 127.0.1.0 127.0.1.1".to_owned())
        );
        assert_eq!(list("::1-::3").map(|l| l.len()), Ok(3));
        for wrong in ["", "127.0.0.9-127.0.0.2", "127.0.0.1-::1", "0.0.0.0-255.255.255.255", "localhost"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_give_each_host_once_and_far_from_the_one_before() {
        let list = |text: &str| text.parse::<SourceRange>().map(|range| range.addresses().collect::<Vec<_>>());
        let distinct = |list: &[IpAddr]| list.iter().collect::<std::collections::BTreeSet<_>>().len();
        for (text, count) in
            [("127.0.1.0/24", 254), ("127.1.0.0/16", 65_534), ("127.0.0.0/8", 65_536), ("fd00::/64", 65_536)]
        {
            let found = list(text).expect("is a network");
            assert_eq!((found.len(), distinct(&found)), (count, count), "{text}");
        }
        for (text, all) in
            [("127.0.0.8/32", "[127.0.0.8]"), ("127.0.0.8/31", "[127.0.0.8, 127.0.0.9]"), ("::1/128", "[::1]")]
        {
            assert_eq!(list(text).map(|list| format!("{list:?}")), Ok(all.to_owned()), "{text}");
        }
        let first: Vec<_> = list("127.1.0.0/16").expect("is a network").into_iter().take(16).collect();
        let subnets: std::collections::BTreeSet<_> = first.iter().map(|address| number_of(*address) >> 8).collect();
        assert_eq!(subnets.len(), 16, "neighbours are in networks of their own");
        for wrong in ["127.0.0.1/24", "127.0.0.0/33", "::/129", "/8", "127.0.0.0/", "127.0.0.0/-1"] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn source_ranges_print_as_they_were_written() {
        for text in ["127.0.0.2", "127.0.0.2-127.0.0.9", "127.0.0.0/8", "fd00::/64"] {
            assert_eq!(text.parse::<SourceRange>().map(|range| range.to_string()), Ok(text.to_owned()));
        }
    }
}
