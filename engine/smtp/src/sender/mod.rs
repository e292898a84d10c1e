//! The client side of SMTP and LMTP as a sans-IO machine: what is said to a next hop, and what its replies mean for each
//! recipient.
//!
//! The caller feeds [`Sender::advance`] with what the server sends and does what the [`SenderStep`] says; lines are
//! consumed whole, and what is left stays with the caller. Its invariants, whatever the server says:
//!
//! - the octets of a message are given out only after the server has said 354 to DATA for a recipient that it took, or as
//!   a chunk of BDAT, which needs no such word;
//! - what was announced is what is sent: a message that is longer or shorter than was said is never whole to the server;
//! - a message goes out with no extension that the server hasn't offered since TLS began;
//! - nothing that the server sends in clear behind its answer to STARTTLS is read as if it had come over TLS;
//! - what is kept of a server's words is bounded: [`ANSWER_TEXT_MAX`] octets of a reply, one reply for each recipient.
//!
//! It knows no host names and no certificates: whom it speaks with is for the caller to find out. Nor does it know the
//! time; for how long to wait RFC 5321 section 4.5.3.2 has its rules.
//!
//! ```
//! use ringpost_smtp::sender::{Outgoing, OutgoingRecipient, Sender, SenderSetup, SenderStep};
//! let mut sender = Sender::new(SenderSetup { helo: "mx.example".into(), ..SenderSetup::default() });
//! let mut out = Vec::new();
//! sender.advance(b"220 next.example ESMTP\r\n", &mut out);
//! assert_eq!(out, b"EHLO mx.example\r\n");
//! let (_, step) = sender.advance(b"250-next.example\r\n250 PIPELINING\r\n", &mut out);
//! assert_eq!(step, SenderStep::Idle);
//! out.clear();
//! let recipients = [OutgoingRecipient { address: "bob@example.com", ..OutgoingRecipient::default() }];
//! sender.begin(&Outgoing { from: "alice@client.example", recipients: &recipients, ..Outgoing::default() }, &mut out)?;
//! assert_eq!(out, b"MAIL FROM:<alice@client.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n");
//! let (_, step) = sender.advance(b"250 ok\r\n250 ok\r\n354 go on\r\n", &mut out);
//! assert_eq!(step, SenderStep::Body);
//! sender.body(b"Subject: hello\r\n", true, &mut out);
//! let (_, step) = sender.advance(b"250 2.0.0 taken\r\n", &mut out);
//! assert!(matches!(step, SenderStep::Done(replies) if replies[0].is_positive()));
//! # Ok::<(), ringpost_smtp::sender::Unsendable>(())
//! ```

mod answer;
mod extensions;
mod fault;
mod framing;
mod outgoing;
mod transaction;

pub use answer::{ANSWER_LINE_MAX, ANSWER_TEXT_MAX, EnhancedStatus};
pub use extensions::Extensions;
pub use fault::{FaultKind, SenderFault, Unsendable};
pub use outgoing::{Outgoing, OutgoingRecipient};
pub use transaction::{RecipientReply, Stage};

use crate::{Class, Protocol};
use answer::{Answer, AnswerLine, Gathering};
use transaction::Transaction;

/// Whether TLS is begun with STARTTLS where it is not on from the first octet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SenderTls {
    /// It is not.
    #[default]
    Off,
    /// Where the server offers it; if the server then refuses it, the session goes on in clear.
    Opportunistic,
    /// Always: without it no message is sent.
    Required,
}

/// What a session is born with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SenderSetup {
    /// What the server speaks.
    pub protocol: Protocol,
    /// Our name for EHLO, HELO and LHLO: a domain, or an address literal (RFC 5321 section 4.1.1.1).
    pub helo: Box<str>,
    /// Whether STARTTLS is used.
    pub tls: SenderTls,
    /// Whether TLS is on already.
    pub secure: bool,
}

/// What the caller must do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderStep {
    /// Send what is in the buffer, then read more.
    Need,
    /// Send what is in the buffer, see that no more was read than was used, shake hands, then `secured`. If the handshake
    /// fails the connection is of no use; whether to go on in clear, over another one, is for the caller to decide.
    StartTls,
    /// `begin` a message, or `quit`. What is in the buffer is to be sent.
    Idle,
    /// Give the octets of the message with `body`, all of them. What is in the buffer may be sent with them.
    Body,
    /// The message is over: what has become of each of its recipients, in their order. Then advance again.
    Done(Vec<RecipientReply>),
    /// The session is of no use any more, and why. It stays so: `quit`, and close the connection.
    Refused(SenderFault),
    /// Close the connection.
    Closed,
}

#[derive(Debug)]
enum State {
    Banner,
    /// After EHLO or LHLO.
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Idle,
    /// After a RSET that stands alone.
    Reset,
    Message(Box<Transaction>),
    Quit,
    Refused(Box<SenderFault>),
    Closed,
}

/// A session with a server that mail is sent to.
#[derive(Debug)]
pub struct Sender {
    setup: SenderSetup,
    state: State,
    gathering: Gathering,
    extensions: Extensions,
    /// MAIL commands up to now.
    mails: u32,
    /// The server may hold on to a message that came to nothing: RSET goes before the next one.
    reset_due: bool,
}

impl Sender {
    /// A session before the server's banner.
    pub fn new(setup: SenderSetup) -> Self {
        Self {
            setup,
            state: State::Banner,
            gathering: Gathering::default(),
            extensions: Extensions::default(),
            mails: 0,
            reset_due: false,
        }
    }

    /// Takes what the server sent, up to the next step. Returns how many octets were used; the rest must be given again,
    /// with more behind it. What is to be sent is appended to `out`.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, SenderStep) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if let Some(step) = self.stands(rest) {
                return (used, step);
            }
            let line = match answer::line(rest) {
                Ok(Some((length, line))) => {
                    used += length;
                    line
                }
                Ok(None) if matches!(self.state, State::Idle) => return (used, SenderStep::Idle),
                Ok(None) => return (used, SenderStep::Need),
                Err(_) => return (used, self.fail(SenderFault::malformed())),
            };
            if let Err(fault) = self.take_line(&line, out) {
                return (used, self.fail(fault));
            }
        }
    }

    /// TLS is on: EHLO is said anew, and what the server offered before is forgotten (RFC 3207 section 4.2).
    pub fn secured(&mut self, out: &mut Vec<u8>) {
        if matches!(self.state, State::Handshake) {
            self.setup.secure = true;
            self.extensions = Extensions::default();
            self.greet(out);
        }
    }

    /// Begins a message, if the session is idle: says MAIL, and what may be said with it. An error says that this message
    /// can't go to this server as it is; the session stays as it was.
    pub fn begin(&mut self, outgoing: &Outgoing<'_>, out: &mut Vec<u8>) -> Result<(), Unsendable> {
        if !self.can_begin() {
            return Err(Unsendable::not_now());
        }
        outgoing::check(outgoing, &self.extensions, self.setup.secure)?;
        let mut transaction = Transaction::new(outgoing, &self.extensions, self.setup.protocol, self.reset_due);
        self.mails = self.mails.saturating_add(u32::from(transaction.says_mail()));
        transaction.go_on(out);
        self.state = State::Message(Box::new(transaction));
        Ok(())
    }

    /// Takes a piece of the message after `SenderStep::Body`; `last`: there is none behind it. How the message is cut changes
    /// nothing. All pieces together must have the size that was announced. When none is wanted, nothing is written.
    pub fn body(&mut self, piece: &[u8], last: bool, out: &mut Vec<u8>) {
        if let State::Message(transaction) = &mut self.state {
            transaction.body(piece, last, out);
        }
    }

    /// Says RSET if the session is idle, as a question whether the server is still there; it is idle again with the answer.
    pub fn reset(&mut self, out: &mut Vec<u8>) {
        if matches!(self.state, State::Idle) {
            out.extend_from_slice(b"RSET\r\n");
            self.state = State::Reset;
        }
    }

    /// Ends the session: says QUIT where the server can understand it (RFC 5321 section 4.1.1.10), then advance up to
    /// `SenderStep::Closed`. In the middle of a message nothing is said: the server throws it away.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        let polite = match &self.state {
            State::Idle => true,
            State::Refused(fault) => fault.kind.leaves_room_for_quit(),
            _ => false,
        };
        self.state = if polite { State::Quit } else { State::Closed };
        if polite {
            out.extend_from_slice(b"QUIT\r\n");
        }
    }

    /// The connection is gone, or the server is not waited for any longer: what has become of each recipient of the message
    /// that is under way, none if there is none. Those whose reply is missing have the code 0; to them the message may have
    /// come or not (RFC 5321 section 3.8).
    ///
    /// `unread` is what the server sent and `advance` has not used. If the server refused in the middle of DATA and closed,
    /// as some do to a message that is too big, its words are in there, and hold for all that it had taken.
    pub fn lost(&mut self, unread: &[u8]) -> Vec<RecipientReply> {
        let gathering = std::mem::take(&mut self.gathering);
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Message(transaction) => {
                let refusal = refusal_in(unread, gathering).filter(|_| transaction.is_in_data());
                let fault = refusal.as_ref().map_or_else(SenderFault::lost, SenderFault::closing);
                transaction.abandoned(&fault)
            }
            _ => Vec::new(),
        }
    }

    /// Whether a message may begin: the session is idle, and the server takes one more (RFC 9422 section 4.1).
    pub fn can_begin(&self) -> bool {
        self.is_idle() && self.extensions.mails_max.is_none_or(|max| self.mails < max)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether TLS is on.
    pub fn is_secure(&self) -> bool {
        self.setup.secure
    }

    /// What the server offers.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Whether the server takes over what the sender asked of reports, so that it reports on what it accepted (RFC 3461
    /// section 5.2.1). Otherwise it is for us (RFC 3461 section 5.2.2).
    pub fn reports(&self) -> bool {
        self.extensions.dsn
    }

    /// The step that follows from the state alone.
    fn stands(&mut self, rest: &[u8]) -> Option<SenderStep> {
        match &mut self.state {
            // RFC 3207 section 6: what came in clear behind the 220 would be read as if it had come over TLS.
            State::Handshake if !rest.is_empty() => Some(self.fail(SenderFault::injected())),
            State::Handshake => Some(SenderStep::StartTls),
            State::Message(transaction) if transaction.has_wrong_size() => Some(self.fail(SenderFault::wrong_size())),
            State::Message(transaction) if transaction.wants_body() => Some(SenderStep::Body),
            State::Message(transaction) if transaction.is_over() => Some(self.done()),
            State::Refused(fault) => Some(SenderStep::Refused((**fault).clone())),
            State::Closed => Some(SenderStep::Closed),
            _ => None,
        }
    }

    fn done(&mut self) -> SenderStep {
        let State::Message(transaction) = std::mem::replace(&mut self.state, State::Idle) else {
            return SenderStep::Idle;
        };
        self.reset_due = transaction.reset_due();
        SenderStep::Done(transaction.finish())
    }

    /// The session is of no use any more. A message that is under way is told of first.
    fn fail(&mut self, fault: SenderFault) -> SenderStep {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Quit | State::Closed => SenderStep::Closed,
            State::Message(transaction) => {
                let replies = transaction.abandoned(&fault);
                self.state = State::Refused(Box::new(fault));
                SenderStep::Done(replies)
            }
            _ => {
                self.state = State::Refused(Box::new(fault.clone()));
                SenderStep::Refused(fault)
            }
        }
    }

    fn take_line(&mut self, line: &AnswerLine<'_>, out: &mut Vec<u8>) -> Result<(), SenderFault> {
        if matches!(self.state, State::Ehlo) && line.code / 100 == 2 && !self.gathering.is_empty() {
            self.extensions.take(line.text);
        }
        match self.gathering.take(line) {
            Ok(Some(answer)) => self.take(answer, out),
            Ok(None) => Ok(()),
            Err(_) => Err(SenderFault::malformed()),
        }
    }

    fn take(&mut self, answer: Answer, out: &mut Vec<u8>) -> Result<(), SenderFault> {
        // RFC 5321 section 3.8: the server closes, whatever it was asked.
        if answer.code == 421 {
            return Err(SenderFault::closing(&answer));
        }
        let positive = answer.class() == Class::Positive;
        match &mut self.state {
            State::Message(transaction) => return transaction.take(answer, out),
            State::Quit => self.state = State::Closed,
            State::Banner if positive => self.greet(out),
            State::Banner => return Err(SenderFault::refused(FaultKind::Banner, &answer)),
            State::Ehlo => return self.greeted(&answer, out),
            State::Helo if positive => return self.choose_tls(out),
            State::Helo => return Err(SenderFault::refused(FaultKind::Greeting, &answer)),
            State::StartTls => return self.take_starttls(&answer),
            State::Reset if positive => {
                self.reset_due = false;
                self.state = State::Idle;
            }
            _ => return Err(SenderFault::unasked(&answer)),
        }
        Ok(())
    }

    /// RFC 5321 section 3.2; in LMTP there is only LHLO (RFC 2033 section 4.1).
    fn greet(&mut self, out: &mut Vec<u8>) {
        let verb = match self.setup.protocol {
            Protocol::Smtp => "EHLO",
            Protocol::Lmtp => "LHLO",
        };
        self.say_name(verb, out);
        self.state = State::Ehlo;
    }

    fn say_name(&self, verb: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{verb} {}\r\n", self.setup.helo).as_bytes());
    }

    fn greeted(&mut self, answer: &Answer, out: &mut Vec<u8>) -> Result<(), SenderFault> {
        match (answer.class(), self.setup.protocol) {
            (Class::Positive, _) => self.choose_tls(out),
            // RFC 5321 section 4.1.1.1: a server that doesn't know EHLO knows HELO.
            (Class::Permanent, Protocol::Smtp) => {
                self.say_name("HELO", out);
                self.state = State::Helo;
                Ok(())
            }
            _ => Err(SenderFault::refused(FaultKind::Greeting, answer)),
        }
    }

    fn choose_tls(&mut self, out: &mut Vec<u8>) -> Result<(), SenderFault> {
        self.state = State::Idle;
        if self.setup.secure || self.setup.tls == SenderTls::Off {
            return Ok(());
        }
        if self.extensions.starttls {
            out.extend_from_slice(b"STARTTLS\r\n");
            self.state = State::StartTls;
            return Ok(());
        }
        if self.setup.tls == SenderTls::Required { Err(SenderFault::without_tls()) } else { Ok(()) }
    }

    /// RFC 3207 section 4: what a refusal means is for the client to decide.
    fn take_starttls(&mut self, answer: &Answer) -> Result<(), SenderFault> {
        match answer.class() {
            Class::Positive => self.state = State::Handshake,
            Class::Transient | Class::Permanent if self.setup.tls == SenderTls::Opportunistic => {
                self.state = State::Idle;
            }
            Class::Transient | Class::Permanent => return Err(SenderFault::tls_refused(answer)),
            Class::Intermediate => return Err(SenderFault::unasked(answer)),
        }
        Ok(())
    }
}

/// The first reply that refuses, in what was not read.
fn refusal_in(unread: &[u8], mut gathering: Gathering) -> Option<Answer> {
    let mut rest = unread;
    while let Ok(Some((length, line))) = answer::line(rest) {
        rest = &rest[length..];
        match gathering.take(&line) {
            Ok(Some(answer)) if answer.code >= 400 => return Some(answer),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}
