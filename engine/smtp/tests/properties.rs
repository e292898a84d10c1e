//! What holds for any input: the split of the input changes nothing, only the client ends a message, bodies arrive octet
//! for octet, and every reply is well-formed. The driver checks the last on the way, and that nothing but an unfinished
//! line is left unused.

mod driver;
mod reference;

use driver::{Driver, Record, Refusals};
use proptest::prelude::*;
use proptest::sample::select;
use ringpost_base::ByteCount;
use ringpost_smtp::{BareNewline, BodyKind, Options, Protocol, Setup, Step, TlsUse, Trust, replies};
use std::rc::Rc;

/// One case: how the session is set up and what the client sends, in clear and, if TLS begins, after the handshake.
#[derive(Clone, Debug)]
struct Case {
    protocol: Protocol,
    tls: TlsUse,
    tls_required: bool,
    trust: Trust,
    options: Options,
    /// Other options, and after how many octets they come.
    reload: Option<(usize, Options)>,
    refusals: Refusals,
    clear: Vec<u8>,
    secured: Vec<u8>,
}

impl Default for Case {
    /// A session that takes everything, on a listener without TLS, and in which nothing is sent.
    fn default() -> Self {
        Self {
            protocol: Protocol::Smtp,
            tls: TlsUse::Off,
            tls_required: false,
            trust: Trust::default(),
            options: Options::default(),
            reload: None,
            refusals: Refusals::default(),
            clear: Vec::new(),
            secured: Vec::new(),
        }
    }
}

impl Case {
    /// Plays the case; `sizes` are the sizes of the pieces, over and over.
    fn play(&self, sizes: &[usize]) -> Record {
        let options = Rc::new(self.options.clone());
        let secure = self.tls == TlsUse::Implicit;
        let Self { protocol, tls, tls_required, trust, .. } = *self;
        let setup = Setup { options, protocol, tls, tls_required, secure, trust, ..Setup::example() };
        let mut driver = Driver::new(setup, self.refusals.clone());
        let mut clear = &self.clear[..];
        if let Some((at, options)) = &self.reload {
            let (before, after) = clear.split_at((*at).min(clear.len()));
            feed(&mut driver, before, sizes);
            driver.reload(options.clone());
            clear = after;
        }
        feed(&mut driver, clear, sizes);
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

/// A further recipient.
const RECIPIENT: &[u8] = b"RCPT TO:<carol@example.com>\r\n";

/// What clients send: most of it nearly right, so that the session gets somewhere.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let lines: &[&str] = &[
        "EHLO client.example",
        "HELO client.example",
        "LHLO client.example",
        "MAIL FROM:<alice@client.example>",
        "MAIL FROM:<alice@client.example> SIZE=10 BODY=8BITMIME SMTPUTF8",
        "MAIL FROM:<alice@client.example> BODY=BINARYMIME",
        "MAIL FROM:<alice@client.example> RET=HDRS ENVID=x REQUIRETLS",
        "MAIL FROM:<no@client.example>",
        "RCPT TO:<bob@example.com>",
        "RCPT TO:<bob@example.com> NOTIFY=DELAY ORCPT=rfc822;x",
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
        "XCLIENT ADDR=192.0.2.1 HELO=other.example PROTO=ESMTP",
        "XFORWARD NAME=other.example",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 25",
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
        2 => text(12).prop_map(|octets| {
            let envelope = b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<bob@example.com>\r\n";
            [&envelope[..], format!("BDAT {} LAST\r\n", octets.len()).as_bytes(), &octets].concat()
        }),
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
fn input(protocol: Protocol) -> impl Strategy<Value = Vec<u8>> {
    let hello: &[u8] = match protocol {
        Protocol::Smtp => b"EHLO client.example\r\n",
        Protocol::Lmtp => b"LHLO client.example\r\n",
    };
    let starts = vec![
        Vec::new(),
        b"\r\n\r\n\0\r\nQUIT\n".to_vec(),
        hello.to_vec(),
        [hello, ENVELOPE].concat(),
        [hello, ENVELOPE, RECIPIENT].concat(),
        [hello, ENVELOPE, b"DATA\r\n"].concat(),
    ];
    (select(starts), proptest::collection::vec(fragment(), 0..24))
        .prop_map(|(start, fragments)| [start, fragments.concat()].concat())
}

fn options() -> impl Strategy<Value = Options> {
    let bare_newline = select(&[BareNewline::Reject, BareNewline::Repair][..]);
    let limits = (select(&[3, 1000, 1000][..]), select(&[4, 0, 0][..]), select(&[1, 0][..]), select(&[1, 2, 0][..]));
    (select(&[8, 64, 1 << 20][..]), select(&[1, 2, 1000][..]), limits, bare_newline).prop_map(
        |(
            size,
            recipients_max,
            (errors_max, commands_max, unknown_recipients_max, messages_per_session),
            bare_newline,
        )| {
            Options {
                message_size_max: ByteCount(size),
                recipients_max,
                errors_max,
                commands_max,
                unknown_recipients_max,
                messages_per_session,
                bare_newline,
                ..Options::default()
            }
        },
    )
}

fn refusals() -> impl Strategy<Value = Refusals> {
    let all = vec![replies::BUSY, replies::LOOP, replies::BANNED_SESSION];
    let some_reply = move || proptest::option::weighted(0.2, select(all.clone()));
    (some_reply(), some_reply(), some_reply(), some_reply()).prop_map(|(begin, message, client, forward)| Refusals {
        mail: vec![("no@client.example".into(), replies::BUSY)],
        rcpt: vec![("no@example.com".into(), replies::NO_SUCH_USER)],
        begin,
        message,
        client,
        forward,
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Smtp, Protocol::Smtp, Protocol::Lmtp][..])
}

fn case() -> impl Strategy<Value = Case> {
    let tls = || select(&[TlsUse::Off, TlsUse::Starttls, TlsUse::StarttlsRequired, TlsUse::Implicit][..]);
    protocol().prop_flat_map(move |protocol| {
        let inputs = (input(protocol), input(protocol));
        let options = (options(), proptest::option::of((0..400usize, options())));
        (tls(), any::<[bool; 3]>(), options, refusals(), inputs).prop_map(
            move |(tls, [tls_required, xclient, xforward], (options, reload), refusals, (clear, secured))| {
                let trust = Trust { xclient, xforward };
                Case { protocol, tls, tls_required, trust, options, reload, refusals, clear, secured }
            },
        )
    })
}

/// A session that takes everything, on a listener without TLS.
fn open_case() -> impl Strategy<Value = Case> {
    protocol().prop_flat_map(|protocol| {
        (options(), input(protocol)).prop_map(move |(options, clear)| Case {
            protocol,
            options,
            clear,
            ..Case::default()
        })
    })
}

/// Sends one message, and gives the bodies that arrived.
fn deliver(message: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let clear = [b"EHLO client.example\r\n", message, b"QUIT\r\n"].concat();
    let case = Case { clear, ..Case::default() };
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
        let case = Case { tls, secured: clear.clone(), clear, ..Case::default() };
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
            let mail = record.steps[..at].iter().rev().find_map(|(_, step)| match step {
                Step::Mail(mail) => Some(mail),
                _ => None,
            });
            let binary = mail.is_some_and(|mail| mail.body == BodyKind::Binary);
            let asked = reference::Asked { input: &case.clear, begin: *begin, binary };
            reference::check(&asked, &case.options, ended, message.map(|m| &*m.body))?;
        }
        prop_assert_eq!(messages.next(), None, "a message without a beginning");
    }

    #[test]
    fn data_arrives_octet_for_octet(lines in clean_lines(), sizes in sizes()) {
        let (mut body, mut sent) = (Vec::new(), [ENVELOPE, b"DATA\r\n"].concat());
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
        let (mut rest, mut sent) = (&body[..], ENVELOPE.to_vec());
        for chunk in chunks {
            let (chunk, behind) = rest.split_at(chunk.min(rest.len()));
            sent.extend_from_slice(&[format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk].concat());
            rest = behind;
        }
        sent.extend_from_slice(&[format!("BDAT {} LAST\r\n", rest.len()).as_bytes(), rest].concat());
        prop_assert_eq!(deliver(&sent, &sizes), [body]);
    }

    #[test]
    fn binary_octets_arrive_as_they_are(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
        sizes in sizes(),
    ) {
        let (first, second) = body.split_at(cut.index(body.len() + 1));
        let sent = [
            &b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<bob@example.com>\r\n"[..],
            format!("BDAT {}\r\n", first.len()).as_bytes(),
            first,
            format!("BDAT {} LAST\r\n", second.len()).as_bytes(),
            second,
        ].concat();
        prop_assert_eq!(deliver(&sent, &sizes), [body]);
    }
}
