//! One message over an open connection: MAIL, RCPT, DATA or BDAT, and what the server makes of it.
//!
//! With PIPELINING (RFC 2920) the envelope goes in one write with DATA, or with the message itself for BDAT. A message
//! is acknowledged when its last reply is a 2yz; recipients that were refused along the way are counted, and as long as
//! one is accepted the message goes on. In a group whose first refusal explains the others (a 503 after a refused MAIL)
//! only that first one stands in the table of refusals; every reply counts by its code all the same. Latencies are those
//! of replies that accept; a refusal is counted and not timed, since a fast no would make a slow server look fast.

use std::time::Instant;

use crate::client::{Connection, Trouble};
use crate::message::{Body, Composer, DateLine, Framing};
use crate::recipients::write_number;
use crate::stats::{BreakKind, Recorder, Stage};
use crate::stream::Break;

/// Chunks that may be on their way without an answer; the answers to so few fit into any socket buffer, so neither
/// side can block the other.
const CHUNKS_UNANSWERED_MAX: usize = 64;

/// How messages are handed over.
pub(crate) struct Manner {
    pub(crate) framing: Framing,
    pub(crate) pipelining: bool,
    /// Largest chunk of BDAT, in bytes.
    pub(crate) chunk: usize,
}

/// What one session needs to send messages, reused from message to message.
pub(crate) struct Sender<'a> {
    pub(crate) composer: &'a Composer,
    pub(crate) manner: &'a Manner,
    pub(crate) recorder: Recorder,
    pub(crate) date: DateLine,
    pub(crate) header: Vec<u8>,
}

/// What became of the envelope.
#[derive(Default)]
struct Envelope {
    /// The refusal that ends the message, if there was one.
    refused: Option<u16>,
    accepted: u64,
}

impl Sender<'_> {
    /// Sends a message; the answer is the size in bytes of what was acknowledged.
    pub(crate) async fn send(&mut self, connection: &mut Connection, sequence: u64) -> Result<u64, Trouble> {
        let composer = self.composer;
        let body = composer.body(sequence);
        composer.write_header(&mut self.header, sequence, body, &mut self.date);
        match self.manner.framing {
            Framing::Data => self.send_data(connection, sequence, body).await?,
            Framing::Bdat => self.send_bdat(connection, sequence, body).await?,
        }
        Ok(self.header.len() as u64 + body.size)
    }

    async fn send_data(&self, connection: &mut Connection, sequence: u64, body: &Body) -> Result<(), Trouble> {
        let mut envelope = None;
        if self.pipelines(connection) {
            self.put_mail(connection, body);
            for index in 0..self.composer.recipients().per_message() {
                self.put_rcpt(connection, sequence, index);
            }
        } else {
            envelope = Some(self.envelope_stepwise(connection, sequence, body).await?);
        }
        connection.put(b"DATA\r\n");
        let begin = Instant::now();
        self.flush(connection).await?;
        let envelope = match envelope {
            Some(envelope) => envelope,
            None => self.envelope_replies(connection, begin).await?,
        };
        let go = connection.reply().await?;
        if go.code != 354 {
            if envelope.refused.is_none() || go.code == 421 {
                connection.note_refusal("DATA", &go);
            }
            let code = if go.code == 421 { 421 } else { envelope.refused.unwrap_or(go.code) };
            return Err(Trouble::Refused { code });
        }
        if let Some(code) = envelope.refused {
            // RFC 2920 section 3.1: a 354 without a recipient is answered with an empty message.
            connection.put(b".\r\n");
            self.flush(connection).await?;
            connection.reply().await?;
            return Err(Trouble::Refused { code });
        }
        self.recorder.stats().time(Stage::Go, begin.elapsed());
        connection.put(&self.header);
        let written = connection.put_large(&body.wire).await;
        self.explain(connection, written).await?;
        let begin = Instant::now();
        self.flush(connection).await?;
        self.verdict(connection, "end of DATA", begin).await
    }

    async fn send_bdat(&self, connection: &mut Connection, sequence: u64, body: &Body) -> Result<(), Trouble> {
        if !connection.extensions.chunking {
            return Err(Break::new(BreakKind::Protocol, "the server doesn't offer CHUNKING").into());
        }
        let pipelined = self.pipelines(connection);
        let mut envelope = None;
        if pipelined {
            self.put_mail(connection, body);
            for index in 0..self.composer.recipients().per_message() {
                self.put_rcpt(connection, sequence, index);
            }
        } else {
            envelope = Some(self.envelope_stepwise(connection, sequence, body).await?);
        }
        let unanswered_max = if pipelined { CHUNKS_UNANSWERED_MAX } else { 1 };
        let total = self.header.len() + body.wire.len();
        let (mut sent, mut unanswered) = (0, 0);
        let begin = Instant::now();
        while sent < total {
            let end = sent.saturating_add(self.manner.chunk).min(total);
            if unanswered == unanswered_max {
                self.flush(connection).await?;
                self.chunk_replies(connection, &mut envelope, begin, unanswered).await?;
                unanswered = 0;
            }
            let written = self.put_chunk(connection, body, sent, end).await;
            self.explain(connection, written).await?;
            sent = end;
            unanswered += 1;
        }
        let last_write = Instant::now();
        self.flush(connection).await?;
        // With a refusal, all answers are still taken before the next command, so that none is taken for its answer.
        let refused = self.chunk_replies(connection, &mut envelope, begin, unanswered - 1).await;
        match refused {
            Err(Trouble::Refused { code }) if code != 421 => {
                connection.reply().await?;
                refused
            }
            Err(_) => refused,
            Ok(()) => self.verdict(connection, "BDAT", last_write).await,
        }
    }

    /// Adds one chunk, the bytes `start..end` of header and body taken as one, to the output.
    async fn put_chunk(&self, connection: &mut Connection, body: &Body, start: usize, end: usize) -> Result<(), Break> {
        let header = self.header.len();
        connection.put(b"BDAT ");
        write_number(connection.output(), (end - start) as u64);
        connection.put(if end == header + body.wire.len() { b" LAST\r\n" } else { b"\r\n" });
        connection.put(&self.header[start.min(header)..end.min(header)]);
        connection.put_large(&body.wire[start.max(header) - header..end.max(header) - header]).await
    }

    /// Takes the answers to the envelope, if they are still due, and to this many chunks. Whatever is refused, all of
    /// these answers are taken, except after a 421.
    async fn chunk_replies(
        &self,
        connection: &mut Connection,
        envelope: &mut Option<Envelope>,
        begin: Instant,
        count: usize,
    ) -> Result<(), Trouble> {
        let envelope = match envelope {
            Some(envelope) => envelope,
            None => envelope.insert(self.envelope_replies(connection, begin).await?),
        };
        for _ in 0..count {
            let reply = connection.reply().await?;
            if !reply.is_positive() {
                if envelope.refused.is_none() || reply.code == 421 {
                    connection.note_refusal("BDAT", &reply);
                }
                if reply.code == 421 {
                    return Err(Trouble::Refused { code: 421 });
                }
                envelope.refused.get_or_insert(reply.code);
            }
        }
        envelope.refused.map_or(Ok(()), |code| Err(Trouble::Refused { code }))
    }

    fn pipelines(&self, connection: &Connection) -> bool {
        self.manner.pipelining && connection.extensions.pipelining
    }

    fn put_mail(&self, connection: &mut Connection, body: &Body) {
        connection.put(b"MAIL FROM:<");
        connection.put(self.composer.from().as_bytes());
        if connection.extensions.size {
            connection.put(b"> SIZE=");
            write_number(connection.output(), self.header.len() as u64 + body.size);
            connection.put(b"\r\n");
        } else {
            connection.put(b">\r\n");
        }
    }

    fn put_rcpt(&self, connection: &mut Connection, sequence: u64, index: u64) {
        connection.put(b"RCPT TO:<");
        self.composer.recipients().write(connection.output(), sequence, index);
        connection.put(b">\r\n");
    }

    /// Takes the answers to a pipelined MAIL and its RCPTs, all of them except after a 421.
    async fn envelope_replies(&self, connection: &mut Connection, begin: Instant) -> Result<Envelope, Trouble> {
        let mut envelope = Envelope::default();
        self.mail_reply(connection, &mut envelope, begin).await?;
        let mut last = 0;
        for _ in 0..self.composer.recipients().per_message() {
            last = self.rcpt_reply(connection, &mut envelope, begin).await?;
        }
        if envelope.accepted == 0 {
            envelope.refused.get_or_insert(last);
        }
        Ok(envelope)
    }

    /// Sends MAIL and the RCPTs one at a time. An envelope without a recipient is a refusal here.
    async fn envelope_stepwise(
        &self,
        connection: &mut Connection,
        sequence: u64,
        body: &Body,
    ) -> Result<Envelope, Trouble> {
        let mut envelope = Envelope::default();
        self.put_mail(connection, body);
        let begin = Instant::now();
        self.flush(connection).await?;
        self.mail_reply(connection, &mut envelope, begin).await?;
        if let Some(code) = envelope.refused {
            return Err(Trouble::Refused { code });
        }
        let mut last = 0;
        for index in 0..self.composer.recipients().per_message() {
            self.put_rcpt(connection, sequence, index);
            let begin = Instant::now();
            self.flush(connection).await?;
            last = self.rcpt_reply(connection, &mut envelope, begin).await?;
        }
        if envelope.accepted == 0 { Err(Trouble::Refused { code: last }) } else { Ok(envelope) }
    }

    async fn mail_reply(
        &self,
        connection: &mut Connection,
        envelope: &mut Envelope,
        begin: Instant,
    ) -> Result<(), Trouble> {
        let reply = connection.reply().await?;
        if reply.is_positive() {
            self.recorder.stats().time(Stage::Mail, begin.elapsed());
            return Ok(());
        }
        connection.note_refusal("MAIL", &reply);
        envelope.refused = Some(reply.code);
        if reply.code == 421 { Err(Trouble::Refused { code: 421 }) } else { Ok(()) }
    }

    async fn rcpt_reply(
        &self,
        connection: &mut Connection,
        envelope: &mut Envelope,
        begin: Instant,
    ) -> Result<u16, Trouble> {
        let reply = connection.reply().await?;
        if reply.is_positive() {
            self.recorder.stats().time(Stage::Rcpt, begin.elapsed());
            envelope.accepted += 1;
        } else if envelope.refused.is_none() || reply.code == 421 {
            connection.note_refusal("RCPT", &reply);
        }
        if reply.code == 421 { Err(Trouble::Refused { code: 421 }) } else { Ok(reply.code) }
    }

    /// Takes the reply that decides over the message.
    async fn verdict(
        &self,
        connection: &mut Connection,
        command: &'static str,
        last_write: Instant,
    ) -> Result<(), Trouble> {
        let reply = connection.reply().await?;
        if reply.is_positive() {
            self.recorder.stats().time(Stage::Data, last_write.elapsed());
            return Ok(());
        }
        connection.note_refusal(command, &reply);
        Err(Trouble::Refused { code: reply.code })
    }

    async fn flush(&self, connection: &mut Connection) -> Result<(), Trouble> {
        let written = connection.flush().await;
        self.explain(connection, written).await
    }

    /// A server may say no and hang up while it is still being written to; what it said explains the broken write.
    async fn explain(&self, connection: &mut Connection, written: Result<(), Break>) -> Result<(), Trouble> {
        let Err(broken) = written else { return Ok(()) };
        if broken.kind == BreakKind::Reset {
            while let Ok(reply) = connection.reply().await {
                if reply.code >= 400 {
                    connection.note_refusal("a broken write", &reply);
                    // Whatever its code, the connection is gone with it.
                    return Err(Trouble::Refused { code: 421 });
                }
            }
        }
        Err(Trouble::Broken(broken))
    }
}
