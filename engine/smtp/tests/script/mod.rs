//! The text form of a dialogue, read. The test file that uses it says what it looks like.

use crate::driver::{Message, Refusals};
use ringpost_base::ByteCount;
use ringpost_smtp::{BareNewline, Options, Protocol, Reply, Setup, TlsUse, replies};
use std::rc::Rc;

/// A file: one session or several.
pub(crate) struct Script {
    pub(crate) sessions: Vec<Session>,
}

/// One session of a dialogue.
pub(crate) struct Session {
    /// Where it begins in the file.
    pub(crate) line: usize,
    pub(crate) setup: Setup,
    pub(crate) refusals: Refusals,
    /// What the client has said before the dialogue begins, in lines.
    pub(crate) start: String,
    pub(crate) lines: Vec<(usize, Line)>,
    pub(crate) end: Ending,
}

/// How a session stands at the end of its dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Open,
    Closed,
    Quit,
}

/// What happens in a dialogue.
pub(crate) enum Line {
    Send(Vec<u8>),
    Expect(String),
    ExpectLast(String),
    ExpectWithId(String),
    Presented(String),
    Reload(Options),
    Silence,
    Handshake,
    Message(Message),
}

impl Script {
    /// Reads a file; panics, with the line's number, at what it can't read.
    pub(crate) fn parse(text: &str) -> Self {
        let mut sessions = Vec::new();
        let mut reader = Reader::new(1);
        for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
            if line == "---" {
                sessions.push(std::mem::replace(&mut reader, Reader::new(number + 1)).finish());
            } else if !line.is_empty() && !line.starts_with('#') {
                reader.line(number, line).unwrap_or_else(|| panic!("line {number} can't be read: {line}"));
            }
        }
        sessions.push(reader.finish());
        Self { sessions }
    }
}

struct Reader {
    options: Options,
    /// What the last `@reload` has made of them.
    reloaded: Option<Options>,
    /// What the client has said before the dialogue begins, as a word.
    start: String,
    end: Option<Ending>,
    session: Session,
}

impl Reader {
    fn new(line: usize) -> Self {
        let (setup, refusals, lines) = (Setup::example(), Refusals::default(), Vec::new());
        let session = Session { line, setup, refusals, start: String::new(), lines, end: Ending::Open };
        Self { options: Options::default(), reloaded: None, start: "ehlo".to_owned(), end: None, session }
    }

    fn finish(mut self) -> Session {
        let line = self.session.line;
        let hello = if self.session.setup.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
        let start = start(&self.start).unwrap_or_else(|| panic!("the session of line {line} starts nowhere"));
        self.session.start = start.replace("EHLO", hello);
        self.session.setup.options = Rc::new(self.options);
        self.session.end = self.end.unwrap_or_else(|| panic!("the session of line {line} has no @end"));
        self.session
    }

    fn line(&mut self, number: usize, line: &str) -> Option<()> {
        assert!(self.end.is_none(), "line {number} comes after @end");
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let line = match mark {
            "c:" => Line::Send([rest.as_bytes(), b"\r\n"].concat()),
            "c|" => Line::Send(octets(rest)?),
            "s:" => Line::Expect(rest.into()),
            "s.." => Line::ExpectLast(rest.into()),
            "s=" => Line::ExpectWithId(rest.into()),
            "@presented" => Line::Presented(rest.into()),
            "@reload" => {
                let mut options = self.reloaded.take().unwrap_or_else(|| self.options.clone());
                let (name, value) = rest.split_once(' ')?;
                option(&mut options, name, value)?;
                self.reloaded = Some(options.clone());
                Line::Reload(options)
            }
            "@silence" => Line::Silence,
            "@handshake" => Line::Handshake,
            "@message" => Line::Message(message(rest)?),
            ">" | ">|" => {
                let Some((_, Line::Message(message))) = self.session.lines.last_mut() else { return None };
                let body = if mark == ">" { [rest.as_bytes(), b"\r\n"].concat() } else { octets(rest)? };
                message.body.extend(body);
                return Some(());
            }
            _ => return self.directive(mark, rest),
        };
        self.session.lines.push((number, line));
        Some(())
    }

    fn directive(&mut self, name: &str, words: &str) -> Option<()> {
        let (first, second) = words.split_once(' ').unwrap_or((words, ""));
        let refusals = &mut self.session.refusals;
        match name {
            "@start" => words.clone_into(&mut self.start),
            "@protocol" => self.session.setup.protocol = protocol(words)?,
            "@tls-required" => self.session.setup.tls_required = true,
            "@trust" => match words {
                "xclient" => self.session.setup.trust.xclient = true,
                "xforward" => self.session.setup.trust.xforward = true,
                _ => return None,
            },
            "@tls" => (self.session.setup.tls, self.session.setup.secure) = tls(words)?,
            "@option" => option(&mut self.options, first, second)?,
            "@refuse-mail" => refusals.mail.push((first.into(), reply(second)?)),
            "@refuse-rcpt" => refusals.rcpt.push((first.into(), reply(second)?)),
            "@refuse-data" => refusals.begin = Some(reply(words)?),
            "@refuse-message" => refusals.message = Some(reply(words)?),
            "@refuse-client" => refusals.client = Some(reply(words)?),
            "@refuse-forward" => refusals.forward = Some(reply(words)?),
            "@end" => self.end = Some(ending(words)?),
            _ => return None,
        }
        Some(())
    }
}

fn option(options: &mut Options, name: &str, value: &str) -> Option<()> {
    match (name, value) {
        ("message_size_max", number) => options.message_size_max = ByteCount(number.parse().ok()?),
        ("recipients_max", number) => options.recipients_max = number.parse().ok()?,
        ("errors_max", number) => options.errors_max = number.parse().ok()?,
        ("commands_max", number) => options.commands_max = number.parse().ok()?,
        ("unknown_recipients_max", number) => options.unknown_recipients_max = number.parse().ok()?,
        ("messages_per_session", number) => options.messages_per_session = number.parse().ok()?,
        ("bare_newline", "reject") => options.bare_newline = BareNewline::Reject,
        ("bare_newline", "repair") => options.bare_newline = BareNewline::Repair,
        ("hostname", name) => name.clone_into(&mut options.hostname),
        _ => return None,
    }
    Some(())
}

fn start(word: &str) -> Option<&'static str> {
    Some(match word {
        "connect" => "",
        "ehlo" => "EHLO client.example",
        "mail" => "EHLO client.example\nMAIL FROM:<alice@client.example>",
        "rcpt" => "EHLO client.example\nMAIL FROM:<alice@client.example>\nRCPT TO:<bob@example.com>",
        _ => return None,
    })
}

fn protocol(word: &str) -> Option<Protocol> {
    Some(match word {
        "smtp" => Protocol::Smtp,
        "lmtp" => Protocol::Lmtp,
        _ => return None,
    })
}

/// How the listener uses TLS, and whether it is on from the first octet.
fn tls(word: &str) -> Option<(TlsUse, bool)> {
    Some(match word {
        "off" => (TlsUse::Off, false),
        "starttls" => (TlsUse::Starttls, false),
        "starttls-required" => (TlsUse::StarttlsRequired, false),
        "implicit" => (TlsUse::Implicit, true),
        _ => return None,
    })
}

/// One reply of each code that a driver refuses with.
fn reply(code: &str) -> Option<Reply> {
    [
        replies::BANNED_SESSION,
        replies::GREYLISTED,
        replies::STORAGE_FAILED,
        replies::BUSY,
        replies::TLS_REQUIRED,
        replies::NO_SUCH_USER,
        replies::LOOP,
    ]
    .into_iter()
    .find(|reply| reply.code().to_string() == code)
}

fn ending(word: &str) -> Option<Ending> {
    Some(match word {
        "open" => Ending::Open,
        "closed" => Ending::Closed,
        "quit" => Ending::Quit,
        _ => return None,
    })
}

/// `<from> -> <to> <to>[parameter] parameter parameter`, in which no address may contain a blank.
fn message(text: &str) -> Option<Message> {
    let address = |word: &str| Some(word.strip_prefix('<')?.strip_suffix('>')?.to_owned());
    let (from, rest) = text.split_once(" -> ")?;
    let (to, parameters): (Vec<&str>, Vec<&str>) = rest.split(' ').partition(|word| word.starts_with('<'));
    let to = to.into_iter().map(str::to_owned).collect();
    let parameters = parameters.into_iter().map(Into::into).collect();
    Some(Message { from: address(from)?, to, parameters, body: Vec::new() })
}

/// Octets written with the escapes `\r \n \t \0 \\ \{ \xHH`, and `{text*times}` for repetitions.
fn octets(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => rest = escape(rest, &mut octets)?,
            '{' => {
                let (repetition, after) = rest.split_once('}')?;
                let (inner, times) = repetition.rsplit_once('*')?;
                octets.extend(self::octets(inner)?.repeat(times.parse().ok()?));
                rest = after;
            }
            c => octets.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(octets)
}

fn escape<'a>(text: &'a str, octets: &mut Vec<u8>) -> Option<&'a str> {
    let (letter, rest) = text.split_at_checked(1)?;
    octets.push(match letter {
        "r" => b'\r',
        "n" => b'\n',
        "t" => b'\t',
        "0" => 0,
        "\\" => b'\\',
        "{" => b'{',
        "x" => {
            let (digits, rest) = rest.split_at_checked(2)?;
            octets.push(u8::from_str_radix(digits, 16).ok()?);
            return Some(rest);
        }
        _ => return None,
    });
    Some(rest)
}
