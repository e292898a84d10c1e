//! The verb table: what each command is called, when it is allowed, and what it does. What each is answered is that of
//! RFC 5321 section 4.3.2.
//!
//! To add a verb is to write its function and its row.

use crate::client::{ClientInfo, ClientProtocol, ForwardInfo};
use crate::command::{BodyKind, Chunk, Mail, Rcpt};
use crate::greeting::{ehlo, helo};
use crate::machine::{Core, Helo, State};
use crate::options::{Protocol, TlsUse};
use crate::reply::{Reply, replies};
use crate::session::Step;
use crate::{LINE_MAX, PLAIN_LINE_MAX};

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

/// Where a verb is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Both,
    /// In this protocol only.
    Only(Protocol),
}

type Apply = fn(&mut Core, &str, &mut Vec<u8>) -> Option<Step>;

pub(crate) struct Verb {
    name: &'static str,
    on: On,
    line_max: usize,
    words: Words,
    after: After,
    /// Whether it is answered before TLS where TLS is required: NOOP, EHLO, STARTTLS and QUIT are (RFC 3207 section 4).
    in_clear: bool,
    apply: Apply,
}

const fn verb(name: &'static str, words: Words, after: After, in_clear: bool, apply: Apply) -> Verb {
    Verb { name, on: On::Both, line_max: PLAIN_LINE_MAX, words, after, in_clear, apply }
}

const SMTP: On = On::Only(Protocol::Smtp);
const LMTP: On = On::Only(Protocol::Lmtp);

static VERBS: [Verb; 17] = [
    Verb { line_max: LINE_MAX, ..verb("MAIL", Words::Some, After::Helo, false, mail) },
    Verb { line_max: LINE_MAX, ..verb("RCPT", Words::Some, After::Mail, false, rcpt) },
    verb("DATA", Words::None, After::Mail, false, data),
    // BDAT looks at sequence and TLS itself: its octets follow in any case and must be read away.
    verb("BDAT", Words::Any, After::Nothing, true, bdat),
    Verb { on: SMTP, ..verb("EHLO", Words::Some, After::Nothing, true, ehlo) },
    Verb { on: SMTP, ..verb("HELO", Words::Some, After::Nothing, false, helo) },
    // RFC 2033 section 4.1: instead of the two before.
    Verb { on: LMTP, ..verb("LHLO", Words::Some, After::Nothing, true, ehlo) },
    verb("QUIT", Words::None, After::Nothing, true, quit),
    verb("RSET", Words::None, After::Nothing, false, rset),
    verb("NOOP", Words::Any, After::Nothing, true, noop),
    verb("STARTTLS", Words::None, After::Helo, true, starttls),
    verb("VRFY", Words::Some, After::Nothing, false, vrfy),
    verb("HELP", Words::Any, After::Nothing, false, help),
    verb("EXPN", Words::Some, After::Nothing, false, expn),
    // Several attributes of up to 255 octets each.
    Verb { line_max: LINE_MAX, ..verb("XCLIENT", Words::Some, After::Nothing, false, xclient) },
    Verb { line_max: LINE_MAX, ..verb("XFORWARD", Words::Some, After::Nothing, false, xforward) },
    // No verb of SMTP, but the first word of a PROXY header of version 1.
    Verb { line_max: LINE_MAX, ..verb("PROXY", Words::Any, After::Nothing, true, proxy) },
];

/// Runs one command line, without its line end. What is answered here and now is counted.
pub(crate) fn run(core: &mut Core, line: &str, out: &mut Vec<u8>) -> Option<Step> {
    let line = line.trim_end_matches([' ', '\t']);
    let (name, arguments) = line.split_once(' ').unwrap_or((line, ""));
    let written = out.len();
    let step = apply(core, line, name, arguments, out);
    if out.len() > written && step != Some(Step::StartTls) {
        let is_greeting = ["EHLO", "HELO", "LHLO"].iter().any(|verb| verb.eq_ignore_ascii_case(name));
        let answered = &mut core.answered;
        let row = if is_greeting { &mut answered.greetings } else { &mut answered.others };
        *row = row.saturating_add(1);
    }
    step
}

fn apply(core: &mut Core, line: &str, name: &str, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    let arguments = arguments.trim_start_matches(' ');
    // RFC 5321 section 2.4: verbs are written in either case.
    let known = |verb: &&Verb| verb.on == On::Both || verb.on == On::Only(core.setup.protocol);
    let Some(verb) = VERBS.iter().filter(known).find(|verb| verb.name.eq_ignore_ascii_case(name)) else {
        let bdat = name.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("BDAT"));
        return core.refuse_line(replies::UNKNOWN_COMMAND, bdat, out);
    };
    // The two octets of CRLF count (RFC 5321 section 4.5.3.1.4), and lines are answered: RFC 5321 section 4.5.3.1.9.
    if line.len() + 2 > verb.line_max {
        return core.refuse_line(replies::LINE_TOO_LONG, verb.name == "BDAT", out);
    }
    match refusal(core, verb, arguments) {
        Some(reply) => core.reply(reply, out),
        None => (verb.apply)(core, arguments, out),
    }
}

/// Why a verb is not allowed here, or not in this form.
fn refusal(core: &Core, verb: &Verb, arguments: &str) -> Option<Reply> {
    if core.lacks_tls() && !verb.in_clear {
        return Some(replies::TLS_REQUIRED);
    }
    // RFC 5321 section 4.1.4: the order of commands.
    match verb.after {
        After::Helo | After::Mail if core.helo.is_none() => {
            let first = match core.setup.protocol {
                Protocol::Smtp => "say EHLO first",
                Protocol::Lmtp => "say LHLO first",
            };
            return Some(replies::BAD_SEQUENCE.with_detail(first));
        }
        After::Mail if core.transaction.is_none() => return Some(replies::BAD_SEQUENCE.with_detail("say MAIL first")),
        After::Mail if core.is_chunking() => return Some(replies::BAD_SEQUENCE.with_detail("BDAT is under way")),
        After::Nothing | After::Helo | After::Mail => {}
    }
    match (verb.words, arguments.is_empty()) {
        (Words::None, false) => Some(replies::SYNTAX.with_detail("no words after this command")),
        (Words::Some, true) => Some(replies::SYNTAX.with_detail("words missing after this command")),
        _ => None,
    }
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

/// RFC 5321 section 3.3; the declared size is looked at here (RFC 1870 section 6.1), and by whoever answers. A message
/// may turn out to be larger than was declared, up to the limit (RFC 1870 section 6.3).
fn mail(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    if core.transaction.is_some() {
        return core.reply(replies::BAD_SEQUENCE.with_detail("MAIL was already given"), out);
    }
    if let Some(reply) = core.used_up() {
        return core.reply(reply, out);
    }
    match Mail::parse(arguments) {
        Err(reply) => core.reply(reply, out),
        // RFC 8689 section 4.1: what needs TLS from end to end must have come so.
        Ok(mail) if mail.require_tls && !core.setup.secure => core.reply(replies::REQUIRETLS_NEEDS_TLS, out),
        Ok(mail) if mail.size.is_some_and(|size| size > core.announced().message_size_max.0) => {
            core.reply(replies::TOO_BIG, out)
        }
        Ok(mail) => {
            core.state = State::AnswerMail { utf8: mail.utf8, binary: mail.body == BodyKind::Binary };
            Some(Step::Mail(mail))
        }
    }
}

fn rcpt(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    let recipients_max = core.announced().recipients_max;
    let (utf8, recipients) = core.transaction.as_ref().map_or((false, 0), |t| (t.utf8, t.recipients));
    match Rcpt::parse(arguments, utf8) {
        Err(reply) => core.reply(reply, out),
        // RFC 5321 section 4.5.3.1.10: the ones before it stand, whether or not the client pipelined (RFC 9422 section
        // 3.3).
        Ok(_) if recipients as usize >= recipients_max => core.refuse_recipient(replies::TOO_MANY_RECIPIENTS, out),
        Ok(rcpt) => {
            core.state = State::AnswerRcpt;
            Some(Step::Rcpt(rcpt))
        }
    }
}

fn data(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    let (recipients, binary) = core.transaction.as_ref().map_or((0, false), |t| (t.recipients, t.binary));
    if recipients == 0 {
        return core.reply(no_recipients(core), out);
    }
    // RFC 3030 section 3.
    if binary {
        return core.reply(replies::BINARY_NEEDS_BDAT, out);
    }
    core.state = State::AnswerBegin { chunk: None };
    Some(Step::Begin)
}

/// RFC 2033 section 4.2 has a code of its own.
fn no_recipients(core: &Core) -> Reply {
    match core.setup.protocol {
        Protocol::Smtp => replies::NO_RECIPIENTS,
        Protocol::Lmtp => replies::NO_RECIPIENTS_LMTP,
    }
}

/// RFC 3030 section 2, and RFC 2033 section 4.3. A refusal is given after the chunk's octets were read away, so that
/// they are never commands.
fn bdat(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    let Some(chunk) = Chunk::parse(arguments) else {
        // How many octets follow can't be known, so nothing that follows can be trusted to be a command.
        return core.refuse_line(replies::SYNTAX.with_detail("BDAT size [LAST]"), true, out);
    };
    let refusal = if core.lacks_tls() {
        Some(replies::TLS_REQUIRED)
    } else {
        match core.transaction.as_ref().map(|transaction| transaction.recipients) {
            None => Some(replies::BAD_SEQUENCE.with_detail("say MAIL first")),
            Some(0) => Some(no_recipients(core)),
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
    core.idle(&replies::OK, out).or(reset)
}

/// RFC 5321 section 4.1.1.9.
fn noop(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.idle(&replies::OK, out)
}

fn quit(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.write(&replies::CLOSING, out);
    core.quit = true;
    Some(core.close())
}

/// RFC 5321 section 4.1.1.6. A server may decline to say who exists (RFC 5321 section 3.5.1, RFC 5321 section 3.5.3).
fn vrfy(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.idle(&replies::NOT_VERIFIED, out)
}

/// RFC 5321 section 7.3: lists are nobody's business; the command is known and not done.
fn expn(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.reply(replies::NOT_EXPANDED, out)
}

/// RFC 5321 section 4.1.1.8.
fn help(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    let reply = match core.setup.protocol {
        Protocol::Smtp => &replies::HELP,
        Protocol::Lmtp => &replies::HELP_LMTP,
    };
    core.idle(reply, out)
}

fn xclient(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    if let Some(reply) = not_for_others(core, core.setup.trust.xclient) {
        return core.reply(reply, out);
    }
    match ClientInfo::parse(arguments) {
        Err(reply) => core.reply(reply, out),
        Ok(info) => {
            let extended = info.proto == Some(ClientProtocol::Esmtp);
            let helo = info.helo.as_ref().map(|name| Box::new(Helo { name: name.clone(), extended }));
            core.state = State::AnswerClient { helo };
            Some(Step::Client(Box::new(info)))
        }
    }
}

fn xforward(core: &mut Core, arguments: &str, out: &mut Vec<u8>) -> Option<Step> {
    if let Some(reply) = not_for_others(core, core.setup.trust.xforward) {
        return core.reply(reply, out);
    }
    match ForwardInfo::parse(arguments) {
        Err(reply) => core.reply(reply, out),
        Ok(info) => {
            core.state = State::AnswerForward;
            Some(Step::Forward(Box::new(info)))
        }
    }
}

/// Why a peer may not speak for another client, or not now.
fn not_for_others(core: &Core, trusted: bool) -> Option<Reply> {
    if !trusted {
        return Some(replies::XCLIENT_DENIED);
    }
    core.transaction.is_some().then(|| replies::BAD_SEQUENCE.with_detail("a message is under way"))
}

fn proxy(core: &mut Core, _: &str, out: &mut Vec<u8>) -> Option<Step> {
    core.unexpected_proxy(out)
}
