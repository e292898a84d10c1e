//! What holds for any input: the split of the input changes nothing, only the client ends a message, bodies arrive octet
//! for octet, and every reply is well-formed. The driver checks the last on the way, and that nothing but an unfinished
//! line is left unused.

mod driver;
mod reference;

use driver::{Driver, Record, Refusals};
use proptest::prelude::*;
use proptest::sample::select;
use ringpost_base::ByteCount;
use ringpost_smtp::{BareNewline, Options, Setup, Step, TlsUse, replies};
use std::rc::Rc;

/// One case: how the session is set up and what the client sends, in clear and, if TLS begins, after the handshake.
#[derive(Clone, Debug)]
struct Case {
    tls: TlsUse,
    options: Options,
    refusals: Refusals,
    clear: Vec<u8>,
    secured: Vec<u8>,
}

impl Case {
    /// Plays the case; `sizes` are the sizes of the pieces, over and over.
    fn play(&self, sizes: &[usize]) -> Record {
        let options = Rc::new(self.options.clone());
        let secure = self.tls == TlsUse::Implicit;
        let setup = Setup { options, tls: self.tls, secure, ..Setup::example() };
        let mut driver = Driver::new(setup, self.refusals.clone());
        feed(&mut driver, &self.clear, sizes);
        if driver.is_handshaking() {
            driver.handshake();
            feed(&mut driver, &self.secured, sizes);
        }
        driver.record().clone()
    }

    fn whole(&self) -> Record {
        self.play(&[usize::MAX])
    }
}

fn feed(driver: &mut Driver, mut input: &[u8], sizes: &[usize]) {
    for size in sizes.iter().cycle() {
        if input.is_empty() {
            return;
        }
        let (piece, rest) = input.split_at(input.len().min(*size));
        driver.feed(piece);
        input = rest;
    }
}

/// The beginning of a message.
const ENVELOPE: &[u8] = b"MAIL FROM:<alice@client.example>\r\nRCPT TO:<bob@example.com>\r\n";

/// What clients send: most of it nearly right, so that the session gets somewhere.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let lines: &[&str] = &[
        "EHLO client.example",
        "HELO client.example",
        "MAIL FROM:<alice@client.example>",
        "MAIL FROM:<alice@client.example> SIZE=10 BODY=8BITMIME SMTPUTF8",
        "MAIL FROM:<no@client.example>",
        "RCPT TO:<bob@example.com>",
        "RCPT TO:<no@example.com>",
        "RCPT TO:<>",
        "DATA",
        "BDAT 0",
        "BDAT 0 LAST",
        "BDAT 5",
        "BDAT 12 LAST",
        "BDAT x",
        "RSET",
        "NOOP",
        "VRFY bob",
        "HELP",
        "STARTTLS",
        "QUIT",
        ".",
        "",
    ];
    prop_oneof![
        16 => select(lines).prop_map(|line| [line.as_bytes(), b"\r\n"].concat()),
        4 => text(12),
        6 => text(12).prop_map(|text| [ENVELOPE, b"DATA\r\n", &text, b"\r\n.\r\n"].concat()),
        3 => text(12).prop_map(|text| {
            [ENVELOPE, format!("BDAT {} LAST\r\n", text.len()).as_bytes(), &text].concat()
        }),
        2 => (text(12), any::<bool>()).prop_map(|(chunk, last)| {
            let last = if last { " LAST" } else { "" };
            [format!("BDAT {}{last}\r\n", chunk.len()).as_bytes(), &chunk].concat()
        }),
        2 => Just(b"\r\n.\r\n".to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (0..4200usize).prop_map(|len| vec![b'x'; len]),
    ]
}

/// Text with much of what ends lines and messages.
fn text(tokens_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let tokens: &[&[u8]] = &[b"\r\n", b"\r\n", b"\r\n.", b".", b"\r", b"\n", b"..", b"a", b"bcd ef", b"\0", b"\xff"];
    proptest::collection::vec(select(tokens), 0..tokens_max).prop_map(|tokens| tokens.concat())
}

/// What a client sends: nothing sensible, or a start from which messages come.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let starts = vec![
        Vec::new(),
        b"EHLO client.example\r\n".to_vec(),
        [b"EHLO client.example\r\n", ENVELOPE].concat(),
        [b"EHLO client.example\r\n", ENVELOPE, b"DATA\r\n"].concat(),
    ];
    (select(starts), proptest::collection::vec(fragment(), 0..24))
        .prop_map(|(start, fragments)| [start, fragments.concat()].concat())
}

fn options() -> impl Strategy<Value = Options> {
    let bare_newline = select(&[BareNewline::Reject, BareNewline::Repair][..]);
    (select(&[8, 64, 1 << 20][..]), select(&[1, 1000][..]), select(&[3, 1000, 1000][..]), bare_newline).prop_map(
        |(size, recipients_max, errors_max, bare_newline)| Options {
            message_size_max: ByteCount(size),
            recipients_max,
            errors_max,
            bare_newline,
            ..Options::default()
        },
    )
}

fn refusals() -> impl Strategy<Value = Refusals> {
    let some_reply = || proptest::option::weighted(0.2, select(vec![replies::BUSY, replies::LOOP]));
    (some_reply(), some_reply()).prop_map(|(begin, message)| Refusals {
        mail: vec![("no@client.example".into(), replies::BUSY)],
        rcpt: vec![("no@example.com".into(), replies::NO_SUCH_USER)],
        begin,
        message,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let tls = select(&[TlsUse::Off, TlsUse::Starttls, TlsUse::StarttlsRequired, TlsUse::Implicit][..]);
    (tls, options(), refusals(), input(), input()).prop_map(|(tls, options, refusals, clear, secured)| Case {
        tls,
        options,
        refusals,
        clear,
        secured,
    })
}

/// A session that takes everything, on a listener without TLS.
fn open_case() -> impl Strategy<Value = Case> {
    (options(), input()).prop_map(|(options, clear)| Case {
        tls: TlsUse::Off,
        options,
        refusals: Refusals::default(),
        clear,
        secured: Vec::new(),
    })
}

/// Sends one message, and gives the bodies that arrived.
fn deliver(message: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let case = Case {
        tls: TlsUse::Off,
        options: Options::default(),
        refusals: Refusals::default(),
        clear: [b"EHLO client.example\r\n", ENVELOPE, message, b"QUIT\r\n"].concat(),
        secured: Vec::new(),
    };
    let record = case.play(sizes);
    assert!(record.replies.ends_with(b"221 2.0.0 closing connection\r\n"), "{:?}", record.steps);
    record.messages.into_iter().map(|message| message.body).collect()
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), proptest::collection::vec(1..50usize, 1..20)]
}

/// Lines of any octets but CR and LF.
fn clean_lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let octet =
        prop_oneof![2 => Just(b'.'), 6 => any::<u8>().prop_filter("a line end", |b| *b != b'\r' && *b != b'\n')];
    proptest::collection::vec(proptest::collection::vec(octet, 0..30), 0..20)
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_split_changes_nothing(case in case(), sizes in sizes()) {
        let (whole, split) = (case.whole(), case.play(&sizes));
        prop_assert_eq!(String::from_utf8_lossy(&whole.replies), String::from_utf8_lossy(&split.replies));
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn any_octets_are_survived(
        tls in select(&[TlsUse::Off, TlsUse::Starttls][..]),
        clear in proptest::collection::vec(any::<u8>(), 0..6000),
        sizes in sizes(),
    ) {
        let (options, refusals) = (Options::default(), Refusals::default());
        let case = Case { tls, options, refusals, secured: clear.clone(), clear };
        prop_assert_eq!(case.whole(), case.play(&sizes));
    }

    #[test]
    fn only_the_client_ends_a_message(case in open_case(), sizes in sizes()) {
        let record = case.play(&sizes);
        let mut messages = record.messages.iter();
        for (at, (begin, _)) in record.steps.iter().enumerate().filter(|(_, (_, step))| *step == Step::Begin) {
            let next = record.steps.get(at + 1);
            let message = next.filter(|(_, step)| *step == Step::End).and_then(|_| messages.next());
            let ended = next.map(|(end, step)| (*end, step));
            reference::check(&case.clear, *begin, &case.options, ended, message.map(|m| &*m.body))?;
        }
        prop_assert_eq!(messages.next(), None, "a message without a beginning");
    }

    #[test]
    fn data_arrives_octet_for_octet(lines in clean_lines(), sizes in sizes()) {
        let (mut body, mut sent) = (Vec::new(), b"DATA\r\n".to_vec());
        for line in &lines {
            body.extend_from_slice(&[line, &b"\r\n"[..]].concat());
            let stuffing = if line.starts_with(b".") { "." } else { "" };
            sent.extend_from_slice(&[stuffing.as_bytes(), line, b"\r\n"].concat());
        }
        sent.extend_from_slice(b".\r\n");
        prop_assert_eq!(deliver(&sent, &sizes), [body]);
    }

    #[test]
    fn chunks_arrive_octet_for_octet(
        lines in clean_lines(),
        cut in any::<bool>(),
        chunks in proptest::collection::vec(0..20usize, 0..20),
        sizes in sizes(),
    ) {
        let end = if cut { "" } else { "\r\n" };
        let body = [lines.join(&b"\r\n"[..]), end.as_bytes().to_vec()].concat();
        let (mut rest, mut sent) = (&body[..], Vec::new());
        for chunk in chunks {
            let (chunk, behind) = rest.split_at(chunk.min(rest.len()));
            sent.extend_from_slice(&[format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk].concat());
            rest = behind;
        }
        sent.extend_from_slice(&[format!("BDAT {} LAST\r\n", rest.len()).as_bytes(), rest].concat());
        prop_assert_eq!(deliver(&sent, &sizes), [body]);
    }
}
