//! One message: its commands as far as they may be said, and what the replies to them mean for each recipient.

use super::answer::{Answer, EnhancedStatus};
use super::extensions::Extensions;
use super::fault::SenderFault;
use super::framing::{Chunk, Dotted, Framing};
use super::outgoing::{Outgoing, is_safe, say_mail, say_rcpt};
use crate::{Class, Protocol};
use memchr::memchr;
use std::rc::Rc;

/// Most commands that are said and not answered. RFC 2920 section 3.1: what is sent at once must fit into the buffers of the
/// connection, and so must the replies, or both ends could wait for each other to read.
const UNANSWERED_MAX: usize = 64;

/// Largest message in octets that is sent, by BDAT, before it is known whether a recipient is taken. It saves the time of
/// an answer, which counts for a small message, and to send a large one for nothing would cost more.
const EAGER_MAX: u64 = 64 << 10;

/// Up to where a recipient's part of a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Nothing was said of it: the server takes no more recipients in one message, and in another one it might; or its
    /// address can't be said.
    Unsent,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The end of the message.
    End,
}

/// What has become of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientReply {
    /// The code of the reply that decided it; 0: there was none, so that it is to be tried again.
    pub code: u16,
    /// Its enhanced status code, or one of ours if it is not from a reply.
    pub status: Option<EnhancedStatus>,
    /// Its words, printable ASCII.
    pub text: Rc<str>,
    /// To which command it was.
    pub stage: Stage,
}

impl RecipientReply {
    /// Whether the server has taken the message for this recipient.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether it never will. What is neither is to be tried again.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    fn of(answer: &Answer, stage: Stage) -> Self {
        Self { code: answer.code, status: answer.status, text: answer.text.clone(), stage }
    }

    /// RFC 5321 section 4.5.3.1.10: servers have also said 552 where they should say 452, and mean that it is for now. A
    /// status that says something else, as that a mailbox is full, is believed.
    fn to_rcpt(answer: &Answer, others_taken: bool) -> Self {
        let reply = Self::of(answer, Stage::Rcpt);
        let too_many = answer.code == 552 && others_taken && matches!(answer.status, None | Some((5, 5, 3)));
        if too_many { Self { code: 452, status: Some((4, 5, 3)), ..reply } } else { reply }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Reset,
    Mail,
    /// For the recipient of this number.
    Rcpt(usize),
    Data,
    /// The end of the message, after DATA or as a chunk.
    End,
}

#[derive(Debug)]
enum Fate {
    Unknown,
    /// RCPT was answered well.
    Taken,
    Told(RecipientReply),
}

#[derive(Debug)]
enum Body {
    /// It comes with DATA, or is over.
    None,
    /// It is to go as a chunk of this size.
    Chunk(u64),
    Wanted(Framing),
    WrongSize,
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Transaction {
    protocol: Protocol,
    pipelining: bool,
    /// The commands in their order; how many of them are said, and how many are answered.
    plan: Vec<Command>,
    said: usize,
    answered: usize,
    /// The lines of those that are not said yet, from `unsaid` on.
    lines: Vec<u8>,
    unsaid: usize,
    fates: Vec<Fate>,
    /// RCPTs in the plan that are not answered.
    open: usize,
    taken: usize,
    body: Body,
    reset_due: bool,
    over: bool,
}

impl Transaction {
    pub(super) fn new(outgoing: &Outgoing<'_>, extensions: &Extensions, protocol: Protocol, reset: bool) -> Self {
        let (mut lines, mut plan) = (String::new(), Vec::with_capacity(outgoing.recipients.len() + 3));
        if reset {
            lines.push_str("RSET\r\n");
            plan.push(Command::Reset);
        }
        say_mail(outgoing, extensions, &mut lines);
        plan.push(Command::Mail);
        let (mut fates, mut open) = (Vec::with_capacity(outgoing.recipients.len()), 0);
        for (number, recipient) in outgoing.recipients.iter().enumerate() {
            // RFC 9422 section 4.2: all RCPTs count, also those that are refused.
            let fits = extensions.recipients_max.is_none_or(|max| open < max as usize);
            if let Some(reply) = unsent(is_safe(recipient.address), fits) {
                fates.push(Fate::Told(reply));
                continue;
            }
            say_rcpt(outgoing, recipient, extensions, &mut lines);
            plan.push(Command::Rcpt(number));
            fates.push(Fate::Unknown);
            open += 1;
        }
        let chunking = extensions.chunking;
        if !chunking {
            lines.push_str("DATA\r\n");
            plan.push(Command::Data);
        }
        if open == 0 {
            plan.clear();
        }
        Self {
            protocol,
            pipelining: extensions.pipelining,
            plan,
            said: 0,
            answered: 0,
            lines: lines.into_bytes(),
            unsaid: 0,
            fates,
            open,
            taken: 0,
            body: if chunking { Body::Chunk(outgoing.size) } else { Body::None },
            reset_due: reset,
            over: false,
        }
    }

    /// Whether MAIL is said, which it isn't for nobody.
    pub(super) fn says_mail(&self) -> bool {
        !self.plan.is_empty()
    }

    pub(super) fn wants_body(&self) -> bool {
        matches!(self.body, Body::Wanted(_))
    }

    /// Whether the octets of the message are under way behind DATA.
    pub(super) fn is_in_data(&self) -> bool {
        matches!(self.body, Body::Wanted(Framing::Dotted(_)))
    }

    pub(super) fn has_wrong_size(&self) -> bool {
        matches!(self.body, Body::WrongSize)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the server may have a message open when this one is over.
    pub(super) fn reset_due(&self) -> bool {
        self.reset_due
    }

    /// Says what may be said now.
    pub(super) fn go_on(&mut self, out: &mut Vec<u8>) {
        while self.may_speak() {
            let line = &self.lines[self.unsaid..];
            let end = memchr(b'\n', line).map_or(line.len(), |newline| newline + 1);
            out.extend_from_slice(&line[..end]);
            self.unsaid += end;
            self.said += 1;
        }
        let all_answered = self.answered == self.plan.len();
        if let Body::Chunk(size) = self.body
            && self.said == self.plan.len()
            && self.is_hopeful()
            && (all_answered || self.pipelining && size <= EAGER_MAX)
        {
            self.body = Body::Wanted(Framing::Chunk(Chunk::new(size)));
        }
        self.over = all_answered && !self.wants_body();
    }

    /// Whether the next command of the plan may be said. Of what has no use any more the plan is freed.
    fn may_speak(&mut self) -> bool {
        let unanswered = self.said - self.answered;
        if unanswered == 0 && !self.is_hopeful() {
            self.plan.truncate(self.said);
        }
        let most = if self.pipelining { UNANSWERED_MAX } else { 1 };
        self.said < self.plan.len() && unanswered < most
    }

    /// Whether somebody might still get the message.
    fn is_hopeful(&self) -> bool {
        self.taken + self.open > 0
    }

    /// Takes a piece of the message.
    pub(super) fn body(&mut self, piece: &[u8], last: bool, out: &mut Vec<u8>) {
        let Body::Wanted(framing) = &mut self.body else { return };
        match framing.piece(piece, last, out) {
            Err(_) => self.body = Body::WrongSize,
            Ok(()) if last => {
                // The reply to a chunk that is refused doesn't say whether the message is forgotten.
                self.reset_due = matches!(framing, Framing::Chunk(_));
                self.body = Body::None;
                self.say_end();
            }
            Ok(()) => {}
        }
    }

    fn say_end(&mut self) {
        self.plan.push(Command::End);
        self.said += 1;
    }

    /// Takes the reply to the command that is the next to be answered, and goes on.
    pub(super) fn take(&mut self, answer: Answer, out: &mut Vec<u8>) -> Result<(), SenderFault> {
        let command = self.plan.get(self.answered).ok_or_else(|| SenderFault::unasked(&answer))?;
        let continues = *command == Command::Data;
        if (answer.class() == Class::Positive && continues) || (answer.class() == Class::Intermediate && !continues) {
            return Err(SenderFault::unasked(&answer));
        }
        let refuses = answer.code >= 400;
        match *command {
            Command::Reset if refuses => return Err(SenderFault::unasked(&answer)),
            Command::Reset => self.reset_due = false,
            Command::Mail => self.take_mail(&answer, refuses),
            Command::Rcpt(number) => self.take_rcpt(number, &answer, refuses),
            Command::Data if refuses => self.tell_taken(&answer, Stage::Data),
            Command::Data => self.take_go_ahead(out)?,
            Command::End => return self.take_end(&answer, out),
        }
        self.answered += 1;
        self.go_on(out);
        Ok(())
    }

    fn take_mail(&mut self, answer: &Answer, refuses: bool) {
        self.reset_due = !refuses;
        if !refuses {
            return;
        }
        // What was pipelined behind it is answered too, and means nothing; what wasn't said is not said any more.
        for fate in self.fates.iter_mut().filter(|fate| matches!(fate, Fate::Unknown)) {
            *fate = Fate::Told(RecipientReply::of(answer, Stage::Mail));
        }
        self.open = 0;
        self.plan.truncate(self.said);
    }

    fn take_rcpt(&mut self, number: usize, answer: &Answer, refuses: bool) {
        let fate = &mut self.fates[number];
        if !matches!(fate, Fate::Unknown) {
            return;
        }
        self.open -= 1;
        if refuses {
            *fate = Fate::Told(RecipientReply::to_rcpt(answer, self.taken > 0));
        } else {
            *fate = Fate::Taken;
            self.taken += 1;
        }
    }

    /// RFC 2920 section 3.1: a server may ask for the message although it took no recipient; then a dot alone ends it.
    fn take_go_ahead(&mut self, out: &mut Vec<u8>) -> Result<(), SenderFault> {
        if self.taken > 0 {
            self.body = Body::Wanted(Framing::Dotted(Dotted::default()));
            return Ok(());
        }
        if self.protocol == Protocol::Lmtp {
            return Err(SenderFault::data_for_nobody());
        }
        out.extend_from_slice(b".\r\n");
        self.reset_due = false;
        self.say_end();
        Ok(())
    }

    /// RFC 2033 section 4.2: in LMTP there is a reply for each recipient that was taken, in their order, and RFC 2033
    /// section 4.3: so there is to the last chunk. If none was taken there is one, which says so.
    fn take_end(&mut self, answer: &Answer, out: &mut Vec<u8>) -> Result<(), SenderFault> {
        self.reset_due &= answer.code >= 400;
        match self.protocol {
            Protocol::Smtp => self.tell_taken(answer, Stage::End),
            Protocol::Lmtp => {
                if let Some(fate) = self.fates.iter_mut().find(|fate| matches!(fate, Fate::Taken)) {
                    *fate = Fate::Told(RecipientReply::of(answer, Stage::End));
                    self.taken -= 1;
                }
            }
        }
        if self.taken == 0 {
            self.answered += 1;
            self.go_on(out);
        }
        Ok(())
    }

    fn tell_taken(&mut self, answer: &Answer, stage: Stage) {
        for fate in self.fates.iter_mut().filter(|fate| matches!(fate, Fate::Taken)) {
            *fate = Fate::Told(RecipientReply::of(answer, stage));
        }
        self.taken = 0;
    }

    /// What has become of the recipients of a message that is over.
    pub(super) fn finish(self) -> Vec<RecipientReply> {
        debug_assert!(self.over, "all recipients are told");
        self.abandoned(&SenderFault::lost())
    }

    /// What has become of the recipients if the session ends here for this reason.
    pub(super) fn abandoned(self, fault: &SenderFault) -> Vec<RecipientReply> {
        let stage = match self.plan.get(self.answered) {
            Some(Command::Reset) => Stage::Unsent,
            Some(Command::Mail) => Stage::Mail,
            Some(Command::Rcpt(_)) => Stage::Rcpt,
            Some(Command::Data) => Stage::Data,
            Some(Command::End) | None => Stage::End,
        };
        let replies = self.fates.into_iter().map(|fate| match fate {
            Fate::Told(reply) => reply,
            Fate::Unknown | Fate::Taken => {
                RecipientReply { code: fault.code, status: fault.status, text: fault.text.clone(), stage }
            }
        });
        replies.collect()
    }
}

/// Why nothing is said of a recipient.
fn unsent(is_safe: bool, fits: bool) -> Option<RecipientReply> {
    let reply = |code, status, text: &str| RecipientReply {
        code,
        status: Some(status),
        text: text.into(),
        stage: Stage::Unsent,
    };
    match (is_safe, fits) {
        (false, _) => Some(reply(553, (5, 1, 3), "the address of the recipient is malformed")),
        (true, false) => Some(reply(452, (4, 5, 3), "the server takes no more recipients in one message")),
        (true, true) => None,
    }
}
