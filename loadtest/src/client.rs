//! The client's side of an SMTP session, from the connection to QUIT, without the messages.
//!
//! A [`Connection`] collects what is to be sent and writes it in one go, and reads replies one by one. It counts each
//! reply by its code, times the stages of opening, and tells a server that says no ([`Trouble::Refused`]) from a
//! connection that is gone ([`Trouble::Broken`]). It never tries anything twice. What only clients do that mean no good
//! stands in [`unruly`].

mod unruly;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::args::TlsMode;
use crate::reply::{Extensions, REPLY_BYTES_MAX, Reply, parse_reply};
use crate::stats::{BreakKind, Recorder, Stage};
use crate::stream::{Break, Stream};

/// Reply buffer at first: enough for most answers to EHLO.
const READ_BYTES_FIRST: usize = 1024;

/// What is sent together is copied together up to this size; larger bodies are written from where they lie.
const COALESCE_BYTES_MAX: usize = 64 * 1024;

/// The end of a body that is too large to copy. It goes in a write of its own, so that the time from that write to the
/// reply doesn't contain the transfer of megabytes.
const LAST_WRITE_BYTES: usize = 16 * 1024;

/// How long to wait for the server to close after QUIT.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How to reach the server.
pub(crate) struct Dial {
    pub(crate) targets: Vec<Target>,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) tls: TlsMode,
    pub(crate) connector: Option<TlsConnector>,
    pub(crate) ehlo: String,
    pub(crate) timeout: Duration,
}

impl Dial {
    /// The target of a turn.
    fn target(&self, turn: usize) -> &Target {
        &self.targets[turn % self.targets.len()]
    }

    fn connector(&self) -> &TlsConnector {
        self.connector.as_ref().expect("a connector is made for every mode but off")
    }
}

/// One address to connect to, and the name its certificate should have.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) name: ServerName<'static>,
}

/// Why a command, or a whole message, came to nothing.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server said no; `code` is 421 if it also closes the connection.
    Refused { code: u16 },
    /// The connection is gone.
    Broken(Break),
}

impl From<Break> for Trouble {
    fn from(broken: Break) -> Self {
        Self::Broken(broken)
    }
}

/// An SMTP session that is past EHLO.
pub(crate) struct Connection {
    stream: Stream,
    recorder: Recorder,
    pub(crate) extensions: Extensions,
    timeout: Duration,
    /// What was read: replies that are still to be taken lie in `start..end`.
    read: Vec<u8>,
    start: usize,
    end: usize,
    /// What is to be written.
    out: Vec<u8>,
}

impl Connection {
    /// Connects and greets, with TLS as the dial has it. `turn` chooses target and source, so that connections spread over
    /// all of them.
    pub(crate) async fn open(dial: &Dial, turn: usize, recorder: &Recorder) -> Result<Self, Trouble> {
        let mut connection = Self::greet(dial, turn, recorder).await?;
        if dial.tls == TlsMode::Starttls {
            connection = connection.starttls(dial, turn).await?;
            connection.ehlo(dial).await?;
        }
        recorder.stats().connections += 1;
        Ok(connection)
    }

    /// Connects, and goes as far as the answer to the first EHLO.
    pub(crate) async fn greet(dial: &Dial, turn: usize, recorder: &Recorder) -> Result<Self, Trouble> {
        let begin = Instant::now();
        let mut connection = Self::reach(dial, turn, recorder).await?;
        let mut handshake = Duration::ZERO;
        if dial.tls == TlsMode::Implicit {
            let begin = Instant::now();
            connection = connection.encrypt(dial, turn).await?;
            handshake = begin.elapsed();
        }
        connection.expect("banner", 220).await?;
        recorder.stats().time(Stage::Connect, begin.elapsed().saturating_sub(handshake));
        connection.ehlo(dial).await?;
        Ok(connection)
    }

    /// Connects, and neither says nor hears anything.
    pub(crate) async fn reach(dial: &Dial, turn: usize, recorder: &Recorder) -> Result<Self, Trouble> {
        let source = match dial.sources.len() {
            0 => None,
            count => Some(dial.sources[turn / dial.targets.len() % count]),
        };
        Ok(Self {
            stream: Stream::connect(dial.target(turn).address, source, dial.timeout).await?,
            recorder: recorder.clone(),
            extensions: Extensions::default(),
            timeout: dial.timeout,
            read: Vec::new(),
            start: 0,
            end: 0,
            out: Vec::new(),
        })
    }

    pub(crate) async fn ehlo(&mut self, dial: &Dial) -> Result<(), Trouble> {
        self.put(b"EHLO ");
        self.put(dial.ehlo.as_bytes());
        self.put(b"\r\n");
        let begin = Instant::now();
        self.flush().await?;
        let reply = self.expect("EHLO", 250).await?;
        self.recorder.stats().time(Stage::Ehlo, begin.elapsed());
        self.extensions = Extensions::parse(self.text(&reply));
        Ok(())
    }

    /// Encrypts by STARTTLS, which the server must have offered.
    pub(crate) async fn starttls(mut self, dial: &Dial, turn: usize) -> Result<Self, Trouble> {
        let begin = Instant::now();
        self.ask_for_tls().await?;
        let recorder = self.recorder.clone();
        let connection = self.encrypt(dial, turn).await?;
        recorder.stats().time(Stage::Tls, begin.elapsed());
        Ok(connection)
    }

    /// Says STARTTLS and takes the go-ahead.
    pub(crate) async fn ask_for_tls(&mut self) -> Result<(), Trouble> {
        if !self.extensions.starttls {
            return Err(Break::new(BreakKind::Protocol, "the server doesn't offer STARTTLS").into());
        }
        self.command("STARTTLS", b"STARTTLS\r\n", 220).await?;
        // RFC 3207 section 6: what came in before the handshake isn't to be believed.
        if self.start != self.end {
            return Err(Break::new(BreakKind::Protocol, "the server sent more than its reply to STARTTLS").into());
        }
        Ok(())
    }

    /// Shakes hands, and forgets what the server said before.
    pub(crate) async fn encrypt(self, dial: &Dial, turn: usize) -> Result<Self, Trouble> {
        let begin = Instant::now();
        let name = dial.target(turn).name.clone();
        let stream = self.stream.encrypt(dial.connector(), name, dial.timeout).await?;
        let mut stats = self.recorder.stats();
        if dial.tls == TlsMode::Implicit {
            stats.time(Stage::Tls, begin.elapsed());
        }
        if let Some(label) = stream.tls_label() {
            *stats.tls.entry(label).or_default() += 1;
        }
        drop(stats);
        Ok(Self { stream, extensions: Extensions::default(), ..self })
    }

    /// Sends a line and takes its reply, which has to have this code.
    pub(crate) async fn command(&mut self, name: &'static str, line: &[u8], code: u16) -> Result<Reply, Trouble> {
        self.put(line);
        self.flush().await?;
        self.expect(name, code).await
    }

    /// Adds to what the next [`Connection::flush`] writes.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Gives access to the output, for what writes itself into it.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Like [`Connection::put`], but writes at once what would be too large to copy, all but its end.
    pub(crate) async fn put_large(&mut self, bytes: &[u8]) -> Result<(), Break> {
        if self.out.len() + bytes.len() <= COALESCE_BYTES_MAX {
            self.put(bytes);
            return Ok(());
        }
        self.flush().await?;
        let (first, last) = bytes.split_at(bytes.len().saturating_sub(LAST_WRITE_BYTES));
        self.stream.write_all(first, self.timeout).await?;
        self.put(last);
        Ok(())
    }

    /// Writes what was collected.
    pub(crate) async fn flush(&mut self) -> Result<(), Break> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out, self.timeout).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Takes the next reply. Its text can be had until the one after it is asked for.
    pub(crate) async fn reply(&mut self) -> Result<Reply, Break> {
        loop {
            match parse_reply(&self.read[..self.end], self.start) {
                Ok(Some(reply)) => {
                    self.start = reply.bytes.end;
                    self.recorder.stats().reply(reply.code);
                    return Ok(reply);
                }
                Ok(None) => self.fill().await?,
                Err(_) => {
                    let text = String::from_utf8_lossy(&self.read[self.start..self.end]).into_owned();
                    return Err(Break::new(BreakKind::Protocol, format!("not an SMTP reply: {text:?}")));
                }
            }
        }
    }

    /// The bytes of a reply, all of its lines.
    pub(crate) fn text(&self, reply: &Reply) -> &[u8] {
        &self.read[reply.bytes.clone()]
    }

    /// Takes a reply that has to have this code; notes it as a refusal if it hasn't.
    pub(crate) async fn expect(&mut self, command: &'static str, code: u16) -> Result<Reply, Trouble> {
        let reply = self.reply().await?;
        if reply.code != code {
            self.note_refusal(command, &reply);
            return Err(Trouble::Refused { code: reply.code });
        }
        Ok(reply)
    }

    /// Notes a reply in the table of refusals.
    pub(crate) fn note_refusal(&self, command: &'static str, reply: &Reply) {
        self.recorder.stats().refusal(reply.code, command, self.text(reply));
    }

    async fn fill(&mut self) -> Result<(), Break> {
        self.make_room();
        let count = self.stream.read(&mut self.read[self.end..], self.timeout).await?;
        self.filled(count)
    }

    /// Sees to it that there is room behind what was read and not yet taken.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.read.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.read.len() {
            self.read.resize((2 * self.end).clamp(READ_BYTES_FIRST, REPLY_BYTES_MAX + 1), 0);
        }
    }

    fn filled(&mut self, count: usize) -> Result<(), Break> {
        self.end += count;
        match count {
            0 => Err(Break::new(BreakKind::Eof, "the server closed the connection where a reply was due")),
            _ => Ok(()),
        }
    }

    /// Ends the session in order. Errors no longer matter.
    pub(crate) async fn quit(self) {
        let _ = self.farewell().await;
    }

    /// Ends the session in order, and lets the server close first, as RFC 5321 section 4.1.1.10 has it: the port then
    /// rests in TIME_WAIT on its side and is free again on this one.
    pub(crate) async fn farewell(mut self) -> Result<(), Trouble> {
        self.out.clear();
        self.command("QUIT", b"QUIT\r\n", 221).await?;
        let mut rest = [0; 64];
        while self.stream.read(&mut rest, CLOSE_WAIT).await? > 0 {}
        Ok(())
    }

    /// Ends the current transaction; `false` if the server doesn't do even that.
    pub(crate) async fn reset(&mut self) -> bool {
        self.out.clear();
        self.put(b"RSET\r\n");
        self.flush().await.is_ok() && matches!(self.reply().await, Ok(reply) if reply.is_positive())
    }
}
