//! What a server's reply means for a recipient.
//!
//! A 5xx is final only where it speaks of the message or the recipient. One that speaks of the session (a command it does
//! not know, an authentication that it wants) is an error in somebody's configuration, and must not send mail back.

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

/// Codes of replies that speak of the session and not of the message: commands or parameters that the server does not
/// have (RFC 5321 section 4.2.4), authentication or encryption that it wants (RFC 4954 section 6, RFC 3207 section 4), and
/// that it takes no mail at all (RFC 7504 section 3).
const OF_THE_SESSION: [u16; 10] = [500, 502, 503, 504, 521, 530, 534, 535, 538, 555];

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
        500..=599 if OF_THE_SESSION.contains(&reply.code) => Judgement::Blamed(reason(4)),
        500..=599 => Judgement::Outcome(Outcome::Failed(reason(5))),
        _ => Judgement::Outcome(Outcome::Deferred(reason(4))),
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
            // Of the session.
            (Stage::Mail, 530, Some((5, 7, 0)), "authenticate first", "blamed 4.7.0"),
            (Stage::Mail, 530, Some((5, 7, 0)), "STARTTLS first", "blamed 4.7.0"),
            (Stage::Rcpt, 502, None, "what?", "blamed 4.0.0"),
            (Stage::Data, 500, Some((5, 5, 1)), "what?", "blamed 4.5.1"),
            (Stage::Mail, 555, Some((5, 5, 4)), "what is SIZE?", "blamed 4.5.4"),
            (Stage::Mail, 521, None, "no mail here", "blamed 4.0.0"),
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
