//! The smallest driver of a sender: it feeds the machine, gives it messages, and keeps what came of them.
//!
//! It holds the machine to what a driver relies on: nothing but an unfinished line is left unused, a body is wanted only
//! when a message is under way, each message is told of once, with a reply for each recipient, and a session that is of no
//! use stays so.

use ringpost_smtp::Ret;
use ringpost_smtp::sender::{
    ANSWER_LINE_MAX, ANSWER_TEXT_MAX, Outgoing, OutgoingRecipient, RecipientReply, Sender, SenderFault, SenderSetup,
    SenderStep, Unsendable,
};

/// A message, with all that it can ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Letter {
    pub(crate) from: String,
    /// The address, NOTIFY and ORCPT.
    pub(crate) to: Vec<(String, Option<String>, Option<String>)>,
    /// What is said of its size, if it isn't the truth.
    pub(crate) size: Option<u64>,
    pub(crate) eight_bit: bool,
    pub(crate) binary: bool,
    pub(crate) utf8: bool,
    pub(crate) require_tls: bool,
    pub(crate) ret: Option<Ret>,
    pub(crate) envid: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What a session did, as far as it can be seen from outside. How the server's octets were cut must not change any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// What was sent to the server.
    pub(crate) sent: Vec<u8>,
    /// What became of the messages.
    pub(crate) done: Vec<Vec<RecipientReply>>,
    /// Messages that could not go to this server.
    pub(crate) unsendable: Vec<Unsendable>,
    /// Why the session is of no use, if so.
    pub(crate) fault: Option<SenderFault>,
    pub(crate) closed: bool,
}

pub(crate) struct Driver {
    pub(crate) sender: Sender,
    /// What the server sent and the machine has not used.
    input: Vec<u8>,
    /// The message under way, and the sizes of the pieces that it is given in, over and over.
    letter: Option<Letter>,
    sizes: Vec<usize>,
    pub(crate) record: Record,
    /// Whether TLS is to begin.
    pub(crate) is_handshaking: bool,
}

impl Driver {
    pub(crate) fn new(setup: SenderSetup, sizes: &[usize]) -> Self {
        let (sender, record) = (Sender::new(setup), Record::default());
        Self { sender, input: Vec::new(), letter: None, sizes: sizes.to_vec(), record, is_handshaking: false }
    }

    /// The server sends this.
    pub(crate) fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        self.play();
    }

    pub(crate) fn send(&mut self, letter: Letter) {
        assert!(self.letter.is_none(), "the message before this one was never told of");
        let recipients: Vec<_> = letter
            .to
            .iter()
            .map(|(address, notify, orcpt)| OutgoingRecipient {
                address,
                notify: notify.as_deref(),
                orcpt: orcpt.as_deref(),
            })
            .collect();
        let outgoing = Outgoing {
            from: &letter.from,
            recipients: &recipients,
            size: letter.size.unwrap_or(letter.body.len() as u64),
            eight_bit: letter.eight_bit,
            binary: letter.binary,
            utf8: letter.utf8,
            require_tls: letter.require_tls,
            ret: letter.ret,
            envid: letter.envid.as_deref(),
        };
        match self.sender.begin(&outgoing, &mut self.record.sent) {
            Ok(()) => self.letter = Some(letter),
            Err(unsendable) => self.record.unsendable.push(unsendable),
        }
        self.play();
    }

    pub(crate) fn handshake(&mut self) {
        assert!(std::mem::take(&mut self.is_handshaking), "nobody asked for TLS");
        assert_eq!(self.input, [], "what is left of the clear part");
        self.sender.secured(&mut self.record.sent);
        assert!(self.sender.is_secure());
        self.play();
    }

    pub(crate) fn reset(&mut self) {
        self.sender.reset(&mut self.record.sent);
        self.play();
    }

    pub(crate) fn quit(&mut self) {
        self.sender.quit(&mut self.record.sent);
        self.letter = None;
        self.play();
    }

    /// The connection breaks.
    pub(crate) fn lose(&mut self) {
        let replies = self.sender.lost(&self.input);
        assert_eq!(replies.is_empty(), self.letter.is_none());
        if let Some(letter) = self.letter.take() {
            self.tell(&letter, replies);
        }
        self.play();
    }

    /// Takes as much as the machine takes.
    fn play(&mut self) {
        loop {
            let (used, step) = self.sender.advance(&self.input, &mut self.record.sent);
            self.input.drain(..used);
            match step {
                SenderStep::Need | SenderStep::Idle => {
                    let unfinished = self.input.len() < ANSWER_LINE_MAX && !self.input.contains(&b'\n');
                    assert!(unfinished, "left unused: {}", self.input.escape_ascii());
                    assert_eq!(step == SenderStep::Idle, self.sender.is_idle());
                    return;
                }
                SenderStep::StartTls => {
                    self.is_handshaking = true;
                    return;
                }
                SenderStep::Body => self.give_body(),
                SenderStep::Done(replies) => {
                    let letter = self.letter.take().expect("a message that is over was begun");
                    self.tell(&letter, replies);
                }
                SenderStep::Refused(fault) => {
                    assert!(self.record.fault.as_ref().is_none_or(|before| *before == fault), "it stays the same");
                    assert!(!self.sender.can_begin() && fault.text.len() <= ANSWER_TEXT_MAX + 100);
                    self.record.fault = Some(fault);
                    self.is_handshaking = false;
                    return;
                }
                SenderStep::Closed => {
                    self.record.closed = true;
                    return;
                }
            }
        }
    }

    fn give_body(&mut self) {
        let letter = self.letter.as_ref().expect("a body of some message");
        let mut rest = &letter.body[..];
        for size in self.sizes.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*size));
            rest = behind;
            self.sender.body(piece, rest.is_empty(), &mut self.record.sent);
            if rest.is_empty() {
                break;
            }
        }
    }

    fn tell(&mut self, letter: &Letter, replies: Vec<RecipientReply>) {
        assert_eq!(replies.len(), letter.to.len(), "a reply for each recipient");
        for reply in &replies {
            let printable = reply.text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            assert!(printable && reply.text.len() <= ANSWER_TEXT_MAX + 100, "{reply:?}");
            assert!(reply.code == 0 || (200..600).contains(&reply.code) && reply.code / 100 != 3, "{reply:?}");
        }
        self.record.done.push(replies);
    }
}
