//! The smallest driver of a session: it feeds the machine, decides as it was told to, and keeps what it got.
//!
//! It holds the machine to what a driver relies on: nothing but an unfinished line is left unused, a transaction is open
//! exactly while the driver has an envelope, a body begins for somebody, no reply is malformed, each shows the session's id
//! once something was refused, and the end of a message has as many replies as the protocol asks for.

use ringpost_base::SpoolId;
use ringpost_smtp::{
    Accepted, BodyKind, ClientInfo, ClientName, ForwardInfo, LINE_MAX, Mail, Options, Protocol, Rcpt, Reply, Ret,
    Session, SessionLimit, Setup, Step, Tally,
};
use std::rc::Rc;

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
    /// Clients that a proxy names.
    pub(crate) client: Option<Reply>,
    /// What a proxy wants in the log.
    pub(crate) forward: Option<Reply>,
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
    /// `<address>`, and behind it, each in square brackets, the parameters that RCPT had.
    pub(crate) to: Vec<String>,
    /// The parameters that MAIL had, in the order of `begun`.
    pub(crate) parameters: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    fn begun(mail: &Mail) -> Self {
        let body = match mail.body {
            BodyKind::SevenBit => None,
            BodyKind::EightBitMime => Some("8bitmime".to_owned()),
            BodyKind::Binary => Some("binarymime".to_owned()),
        };
        let parameters = [
            body,
            mail.utf8.then(|| "smtputf8".to_owned()),
            mail.size.map(|size| format!("size={size}")),
            mail.require_tls.then(|| "requiretls".to_owned()),
            mail.dsn.ret.map(|ret| if ret == Ret::Full { "ret=full".to_owned() } else { "ret=hdrs".to_owned() }),
            mail.dsn.envid.as_ref().map(|id| format!("envid={id}")),
        ];
        let parameters = parameters.into_iter().flatten().collect();
        Self { from: mail.from.as_str().into(), to: Vec::new(), parameters, body: Vec::new() }
    }
}

fn recipient(rcpt: &Rcpt) -> String {
    let mut text = format!("<{}>", rcpt.to.as_str());
    if let Some(notify) = rcpt.notify {
        let words = [
            (notify.never(), "never"),
            (notify.success(), "success"),
            (notify.failure(), "failure"),
            (notify.delay(), "delay"),
        ];
        let words: Vec<&str> = words.into_iter().filter(|(said, _)| *said).map(|(_, word)| word).collect();
        text += &format!("[notify={}]", words.join(","));
    }
    if let Some(orcpt) = &rcpt.orcpt {
        text += &format!("[orcpt={orcpt}]");
    }
    text
}

/// What XCLIENT said, as `name=value` with blanks between.
fn client(info: &ClientInfo) -> String {
    let name = info.name.as_ref().map(|name| match name {
        ClientName::Known(name) => name.to_string(),
        ClientName::Missing => "missing".to_owned(),
        ClientName::Unknown => "unknown".to_owned(),
    });
    let pairs = [
        ("addr", info.addr.map(|addr| addr.to_string())),
        ("port", info.port.map(|port| port.to_string())),
        ("name", name),
        ("helo", info.helo.as_ref().map(Box::to_string)),
        ("proto", info.proto.map(|proto| format!("{proto:?}"))),
        ("login", info.login.as_ref().map(Box::to_string)),
        ("destination", info.destination.map(|addr| addr.to_string())),
        ("destination_port", info.destination_port.map(|port| port.to_string())),
    ];
    named(pairs)
}

/// What XFORWARD said, in the same form.
fn forward(info: &ForwardInfo) -> String {
    let ForwardInfo { name, addr, port, proto, helo, ident, source } = info;
    let pairs = [
        ("name", name),
        ("addr", addr),
        ("port", port),
        ("proto", proto),
        ("helo", helo),
        ("ident", ident),
        ("source", source),
    ];
    named(pairs.map(|(name, value)| (name, value.as_ref().map(Box::to_string))))
}

fn named<const N: usize>(pairs: [(&str, Option<String>); N]) -> String {
    let said: Vec<String> =
        pairs.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect();
    said.join(" ")
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
    /// What a proxy said of its clients.
    pub(crate) presented: Vec<String>,
    /// Whether the client said QUIT.
    pub(crate) has_quit: bool,
}

/// A session and its driver.
pub(crate) struct Driver {
    session: Session<Kept>,
    lmtp: bool,
    id: String,
    refusals: Refusals,
    unused: Vec<u8>,
    used: usize,
    envelope: Option<Message>,
    body: Vec<u8>,
    tally: Tally,
    /// How often each limit of a session was met.
    limits: [u64; SessionLimit::ALL.len()],
    record: Record,
}

impl Driver {
    /// A session that has sent its banner.
    pub(crate) fn new(setup: Setup, refusals: Refusals) -> Self {
        let (lmtp, id) = (setup.protocol == Protocol::Lmtp, format!(" [{}]", setup.id));
        let mut driver = Self {
            session: Session::new(setup),
            lmtp,
            id,
            refusals,
            unused: Vec::new(),
            used: 0,
            envelope: None,
            body: Vec::new(),
            tally: Tally::default(),
            limits: Default::default(),
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

    /// The operator has changed the options.
    pub(crate) fn reload(&mut self, options: Options) {
        self.session.set_options(Rc::new(options));
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
                envelope.to.extend(refusal.is_none().then(|| recipient(&rcpt)));
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
            Step::Client(info) => {
                assert!(self.envelope.is_none(), "another client in the middle of a message");
                self.record.presented.push(client(&info));
                self.session.answer_client(self.refusals.client.clone(), out)
            }
            Step::Forward(info) => {
                self.record.presented.push(forward(&info));
                self.session.answer_forward(self.refusals.forward.clone(), out)
            }
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
        let (before, recipients) = (out.len(), envelope.to.len());
        let then = if let Some(reply) = self.refusals.message.clone() {
            self.session.refuse(reply, out)
        } else {
            self.record.messages.push(Message { body: std::mem::take(&mut self.body), ..envelope });
            self.session.accept(&Kept(self.record.messages.len() as u8), out);
            None
        };
        let said = String::from_utf8_lossy(&self.record.replies[before..]).into_owned();
        // One refusal too many is followed by the reply that closes the session.
        let closes_itself = self.refusals.message.as_ref().is_some_and(|reply| reply.code() == 421);
        let closing = usize::from(then == Some(Step::Close) && !closes_itself);
        let want = if self.lmtp { recipients } else { 1 };
        assert_eq!(said.matches("\r\n").count(), want + closing, "{said:?}");
        then
    }

    /// Checks every reply up to now, and that the machine has counted them all.
    fn count(&mut self) {
        let tally = self.session.take_tally();
        for (limit, met) in SessionLimit::ALL.into_iter().zip(&mut self.limits) {
            *met += u64::from(tally.met(limit));
            let said = String::from_utf8_lossy(&self.record.replies).matches(limit.reply().text()).count();
            assert_eq!(*met, said as u64, "{limit:?}");
        }
        let Tally { positive, intermediate, transient, permanent, errors, unknown, .. } = tally;
        self.tally.positive += positive;
        self.tally.intermediate += intermediate;
        self.tally.transient += transient;
        self.tally.permanent += permanent;
        self.tally.errors += errors;
        self.tally.unknown += unknown;
        let mut want = tally_of(&self.record.replies, &self.id);
        assert!(self.tally.unknown <= self.tally.errors && self.tally.errors <= want.permanent);
        if !self.lmtp {
            assert_eq!(self.tally.errors, want.permanent, "each is an error");
        }
        (want.errors, want.unknown) = (self.tally.errors, self.tally.unknown);
        assert_eq!(want, self.tally, "{}", String::from_utf8_lossy(&self.record.replies));
    }
}

/// Counts well-formed replies; panics at any other.
fn tally_of(replies: &[u8], id: &str) -> Tally {
    let text = std::str::from_utf8(replies).expect("replies are text");
    assert!(text.is_empty() || text.ends_with("\r\n"), "an unfinished reply: {text:?}");
    let (mut tally, mut open, mut refused) = (Tally::default(), None, false);
    for line in text.split_terminator("\r\n") {
        assert!(line.len() + 2 <= REPLY_LINE_MAX, "too long: {line:?}");
        assert!(line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "not printable: {line:?}");
        let (code, rest) = line.split_at_checked(3).expect("a line has a code");
        assert!(code.bytes().all(|digit| digit.is_ascii_digit()), "no code: {line:?}");
        assert!(rest.starts_with(['-', ' ']), "no separator: {line:?}");
        refused |= code.starts_with(['4', '5']);
        // The banner always has the id, and of a reply of several lines the first.
        let banner = code == "220" && rest.contains(" ringpost ");
        assert_eq!(line.ends_with(id), refused && open.is_none() && !banner, "{line:?}");
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
