//! Dialogues of a sender as text files that a person can read: what the server sends, what we answer, and what becomes of the
//! messages. Each is run as written and octet by octet, with the message in pieces of several sizes; all must come out the same.
//!
//! ```text
//! # a comment                          ---   (alone on a line) a new session begins
//! @start connect | FOLDED LIST         how the session begins: `connect` before the banner; else with banner and EHLO
//!                                      answered, the latter with these extensions, `;` between them
//! @protocol smtp | lmtp                @tls off | opportunistic | required          @secure
//!
//! s: text                              the server sends a line; lines with nothing between them come together
//! s| a\r\n\xFF{x*600}                  the server sends just these octets; the last form repeats
//! c: text                              we have sent a line
//! c| octets                            we have sent just these octets
//! @silence                             we have sent nothing more
//! @send <from> -> <to> <to>[notify=never][orcpt=x] 8bit binary utf8 requiretls size=N ret=full envid=x
//! > a line of its message              >| octets of it
//! @handshake                           TLS begins, as we have asked for
//! @reset                               @quit              @lost   (the connection breaks)
//!
//! @told 550 5.1.1 rcpt text            what became of the next recipient; the status is - if there is none
//! @unsendable 5.3.4 text               the message could not be sent to this server; `*` is any text
//! @refused nonsense 0 4.5.0 text       why the session is of no use
//! @end idle | waiting | refused | closed
//! ```

mod sender_driver;

use ringpost_smtp::sender::{
    EnhancedStatus, FaultKind, Outgoing, OutgoingRecipient, RecipientReply, Sender, SenderSetup, SenderStep, SenderTls,
};
use ringpost_smtp::{Protocol, Ret};
use sender_driver::{Driver, Letter, Record};

/// In which sizes the messages are given, beside as a whole.
const SIZES: [&[usize]; 3] = [&[1], &[3, 1, 2], &[7]];

fn check(text: &str) {
    let mut first = 1;
    for session in text.split("\n---\n") {
        let script = Script::read(session, first);
        let as_written = play(&script, false, &[usize::MAX]);
        for sizes in SIZES {
            assert_eq!(play(&script, true, sizes), as_written, "session of line {first}: by octets, {sizes:?}");
            assert_eq!(play(&script, false, sizes), as_written, "session of line {first}: {sizes:?}");
        }
        first += session.matches('\n').count() + 2;
    }
}

/// What happens in a dialogue, with the number of its line.
struct Script {
    setup: SenderSetup,
    /// The extensions of the answer to EHLO, if the session begins behind it.
    offers: Option<String>,
    events: Vec<(usize, Event)>,
}

#[derive(Clone)]
enum Event {
    Server(Vec<u8>),
    Client(Vec<u8>),
    Silence,
    Send(Box<Letter>),
    Handshake,
    Reset,
    Quit,
    Lost,
    Told(String),
    Unsendable(String),
    Refused(String),
    End(String),
}

impl Script {
    fn read(text: &str, first: usize) -> Self {
        let setup = SenderSetup { helo: "mx.example".into(), ..SenderSetup::default() };
        let mut script = Self { setup, offers: Some(String::new()), events: Vec::new() };
        for (number, line) in text.lines().enumerate().map(|(at, line)| (at + first, line)) {
            if !line.is_empty() && !line.starts_with('#') {
                script.line(number, line).unwrap_or_else(|| panic!("line {number} can't be read: {line}"));
            }
        }
        assert!(matches!(script.events.last(), Some((_, Event::End(_)))), "the session of line {first} has no @end");
        script
    }

    fn line(&mut self, number: usize, line: &str) -> Option<()> {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let whole_line = || [rest.as_bytes(), b"\r\n"].concat();
        let event = match mark {
            "s:" => Event::Server(whole_line()),
            "s|" => Event::Server(octets(rest)?),
            "c:" => Event::Client(whole_line()),
            "c|" => Event::Client(octets(rest)?),
            "@silence" => Event::Silence,
            "@send" => Event::Send(Box::new(letter(rest)?)),
            ">" | ">|" => {
                let Some((_, Event::Send(letter))) = self.events.last_mut() else { return None };
                letter.body.extend(if mark == ">" { whole_line() } else { octets(rest)? });
                return Some(());
            }
            "@handshake" => Event::Handshake,
            "@reset" => Event::Reset,
            "@quit" => Event::Quit,
            "@lost" => Event::Lost,
            "@told" => Event::Told(rest.into()),
            "@unsendable" => Event::Unsendable(rest.into()),
            "@refused" => Event::Refused(rest.into()),
            "@end" => Event::End(rest.into()),
            _ => return self.directive(mark, rest),
        };
        // What comes together is one event.
        match (self.events.last_mut(), event) {
            (Some((_, Event::Server(before))), Event::Server(more)) => before.extend(more),
            (_, event) => self.events.push((number, event)),
        }
        Some(())
    }

    fn directive(&mut self, name: &str, word: &str) -> Option<()> {
        match (name, word) {
            ("@start", "connect") => self.offers = None,
            ("@start", offers) => self.offers = Some(offers.into()),
            ("@protocol", "smtp") => self.setup.protocol = Protocol::Smtp,
            ("@protocol", "lmtp") => self.setup.protocol = Protocol::Lmtp,
            ("@tls", "off") => self.setup.tls = SenderTls::Off,
            ("@tls", "opportunistic") => self.setup.tls = SenderTls::Opportunistic,
            ("@tls", "required") => self.setup.tls = SenderTls::Required,
            ("@secure", "") => self.setup.secure = true,
            _ => return None,
        }
        Some(())
    }
}

/// Plays a session. What is expected is compared only as written: the other ways are compared with that one.
fn play(script: &Script, by_octets: bool, sizes: &[usize]) -> Record {
    let mut driver = Driver::new(script.setup.clone(), sizes);
    let compare = !by_octets && sizes == [usize::MAX];
    let mut seen = Seen::default();
    if let Some(offers) = &script.offers {
        driver.feed(b"220 next.example ESMTP\r\n");
        let offers = offers.split(';').map(str::trim).filter(|offer| !offer.is_empty());
        let lines: String = offers.map(|offer| format!("250-{offer}\r\n")).collect();
        driver.feed(format!("250-next.example\r\n{lines}250 HELP\r\n").as_bytes());
        seen.sent = driver.record.sent.len();
    }
    for (number, event) in &script.events {
        match event {
            Event::Server(text) if by_octets => text.chunks(1).for_each(|octet| driver.feed(octet)),
            Event::Server(text) => driver.feed(text),
            Event::Send(letter) => driver.send((**letter).clone()),
            Event::Handshake => driver.handshake(),
            Event::Reset => driver.reset(),
            Event::Quit => driver.quit(),
            Event::Lost => driver.lose(),
            expected if compare => seen.expect(*number, expected, &driver),
            _ => {}
        }
    }
    driver.record
}

/// What of the record the dialogue has spoken of.
#[derive(Default)]
struct Seen {
    sent: usize,
    told: usize,
    unsendable: usize,
    fault: bool,
}

impl Seen {
    fn expect(&mut self, number: usize, expected: &Event, driver: &Driver) {
        let record = &driver.record;
        match expected {
            Event::Client(octets) => {
                let sent = &record.sent[self.sent..];
                let (want, got) = (octets.escape_ascii(), sent.escape_ascii());
                assert!(sent.starts_with(octets), "line {number}: expected {want}, we sent {got}");
                self.sent += octets.len();
            }
            Event::Silence => self.expect_silence(number, record),
            Event::Told(want) => {
                let told = record.done.iter().flatten().nth(self.told);
                let told = told.unwrap_or_else(|| panic!("line {number}: nobody was told of"));
                let stage = format!("{:?}", told.stage).to_lowercase();
                let got = format!("{} {} {stage} {}", told.code, status(told.status), told.text);
                assert!(matches(want, &got), "line {number}: expected {want}, it is {got}");
                self.told += 1;
            }
            Event::Unsendable(want) => {
                let got = record.unsendable.get(self.unsendable);
                let got = got.unwrap_or_else(|| panic!("line {number}: it could be sent")).to_string();
                assert!(matches(want, &got), "line {number}: expected {want}, it is {got}");
                self.unsendable += 1;
            }
            Event::Refused(want) => {
                let fault = record.fault.as_ref().unwrap_or_else(|| panic!("line {number}: nothing is refused"));
                let kind = format!("{:?}", fault.kind).to_lowercase();
                let got = format!("{kind} {} {} {}", fault.code, status(fault.status), fault.text);
                assert!(matches(want, &got), "line {number}: expected {want}, it is {got}");
                self.fault = true;
            }
            Event::End(want) => self.expect_end(number, want, driver),
            _ => {}
        }
    }

    fn expect_silence(&self, number: usize, record: &Record) {
        let unseen = &record.sent[self.sent..];
        assert!(unseen.is_empty(), "line {number}: we sent more: {}", unseen.escape_ascii());
    }

    fn expect_end(&self, number: usize, want: &str, driver: &Driver) {
        let record = &driver.record;
        self.expect_silence(number, record);
        let more = record.done.iter().flatten().nth(self.told);
        assert!(more.is_none(), "line {number}: somebody else was told of: {more:?}");
        assert_eq!(record.unsendable.len(), self.unsendable, "line {number}: more could not be sent");
        assert_eq!(record.fault.is_some(), self.fault, "line {number}: {:?}", record.fault);
        let got = match (record.closed, record.fault.is_some(), driver.sender.is_idle()) {
            (true, ..) => "closed",
            (_, true, _) => "refused",
            (_, _, true) => "idle",
            _ => "waiting",
        };
        assert_eq!(got, want, "line {number}");
        assert!(!driver.is_handshaking, "line {number}: a handshake is missing");
    }
}

fn status(status: Option<EnhancedStatus>) -> String {
    status.map_or_else(|| "-".to_owned(), |(class, subject, detail)| format!("{class}.{subject}.{detail}"))
}

/// Whether `text` is what `pattern` says, where `*` at its end stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern.trim_end() == text.trim_end(),
    }
}

/// `<from> -> <to> <to>[parameter] parameter parameter`, in which no address may contain a blank.
fn letter(text: &str) -> Option<Letter> {
    let (from, rest) = text.split_once(" -> ").or_else(|| Some((text.strip_suffix(" ->")?, "")))?;
    let mut letter = Letter { from: from.strip_prefix('<')?.strip_suffix('>')?.into(), ..Letter::default() };
    for word in rest.split(' ').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            _ if word.starts_with('<') => letter.to.push(recipient(word)?),
            None => match word {
                "8bit" => letter.eight_bit = true,
                "binary" => letter.binary = true,
                "utf8" => letter.utf8 = true,
                "requiretls" => letter.require_tls = true,
                _ => return None,
            },
            Some(("size", size)) => letter.size = Some(size.parse().ok()?),
            Some(("ret", "full")) => letter.ret = Some(Ret::Full),
            Some(("ret", "hdrs")) => letter.ret = Some(Ret::Headers),
            Some(("envid", envid)) => letter.envid = Some(envid.into()),
            Some(_) => return None,
        }
    }
    Some(letter)
}

fn recipient(word: &str) -> Option<(String, Option<String>, Option<String>)> {
    let (address, parameters) = word.strip_prefix('<')?.split_once('>')?;
    let parameter = |name: &str| {
        let (_, rest) = parameters.split_once(&format!("[{name}="))?;
        Some(rest.split_once(']')?.0.to_owned())
    };
    Some((address.into(), parameter("notify"), parameter("orcpt")))
}

/// Octets written with the escapes `\r \n \0 \\ \xHH`, and `{text*times}` for repetitions.
fn octets(text: &str) -> Option<Vec<u8>> {
    let (mut octets, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let (letter, after) = rest.split_at_checked(1)?;
                rest = after;
                octets.push(match letter {
                    "r" => b'\r',
                    "n" => b'\n',
                    "0" => 0,
                    "\\" => b'\\',
                    "x" => {
                        let (digits, after) = rest.split_at_checked(2)?;
                        rest = after;
                        u8::from_str_radix(digits, 16).ok()?
                    }
                    _ => return None,
                });
            }
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

/// A test for each dialogue, named after it.
macro_rules! dialogues {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(include_str!(concat!("sender/", stringify!($name), ".txt")));
        })*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

dialogues! {
    addresses_that_would_be_commands
    banner_refuses
    bdat
    bdat_large
    bdat_refused
    connection_lost
    data_asked_for_nobody
    data_refused
    data_repairs_newlines
    dsn
    ehlo_refused
    eight_bit_and_binary
    idle_session
    limits
    lmtp
    lmtp_bdat
    mail_refused
    messages_in_a_row
    nonsense
    overlong_replies
    pipelining
    pipelining_in_groups
    quit
    rcpt_refused
    requiretls
    server_closes
    size
    smtputf8
    starttls
    starttls_forgets
    starttls_injection
    starttls_refused
    too_many_recipients
    without_pipelining
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test looks for files that the list above leaves out")]
fn every_dialogue_is_listed() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sender");
    for entry in std::fs::read_dir(folder).expect("the folder of dialogues") {
        let path = entry.expect("a file").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        assert!(NAMES.contains(&name), "{name} is not listed");
    }
    assert!(NAMES.is_sorted(), "the list is in order");
}

/// A sender that has begun a message to `bob` and `carol`, of which `bob` is refused, and is asked for its octets; with what it
/// has sent of it.
fn in_body(offer: &str, go_on: &str) -> (Sender, Vec<u8>) {
    let mut sender = Sender::new(SenderSetup { helo: "mx.example".into(), ..SenderSetup::default() });
    let mut out = Vec::new();
    sender.advance(format!("220 next\r\n250-next\r\n250-8BITMIME\r\n250 {offer}\r\n").as_bytes(), &mut out);
    let recipients = ["bob@example.com", "carol@example.com"]
        .map(|address| OutgoingRecipient { address, ..OutgoingRecipient::default() });
    let outgoing = Outgoing { from: "", recipients: &recipients, size: 7, ..Outgoing::default() };
    sender.begin(&outgoing, &mut out).expect("it can be sent");
    let (_, step) = sender.advance(format!("250 ok\r\n550 nobody\r\n250 ok\r\n{go_on}").as_bytes(), &mut out);
    assert_eq!(step, SenderStep::Body);
    (sender, Vec::new())
}

fn codes(replies: &[RecipientReply]) -> Vec<u16> {
    replies.iter().map(|reply| reply.code).collect()
}

/// A server that refuses in the middle of the message and closes: its words are read when nothing more can be sent.
#[test]
fn refused_in_the_middle_of_data() {
    for (unread, want) in [
        ("552 5.3.4 too big\r\n", [550, 552]),
        ("552-too\r\n552 big\r\n", [550, 552]),
        ("421 closing\r\n", [550, 421]),
        ("250 taken\r\n552 5.3.4 too big\r\n", [550, 552]),
        // What was not sent as a whole can't be taken.
        ("250 taken\r\n", [550, 0]),
        ("552 5.3.4 too b", [550, 0]),
        ("what\r\n", [550, 0]),
        ("", [550, 0]),
    ] {
        let (mut sender, mut out) = in_body("HELP", "354 go on\r\n");
        sender.body(b"hel", false, &mut out);
        assert_eq!(codes(&sender.lost(unread.as_bytes())), want, "{unread:?}");
        assert_eq!(sender.advance(b"", &mut out), (0, SenderStep::Closed));
        assert_eq!(out, b"hel");
    }
}

/// A message that isn't of the size that was announced must not be whole to the server, which has only that to go by.
#[test]
fn message_of_a_wrong_size_is_never_whole() {
    for (pieces, sent) in [
        (&[("hello", true)][..], ""),
        (&[("hello\r\n!", true)], ""),
        (&[("hello", false), ("\r\n!", true)], "hello"),
        (&[("hello", false), ("\r", true)], "hello"),
        (&[("hello\r\n", false), ("!", true)], "hello\r"),
        (&[("hello\r\n", false), ("!", false), ("", true)], "hello\r"),
    ] {
        let (mut sender, mut out) = in_body("CHUNKING", "");
        for (piece, last) in pieces {
            sender.body(piece.as_bytes(), *last, &mut out);
        }
        let head = if sent.is_empty() { "" } else { "BDAT 7 LAST\r\n" };
        assert_eq!(String::from_utf8_lossy(&out), format!("{head}{sent}"), "{pieces:?}");
        let (_, SenderStep::Done(replies)) = sender.advance(b"", &mut out) else { panic!("{pieces:?}: not over") };
        assert_eq!(codes(&replies), [550, 0]);
        let (_, SenderStep::Refused(fault)) = sender.advance(b"250 ok\r\n", &mut out) else { panic!("{pieces:?}") };
        assert_eq!(fault.kind, FaultKind::Size);
        let before = out.len();
        sender.quit(&mut out);
        assert_eq!(out.len(), before, "QUIT would be taken for octets of the message");
    }
}
