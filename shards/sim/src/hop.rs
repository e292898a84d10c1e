//! A next hop: the server's session machine once more, with a will of its own. What it has taken it has, whether its word
//! arrives or not.

use crate::calendar::Event;
use crate::fault::Fault;
use crate::link::LinkId;
use crate::plan::SECOND;
use crate::world::World;
use ringpost_base::{Accepted, Entropy, SessionIds, ShardId, SpoolId};
use ringpost_smtp::{Options, Protocol, Reply, Session, Setup, Step, TlsUse, replies};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a next hop says that it has.
#[derive(Debug)]
pub(crate) struct Taken(SpoolId);

impl Accepted for Taken {
    fn id(&self) -> SpoolId {
        self.0
    }
}

#[derive(Debug)]
struct HopSession {
    link: LinkId,
    session: Session<Taken>,
    input: Vec<u8>,
    recipients: Vec<String>,
    body: Vec<u8>,
    /// It says nothing any more.
    silent: bool,
}

/// A next hop.
#[derive(Debug)]
pub(crate) struct Hop {
    name: &'static str,
    protocol: Protocol,
    /// It takes no connections.
    pub(crate) down: bool,
    sessions: BTreeMap<u32, HopSession>,
    ids: SessionIds,
}

/// What the hop does with a message at its end.
enum Whim {
    Take,
    Refuse(Reply),
    /// It is gone, with or without the message.
    Die(bool),
    Silence,
}

impl Hop {
    pub(crate) fn new(name: &'static str, protocol: Protocol) -> Self {
        let ids = SessionIds::new(ShardId(0), Entropy([3; 16]));
        Self { name, protocol, down: false, sessions: BTreeMap::new(), ids }
    }

    pub(crate) fn forget(&mut self, session: u32) {
        self.sessions.remove(&session);
    }
}

impl World {
    pub(crate) fn hop_accepts(&mut self, hop: usize, number: u32, link: LinkId) {
        let options = Rc::new(Options {
            hostname: format!("{}.sim", self.hops[hop].name),
            recipients_max: 4,
            errors_max: 1000,
            commands_max: 0,
            unknown_recipients_max: 0,
            ..Options::default()
        });
        let (wall, own) = (self.clocks().wall, &mut self.hops[hop]);
        let setup = Setup { protocol: own.protocol, tls: TlsUse::Off, ..Setup::new(options, own.ids.next(wall)) };
        let mut session = Session::new(setup);
        let mut out = Vec::new();
        session.greet(&mut out);
        let (input, recipients, body) = Default::default();
        own.sessions.insert(number, HopSession { link, session, input, recipients, body, silent: false });
        self.send(link, 1, &out);
    }

    pub(crate) fn hop_reads(&mut self, hop: usize, number: u32, bytes: &[u8]) {
        let Some(session) = self.hops[hop].sessions.get_mut(&number) else { return };
        session.input.extend_from_slice(bytes);
        if !session.silent {
            self.hop_goes_on(hop, number);
        }
    }

    pub(crate) fn hop_goes_on(&mut self, hop: usize, number: u32) {
        let Some(mut own) = self.hops[hop].sessions.remove(&number) else { return };
        let mut out = Vec::new();
        let mut owed = None;
        let alive = loop {
            let step = match owed.take() {
                Some(step) => step,
                None => {
                    let (used, step) = own.session.advance(&own.input, &mut own.body, &mut out);
                    own.input.drain(..used);
                    step
                }
            };
            match step {
                Step::Need if out.is_empty() || own.input.is_empty() => break true,
                Step::Need => self.send(own.link, 1, &std::mem::take(&mut out)),
                Step::Close => break false,
                Step::End => {
                    if let Some(alive) = self.hop_ends(hop, &mut own, &mut out, &mut owed) {
                        break alive;
                    }
                }
                step => owed = self.hop_answers(&mut own, step, &mut out),
            }
        };
        let link = own.link;
        if !alive && own.silent {
            // Dead: whoever is at the other end finds out.
            return self.tear(link, 1);
        }
        self.send(link, 1, &out);
        if alive {
            self.hops[hop].sessions.insert(number, own);
        } else {
            self.hang_up(link, 1);
        }
    }

    fn hop_answers(&mut self, own: &mut HopSession, step: Step, out: &mut Vec<u8>) -> Option<Step> {
        match step {
            Step::Mail(_) => {
                own.recipients.clear();
                let refusal = self.whim_reply(&[replies::STORAGE_FULL], &[replies::RELAY_DENIED]);
                own.session.answer_mail(refusal, out)
            }
            Step::Rcpt(rcpt) => {
                let refusal = self.whim_reply(&[replies::LIMITED_RATE, replies::GREYLISTED], &[replies::NO_SUCH_USER]);
                if refusal.is_none() {
                    own.recipients.push(rcpt.to.as_str().to_owned());
                }
                own.session.answer_rcpt(refusal, out)
            }
            Step::Begin => {
                own.body.clear();
                own.session.answer_begin(None, out)
            }
            Step::Abandoned(_) | Step::Reset => {
                own.recipients.clear();
                own.body.clear();
                None
            }
            other => {
                self.book.violate(format!("a next hop comes to a step that nothing has led to: {other:?}"));
                Some(Step::Close)
            }
        }
    }

    fn whim_reply(&mut self, transient: &[Reply], permanent: &[Reply]) -> Option<Reply> {
        if self.strikes(Fault::HopCloses) {
            return Some(replies::SHUTDOWN);
        }
        if self.strikes(Fault::HopPutsOff) {
            let at = self.dice.place(transient.len());
            return Some(transient[at].clone());
        }
        if self.strikes(Fault::HopRefuses) {
            let at = self.dice.place(permanent.len());
            return Some(permanent[at].clone());
        }
        None
    }

    fn whim(&mut self) -> Whim {
        if self.strikes(Fault::HopDeadBefore) {
            return Whim::Die(false);
        }
        if self.strikes(Fault::HopDeadAfter) {
            return Whim::Die(true);
        }
        if self.strikes(Fault::HopHang) {
            return Whim::Silence;
        }
        let refusal = self.whim_reply(&[replies::STORAGE_FAILED, replies::BUSY], &[replies::SCREENED, replies::LOOP]);
        refusal.map_or(Whim::Take, Whim::Refuse)
    }

    /// The end of a message. Says whether the session goes on, if that is decided by it.
    fn hop_ends(
        &mut self,
        hop: usize,
        own: &mut HopSession,
        out: &mut Vec<u8>,
        owed: &mut Option<Step>,
    ) -> Option<bool> {
        match self.whim() {
            Whim::Take => {
                let id = self.hop_takes(hop, own);
                own.session.accept(&Taken(id), out);
                None
            }
            Whim::Refuse(reply) => {
                *owed = own.session.refuse(reply, out);
                None
            }
            Whim::Die(with_it) => {
                own.silent = true;
                if with_it {
                    self.hop_takes(hop, own);
                }
                Some(false)
            }
            Whim::Silence => {
                own.silent = true;
                if self.dice.one_in(2) {
                    self.hop_takes(hop, own);
                }
                Some(true)
            }
        }
    }

    fn hop_takes(&mut self, hop: usize, own: &mut HopSession) -> SpoolId {
        let name = self.hops[hop].name;
        let Some(id) = id_of(&own.body) else {
            let start = String::from_utf8_lossy(&own.body[..own.body.len().min(200)]).into_owned();
            self.book.violate(format!("what arrived at {name} does not say what it is: {start:?}"));
            return SpoolId::from_bytes([0; 16]);
        };
        self.note(format_args!("{name} has {id} for {:?}", own.recipients));
        for recipient in std::mem::take(&mut own.recipients) {
            self.book.arrived(name, id, &recipient, &own.body);
        }
        own.body.clear();
        id
    }

    /// A next hop takes no connections for a while; sessions that it has go on.
    pub(crate) fn hop_goes_down(&mut self) {
        let hop = self.dice.place(self.hops.len());
        self.hops[hop].down = true;
        let span = self.dice.range(2, 60) * SECOND;
        self.after(span, Event::HopUp(hop));
    }
}

/// The id of a message, by the trace header in front of it, or, of a report, by its own id.
fn id_of(bytes: &[u8]) -> Option<SpoolId> {
    let mark: &[u8] = if bytes.starts_with(b"Received: ") { b"\r\n\tid " } else { b"\r\nMessage-ID: <" };
    let window = &bytes[..bytes.len().min(1024)];
    let at = window.windows(mark.len()).position(|some| some == mark)? + mark.len();
    std::str::from_utf8(window.get(at..at + SpoolId::TEXT_LEN)?).ok()?.parse().ok()
}
