//! The server session: bytes in, replies and steps out.
//!
//! The caller feeds [`Session::advance`] and does what the [`Step`] says. After `Mail`, `Rcpt`, `Begin`, `End`,
//! `Client` and `Forward` the machine waits, as RFC 5321 section 4.3.1 has it, for its answer (`answer_mail`,
//! `answer_rcpt`, `answer_begin`, `accept` or `refuse`, `answer_client`, `answer_forward`) and takes no input until
//! then, so pipelined commands stay with the caller. Lines of commands are consumed whole; the machine buffers nothing.

use crate::Accepted;
use crate::body::{Body, Reading};
use crate::client::{ClientInfo, ForwardInfo};
use crate::command::{Mail, Rcpt};
use crate::greeting::banner;
use crate::machine::{AfterSkip, Core, REPLIES_MAX, State, Transaction};
use crate::options::{Options, Protocol, TlsUse, Trust};
use crate::reply::{Answered, Class, Line, Reply, Tally, replies};
use ringpost_base::{Entropy, SessionId, SessionIds, ShardId, Timestamp};
use std::{fmt::Write, marker::PhantomData, rc::Rc};

/// What a session is born with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The server's options.
    pub options: Rc<Options>,
    /// What the listener speaks.
    pub protocol: Protocol,
    /// How the listener uses TLS.
    pub tls: TlsUse,
    /// Whether STARTTLS, where it is offered, is required as with `TlsUse::StarttlsRequired`.
    pub tls_required: bool,
    /// Whether TLS is on already.
    pub secure: bool,
    /// What the peer may say of other clients.
    pub trust: Trust,
    /// The session's id, shown in the banner, in refusals and in what follows them.
    pub id: SessionId,
}

impl Setup {
    /// SMTP in clear from a peer that is not trusted, with STARTTLS offered.
    pub fn new(options: Rc<Options>, id: SessionId) -> Self {
        let (protocol, tls, trust) = (Protocol::default(), TlsUse::default(), Trust::default());
        Self { options, protocol, tls, tls_required: false, secure: false, trust, id }
    }

    /// A setup with default options, for examples and tests.
    pub fn example() -> Self {
        let id = SessionIds::new(ShardId(0), Entropy([0; 16])).next(Timestamp::default());
        Self::new(Rc::new(Options::default()), id)
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
    /// XCLIENT from a peer that may: take the session for another client's, then `answer_client`.
    Client(Box<ClientInfo>),
    /// XFORWARD from a peer that may: note it for the log until the next message is over, then `answer_forward`.
    Forward(Box<ForwardInfo>),
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
///
/// The answers give back a step where the answer ends more than a command: `Reset` when the message is over with it,
/// and `Close` when the session is, as it always is after a 421 (RFC 5321 section 3.8).
#[derive(Debug)]
pub struct Session<A> {
    core: Core,
    proof: PhantomData<fn(&A)>,
}

impl<A: Accepted> Session<A> {
    /// A session before its banner.
    pub fn new(setup: Setup) -> Self {
        Self { core: Core::new(setup), proof: PhantomData }
    }

    /// Says what the peer may say of others, where it turns out only after the session was made: before the banner.
    pub fn trust(&mut self, trust: Trust) {
        self.core.setup.trust = trust;
    }

    /// Writes the banner (RFC 5321 section 3.1).
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        banner(&mut self.core, out);
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
        let State::AnswerMail { utf8, binary } = self.core.state else { return None };
        self.core.state = State::Command;
        if refusal.is_none() {
            self.core.transaction = Some(Transaction::new(utf8, binary));
            // Whether a message comes of it is seen at its end. MAIL itself looks whether there is one more to spare.
            self.core.spent.commands = self.core.spent.commands.saturating_add(1);
        }
        self.core.reply(refusal.unwrap_or(replies::SENDER_OK), out)
    }

    /// Answers `Step::Rcpt`. A refusal as `replies::NO_SUCH_USER` counts as an unknown recipient.
    pub fn answer_rcpt(&mut self, refusal: Option<Reply>, out: &mut Vec<u8>) -> Option<Step> {
        let State::AnswerRcpt = self.core.state else { return None };
        self.core.state = State::Command;
        if let Some(reply) = refusal {
            return self.core.refuse_recipient(reply, out);
        }
        if let Some(transaction) = &mut self.core.transaction {
            transaction.recipients = transaction.recipients.saturating_add(1);
        }
        self.core.reply(replies::RECIPIENT_OK, out)
    }

    /// Answers `Step::Begin`. After a refusal the transaction is over.
    pub fn answer_begin(&mut self, refusal: Option<Reply>, out: &mut Vec<u8>) -> Option<Step> {
        let State::AnswerBegin { chunk } = self.core.state else { return None };
        self.core.state = State::Command;
        let binary = self.core.transaction.as_ref().is_some_and(|transaction| transaction.binary);
        let reading = match (chunk, binary) {
            (None, _) => Reading::Dotted,
            (Some(_), true) => Reading::Octets,
            (Some(_), false) => Reading::Lines,
        };
        let size_max = self.core.announced().message_size_max.0;
        let body = Box::new(Body::new(reading, self.core.setup.options.bare_newline, size_max));
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
                let then = AfterSkip::Drop { last: chunk.last };
                self.core.state = State::SkipChunk { left: chunk.size, reply: Box::new(reply), then };
                None
            }
        }
    }

    /// Answers `Step::End` with the proof that the message is accepted: the only way to a 250 for a message. In LMTP
    /// each recipient gets it.
    pub fn accept(&mut self, proof: &A, out: &mut Vec<u8>) {
        let State::AnswerEnd = self.core.state else { return };
        let count = self.core.final_replies();
        // RFC 5321 section 4.2.5: with this reply the message is ours.
        self.core.accepted();
        let (id, tag) = (proof.id(), self.core.tag());
        for _ in 0..count {
            self.core.tally.count(Class::Positive);
            let _ = write!(Line(out), "250 2.0.0 queued as {id}{tag}\r\n");
        }
    }

    /// Answers `Step::End` with a refusal. In LMTP each recipient gets it.
    pub fn refuse(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        debug_assert!(reply.refuses(), "a message is accepted with `accept`");
        let State::AnswerEnd = self.core.state else { return None };
        self.core.conclude(&reply, out)
    }

    /// Answers `Step::Client`. If nothing refuses, the session begins again before EHLO, with the banner and for the
    /// client that was named; what was named of its HELO and protocol is as if it had been said.
    pub fn answer_client(&mut self, refusal: Option<Reply>, out: &mut Vec<u8>) -> Option<Step> {
        let State::AnswerClient { .. } = self.core.state else { return None };
        let State::AnswerClient { helo } = std::mem::replace(&mut self.core.state, State::Command) else {
            return None;
        };
        if let Some(reply) = refusal {
            return self.core.reply(reply, out);
        }
        self.core.begin_anew(helo.map(|helo| *helo));
        banner(&mut self.core, out);
        self.core.no_progress(out)
    }

    /// Answers `Step::Forward`.
    pub fn answer_forward(&mut self, refusal: Option<Reply>, out: &mut Vec<u8>) -> Option<Step> {
        let State::AnswerForward = self.core.state else { return None };
        self.core.state = State::Command;
        match refusal {
            Some(reply) => self.core.reply(reply, out),
            None => self.core.idle(&replies::FORWARD_OK, out),
        }
    }

    /// TLS is on: everything the client said before is forgotten (RFC 3207 section 4.2). Whether it is strong enough,
    /// and who the client is by it, is for the caller to judge before (RFC 3207 section 4.1).
    pub fn secured(&mut self) {
        if !matches!(self.core.state, State::Handshake | State::Command) {
            return;
        }
        self.core.forget();
        self.core.setup.secure = true;
        self.core.state = State::Command;
    }

    /// Ends the session from the server's side, with a reply such as `replies::SHUTDOWN`.
    pub fn end(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.core.write(reply, out);
        self.core.state = State::Closed;
    }

    /// Takes other options from now on, as after a reload (RFC 9422 section 3.4). What EHLO has announced (the size,
    /// and the limits of recipients and messages) holds until the next EHLO, and what began under an option ends under
    /// it: a body its size limit, and its bare CR and LF.
    pub fn set_options(&mut self, options: Rc<Options>) {
        self.core.set_options(options);
    }

    /// Whether a message is between MAIL and its final reply.
    pub fn in_transaction(&self) -> bool {
        self.core.transaction.is_some()
    }

    /// Whether the body of a message is under way, or a chunk of one that is refused already.
    pub fn in_body(&self) -> bool {
        matches!(self.core.state, State::Data(_) | State::Chunk { .. } | State::SkipChunk { .. } | State::AnswerEnd)
            || self.core.is_chunking()
    }

    /// Whether the client said QUIT.
    pub fn has_quit(&self) -> bool {
        self.core.quit
    }

    /// Errors since the last accepted message, as `Options::errors_max` counts them.
    pub fn errors(&self) -> u32 {
        self.core.spent.errors
    }

    /// The name the client gave in HELO, EHLO or LHLO, and whether it was one of the latter two.
    pub fn helo(&self) -> Option<(&str, bool)> {
        self.core.helo.as_ref().map(|helo| (&*helo.name, helo.extended))
    }

    /// Whether TLS is on.
    pub fn is_secure(&self) -> bool {
        self.core.setup.secure
    }

    /// The last refusal since this was last asked: its code and its words.
    pub fn take_refusal(&mut self) -> Option<(u16, &'static str)> {
        self.core.refusal.take()
    }

    /// Commands that the session answered by itself since this was last asked.
    pub fn take_answered(&mut self) -> Answered {
        std::mem::take(&mut self.core.answered)
    }

    /// Replies and errors since this was last asked.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.core.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::SpoolId;

    struct Never;

    impl Accepted for Never {
        fn id(&self) -> SpoolId {
            SpoolId::from_bytes([0; 16])
        }
    }

    #[track_caller]
    fn check_answered(input: &[u8], want: (u16, u16)) {
        let mut session = Session::<Never>::new(Setup::example());
        let (mut body, mut out) = (Vec::new(), Vec::new());
        session.advance(input, &mut body, &mut out);
        let Answered { greetings, others } = session.take_answered();
        assert_eq!((greetings, others), want, "{}", String::from_utf8_lossy(input));
        assert_eq!(session.take_answered(), Answered::default());
    }

    #[test]
    fn what_is_answered_without_the_caller_is_counted() {
        check_answered(b"", (0, 0));
        check_answered(b"EHLO a.example\r\n", (1, 0));
        check_answered(b"ehlo a.example\r\nHELO b.example\r\nNOOP\r\nWRONG\r\n\xff\r\nRSE", (2, 3));
        // What the caller decides about is counted by the caller.
        check_answered(b"EHLO a.example\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n", (1, 1));
        check_answered(b"EHLO a.example\r\nSTARTTLS\r\nNOOP\r\n", (1, 0));
        check_answered(b"MAIL FROM:<>\r\nQUIT\r\n", (0, 2));
        check_answered(&[&[b'x'; 5000][..], b"\r\n"].concat(), (0, 1));
    }

    /// Octets of a session that idles: there are tens of thousands of them.
    const SESSION_SIZE_MAX: usize = 200;

    #[test]
    fn an_idle_session_is_small() {
        let size = size_of::<Session<Never>>();
        assert!(size <= SESSION_SIZE_MAX, "{size}");
    }
}
