//! What a server's reply means for a recipient.
//!
//! A 5xx is final only where it speaks of the message or the recipient. One that speaks of the session (a command it does
//! not know, an authentication that it wants) is an error in somebody's configuration, and must not send mail back. And only
//! one that can't be about a single message is held against the server: else a stranger whose messages are answered so
//! would have it left alone for everybody.

use ringpost_queue::{How, Outcome, Reason, Status};
use ringpost_smtp::sender::{RecipientReply, Stage};
use std::rc::Rc;

/// What becomes of a recipient.
#[derive(Debug, PartialEq)]
pub(super) enum Judgement {
    /// That.
    Outcome(Outcome),
    /// To be tried later, and it is the server that does not work.
    Blamed(Reason),
    /// The server takes no more recipients with this message, but would with another.
    Later(Reason),
}

/// Codes of replies that can't be about one message: authentication or encryption that the server wants (RFC 4954 section 6,
/// RFC 3207 section 4).
const OF_THE_SERVER: [u16; 4] = [530, 534, 535, 538];

/// Codes that say that the server and we don't understand each other: commands that it does not have, or not now
/// (RFC 5321 section 4.2.4), and that it takes no mail at all (RFC 7504 section 3). Servers say them of single messages too.
const OF_THE_SESSION: [u16; 4] = [500, 502, 503, 521];

/// RFC 5321 section 3.8: the server closes the connection.
pub(super) const CLOSING: u16 = 421;

/// Judges a reply. `how` is what a positive one means, `remote` who says it.
pub(super) fn judge(reply: &RecipientReply, how: How, remote: Option<&Rc<str>>) -> Judgement {
    let reason = |class: u8| Reason {
        code: reply.code,
        status: status(reply, class),
        text: reply.text.clone(),
        // What was not said to the server it has not refused.
        remote: remote.filter(|_| reply.stage != Stage::Unsent).cloned(),
    };
    match reply.code {
        200..=299 => Judgement::Outcome(Outcome::Delivered(how)),
        CLOSING => Judgement::Blamed(reason(4)),
        _ if is_too_many(reply) => Judgement::Later(reason(4)),
        500..=599 if OF_THE_SERVER.contains(&reply.code) => Judgement::Blamed(reason(4)),
        500..=599 if is_of_the_session(reply) || is_of_a_parameter(reply) => {
            Judgement::Outcome(Outcome::Deferred(reason(4)))
        }
        500..=599 => Judgement::Outcome(Outcome::Failed(reason(5))),
        _ => Judgement::Outcome(Outcome::Deferred(reason(4))),
    }
}

/// Whether the server has lost its way in the session, or we have: another message over it may get the same answer.
pub(super) fn is_of_the_session(reply: &RecipientReply) -> bool {
    OF_THE_SESSION.contains(&reply.code)
}

/// Whether the server does not take what was said with a command, whatever address that was about: the status tells, RFC 3463
/// section 3.6 has X.5.1 and X.5.4 for it. Without one 555 is for parameters alone (RFC 5321 section 4.1.1.11), and 504 where no
/// address is spoken of; with an address servers mean by 504 that it has no full domain.
fn is_of_a_parameter(reply: &RecipientReply) -> bool {
    let has_address = matches!(reply.stage, Stage::Mail | Stage::Rcpt);
    match (reply.code, reply.status) {
        (501 | 504 | 553 | 555, Some((_, 5, 1 | 4))) => true,
        (504, _) => !has_address,
        (555, status) => !has_address || status.is_none(),
        _ => false,
    }
}

/// The enhanced status of a reply, in the class that we act by; without one, what RFC 3463 section 3.1 has for nothing known.
fn status(reply: &RecipientReply, class: u8) -> Status {
    reply.status.map_or(Status(class, 0, 0), |(_, subject, detail)| Status(class, subject, detail))
}

/// RFC 5321 section 4.5.3.1.10: 452 to a recipient says that these are enough for one message; old servers say 552. Both codes
/// have other meanings too, so more must speak for it: RFC 3463 section 3.6 has X.5.3 for it.
fn is_too_many(reply: &RecipientReply) -> bool {
    if !matches!(reply.stage, Stage::Rcpt | Stage::Unsent) || !matches!(reply.code, 452 | 552) {
        return false;
    }
    let said = || reply.text.to_ascii_lowercase().contains("too many recipients");
    match reply.status {
        Some((_, 5, 3)) => true,
        None if reply.code == 452 => true,
        _ => said(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stage: Stage, code: u16, status: Option<(u8, u16, u16)>, text: &str, want: &str) {
        let reply = RecipientReply { code, status, text: text.into(), stage };
        let remote: Rc<str> = "mx.example".into();
        let judgement = judge(&reply, How::Relayed, Some(&remote));
        let told = |reason: Reason| {
            let said = (stage != Stage::Unsent).then(|| remote.clone());
            assert_eq!((reason.code, &*reason.text, reason.remote), (code, text, said));
            let Status(class, subject, detail) = reason.status;
            format!("{class}.{subject}.{detail}")
        };
        let got = match judgement {
            Judgement::Outcome(Outcome::Delivered(How::Relayed)) => "delivered".to_owned(),
            Judgement::Outcome(Outcome::Deferred(reason)) => format!("deferred {}", told(reason)),
            Judgement::Outcome(Outcome::Failed(reason)) => format!("failed {}", told(reason)),
            Judgement::Blamed(reason) => format!("blamed {}", told(reason)),
            Judgement::Later(reason) => format!("later {}", told(reason)),
            Judgement::Outcome(other) => panic!("{other:?}"),
        };
        assert_eq!(got, want, "{code} {status:?} {text:?} at {stage:?}");
    }

    /// Postfix says it to senders and recipients without a full domain. Five such messages opened the breaker for everybody's.
    #[test]
    fn an_address_without_a_domain_is_not_held_against_the_server() {
        for stage in [Stage::Mail, Stage::Rcpt] {
            check(stage, 504, Some((5, 5, 2)), "<x>: need fully-qualified address", "failed 5.5.2");
        }
    }

    #[test]
    fn replies_are_judged() {
        for (stage, code, status, text, want) in [
            (Stage::End, 250, Some((2, 0, 0)), "queued", "delivered"),
            (Stage::End, 251, None, "forwarded", "delivered"),
            (Stage::Rcpt, 550, Some((5, 1, 1)), "no such user", "failed 5.1.1"),
            (Stage::Rcpt, 550, None, "no such user", "failed 5.0.0"),
            (Stage::Rcpt, 450, Some((4, 2, 1)), "later", "deferred 4.2.1"),
            (Stage::Mail, 554, Some((5, 7, 1)), "not from you", "failed 5.7.1"),
            (Stage::End, 552, Some((5, 3, 4)), "too large", "failed 5.3.4"),
            (Stage::End, 451, None, "later", "deferred 4.0.0"),
            (Stage::Mail, 421, Some((4, 3, 2)), "closing", "blamed 4.3.2"),
            // Of the server.
            (Stage::Mail, 530, Some((5, 7, 0)), "authenticate first", "blamed 4.7.0"),
            (Stage::Mail, 530, Some((5, 7, 0)), "STARTTLS first", "blamed 4.7.0"),
            (Stage::Rcpt, 535, None, "not with these", "blamed 4.0.0"),
            // Of the session.
            (Stage::Rcpt, 502, None, "what?", "deferred 4.0.0"),
            (Stage::Data, 500, Some((5, 5, 1)), "what?", "deferred 4.5.1"),
            (Stage::Mail, 503, Some((5, 5, 1)), "say hello first", "deferred 4.5.1"),
            (Stage::Mail, 521, None, "no mail here", "deferred 4.0.0"),
            (Stage::Rcpt, 521, Some((5, 7, 1)), "blocked", "deferred 4.7.1"),
            // Of a parameter.
            (Stage::Mail, 555, Some((5, 5, 4)), "what is SIZE?", "deferred 4.5.4"),
            (Stage::Mail, 555, None, "what is SIZE?", "deferred 4.0.0"),
            (Stage::Mail, 501, Some((5, 5, 4)), "bad SIZE", "deferred 4.5.4"),
            (Stage::Data, 504, None, "not so", "deferred 4.0.0"),
            (Stage::End, 555, Some((5, 5, 2)), "not so", "deferred 4.5.2"),
            // Of an address.
            (Stage::Rcpt, 504, None, "need fully-qualified address", "failed 5.0.0"),
            (Stage::Mail, 555, Some((5, 5, 2)), "syntax error", "failed 5.5.2"),
            (Stage::Mail, 501, Some((5, 1, 7)), "bad sender address syntax", "failed 5.1.7"),
            (Stage::Rcpt, 501, None, "bad recipient address syntax", "failed 5.0.0"),
            (Stage::Rcpt, 553, Some((5, 1, 8)), "no such domain", "failed 5.1.8"),
            // Enough recipients, or something else.
            (Stage::Rcpt, 452, Some((4, 5, 3)), "enough", "later 4.5.3"),
            (Stage::Rcpt, 452, None, "enough", "later 4.0.0"),
            (Stage::Rcpt, 452, Some((4, 3, 1)), "disk full", "deferred 4.3.1"),
            (Stage::Rcpt, 452, Some((4, 5, 0)), "Too many recipients", "later 4.5.0"),
            (Stage::Rcpt, 552, None, "Too many recipients", "later 4.0.0"),
            (Stage::Rcpt, 552, Some((5, 2, 2)), "mailbox full", "failed 5.2.2"),
            (Stage::Rcpt, 552, None, "mailbox full", "failed 5.0.0"),
            (Stage::End, 452, None, "disk full", "deferred 4.0.0"),
            // Not said to the server.
            (Stage::Unsent, 452, Some((4, 5, 3)), "enough", "later 4.5.3"),
            (Stage::Unsent, 553, Some((5, 1, 3)), "malformed", "failed 5.1.3"),
        ] {
            check(stage, code, status, text, want);
        }
    }
}
