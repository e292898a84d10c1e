//! The smallest driver of a session: it feeds the machine, decides as it was told to, and keeps what it got.
//!
//! It holds the machine to what a driver relies on: nothing but an unfinished line is left unused, a transaction is open
//! exactly while the driver has an envelope, a body begins for somebody, and no reply is malformed.

use ringpost_base::SpoolId;
use ringpost_smtp::{Accepted, BodyKind, LINE_MAX, Mail, Reply, Session, Setup, Step, Tally};

/// The longest reply line, CRLF included.
const REPLY_LINE_MAX: usize = 512;

/// The proof of a test: the message is in a vector, which is as durable as tests need it.
struct Kept(u8);

impl Accepted for Kept {
    fn id(&self) -> SpoolId {
        SpoolId::from_bytes([self.0; 16])
    }
}

/// What the driver turns down; everything else it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    /// Senders, by address.
    pub(crate) mail: Vec<(String, Reply)>,
    /// Recipients, by address.
    pub(crate) rcpt: Vec<(String, Reply)>,
    /// Bodies before they come.
    pub(crate) begin: Option<Reply>,
    /// Messages when they are whole.
    pub(crate) message: Option<Reply>,
}

impl Refusals {
    fn of(list: &[(String, Reply)], address: &str) -> Option<Reply> {
        list.iter().find(|(name, _)| name == address).map(|(_, reply)| reply.clone())
    }
}

/// A message that the driver accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// `8bitmime`, `smtputf8` and `size=N`, as MAIL had them.
    pub(crate) parameters: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    fn begun(mail: &Mail) -> Self {
        let parameters = [
            (mail.body == BodyKind::EightBitMime).then(|| "8bitmime".to_owned()),
            mail.utf8.then(|| "smtputf8".to_owned()),
            mail.size.map(|size| format!("size={size}")),
        ];
        let parameters = parameters.into_iter().flatten().collect();
        Self { from: mail.from.as_str().into(), to: Vec::new(), parameters, body: Vec::new() }
    }
}

/// What a session did, as far as it can be seen from outside. How the input was split must not change any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Every step but `Need`, with the number of octets used until then.
    pub(crate) steps: Vec<(usize, Step)>,
    /// What was sent to the client.
    pub(crate) replies: Vec<u8>,
    /// The messages that were accepted.
    pub(crate) messages: Vec<Message>,
    /// Whether the client said QUIT.
    pub(crate) has_quit: bool,
}

/// A session and its driver.
pub(crate) struct Driver {
    session: Session<Kept>,
    refusals: Refusals,
    unused: Vec<u8>,
    used: usize,
    envelope: Option<Message>,
    body: Vec<u8>,
    tally: Tally,
    record: Record,
}

impl Driver {
    /// A session that has sent its banner.
    pub(crate) fn new(setup: Setup, refusals: Refusals) -> Self {
        let mut driver = Self {
            session: Session::new(setup),
            refusals,
            unused: Vec::new(),
            used: 0,
            envelope: None,
            body: Vec::new(),
            tally: Tally::default(),
            record: Record::default(),
        };
        driver.session.greet(&mut driver.record.replies);
        driver
    }

    /// What the session did up to now.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Whether the session is over.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.record.steps.last(), Some((_, Step::Close)))
    }

    /// Whether the session waits for TLS.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self.record.steps.last(), Some((_, Step::StartTls))) && !self.session.is_secure()
    }

    /// Gives the session what the client sent. A closed session reads nothing, and what comes in clear after STARTTLS
    /// is no SMTP.
    pub(crate) fn feed(&mut self, input: &[u8]) {
        self.unused.extend_from_slice(input);
        while !self.is_closed() && !self.is_handshaking() {
            let (used, step) = self.session.advance(&self.unused, &mut self.body, &mut self.record.replies);
            self.unused.drain(..used);
            self.used += used;
            let pause = step == Step::Need;
            if pause {
                let line = self.unused.len() < LINE_MAX && !self.unused.contains(&b'\n');
                assert!(line, "left unused: {:?}", String::from_utf8_lossy(&self.unused));
            }
            self.take(step);
            if !self.is_closed() {
                assert_eq!(self.session.in_transaction(), self.envelope.is_some(), "{:?}", self.record.steps);
            }
            if pause {
                break;
            }
        }
        if self.is_closed() || self.is_handshaking() {
            self.unused.clear();
        }
        self.record.has_quit = self.session.has_quit();
        self.count();
    }

    /// TLS is on.
    pub(crate) fn handshake(&mut self) {
        assert!(self.is_handshaking(), "a handshake comes after STARTTLS");
        self.session.secured();
        assert_eq!((self.session.helo(), self.session.is_secure()), (None, true));
    }

    fn take(&mut self, step: Step) {
        if step == Step::Need {
            return;
        }
        self.record.steps.push((self.used, step.clone()));
        let out = &mut self.record.replies;
        let then = match step {
            Step::Mail(mail) => {
                assert!(self.envelope.is_none(), "the message before this one was never said to be over");
                let refusal = Refusals::of(&self.refusals.mail, mail.from.as_str());
                self.envelope = refusal.is_none().then(|| Message::begun(&mail));
                self.session.answer_mail(refusal, out)
            }
            Step::Rcpt(rcpt) => {
                let refusal = Refusals::of(&self.refusals.rcpt, rcpt.to.as_str());
                let envelope = self.envelope.as_mut().expect("a recipient of some message");
                envelope.to.extend(refusal.is_none().then(|| rcpt.to.as_str().to_owned()));
                self.session.answer_rcpt(refusal, out)
            }
            Step::Begin => {
                self.body.clear();
                assert!(self.envelope.as_ref().is_some_and(|envelope| !envelope.to.is_empty()), "a body for nobody");
                let refusal = self.refusals.begin.clone();
                let then = self.session.answer_begin(refusal, out);
                if !self.session.in_transaction() {
                    self.envelope = None;
                }
                then
            }
            Step::End => self.end(),
            Step::Abandoned(_) | Step::Reset => {
                self.envelope = None;
                None
            }
            Step::StartTls | Step::Close | Step::Need => None,
        };
        if let Some(step) = then {
            self.take(step);
        }
    }

    fn end(&mut self) -> Option<Step> {
        let out = &mut self.record.replies;
        let envelope = self.envelope.take().expect("the end of some message");
        if let Some(reply) = self.refusals.message.clone() {
            return self.session.refuse(reply, out);
        }
        self.record.messages.push(Message { body: std::mem::take(&mut self.body), ..envelope });
        self.session.accept(&Kept(self.record.messages.len() as u8), out);
        None
    }

    /// Checks every reply up to now, and that the machine has counted them all.
    fn count(&mut self) {
        let Tally { positive, intermediate, transient, permanent } = self.session.take_tally();
        self.tally.positive += positive;
        self.tally.intermediate += intermediate;
        self.tally.transient += transient;
        self.tally.permanent += permanent;
        assert_eq!(tally_of(&self.record.replies), self.tally, "{}", String::from_utf8_lossy(&self.record.replies));
    }
}

/// Counts well-formed replies; panics at any other.
fn tally_of(replies: &[u8]) -> Tally {
    let text = std::str::from_utf8(replies).expect("replies are text");
    assert!(text.is_empty() || text.ends_with("\r\n"), "an unfinished reply: {text:?}");
    let (mut tally, mut open) = (Tally::default(), None);
    for line in text.split_terminator("\r\n") {
        assert!(line.len() + 2 <= REPLY_LINE_MAX, "too long: {line:?}");
        assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "not printable: {line:?}");
        let (code, rest) = line.split_at_checked(3).expect("a line has a code");
        assert!(code.bytes().all(|digit| digit.is_ascii_digit()), "no code: {line:?}");
        assert!(rest.starts_with(['-', ' ']), "no separator: {line:?}");
        assert!(open.is_none_or(|first| first == code), "a reply of two codes: {line:?}");
        open = rest.starts_with('-').then_some(code);
        match (open, &code[..1]) {
            (Some(_), _) => {}
            (None, "2") => tally.positive += 1,
            (None, "3") => tally.intermediate += 1,
            (None, "4") => tally.transient += 1,
            (None, "5") => tally.permanent += 1,
            (None, _) => panic!("no such class: {line:?}"),
        }
    }
    assert_eq!(open, None, "the last line of a reply is missing");
    tally
}
