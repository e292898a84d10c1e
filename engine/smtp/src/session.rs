//! The server session: bytes in, replies and steps out.
//!
//! The caller feeds [`Session::advance`] and does what the [`Step`] says. After `Mail`, `Rcpt`, `Begin` and `End` the
//! machine waits, as RFC 5321 section 4.3.1 has it, for its answer (`answer_mail`, `answer_rcpt`, `answer_begin`, `accept` or `refuse`) and takes no input
//! until then, so pipelined commands stay with the caller. Lines of commands are consumed whole; the machine buffers
//! nothing.

use crate::body::{Body, Fault};
use crate::command::{Chunk, Mail, Rcpt};
use crate::options::{Options, TlsUse};
use crate::reply::{Line, Reply, Tally, replies};
use crate::{Accepted, LINE_MAX, verbs};
use memchr::memchr;
use ringpost_base::{Entropy, SessionId, SessionIds, ShardId, Timestamp};
use std::{fmt::Write, marker::PhantomData, rc::Rc};

/// Octets of replies gathered before they must be sent.
const REPLIES_MAX: usize = 16 << 10;

/// What a session is born with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The server's options.
    pub options: Rc<Options>,
    /// How the listener uses TLS.
    pub tls: TlsUse,
    /// Whether TLS is on already.
    pub secure: bool,
    /// The session's id, shown in the banner and in refusals.
    pub id: SessionId,
}

impl Setup {
    /// A setup with default options, for examples and tests.
    pub fn example() -> Self {
        let id = SessionIds::new(ShardId(0), Entropy([0; 16])).next(Timestamp::default());
        Self { options: Rc::new(Options::default()), tls: TlsUse::Starttls, secure: false, id }
    }
}

/// What the caller must do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send what is in the reply buffer, then read more.
    Need,
    /// Decide about a sender, then `answer_mail`.
    Mail(Mail),
    /// Decide about a recipient, then `answer_rcpt`.
    Rcpt(Rcpt),
    /// Make ready for a body, then `answer_begin`. From here on `advance` appends to the body buffer.
    Begin,
    /// The body is whole: `accept` it with its proof, or `refuse` it.
    End,
    /// The message's body ended, and the machine has refused it: forget it.
    Abandoned(Abandoned),
    /// RSET or a new greeting: forget the envelope.
    Reset,
    /// Send what is in the reply buffer, throw away all unread input, shake hands, then `secured`.
    StartTls,
    /// Send what is in the reply buffer, then close.
    Close,
}

/// Why the machine itself refused a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// It exceeded the size limit.
    TooBig,
    /// It had a bare CR or LF.
    BareNewline,
}

impl Abandoned {
    /// What the client was told.
    pub fn reply(self) -> Reply {
        match self {
            Self::TooBig => replies::TOO_BIG,
            Self::BareNewline => replies::BARE_NEWLINE,
        }
    }
}

/// A server session whose messages are accepted by an `A`.
#[derive(Debug)]
pub struct Session<A> {
    core: Core,
    proof: PhantomData<fn(&A)>,
}

#[derive(Debug)]
pub(crate) struct Helo {
    pub(crate) name: Box<str>,
    pub(crate) extended: bool,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) utf8: bool,
    pub(crate) recipients: usize,
    /// The body between two chunks of BDAT.
    chunks: Option<Box<Body>>,
}

#[derive(Debug)]
pub(crate) enum State {
    Command,
    /// Throwing away the rest of an over-long line; `bdat`: octets of a chunk follow it.
    LongLine {
        bdat: bool,
    },
    AnswerMail {
        utf8: bool,
    },
    AnswerRcpt,
    AnswerBegin {
        chunk: Option<Chunk>,
    },
    AnswerEnd,
    Data(Box<Body>),
    Chunk {
        left: u64,
        chunk: Chunk,
        body: Box<Body>,
    },
    /// Reading away a chunk that is already refused.
    SkipChunk {
        left: u64,
        reply: Box<Reply>,
        then: AfterSkip,
    },
    Handshake,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterSkip {
    /// The chunk belonged to no transaction; one that is open stays.
    Stay,
    /// The transaction ends with the chunk.
    Drop,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) setup: Setup,
    pub(crate) helo: Option<Helo>,
    pub(crate) state: State,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) errors: u32,
    pub(crate) tally: Tally,
    pub(crate) quit: bool,
}

impl<A: Accepted> Session<A> {
    /// A session before its banner.
    pub fn new(setup: Setup) -> Self {
        let core = Core {
            setup,
            helo: None,
            state: State::Command,
            transaction: None,
            errors: 0,
            tally: Tally::default(),
            quit: false,
        };
        Self { core, proof: PhantomData }
    }

    /// Writes the banner (RFC 5321 section 3.1).
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        self.core.tally.positive += 1;
        let Setup { options, id, .. } = &self.core.setup;
        let _ = write!(Line(out), "220 {} ESMTP ringpost {id}\r\n", options.hostname);
    }

    /// Takes input up to the next step. Returns how many bytes were used; the rest must be given again, with more
    /// behind it. Message bytes are appended to `body`, replies to `out`.
    pub fn advance(&mut self, input: &[u8], body: &mut Vec<u8>, out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        loop {
            // A small command can have a long reply: what is owed is sent before more is read.
            if out.len() >= REPLIES_MAX {
                return (used, Step::Need);
            }
            let (more, step) = self.core.advance_once(&input[used..], body, out);
            used += more;
            if let Some(step) = step {
                return (used, step);
            }
        }
    }

    /// Answers `Step::Mail`: nothing refuses, or `refusal` does.
    pub fn answer_mail(&mut self, refusal: Option<Reply>, out: &mut Vec<u8>) -> Option<Step> {
        let State::AnswerMail { utf8 } = self.core.state else { return None };
        self.core.state = State::Command;
        if refusal.is_none() {
            self.core.transaction = Some(Transaction { utf8, recipients: 0, chunks: None });
        }
        self.core.reply(refusal.unwrap_or(replies::SENDER_OK), out)
    }

    /// Answers `Step::Rcpt`.
    pub fn answer_rcpt(&mut self, refusal: Option<Reply>, out: &mut Vec<u8>) -> Option<Step> {
        let State::AnswerRcpt = self.core.state else { return None };
        self.core.state = State::Command;
        if let (None, Some(transaction)) = (&refusal, &mut self.core.transaction) {
            transaction.recipients += 1;
        }
        self.core.reply(refusal.unwrap_or(replies::RECIPIENT_OK), out)
    }

    /// Answers `Step::Begin`. After a refusal the transaction is over.
    pub fn answer_begin(&mut self, refusal: Option<Reply>, out: &mut Vec<u8>) -> Option<Step> {
        let State::AnswerBegin { chunk } = self.core.state else { return None };
        self.core.state = State::Command;
        let options = &self.core.setup.options;
        let body = Box::new(Body::new(chunk.is_none(), options.bare_newline, options.message_size_max.0));
        match (chunk, refusal) {
            (None, None) => {
                self.core.state = State::Data(body);
                self.core.write(&replies::GO_AHEAD, out);
                None
            }
            (None, Some(reply)) => {
                self.core.transaction = None;
                self.core.reply(reply, out)
            }
            (Some(chunk), None) => {
                self.core.state = State::Chunk { left: chunk.size, chunk, body };
                None
            }
            (Some(chunk), Some(reply)) => {
                let then = AfterSkip::Drop;
                self.core.state = State::SkipChunk { left: chunk.size, reply: Box::new(reply), then };
                None
            }
        }
    }

    /// Answers `Step::End` with the proof that the message is accepted: the only way to a 250 for a message.
    pub fn accept(&mut self, proof: &A, out: &mut Vec<u8>) {
        let State::AnswerEnd = self.core.state else { return };
        self.core.errors = 0;
        // RFC 5321 section 4.2.5: with this reply the message is ours.
        self.core.end_transaction();
        self.core.tally.positive += 1;
        let _ = write!(Line(out), "250 2.0.0 queued as {}\r\n", proof.id());
    }

    /// Answers `Step::End` with a refusal.
    pub fn refuse(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        debug_assert!(reply.refuses(), "a message is accepted with `accept`");
        let State::AnswerEnd = self.core.state else { return None };
        self.core.end_transaction();
        self.core.reply(reply, out)
    }

    /// TLS is on: everything the client said before is forgotten (RFC 3207 section 4.2).
    pub fn secured(&mut self) {
        if !matches!(self.core.state, State::Handshake | State::Command) {
            return;
        }
        self.core.helo = None;
        self.core.transaction = None;
        self.core.setup.secure = true;
        self.core.state = State::Command;
    }

    /// Ends the session from the server's side, with a reply such as `replies::SHUTDOWN`.
    pub fn end(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.core.write(reply, out);
        self.core.state = State::Closed;
    }

    /// Whether a message is between MAIL and its final reply.
    pub fn in_transaction(&self) -> bool {
        self.core.transaction.is_some()
    }

    /// Whether the body of a message is under way.
    pub fn in_body(&self) -> bool {
        matches!(self.core.state, State::Data(_) | State::Chunk { .. } | State::AnswerEnd) || self.core.is_chunking()
    }

    /// Whether the client said QUIT.
    pub fn has_quit(&self) -> bool {
        self.core.quit
    }

    /// The name the client gave in HELO or EHLO, and whether it was EHLO.
    pub fn helo(&self) -> Option<(&str, bool)> {
        self.core.helo.as_ref().map(|helo| (&*helo.name, helo.extended))
    }

    /// Whether TLS is on.
    pub fn is_secure(&self) -> bool {
        self.core.setup.secure
    }

    /// Replies written since this was last asked.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.core.tally)
    }
}

impl Core {
    fn advance_once(&mut self, input: &[u8], body: &mut Vec<u8>, out: &mut Vec<u8>) -> (usize, Option<Step>) {
        match &mut self.state {
            State::Command => self.command(input, out),
            State::LongLine { .. } => self.long_line(input, out),
            State::Data(scanner) => {
                let (used, ended) = scanner.data(input, body);
                let fault = scanner.fault();
                (used, Some(if ended { self.ended(fault, out) } else { Step::Need }))
            }
            State::Chunk { .. } => self.chunk(input, body, out),
            State::SkipChunk { .. } => self.skip(input, out),
            State::Closed => (0, Some(Step::Close)),
            State::AnswerMail { .. }
            | State::AnswerRcpt
            | State::AnswerBegin { .. }
            | State::AnswerEnd
            | State::Handshake => (0, Some(Step::Need)),
        }
    }

    fn command(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let window = &input[..input.len().min(LINE_MAX)];
        let Some(newline) = memchr(b'\n', window) else {
            if window.len() < LINE_MAX {
                return (0, Some(Step::Need));
            }
            self.state = State::LongLine { bdat: is_bdat(window) };
            return (LINE_MAX, None);
        };
        let printable = |line: &str| !line.chars().any(|c| c.is_control() && c != '\t');
        let line = window[..newline].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
        let step = match line.filter(|line| printable(line)) {
            Some(line) => verbs::run(self, line, out),
            None => self.refuse_line(replies::LINE_MALFORMED, is_bdat(window), out),
        };
        (newline + 1, step)
    }

    /// Refuses a line. If it was to announce a chunk, how many octets follow is not known, and nothing that comes can be
    /// trusted to be a command: the session is over.
    pub(crate) fn refuse_line(&mut self, reply: Reply, bdat: bool, out: &mut Vec<u8>) -> Option<Step> {
        let step = self.reply(reply, out);
        if bdat { Some(self.close()) } else { step }
    }

    fn long_line(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let State::LongLine { bdat } = self.state else { return (0, None) };
        match memchr(b'\n', input) {
            None => (input.len(), Some(Step::Need)),
            Some(newline) => {
                self.state = State::Command;
                (newline + 1, self.refuse_line(replies::LINE_TOO_LONG, bdat, out))
            }
        }
    }

    fn chunk(&mut self, input: &[u8], body: &mut Vec<u8>, out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let State::Chunk { left, chunk, body: mut scanner } = std::mem::replace(&mut self.state, State::Command) else {
            return (0, None);
        };
        let used = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        scanner.chunk(&input[..used], body);
        let left = left - used as u64;
        if left > 0 {
            self.state = State::Chunk { left, chunk, body: scanner };
            return (used, Some(Step::Need));
        }
        if chunk.last {
            scanner.finish(body);
            return (used, Some(self.ended(scanner.fault(), out)));
        }
        // RFC 3030 section 2: a chunk that can't be taken ends the transaction; what is pipelined behind it gets 503.
        if let Some(fault) = scanner.fault() {
            self.transaction = None;
            let why = abandoned(fault);
            self.reply(why.reply(), out);
            return (used, Some(Step::Abandoned(why)));
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Some(scanner);
        }
        (used, self.reply(replies::CHUNK_OK.with_detail(&chunk.size.to_string()), out))
    }

    fn skip(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let State::SkipChunk { left, reply, then } = std::mem::replace(&mut self.state, State::Command) else {
            return (0, None);
        };
        let used = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - used as u64;
        if left > 0 {
            self.state = State::SkipChunk { left, reply, then };
            return (used, Some(Step::Need));
        }
        let step = self.reply(*reply, out);
        if then == AfterSkip::Drop {
            return (used, step.or(self.reset()));
        }
        (used, step)
    }

    fn ended(&mut self, fault: Option<Fault>, out: &mut Vec<u8>) -> Step {
        let Some(fault) = fault else {
            self.state = State::AnswerEnd;
            return Step::End;
        };
        self.end_transaction();
        let why = abandoned(fault);
        // One error too many closes the session: with the next step.
        self.reply(why.reply(), out);
        Step::Abandoned(why)
    }

    pub(crate) fn write(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.tally.count(reply.class());
        reply.write(self.setup.id, out);
    }

    pub(crate) fn close(&mut self) -> Step {
        self.state = State::Closed;
        Step::Close
    }

    fn end_transaction(&mut self) {
        self.transaction = None;
        self.state = State::Command;
    }

    pub(crate) fn reset(&mut self) -> Option<Step> {
        self.transaction.take().map(|_| Step::Reset)
    }

    pub(crate) fn is_chunking(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| t.chunks.is_some())
    }

    pub(crate) fn skip_chunk(&mut self, chunk: Chunk, reply: Reply) {
        self.state = State::SkipChunk { left: chunk.size, reply: Box::new(reply), then: AfterSkip::Stay };
    }

    pub(crate) fn resume_chunk(&mut self, chunk: Chunk) {
        if let Some(body) = self.transaction.as_mut().and_then(|t| t.chunks.take()) {
            self.state = State::Chunk { left: chunk.size, chunk, body };
        }
    }

    pub(crate) fn offers_tls(&self) -> bool {
        !self.setup.secure && matches!(self.setup.tls, TlsUse::Starttls | TlsUse::StarttlsRequired)
    }

    pub(crate) fn lacks_tls(&self) -> bool {
        !self.setup.secure && self.setup.tls == TlsUse::StarttlsRequired
    }
}

fn is_bdat(line: &[u8]) -> bool {
    line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"BDAT")
}

fn abandoned(fault: Fault) -> Abandoned {
    match fault {
        Fault::TooBig => Abandoned::TooBig,
        Fault::BareNewline => Abandoned::BareNewline,
    }
}
