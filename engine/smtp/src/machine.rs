//! The inside of a session: its states, what it remembers, and what its replies mean for it.

use crate::body::{Body, Fault};
use crate::command::Chunk;
use crate::options::{Options, Protocol, TlsUse};
use crate::reply::{Answered, Class, Reply, Tag, Tally, replies};
use crate::session::{Abandoned, Setup, Step};
use crate::{LINE_MAX, verbs};
use memchr::memchr;
use std::rc::Rc;

/// Octets of replies gathered before they must be sent.
pub(crate) const REPLIES_MAX: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct Helo {
    pub(crate) name: Box<str>,
    pub(crate) extended: bool,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) utf8: bool,
    pub(crate) binary: bool,
    /// RCPTs accepted, also where one names a recipient again.
    pub(crate) recipients: u32,
    /// The body between two chunks of BDAT.
    chunks: Option<Box<Body>>,
}

impl Transaction {
    pub(crate) fn new(utf8: bool, binary: bool) -> Self {
        Self { utf8, binary, recipients: 0, chunks: None }
    }
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
        binary: bool,
    },
    AnswerRcpt,
    AnswerBegin {
        chunk: Option<Chunk>,
    },
    AnswerEnd,
    /// With what XCLIENT said of HELO.
    AnswerClient {
        helo: Option<Box<Helo>>,
    },
    AnswerForward,
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
    /// The transaction ends with the chunk; `last`: it would have been the end of the message.
    Drop { last: bool },
}

/// What a session has used up of its limits. Errors and commands begin anew with each accepted message.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    pub(crate) errors: u32,
    pub(crate) commands: u32,
    /// RCPTs refused for now, in a message that had an accepted one.
    put_off: u32,
    unknown: u32,
    messages: u32,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) setup: Setup,
    /// The options at the last EHLO, if others came since.
    announced: Option<Rc<Options>>,
    pub(crate) helo: Option<Helo>,
    pub(crate) state: State,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) spent: Spent,
    pub(crate) tally: Tally,
    pub(crate) answered: Answered,
    opening: Opening,
    /// Something was refused: from then on each reply shows the session's id.
    refused: bool,
    /// The last refusal, until the caller has taken note of it: its code and its words.
    pub(crate) refusal: Option<(u16, &'static str)>,
    pub(crate) quit: bool,
}

/// How the session's first lines compare with the signature of a PROXY header of version 2, which is
/// CRLF CRLF NUL CRLF "QUIT" LF: as lines, two empty ones and one of a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    EmptyLines(u8),
    Past,
}

impl Opening {
    /// Takes a line with its end; says whether the signature is seen.
    fn take(&mut self, line: &[u8]) -> bool {
        let (next, seen) = match (*self, line) {
            (Self::EmptyLines(count @ 0..2), b"\r\n") => (Self::EmptyLines(count + 1), false),
            (Self::EmptyLines(2), b"\0\r\n") => (Self::Past, true),
            _ => (Self::Past, false),
        };
        *self = next;
        seen
    }
}

impl Core {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            setup,
            announced: None,
            helo: None,
            state: State::Command,
            transaction: None,
            spent: Spent::default(),
            tally: Tally::default(),
            answered: Answered::default(),
            opening: Opening::EmptyLines(0),
            refused: false,
            refusal: None,
            quit: false,
        }
    }

    pub(crate) fn advance_once(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Step>) {
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
            | State::AnswerClient { .. }
            | State::AnswerForward
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
        if self.opening.take(&window[..=newline]) {
            return (newline + 1, self.unexpected_proxy(out));
        }
        let printable = |line: &str| !line.chars().any(|c| c.is_control() && c != '\t');
        let line = window[..newline].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
        let step = match line.filter(|line| printable(line)) {
            Some(line) => verbs::run(self, line, out),
            None => {
                self.answered.others = self.answered.others.saturating_add(1);
                self.refuse_line(replies::LINE_MALFORMED, is_bdat(window), out)
            }
        };
        (newline + 1, step)
    }

    /// A PROXY header where none is expected: whoever sent it, what follows is another client's.
    pub(crate) fn unexpected_proxy(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        self.reply(replies::PROXY_UNEXPECTED, out);
        Some(self.close())
    }

    /// Refuses a line. If it was to announce a chunk, how many octets follow is not known, and nothing that comes can
    /// be trusted to be a command: the session is over.
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
                self.opening = Opening::Past;
                self.answered.others = self.answered.others.saturating_add(1);
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
        let step = match then {
            AfterSkip::Stay => self.reply(*reply, out),
            AfterSkip::Drop { last: true } => self.conclude(&reply, out).or(Some(Step::Reset)),
            AfterSkip::Drop { last: false } => self.reply(*reply, out).or(self.reset()),
        };
        (used, step)
    }

    fn ended(&mut self, fault: Option<Fault>, out: &mut Vec<u8>) -> Step {
        let Some(fault) = fault else {
            self.state = State::AnswerEnd;
            return Step::End;
        };
        let why = abandoned(fault);
        // One error too many closes the session: with the next step.
        self.conclude(&why.reply(), out);
        Step::Abandoned(why)
    }

    /// How many replies the end of the message has: in LMTP one for each RCPT that was accepted (RFC 2033 section 4.2).
    pub(crate) fn final_replies(&self) -> u32 {
        match (self.setup.protocol, &self.transaction) {
            (Protocol::Lmtp, Some(transaction)) => transaction.recipients.max(1),
            _ => 1,
        }
    }

    /// The end of a message that is refused.
    pub(crate) fn conclude(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Option<Step> {
        let count = self.final_replies();
        self.end_transaction();
        (0..count).for_each(|_| self.write(reply, out));
        self.weigh(reply, out)
    }

    /// The end of a message that is accepted.
    pub(crate) fn accepted(&mut self) {
        self.end_transaction();
        self.spent.errors = 0;
        (self.spent.commands, self.spent.put_off) = (0, 0);
        self.spent.messages = self.spent.messages.saturating_add(1);
    }

    pub(crate) fn tag(&self) -> Tag {
        Tag(self.refused.then_some(self.setup.id))
    }

    pub(crate) fn write(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        if reply.refuses() {
            self.refused = true;
            self.refusal = Some((reply.code(), reply.text()));
        }
        self.tally.written(reply);
        reply.write(self.tag(), out);
    }

    /// Writes a reply, and closes the session if that says so or is one refusal too many.
    pub(crate) fn reply(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.write(&reply, out);
        self.weigh(&reply, out)
    }

    /// Writes a positive reply to a command that brings no message nearer.
    pub(crate) fn idle(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.write(reply, out);
        self.no_progress(out)
    }

    /// What a reply that is written means for the session.
    fn weigh(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Option<Step> {
        if !reply.refuses() {
            return None;
        }
        if reply.closes() {
            return Some(self.close());
        }
        if reply.class() == Class::Permanent {
            self.spent.errors = self.spent.errors.saturating_add(1);
            self.tally.errors = self.tally.errors.saturating_add(1);
            if self.spent.errors >= self.setup.options.errors_max {
                return self.reply(replies::TOO_MANY_ERRORS, out);
            }
        }
        self.no_progress(out)
    }

    /// Counts a command that brought no message nearer; one too many closes the session.
    pub(crate) fn no_progress(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        self.spent.commands = self.spent.commands.saturating_add(1);
        let max = self.setup.options.commands_max;
        if max > 0 && self.spent.commands > max { self.reply(replies::TOO_MANY_COMMANDS, out) } else { None }
    }

    /// Why no further message may begin in this session, if so.
    pub(crate) fn used_up(&self) -> Option<Reply> {
        let reached = |count: u32, max: u32| max > 0 && count >= max;
        if reached(self.spent.messages, self.announced().messages_per_session) {
            return Some(replies::TOO_MANY_MESSAGES);
        }
        reached(self.spent.commands, self.setup.options.commands_max).then_some(replies::TOO_MANY_COMMANDS)
    }

    /// Refuses a recipient.
    pub(crate) fn refuse_recipient(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        let put_off_max = self.announced().recipients_max;
        // Where others of the message are accepted, to close the session over those that have to wait would lose the
        // message, and lose it again at every try.
        if let Some(transaction) = &self.transaction
            && transaction.recipients > 0
            && (self.spent.put_off as usize) < put_off_max
            && reply.class() == Class::Transient
            && !reply.closes()
        {
            self.spent.put_off += 1;
            self.write(&reply, out);
            return None;
        }
        let unknown = reply.is(&replies::NO_SUCH_USER);
        let closed = self.reply(reply, out);
        if !unknown {
            return closed;
        }
        self.spent.unknown = self.spent.unknown.saturating_add(1);
        self.tally.unknown = self.tally.unknown.saturating_add(1);
        let max = self.setup.options.unknown_recipients_max;
        let too_many = closed.is_none() && max > 0 && self.spent.unknown > max;
        if too_many { self.reply(replies::TOO_MANY_UNKNOWN, out) } else { closed }
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

    pub(crate) fn greeted(&mut self, name: &str, extended: bool) {
        self.helo = Some(Helo { name: name.into(), extended });
        self.announced = None;
    }

    /// Forgets what the client said.
    pub(crate) fn forget(&mut self) {
        self.helo = None;
        self.announced = None;
        self.transaction = None;
    }

    /// The session is another client's from now on.
    pub(crate) fn begin_anew(&mut self, helo: Option<Helo>) {
        self.forget();
        self.helo = helo;
        (self.spent.errors, self.spent.unknown) = (0, 0);
    }

    pub(crate) fn set_options(&mut self, options: Rc<Options>) {
        let earlier = std::mem::replace(&mut self.setup.options, options);
        if self.helo.is_some() {
            self.announced.get_or_insert(earlier);
        }
    }

    /// The options that the client knows of, which are those of its last EHLO (RFC 9422 section 3.6).
    pub(crate) fn announced(&self) -> &Options {
        self.announced.as_deref().unwrap_or(&self.setup.options)
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
        self.offers_tls() && (self.setup.tls_required || self.setup.tls == TlsUse::StarttlsRequired)
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
