//! The client's side of an SMTP session, from the connection to QUIT, without the messages.
//!
//! A [`Connection`] collects what is to be sent and writes it in one go, and reads replies one by one. It counts each
//! reply by its code, times the stages of opening, and tells a server that says no ([`Trouble::Refused`]) from a
//! connection that is gone ([`Trouble::Broken`]). It never tries anything twice.

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
    /// Connects and greets. `turn` chooses target and source, so that connections spread over all of them.
    pub(crate) async fn open(dial: &Dial, turn: usize, recorder: &Recorder) -> Result<Self, Trouble> {
        let target = &dial.targets[turn % dial.targets.len()];
        let source = match dial.sources.len() {
            0 => None,
            count => Some(dial.sources[turn / dial.targets.len() % count]),
        };
        let begin = Instant::now();
        let mut stream = Stream::connect(target.address, source, dial.timeout).await?;
        let mut handshake = Duration::ZERO;
        if dial.tls == TlsMode::Implicit {
            let begin = Instant::now();
            stream = encrypt(stream, dial, target, recorder).await?;
            handshake = begin.elapsed();
        }
        let mut connection = Self {
            stream,
            recorder: recorder.clone(),
            extensions: Extensions::default(),
            timeout: dial.timeout,
            read: Vec::new(),
            start: 0,
            end: 0,
            out: Vec::new(),
        };
        connection.expect("banner", 220).await?;
        recorder.stats().time(Stage::Connect, begin.elapsed().saturating_sub(handshake));
        connection.ehlo(dial).await?;
        if dial.tls == TlsMode::Starttls {
            connection = connection.starttls(dial, target).await?;
            connection.ehlo(dial).await?;
        }
        recorder.stats().connections += 1;
        Ok(connection)
    }

    async fn ehlo(&mut self, dial: &Dial) -> Result<(), Trouble> {
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

    async fn starttls(mut self, dial: &Dial, target: &Target) -> Result<Self, Trouble> {
        if !self.extensions.starttls {
            return Err(Break::new(BreakKind::Protocol, "the server doesn't offer STARTTLS").into());
        }
        let begin = Instant::now();
        self.put(b"STARTTLS\r\n");
        self.flush().await?;
        self.expect("STARTTLS", 220).await?;
        // RFC 3207 section 6: what came in before the handshake isn't to be believed.
        if self.start != self.end {
            return Err(Break::new(BreakKind::Protocol, "the server sent more than its reply to STARTTLS").into());
        }
        let stream = encrypt(self.stream, dial, target, &self.recorder).await?;
        self.recorder.stats().time(Stage::Tls, begin.elapsed());
        Ok(Self { stream, extensions: Extensions::default(), ..self })
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
    async fn expect(&mut self, command: &'static str, code: u16) -> Result<Reply, Trouble> {
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
        if self.start > 0 {
            self.read.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.read.len() {
            self.read.resize((2 * self.end).clamp(READ_BYTES_FIRST, REPLY_BYTES_MAX + 1), 0);
        }
        match self.stream.read(&mut self.read[self.end..], self.timeout).await? {
            0 => Err(Break::new(BreakKind::Eof, "the server closed the connection where a reply was due")),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }

    /// Ends the session in order, and lets the server close first, as RFC 5321 section 4.1.1.10 has it: the port then
    /// rests in TIME_WAIT on its side and is free again on this one. Errors no longer matter.
    pub(crate) async fn quit(mut self) {
        self.out.clear();
        self.put(b"QUIT\r\n");
        let farewell = async {
            self.flush().await?;
            self.reply().await?;
            let mut rest = [0; 64];
            while self.stream.read(&mut rest, CLOSE_WAIT).await? > 0 {}
            Ok::<_, Break>(())
        };
        let _ = farewell.await;
    }

    /// Ends the current transaction; `false` if the server doesn't do even that.
    pub(crate) async fn reset(&mut self) -> bool {
        self.out.clear();
        self.put(b"RSET\r\n");
        self.flush().await.is_ok() && matches!(self.reply().await, Ok(reply) if reply.is_positive())
    }

    /// Waits, with as little memory as possible, until the server ends the session or says something unasked.
    pub(crate) async fn rest(&mut self) {
        self.out = Vec::new();
        if self.start == self.end {
            (self.read, self.start, self.end) = (Vec::new(), 0, 0);
            let mut unasked = [0; 16];
            let _ = self.stream.read_unbounded(&mut unasked).await;
        }
    }
}

async fn encrypt(stream: Stream, dial: &Dial, target: &Target, recorder: &Recorder) -> Result<Stream, Break> {
    let connector = dial.connector.as_ref().expect("a connector is made for every mode but off");
    let begin = Instant::now();
    let stream = stream.encrypt(connector, target.name.clone(), dial.timeout).await?;
    let mut stats = recorder.stats();
    if dial.tls == TlsMode::Implicit {
        stats.time(Stage::Tls, begin.elapsed());
    }
    if let Some(label) = stream.tls_label() {
        *stats.tls.entry(label).or_default() += 1;
    }
    Ok(stream)
}
