//! Plays a session: feeds the machine in pieces, answers what it asks, and keeps all that can be seen from outside.
//!
//! On the way it holds the machine to what a driver relies on: nothing but an unfinished line is left unused, a
//! transaction is open exactly while the driver has one, bodies begin for somebody, and all replies are well formed and
//! counted.

use crate::choices::{Choices, Pieces};
use ringpost_base::{ByteCount, SpoolId};
use ringpost_smtp::{
    Abandoned, Accepted, BareNewline, BodyKind, LINE_MAX, Options, Protocol, Reply, Session, Setup, Step, Tally,
    TlsUse, Trust, replies,
};
use std::rc::Rc;

/// The longest reply line, CRLF included (RFC 5321 section 4.5.3.1.5).
const REPLY_LINE_MAX: usize = 512;

/// What stands between what the client sends in clear and what it sends after the handshake.
const HANDSHAKE: &[u8] = b"=== TLS ===\r\n";

/// The proof that a message is kept, which is in a vector here.
struct Kept;

impl Accepted for Kept {
    fn id(&self) -> SpoolId {
        SpoolId::from_bytes([7; 16])
    }
}

/// A session that takes all that the protocol allows, on a listener without TLS and with no limit that is easily met.
pub fn open_setup() -> Setup {
    let options = Options {
        message_size_max: ByteCount::mib(1),
        errors_max: 1000,
        commands_max: 0,
        unknown_recipients_max: 0,
        ..Options::default()
    };
    Setup { options: Rc::new(options), tls: TlsUse::Off, ..Setup::example() }
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// How the session is born.
    pub setup: Setup,
    /// Which of the machine's questions are answered with a refusal: bit `n % 8` for question `n`.
    pub refused: u8,
    /// With which.
    pub refusal: Reply,
    /// What the client sends in clear, or on a listener of implicit TLS.
    pub clear: &'a [u8],
    /// What it sends after STARTTLS.
    pub secured: &'a [u8],
}

impl<'a> Case<'a> {
    /// A client that sends this to [`open_setup`].
    pub fn open(clear: &'a [u8]) -> Self {
        Self { setup: open_setup(), refused: 0, refusal: replies::BUSY, clear, secured: &[] }
    }

    /// Reads a case off the front of an input: twelve choices, then what the client sends.
    pub fn chosen(choices: &mut Choices<'_>, sent: &'a [u8]) -> Self {
        let tls = choices.pick(&[TlsUse::Off, TlsUse::Starttls, TlsUse::StarttlsRequired, TlsUse::Implicit]);
        let protocol = choices.pick(&[Protocol::Smtp, Protocol::Lmtp]);
        let options = Options {
            message_size_max: ByteCount(choices.pick(&[1 << 20, 64, 8])),
            recipients_max: choices.pick(&[1000, 1]),
            errors_max: choices.pick(&[1000, 3]),
            commands_max: choices.pick(&[0, 3, 50]),
            unknown_recipients_max: choices.pick(&[0, 1]),
            messages_per_session: choices.pick(&[0, 1]),
            bare_newline: choices.pick(&[BareNewline::Reject, BareNewline::Repair]),
            ..Options::default()
        };
        let trust = choices.pick(&[(false, false), (true, true), (true, false), (false, true)]);
        let tls_required = choices.pick(&[false, true]);
        let setup = Setup {
            options: Rc::new(options),
            tls,
            secure: tls == TlsUse::Implicit,
            protocol,
            trust: Trust { xclient: trust.0, xforward: trust.1 },
            tls_required,
            ..Setup::example()
        };
        let refused = choices.byte();
        let refusal = choices.pick(&[replies::BUSY, replies::NO_SUCH_USER, replies::LOOP, replies::GREYLISTED]);
        let at = sent.windows(HANDSHAKE.len()).position(|window| window == HANDSHAKE);
        let (clear, secured) = at.map_or((sent, &[][..]), |at| (&sent[..at], &sent[at + HANDSHAKE.len()..]));
        Self { setup, refused, refusal, clear, secured }
    }

    /// Plays the case with the input cut into these pieces.
    pub fn play(&self, pieces: &Pieces) -> Record {
        let mut player = Player::new(self);
        player.feed(self.clear, pieces.clone());
        if player.is_handshaking() {
            player.handshake();
            player.feed(self.secured, pieces.clone());
        }
        player.finish()
    }
}

/// What came of a body that the machine began to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The input ended first.
    Unfinished,
    /// It was accepted, with these octets.
    Delivered(Vec<u8>),
    /// It was whole, and the driver refused it.
    Refused,
    /// It was whole, or its last chunk was, and the machine refused it.
    Abandoned(Abandoned),
    /// The client gave it up between two chunks, or the session ended.
    Forgotten,
}

/// A body, from its `Begin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyRecord {
    /// Whether it came after the handshake, and so is in the other part of the input.
    pub secured: bool,
    /// Where it begins in its part.
    pub begin: usize,
    /// Whether it is of octets and not of lines.
    pub binary: bool,
    /// Where the step came that decided about it.
    pub end: usize,
    /// What came of it.
    pub outcome: Outcome,
}

/// All that a session did. How its input was cut must not change any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Every step but `Need`, with the place in its part of the input.
    pub steps: Vec<(usize, Step)>,
    /// What was sent to the client.
    pub replies: Vec<u8>,
    /// The bodies.
    pub bodies: Vec<BodyRecord>,
}

/// The steps that come of these lines behind a greeting, all questions answered well.
pub fn answers_to(lines: &[&str]) -> Vec<Step> {
    let sent = format!("EHLO client.example\r\n{}\r\n", lines.join("\r\n"));
    let record = Case::open(sent.as_bytes()).play(&Pieces::Whole);
    record.steps.into_iter().map(|(_, step)| step).collect()
}

/// A session that is being played.
pub struct Player {
    session: Session<Kept>,
    refused: u8,
    refusal: Reply,
    questions: u32,
    /// Whether the driver has an envelope, how many recipients it has, and whether its body is binary.
    envelope: Option<(usize, bool)>,
    body: Vec<u8>,
    secured: bool,
    used: usize,
    tally: Tally,
    record: Record,
}

impl Player {
    /// A session that has sent its banner.
    pub fn new(case: &Case<'_>) -> Self {
        let mut player = Self {
            session: Session::new(case.setup.clone()),
            refused: case.refused,
            refusal: case.refusal.clone(),
            questions: 0,
            envelope: None,
            body: Vec::new(),
            secured: false,
            used: 0,
            tally: Tally::default(),
            record: Record::default(),
        };
        player.session.greet(&mut player.record.replies);
        player
    }

    /// What it did up to now.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Refuses these of the questions to come, with this.
    pub fn refuse(&mut self, refused: u8, refusal: Reply) {
        (self.refused, self.refusal, self.questions) = (refused, refusal, 0);
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.record.steps.last(), Some((_, Step::Close)))
    }

    /// Whether it waits for TLS.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.record.steps.last(), Some((_, Step::StartTls))) && !self.secured
    }

    /// TLS is on.
    pub fn handshake(&mut self) {
        self.session.secured();
        assert_eq!((self.session.helo(), self.session.is_secure()), (None, true));
        (self.secured, self.used) = (true, 0);
    }

    /// Gives the session what the client sends, and returns how much was used of it.
    pub fn feed(&mut self, input: &[u8], pieces: Pieces) -> usize {
        let (start, mut seen) = (self.used, 0);
        for piece in pieces {
            let used = self.used - start;
            if self.is_closed() || self.is_handshaking() || seen == input.len() {
                break;
            }
            seen = seen.saturating_add(piece).min(input.len());
            self.advance(&input[used..seen]);
        }
        self.used - start
    }

    /// Takes as much as the session takes.
    fn advance(&mut self, mut input: &[u8]) {
        while !self.is_closed() && !self.is_handshaking() {
            let mut out = Vec::new();
            let (used, step) = self.session.advance(input, &mut self.body, &mut out);
            self.used += used;
            input = &input[used..];
            let waits = step == Step::Need && used == 0 && out.is_empty();
            self.record.replies.append(&mut out);
            if waits {
                let unfinished = input.len() < LINE_MAX && !input.contains(&b'\n');
                assert!(unfinished, "left unused: {}", input.escape_ascii());
                break;
            }
            self.take(step);
            if !self.is_closed() {
                assert_eq!(self.session.in_transaction(), self.envelope.is_some(), "{:?}", self.record.steps);
            }
        }
    }

    fn take(&mut self, step: Step) {
        if step == Step::Need {
            return;
        }
        self.record.steps.push((self.used, step.clone()));
        let mut out = Vec::new();
        let then = match step {
            Step::Mail(mail) => {
                assert_eq!(self.envelope, None, "the message before this one was never said to be over");
                let refusal = self.ask();
                self.envelope = refusal.is_none().then_some((0, mail.body == BodyKind::Binary));
                self.session.answer_mail(refusal, &mut out)
            }
            Step::Rcpt(_) => {
                let refusal = self.ask();
                let (recipients, _) = self.envelope.as_mut().expect("a recipient of some message");
                *recipients += usize::from(refusal.is_none());
                self.session.answer_rcpt(refusal, &mut out)
            }
            Step::Begin => self.begin(&mut out),
            Step::End => self.end(&mut out),
            Step::Client(_) => {
                let refusal = self.ask();
                self.session.answer_client(refusal, &mut out)
            }
            Step::Forward(_) => {
                let refusal = self.ask();
                self.session.answer_forward(refusal, &mut out)
            }
            Step::Abandoned(why) => {
                self.decide(Outcome::Abandoned(why));
                None
            }
            Step::Reset | Step::Close => {
                self.decide(Outcome::Forgotten);
                None
            }
            Step::StartTls | Step::Need => None,
        };
        self.record.replies.append(&mut out);
        if let Some(step) = then {
            self.take(step);
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let (recipients, binary) = self.envelope.expect("a body of some message");
        assert!(recipients > 0, "a body for nobody");
        self.body.clear();
        let refusal = self.ask();
        if refusal.is_none() {
            let (secured, at) = (self.secured, self.used);
            let body = BodyRecord { secured, begin: at, binary, end: at, outcome: Outcome::Unfinished };
            self.record.bodies.push(body);
        }
        let then = self.session.answer_begin(refusal, out);
        if !self.session.in_transaction() {
            self.envelope = None;
        }
        then
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let outcome = match self.ask() {
            Some(_) => Outcome::Refused,
            None => Outcome::Delivered(std::mem::take(&mut self.body)),
        };
        let refused = outcome == Outcome::Refused;
        self.decide(outcome);
        if refused {
            return self.session.refuse(self.refusal.clone(), out);
        }
        self.session.accept(&Kept, out);
        None
    }

    /// The message is over, in this way; of one that has no body yet nothing is kept.
    fn decide(&mut self, outcome: Outcome) {
        self.envelope = None;
        if let Some(body) = self.record.bodies.last_mut()
            && body.outcome == Outcome::Unfinished
        {
            (body.end, body.outcome) = (self.used, outcome);
        }
    }

    fn ask(&mut self) -> Option<Reply> {
        let refused = (self.refused >> (self.questions % 8)) & 1 == 1;
        self.questions += 1;
        refused.then(|| self.refusal.clone())
    }

    /// Checks all replies, and gives what the session did.
    pub fn finish(mut self) -> Record {
        let counted = self.session.take_tally();
        self.tally = tally_of(&self.record.replies);
        let of = |tally: &Tally| (tally.positive, tally.intermediate, tally.transient, tally.permanent);
        assert_eq!(of(&counted), of(&self.tally), "{}", self.record.replies.escape_ascii());
        self.record
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
