//! The verb table: what each command is called, when it is allowed, and what it does.
//!
//! To add a verb is to write its function and its row.

use crate::command::{Chunk, Mail, Rcpt};
use crate::options::TlsUse;
use crate::reply::{Class, Line, Reply, replies};
use crate::session::{Core, Helo, State, Step, Transaction};
use crate::{LINE_MAX, PLAIN_LINE_MAX};
use std::fmt::Write;

/// Whether a verb takes words after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    None,
    Some,
    Any,
}

/// What must have happened before a verb.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Nothing,
    /// HELO or EHLO.
    Helo,
    /// MAIL, and no BDAT yet.
    Mail,
}

type Apply = fn(&mut Core, &str, &mut Vec<u8>) -> Option<Step>;

pub(crate) struct Verb {
    name: &'static str,
    line_max: usize,
    words: Words,
    after: After,
    /// Whether it is answered before TLS where TLS is required (RFC 3207 section 4).
    in_clear: bool,
    apply: Apply,
}

const fn verb(name: &'static str, words: Words, after: After, in_clear: bool, apply: Apply) -> Verb {
    Verb { name, line_max: PLAIN_LINE_MAX, words, after, in_clear, apply }
}

static VERBS: [Verb; 13] = [
    Verb { line_max: LINE_MAX, ..verb("MAIL", Words::Some, After::Helo, false, mail) },
    Verb { line_max: LINE_MAX, ..verb("RCPT", Words::Some, After::Mail, false, rcpt) },
    verb("DATA", Words::None, After::Mail, false, data),
    // BDAT looks at sequence and TLS itself: its octets follow in any case and must be read away.
    verb("BDAT", Words::Any, After::Nothing, true, bdat),
    verb("EHLO", Words::Some, After::Nothing, true, ehlo),
    verb("HELO", Words::Some, After::Nothing, true, helo),
    verb("QUIT", Words::None, After::Nothing, true, quit),
    verb("RSET", Words::None, After::Nothing, true, rset),
    verb("NOOP", Words::Any, After::Nothing, true, noop),
    verb("STARTTLS", Words::None, After::Helo, true, starttls),
    verb("VRFY", Words::Some, After::Nothing, false, vrfy),
    verb("HELP", Words::Any, After::Nothing, true, help),
    verb("EXPN", Words::Some, After::Nothing, false, expn),
];

/// Runs one command line, without its line end.
pub(crate) fn run(core: &mut Core, line: &str, out: &mut Vec<u8>) -> Option<Step> {
    let line = line.trim_end_matches([' ', '\t']);
    let (name, arguments) = line.split_once(' ').unwrap_or((line, ""));
    let arguments = arguments.trim_start_matches(' ');
    let Some(verb) = VERBS.iter().find(|verb| verb.name.eq_ignore_ascii_case(name)) else {
        let bdat = name.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("BDAT"));
        return core.refuse_line(replies::UNKNOWN_COMMAND, bdat, out);
    };
    // The two octets of CRLF count (RFC 5321 section 4.5.3.1.4), and lines are answered: RFC 5321 section 4.5.3.1.9.
    if line.len() + 2 > verb.line_max {
        return core.refuse_line(replies::LINE_TOO_LONG, verb.name == "BDAT", out);
    }
    // RFC 5321 section 4.1.4: the order of commands.
    let refusal = if core.lacks_tls() && !verb.in_clear {
        Some(replies::TLS_REQUIRED)
    } else {
        match verb.after {
            After::Helo | After::Mail if core.helo.is_none() => {
                Some(replies::BAD_SEQUENCE.with_detail("say EHLO first"))
            }
            After::Mail if core.transaction.is_none() => Some(replies::BAD_SEQUENCE.with_detail("say MAIL first")),
            After::Mail if core.is_chunking() => Some(replies::BAD_SEQUENCE.with_detail("BDAT is under way")),
            _ => match (verb.words, arguments.is_empty()) {
                (Words::None, false) => Some(replies::SYNTAX.with_detail("no words after this command")),
                (Words::Some, true) => Some(replies::SYNTAX.with_detail("words missing after this command")),
                _ => None,
            },
        }
    };
    match refusal {
        Some(reply) => core.reply(reply, out),
        None => (verb.apply)(core, arguments, out),
    }
}

/// RFC 5321 section 4.1.1.1 and RFC 5321 section 3.2; the keywords are those of the extensions this server has, among them
/// RFC 6531 section 3.1.
fn ehlo(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    let reset = core.reset();
    core.greeted(arguments, true);
    core.tally.count(Class::Positive);
    let options = &core.setup.options;
    let mut line = Line(out);
    let _ = write!(
        line,
        "250-{}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n",
        options.hostname, options.message_size_max.0
    );
    if core.offers_tls() {
        let _ = write!(line, "250-STARTTLS\r\n");
    }
    let _ = write!(line, "250 ENHANCEDSTATUSCODES\r\n");
    reset
}

fn helo(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    let reset = core.reset();
    core.greeted(arguments, false);
    core.tally.count(Class::Positive);
    let _ = write!(Line(out), "250 {}\r\n", core.setup.options.hostname);
    reset
}

/// RFC 3207 section 4. What the client sent behind this line is the driver's to throw away.
fn starttls(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    if core.setup.secure || core.setup.tls == TlsUse::Implicit {
        return core.reply(replies::BAD_SEQUENCE.with_detail("TLS is already on"), out);
    }
    if core.setup.tls == TlsUse::Off {
        return core.reply(replies::NO_TLS, out);
    }
    if core.transaction.is_some() {
        return core.reply(replies::BAD_SEQUENCE.with_detail("a message is under way"), out);
    }
    core.write(&replies::TLS_GO, out);
    core.state = State::Handshake;
    Some(Step::StartTls)
}

/// RFC 5321 section 3.3; the declared size is looked at here (RFC 1870 section 6.1).
fn mail(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    if core.transaction.is_some() {
        return core.reply(replies::BAD_SEQUENCE.with_detail("MAIL was already given"), out);
    }
    match Mail::parse(arguments) {
        Err(reply) => core.reply(reply, out),
        Ok(mail) if mail.size.is_some_and(|size| size > core.setup.options.message_size_max.0) => {
            core.reply(replies::TOO_BIG, out)
        }
        Ok(mail) => {
            core.state = State::AnswerMail { utf8: mail.utf8 };
            Some(Step::Mail(mail))
        }
    }
}

fn rcpt(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    let recipients_max = core.setup.options.recipients_max;
    let (utf8, recipients) = core.transaction.as_ref().map_or((false, 0), |t| (t.utf8, t.recipients));
    match Rcpt::parse(arguments, utf8) {
        Err(reply) => core.reply(reply, out),
        // RFC 5321 section 4.5.3.1.10: the ones before it stand.
        Ok(_) if recipients >= recipients_max => core.reply(replies::TOO_MANY_RECIPIENTS, out),
        Ok(rcpt) => {
            core.state = State::AnswerRcpt;
            Some(Step::Rcpt(rcpt))
        }
    }
}

fn data(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    if core.transaction.as_ref().is_none_or(|t| t.recipients == 0) {
        return core.reply(replies::NO_RECIPIENTS, out);
    }
    core.state = State::AnswerBegin { chunk: None };
    Some(Step::Begin)
}

/// RFC 3030 section 2. A refusal is given after the chunk's octets were read away, so that they are never commands.
fn bdat(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    let Some(chunk) = Chunk::parse(arguments) else {
        // How many octets follow can't be known, so nothing that follows can be trusted to be a command.
        core.write(&replies::SYNTAX.with_detail("BDAT size [LAST]"), out);
        return Some(core.close());
    };
    let refusal = if core.lacks_tls() {
        Some(replies::TLS_REQUIRED)
    } else {
        match &core.transaction {
            None => Some(replies::BAD_SEQUENCE.with_detail("say MAIL first")),
            Some(Transaction { recipients: 0, .. }) => Some(replies::NO_RECIPIENTS),
            Some(_) => None,
        }
    };
    match refusal {
        Some(reply) => core.skip_chunk(chunk, reply),
        None if core.is_chunking() => core.resume_chunk(chunk),
        None => {
            core.state = State::AnswerBegin { chunk: Some(chunk) };
            return Some(Step::Begin);
        }
    }
    None
}

/// RFC 5321 section 4.1.1.5.
fn rset(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    let reset = core.reset();
    core.reply(replies::OK, out).or(reset)
}

/// RFC 5321 section 4.1.1.9.
fn noop(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.reply(replies::OK, out)
}

fn quit(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.write(&replies::CLOSING, out);
    core.quit = true;
    Some(core.close())
}

/// RFC 5321 section 4.1.1.6, and RFC 5321 section 3.5.3: a server may decline to say who exists.
fn vrfy(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.reply(replies::NOT_VERIFIED, out)
}

/// RFC 5321 section 7.3: lists are nobody's business; the command is known and not done.
fn expn(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.reply(replies::NOT_EXPANDED, out)
}

/// RFC 5321 section 4.1.1.8.
fn help(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.reply(replies::HELP, out)
}

impl Core {
    fn greeted(&mut self, arguments: &str, extended: bool) {
        let name = arguments.split(' ').next().unwrap_or_default();
        self.helo = Some(Helo { name: name.into(), extended });
    }

    /// Writes a reply and counts it; too many errors close the session.
    pub(crate) fn reply(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        self.write(&reply, out);
        if reply.class() != Class::Permanent {
            return None;
        }
        self.errors += 1;
        if self.errors < self.setup.options.errors_max {
            return None;
        }
        self.write(&replies::TOO_MANY_ERRORS, out);
        Some(self.close())
    }
}
