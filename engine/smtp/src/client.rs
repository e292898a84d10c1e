//! XCLIENT and XFORWARD: what a proxy or content filter says of the client that it speaks for.
//!
//! Extensions of Postfix (XCLIENT_README, XFORWARD_README), spoken by it, nginx and Dovecot among others:
//!
//! ```text
//! XCLIENT 1*( SP name "=" xtext )     NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT
//! XFORWARD 1*( SP name "=" xtext )    NAME ADDR PORT PROTO HELO IDENT SOURCE
//! ```
//!
//! A value is `[UNAVAILABLE]` where it is not known. XCLIENT changes whose session it is: whoever decides by address
//! decides by the one given here. XFORWARD only changes what the log says, of one message.

use crate::dsn::xtext;
use crate::reply::{Reply, replies};
use std::net::IpAddr;

/// The attributes of XCLIENT, as EHLO names them.
pub(crate) const CLIENT_ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

/// The attributes of XFORWARD, as EHLO names them.
pub(crate) const FORWARD_ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// Longest value, decoded (both documents).
const VALUE_MAX: usize = 255;

/// What is known of the name of a client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// Its name, verified by who says so.
    Known(Box<str>),
    /// It has none.
    Missing,
    /// It could not be looked up at the time.
    Unknown,
}

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProtocol {
    /// It said HELO.
    Smtp,
    /// It said EHLO.
    Esmtp,
}

/// An XCLIENT command. What is not named in it, or not known to the proxy, is `None` and stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// The client's address.
    pub addr: Option<IpAddr>,
    /// The client's port.
    pub port: Option<u16>,
    /// The client's name in DNS.
    pub name: Option<ClientName>,
    /// What the client said in HELO or EHLO; the session takes it over.
    pub helo: Option<Box<str>>,
    /// Which of the two it was.
    pub proto: Option<ClientProtocol>,
    /// Who the client has authenticated as.
    pub login: Option<Box<str>>,
    /// The address that the client connected to.
    pub destination: Option<IpAddr>,
    /// The port that the client connected to.
    pub destination_port: Option<u16>,
}

/// An XFORWARD command. What is not named in it is `None`; what the proxy does not know is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardInfo {
    /// The client's name.
    pub name: Option<Box<str>>,
    /// The client's address, which may be of any kind of network.
    pub addr: Option<Box<str>>,
    /// The client's port.
    pub port: Option<Box<str>>,
    /// The protocol that the client spoke.
    pub proto: Option<Box<str>>,
    /// What the client called itself.
    pub helo: Option<Box<str>>,
    /// The message's id at the proxy.
    pub ident: Option<Box<str>>,
    /// `LOCAL` or `REMOTE`: where the message was from, as seen from the proxy.
    pub source: Option<Box<str>>,
}

impl ClientInfo {
    pub(crate) fn parse(arguments: &str) -> Result<Self, Reply> {
        let mut info = Self::default();
        for attribute in attributes(arguments) {
            let (name, value) = attribute?;
            info.take(&name, known(&value)).ok_or_else(|| refused(&name))?;
        }
        Ok(info)
    }

    fn take(&mut self, name: &str, value: Value<'_>) -> Option<()> {
        match name {
            "NAME" => {
                self.name = Some(match value {
                    Value::Known(name) => ClientName::Known(word(name)?),
                    Value::Unavailable => ClientName::Missing,
                    Value::ForNow => ClientName::Unknown,
                });
            }
            "ADDR" => self.addr = value.read(address)?,
            "PORT" => self.port = value.read(number)?,
            "PROTO" => self.proto = value.read(protocol)?,
            "HELO" => self.helo = value.read(word)?,
            "LOGIN" => self.login = value.read(|text| Some(text.into()))?,
            "DESTADDR" => self.destination = value.read(address)?,
            "DESTPORT" => self.destination_port = value.read(number)?,
            _ => return None,
        }
        Some(())
    }
}

impl ForwardInfo {
    pub(crate) fn parse(arguments: &str) -> Result<Self, Reply> {
        let mut info = Self::default();
        for attribute in attributes(arguments) {
            let (name, value) = attribute?;
            let text = match known(&value) {
                Value::Known(text) => word(text).ok_or_else(|| refused(&name))?,
                Value::Unavailable | Value::ForNow => "".into(),
            };
            *info.attribute(&name).ok_or_else(|| refused(&name))? = Some(text);
        }
        Ok(info)
    }

    /// Takes over what a later command of the same message names.
    pub fn update(&mut self, later: Self) {
        let Self { name, addr, port, proto, helo, ident, source } = later;
        let pairs = [
            (&mut self.name, name),
            (&mut self.addr, addr),
            (&mut self.port, port),
            (&mut self.proto, proto),
            (&mut self.helo, helo),
            (&mut self.ident, ident),
            (&mut self.source, source),
        ];
        for (kept, named) in pairs.into_iter().filter(|(_, named)| named.is_some()) {
            *kept = named;
        }
    }

    fn attribute(&mut self, name: &str) -> Option<&mut Option<Box<str>>> {
        Some(match name {
            "NAME" => &mut self.name,
            "ADDR" => &mut self.addr,
            "PORT" => &mut self.port,
            "PROTO" => &mut self.proto,
            "HELO" => &mut self.helo,
            "IDENT" => &mut self.ident,
            "SOURCE" => &mut self.source,
            _ => return None,
        })
    }
}

enum Value<'a> {
    Known(&'a str),
    Unavailable,
    /// Only a name can be that.
    ForNow,
}

impl Value<'_> {
    /// Reads a value; outside `None`: it can't be read, inside: it is not known.
    fn read<T>(self, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
        match self {
            Self::Known(text) => read(text).map(Some),
            Self::Unavailable => Some(None),
            Self::ForNow => None,
        }
    }
}

fn known(value: &str) -> Value<'_> {
    if value.eq_ignore_ascii_case("[UNAVAILABLE]") {
        Value::Unavailable
    } else if value.eq_ignore_ascii_case("[TEMPUNAVAIL]") {
        Value::ForNow
    } else {
        Value::Known(value)
    }
}

/// Names in capitals and values decoded; what is named twice is refused, since which one counts would be a guess.
fn attributes(arguments: &str) -> impl Iterator<Item = Result<(String, String), Reply>> {
    let mut seen: Vec<String> = Vec::new();
    arguments.split(' ').filter(|word| !word.is_empty()).map(move |attribute| {
        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let name = name.to_ascii_uppercase();
        let value = xtext(value).and_then(|value| String::from_utf8(value).ok());
        let fits = |text: &String| {
            let printable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            !text.is_empty() && text.len() <= VALUE_MAX && printable
        };
        match value.filter(fits) {
            Some(value) if !seen.contains(&name) => {
                seen.push(name.clone());
                Ok((name, value))
            }
            _ => Err(refused(&name)),
        }
    })
}

fn refused(name: &str) -> Reply {
    replies::SYNTAX.with_detail(&format!("attribute {name}"))
}

/// One word of a log line or header field: what could end it there is refused (XFORWARD_README, note 1).
fn word(text: &str) -> Option<Box<str>> {
    let harmless = |byte: u8| byte.is_ascii_graphic() && !b"()<>,;\\\"".contains(&byte);
    text.bytes().all(harmless).then(|| text.into())
}

/// An IPv4 address, or an IPv6 one behind its tag; one that is mapped is IPv4.
fn address(text: &str) -> Option<IpAddr> {
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => {
            text[5..].parse().ok().map(|v6: std::net::Ipv6Addr| IpAddr::from(v6).to_canonical())
        }
        _ => text.parse().ok().map(|v4: std::net::Ipv4Addr| v4.into()),
    }
}

fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn protocol(text: &str) -> Option<ClientProtocol> {
    match text.to_ascii_uppercase().as_str() {
        "SMTP" => Some(ClientProtocol::Smtp),
        "ESMTP" => Some(ClientProtocol::Esmtp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients() {
        let all = "NAME=a.example addr=IPV6:2001:db8::1 PORT=25 PROTO=ESMTP HELO=h.example LOGIN=bob+20b \
                   DESTADDR=192.0.2.1 DESTPORT=2525";
        let want = ClientInfo {
            addr: Some("2001:db8::1".parse().expect("address")),
            port: Some(25),
            name: Some(ClientName::Known("a.example".into())),
            helo: Some("h.example".into()),
            proto: Some(ClientProtocol::Esmtp),
            login: Some("bob b".into()),
            destination: Some("192.0.2.1".parse().expect("address")),
            destination_port: Some(2525),
        };
        assert_eq!(ClientInfo::parse(all), Ok(want));
        let unknown = "NAME=[tempunavail] ADDR=[UNAVAILABLE] PORT=[unavailable] HELO=[UNAVAILABLE] LOGIN=[UNAVAILABLE]";
        let want = ClientInfo { name: Some(ClientName::Unknown), ..ClientInfo::default() };
        assert_eq!(ClientInfo::parse(unknown), Ok(want));
        let mapped = ClientInfo::parse("ADDR=IPV6:::ffff:192.0.2.9").expect("parses");
        assert_eq!(mapped.addr, Some("192.0.2.9".parse().expect("address")));
    }

    #[test]
    fn clients_refused() {
        for text in [
            "ADDR",
            "ADDR=",
            "ADDR=[192.0.2.1]",
            "ADDR=2001:db8::1",
            "ADDR=IPV6:192.0.2.1",
            "ADDR=[TEMPUNAVAIL]",
            "PORT=65536",
            "PORT=+2B5",
            "PORT=-1",
            "PROTO=HTTP",
            "HELO=a+20b",
            "HELO=a+0D+0Ab",
            "HELO=a(b)",
            "HELO=+C3+B3",
            "LOGIN=a+00b",
            "NAME=a=b",
            "IDENT=x",
            "ADDR=192.0.2.1 addr=192.0.2.2",
        ] {
            assert_eq!(ClientInfo::parse(text).map_err(|reply| reply.code()), Err(501), "{text}");
        }
        let long = format!("HELO={}", "x".repeat(256));
        assert!(ClientInfo::parse(&long).is_err() && ClientInfo::parse(&long[..260]).is_ok());
    }

    #[test]
    fn forwarded_attributes_gather() {
        let mut info = ForwardInfo::parse("NAME=a.example ADDR=192.0.2.1 SOURCE=REMOTE").expect("parses");
        info.update(ForwardInfo::parse("ident=4XYZ NAME=[UNAVAILABLE]").expect("parses"));
        let want = ForwardInfo {
            name: Some("".into()),
            addr: Some("192.0.2.1".into()),
            ident: Some("4XYZ".into()),
            source: Some("REMOTE".into()),
            ..ForwardInfo::default()
        };
        assert_eq!(info, want);
        for text in ["LOGIN=x", "NAME=a+0Ab", "ADDR=", "PORT=1 PORT=1"] {
            assert!(ForwardInfo::parse(text).is_err(), "{text}");
        }
    }
}
