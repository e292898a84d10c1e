//! One message over one session: its envelope, its body, and what is said to them.
//!
//! What matters when a session ends in between is how far it came. Until the last octet of the message is about to be
//! written nothing was handed over, and another server may be given the message. From then on the server may have taken it
//! although no reply came. Then it is tried again later and may arrive twice (RFC 5321 section 4.5.3.2.6), which is the
//! lesser evil (RFC 5321 section 6.1).

use super::Hop;
use super::reply::CLOSING;
use super::session::Session;
use super::trouble::Trouble;
use crate::parcel::Parcel;
use ringpost_message::{Notify, Recipient, Ret};
use ringpost_smtp::sender::{
    FaultKind, Outgoing, OutgoingRecipient, RecipientReply, SenderFault, SenderStep, Stage, Unsendable,
};
use ringpost_store::{BodyReader, LoadedContent};

/// Octets of a message in memory that are framed and written at a time.
const PIECE_MAX: usize = 256 << 10;

/// How an exchange came out.
pub(super) enum Exchanged {
    /// There is a reply for each recipient, in order. If the session ended with it, those that the end kept from being
    /// answered have the code 0.
    Answered(Vec<RecipientReply>, Option<Trouble>),
    /// The server has not what the message needs. The session is as it was.
    Unsendable(Unsendable),
    /// The session ended, and nothing was handed over.
    Lost {
        /// Why.
        trouble: Trouble,
        /// Whether not even MAIL had been answered.
        unheard: bool,
    },
    /// The message can't be read here, for this reason; what was sent of it has no end.
    Unreadable(String),
}

/// What can go wrong while a body is sent.
enum BodyFault {
    Session(Trouble),
    Content(String),
}

impl Hop {
    /// Sends the message of a parcel to some of its recipients.
    pub(super) async fn exchange(&self, session: &mut Session, parcel: &Parcel, recipients: &[u32]) -> Exchanged {
        session.messages = session.messages.saturating_add(1);
        if let Err(unsendable) = begin(session, parcel, recipients) {
            return Exchanged::Unsendable(unsendable);
        }
        let mut handed_over = false;
        loop {
            let (what, patience) = match handed_over {
                false => ("answer to the envelope", self.options.command_timeout.0),
                true => ("answer to the message", self.options.data_timeout.0),
            };
            match session.step(what, patience).await {
                Ok(SenderStep::Body) => match self.send_body(session, &parcel.content, &mut handed_over).await {
                    Ok(()) => {}
                    Err(BodyFault::Content(reason)) => return Exchanged::Unreadable(reason),
                    Err(BodyFault::Session(trouble)) => return cut_off(session, trouble, handed_over).await,
                },
                Ok(SenderStep::Done(replies)) => return answered(session, replies, handed_over),
                Ok(SenderStep::Refused(fault)) => {
                    return Exchanged::Lost { trouble: session.trouble(&fault), unheard: true };
                }
                // Neither is a step of a session in the middle of a message.
                Ok(SenderStep::Need | SenderStep::StartTls | SenderStep::Idle | SenderStep::Closed) => {
                    return Exchanged::Unreadable("the session lost track of the message".into());
                }
                Err(trouble) => return cut_off(session, trouble, handed_over).await,
            }
        }
    }

    /// `handed_over` is set when the last piece is about to be written.
    async fn send_body(
        &self,
        session: &mut Session,
        content: &LoadedContent,
        handed_over: &mut bool,
    ) -> Result<(), BodyFault> {
        match content {
            LoadedContent::Memory(bytes) => {
                let mut rest = &bytes[..];
                loop {
                    let (piece, behind) = rest.split_at(rest.len().min(PIECE_MAX));
                    rest = behind;
                    self.send_piece(session, piece, rest.is_empty(), handed_over).await?;
                    if rest.is_empty() {
                        return Ok(());
                    }
                }
            }
            LoadedContent::File(path, file) => {
                let wrong = |error: &dyn std::fmt::Display| BodyFault::Content(error.to_string());
                let mut reader = BodyReader::open(path, *file).await.map_err(|error| wrong(&error))?;
                loop {
                    // The reader gives the last piece only if the checksum of all holds: a damaged message is never complete.
                    let piece = reader.next().await.map_err(|error| wrong(&error))?;
                    self.send_piece(session, &piece, piece.last, handed_over).await?;
                    if piece.last {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn send_piece(
        &self,
        session: &mut Session,
        piece: &[u8],
        last: bool,
        handed_over: &mut bool,
    ) -> Result<(), BodyFault> {
        session.sender.body(piece, last, &mut session.out);
        *handed_over |= last;
        session.flush(self.options.command_timeout.0).await.map_err(BodyFault::Session)
    }
}

/// Says the envelope, if the server has what the message needs.
fn begin(session: &mut Session, parcel: &Parcel, recipients: &[u32]) -> Result<(), Unsendable> {
    let envelope = &*parcel.envelope;
    let require_tls = needs_tls(envelope.require_tls, session.peer.local, session.verified)?;
    let recipient = |number: &u32| envelope.recipients.get(*number as usize);
    let given: Vec<(&Recipient, Option<String>)> =
        recipients.iter().filter_map(recipient).map(|recipient| (recipient, notify(recipient.notify))).collect();
    let outgoing: Vec<OutgoingRecipient<'_>> =
        given.iter().map(|(recipient, notify)| outgoing_recipient(recipient, notify.as_deref())).collect();
    let extensions = session.sender.extensions();
    let lacking = (envelope.utf8 && !extensions.smtp_utf8) || (envelope.eight_bit && !extensions.eight_bit_mime);
    // What its sender announced the message may not have made use of.
    let plain = lacking && is_plain(&parcel.content);
    let outgoing = Outgoing {
        from: &envelope.from,
        recipients: &outgoing,
        size: size(&parcel.content),
        eight_bit: envelope.eight_bit && !plain,
        binary: envelope.binary,
        utf8: envelope.utf8 && !plain,
        require_tls,
        ret: envelope.ret.map(ret),
        envid: envelope.envid.as_deref(),
    };
    session.sender.begin(&outgoing, &mut session.out)
}

/// Whether the session must be one over TLS with an extension to say so, if the message requires TLS: what goes over no network
/// needs none. RFC 8689 section 4.2.1: the server has to prove that it is the one.
fn needs_tls(required: bool, local: bool, verified: bool) -> Result<bool, Unsendable> {
    if required && !local && !verified {
        let text = "the message requires TLS with a server whose certificate was verified, and this one's was not";
        return Err(Unsendable { status: (5, 7, 30), text: text.into() });
    }
    Ok(required && !local)
}

/// The machine has told what became of all recipients. If the session ended with that, it may not have been the message's end.
fn answered(session: &mut Session, replies: Vec<RecipientReply>, handed_over: bool) -> Exchanged {
    let Some(fault) = session.fault() else { return Exchanged::Answered(replies, None) };
    if fault.kind == FaultKind::Size {
        return Exchanged::Unreadable(fault.text.to_string());
    }
    let trouble = session.trouble(&fault);
    // Where the end came to, of those whom it kept from being answered.
    let Some(stage) = replies.iter().find(|reply| is_cut_off(reply, &fault)).map(|reply| reply.stage) else {
        return Exchanged::Answered(replies, Some(trouble));
    };
    // 421 to what comes before the message says that it was not taken, also if it had been sent already.
    if !handed_over || (fault.code == CLOSING && stage != Stage::End) {
        return Exchanged::Lost { trouble, unheard: is_unheard(stage) };
    }
    Exchanged::Answered(replies, Some(trouble))
}

fn is_cut_off(reply: &RecipientReply, fault: &SenderFault) -> bool {
    reply.code == fault.code || reply.code == 0
}

/// The connection is gone, or the server was waited for in vain.
async fn cut_off(session: &mut Session, trouble: Trouble, handed_over: bool) -> Exchanged {
    let replies = if trouble.closed { session.lost().await } else { session.sender.lost(&[]) };
    let unheard = trouble.closed && replies.iter().all(|reply| is_unheard(reply.stage));
    // Closed before there was an answer to MAIL: that is how a connection ends that was kept for too long, and not how one
    // ends that has brought a message.
    if unheard && (session.kept || !handed_over) {
        return Exchanged::Lost { trouble, unheard };
    }
    // A refusal that came while the message was being sent holds for it; that the server closes is none.
    if handed_over || replies.iter().all(|reply| reply.code != 0 && reply.code != CLOSING) {
        return Exchanged::Answered(replies, Some(trouble));
    }
    Exchanged::Lost { trouble, unheard }
}

fn is_unheard(stage: Stage) -> bool {
    matches!(stage, Stage::Unsent | Stage::Mail)
}

fn outgoing_recipient<'a>(recipient: &'a Recipient, notify: Option<&'a str>) -> OutgoingRecipient<'a> {
    OutgoingRecipient { address: &recipient.address, notify, orcpt: recipient.original.as_deref() }
}

/// NOTIFY in words (RFC 3461 section 4.1), if its sender has said it.
fn notify(notify: Notify) -> Option<String> {
    let words = [
        (notify.never(), "NEVER"),
        (notify.success(), "SUCCESS"),
        (notify.failure(), "FAILURE"),
        (notify.delay(), "DELAY"),
    ];
    let said: Vec<&str> = words.iter().filter(|(said, _)| *said).map(|(_, word)| *word).collect();
    (!notify.is_unsaid()).then(|| said.join(","))
}

fn ret(ret: Ret) -> ringpost_smtp::Ret {
    match ret {
        Ret::Full => ringpost_smtp::Ret::Full,
        Ret::Headers => ringpost_smtp::Ret::Headers,
    }
}

fn size(content: &LoadedContent) -> u64 {
    match content {
        LoadedContent::Memory(bytes) => bytes.len() as u64,
        LoadedContent::File(_, file) => file.len,
    }
}

/// Whether a message is known to be ASCII. One in a file is not read for that.
fn is_plain(content: &LoadedContent) -> bool {
    matches!(content, LoadedContent::Memory(bytes) if bytes.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requires_tls_goes_to_verified_servers_or_nowhere() {
        for (required, local, verified, want) in [
            (false, false, false, Ok(false)),
            (false, false, true, Ok(false)),
            (true, false, false, Err((5, 7, 30))),
            (true, false, true, Ok(true)),
            (true, true, false, Ok(false)),
            (true, true, true, Ok(false)),
        ] {
            let got = needs_tls(required, local, verified).map_err(|unsendable| unsendable.status);
            assert_eq!(got, want, "{required} {local} {verified}");
        }
    }

    #[test]
    fn notify_in_words() {
        for (bits, want) in [
            (0, None),
            (1, Some("NEVER")),
            (2, Some("SUCCESS")),
            (4, Some("FAILURE")),
            (8, Some("DELAY")),
            (14, Some("SUCCESS,FAILURE,DELAY")),
        ] {
            assert_eq!(notify(Notify::from_bits(bits).expect("bits")).as_deref(), want);
        }
    }
}
