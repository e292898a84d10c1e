//! An SMTP client that says exactly what a test wants it to say.

use super::PATIENCE;
use super::net::connect_from;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

/// A reply, its lines without their CRLF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) lines: Vec<String>,
}

impl Reply {
    /// All of it in one line.
    pub(crate) fn text(&self) -> String {
        self.lines.join(" / ")
    }
}

/// A connection, in the clear or inside TLS.
pub(crate) struct Client<S = TcpStream> {
    stream: BufReader<S>,
    /// Replies read, by first digit.
    pub(crate) classes: [u64; 6],
}

impl Client {
    /// Connects, and reads nothing.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect_timeout(&address, PATIENCE).expect("connects"))
    }

    pub(crate) fn from_stream(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        stream.set_nodelay(true).expect("no delay");
        Self::over(stream)
    }

    /// Connects from an address of this machine, and reads nothing.
    pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        Self::from_stream(connect_from(source, address).expect("connects"))
    }

    /// Connects, takes the banner, says EHLO.
    pub(crate) fn hello(address: SocketAddr) -> Self {
        Self::connect(address).greeted()
    }

    /// The same from an address of this machine.
    pub(crate) fn hello_from(source: IpAddr, address: SocketAddr) -> Self {
        Self::connect_from(source, address).greeted()
    }

    /// The bare connection.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }
}

impl<S: Read + Write> Client<S> {
    /// Speaks over a stream whose timeouts are set.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream), classes: [0; 6] }
    }

    /// What it speaks over.
    pub(crate) fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    /// Takes the banner, says EHLO.
    pub(crate) fn greeted(mut self) -> Self {
        self.expect(220);
        self.say("EHLO client.example.org", 250);
        self
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server takes what is sent");
    }

    /// The same where the server may have closed the connection.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads a reply; nothing at the end of the connection, an error where it was reset or nothing came in time.
    pub(crate) fn try_reply(&mut self) -> std::io::Result<Option<Reply>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return if lines.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            let wrong = |what: &str| std::io::Error::other(format!("{what}: {line:?}"));
            let text = line.strip_suffix("\r\n").ok_or_else(|| wrong("a reply line without CRLF"))?;
            let code = text.get(..3).and_then(|code| code.parse::<u16>().ok()).ok_or_else(|| wrong("no reply"))?;
            let more = text.as_bytes().get(3) == Some(&b'-');
            lines.push(text.to_owned());
            if !more {
                *self.classes.get_mut(usize::from(code / 100)).ok_or_else(|| wrong("no reply code"))? += 1;
                return Ok(Some(Reply { code, lines }));
            }
        }
    }

    /// Reads a reply that must come.
    pub(crate) fn reply(&mut self) -> Reply {
        self.try_reply().expect("a reply").expect("a reply and not the end of the connection")
    }

    /// Reads a reply that must have this code.
    #[track_caller]
    pub(crate) fn expect(&mut self, code: u16) -> Reply {
        let reply = self.reply();
        assert_eq!(reply.code, code, "{}", reply.text());
        reply
    }

    /// Sends a command line; gives the reply, whatever it is.
    pub(crate) fn ask(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends a command line; its reply must have this code.
    #[track_caller]
    pub(crate) fn say(&mut self, line: &str, code: u16) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        let reply = self.reply();
        assert_eq!(reply.code, code, "to {line:?}: {}", reply.text());
        reply
    }

    /// Sends a command line; its reply must have this code and begin with this enhanced code.
    #[track_caller]
    pub(crate) fn refused(&mut self, line: &str, code: u16, enhanced: &str) {
        let reply = self.say(line, code);
        assert!(reply.lines[0][4..].starts_with(enhanced), "to {line:?}, not {enhanced}: {}", reply.text());
    }

    /// MAIL, RCPT for each recipient, DATA: all must be accepted.
    #[track_caller]
    pub(crate) fn begin(&mut self, from: &str, to: &[&str]) {
        self.say(&format!("MAIL FROM:<{from}>"), 250);
        for recipient in to {
            self.say(&format!("RCPT TO:<{recipient}>"), 250);
        }
        self.say("DATA", 354);
    }

    /// Sends a message whose lines end in CRLF, with dots stuffed and the end behind it; gives the reply.
    pub(crate) fn content(&mut self, message: &[u8]) -> Reply {
        self.send(&stuffed(message));
        self.reply()
    }

    /// A whole message; it must be accepted. Gives its id.
    #[track_caller]
    pub(crate) fn deliver(&mut self, from: &str, to: &[&str], message: &[u8]) -> String {
        self.begin(from, to);
        let reply = self.content(message);
        assert_eq!(reply.code, 250, "{}", reply.text());
        queued_id(&reply)
    }

    /// QUIT, and the end of the connection.
    #[track_caller]
    pub(crate) fn quit(mut self) {
        self.say("QUIT", 221);
        self.ended();
    }

    /// The connection must end now, in order and with no further word.
    #[track_caller]
    pub(crate) fn ended(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty(), "more was said: {:?}", String::from_utf8_lossy(&rest));
    }
}

/// The id in the reply that accepts a message. The session's id follows it where something was refused before.
pub(crate) fn queued_id(reply: &Reply) -> String {
    let id = reply.lines[0].strip_prefix("250 2.0.0 queued as ").and_then(|rest| rest.split(' ').next());
    id.unwrap_or_else(|| panic!("no id in {:?}", reply.lines[0])).to_owned()
}

/// The session's id at the end of a refusal, or of the banner.
pub(crate) fn session_id(reply: &Reply) -> String {
    let last = reply.lines.last().and_then(|line| line.rsplit(' ').next());
    last.map_or("", |word| word.trim_matches(['[', ']'])).to_owned()
}

/// RFC 5321 section 4.5.2: a dot before each line that begins with one, and the dot that ends the message.
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    assert!(message.is_empty() || message.ends_with(b"\r\n"), "a message is whole lines");
    let mut wire = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
