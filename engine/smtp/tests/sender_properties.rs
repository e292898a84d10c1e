//! What holds for a sender, whatever it is given: how the server's octets are cut changes nothing, whatever they are is
//! survived, no octet of a message goes out before the server has asked for it, and a message that our own server takes
//! arrives octet for octet.

#[expect(dead_code, reason = "the sessions of these tests have one set of options")]
mod driver;
mod sender_driver;

use driver::Refusals;
use proptest::prelude::*;
use proptest::sample::select;
use ringpost_base::ByteCount;
use ringpost_smtp::sender::{SenderSetup, SenderTls, Stage};
use ringpost_smtp::{Options, Protocol, Setup, TlsUse, replies};
use sender_driver::{Driver, Letter, Record};
use std::rc::Rc;

/// What servers say: most of it nearly right, so that the session gets somewhere.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let lines: &[&str] = &[
        "250 2.1.0 ok",
        "250 ok",
        "250-first\r\n250 last",
        "354 go on",
        "450 4.2.1 later",
        "452 4.5.3 too many",
        "550 5.1.1 nobody",
        "552 too big",
        "503 5.5.1 bad sequence",
        "421 4.3.2 closing",
        "220 2.0.0 go on",
        "320 what",
        "250-a\r\n550 b",
        "what",
        "",
    ];
    prop_oneof![
        12 => select(&lines[..2]).prop_map(|line| [line.as_bytes(), b"\r\n"].concat()),
        8 => select(&lines[3..9]).prop_map(|line| [line.as_bytes(), b"\r\n"].concat()),
        3 => select(lines).prop_map(|line| [line.as_bytes(), b"\r\n"].concat()),
        1 => proptest::collection::vec(any::<u8>(), 0..30),
        1 => (0..2500usize).prop_map(|len| [b"250 ", &*vec![b'x'; len], b"\r\n"].concat()),
    ]
}

fn greeting() -> impl Strategy<Value = Vec<u8>> {
    let offers: &[&str] = &["PIPELINING", "CHUNKING", "SIZE 100", "DSN", "LIMITS RCPTMAX=2 MAILMAX=3", "X"];
    proptest::collection::vec(select(offers), 0..5).prop_map(|offers| {
        let offers: String = offers.iter().map(|offer| format!("250-{offer}\r\n")).collect();
        format!("220 next.example\r\n250-next.example\r\n{offers}250 HELP\r\n").into_bytes()
    })
}

fn letter(body: Vec<u8>) -> impl Strategy<Value = Letter> {
    let address = select(&["bob@example.com", "carol@example.com", "no@example.com", "bad address"][..]);
    let to = proptest::collection::vec(address.prop_map(|address| (address.to_owned(), None, None)), 1..5);
    to.prop_map(move |to| Letter { to, body: body.clone(), ..Letter::default() })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let tokens: &[&[u8]] = &[b"\r\n", b"\r\n", b"\r\n.", b".", b"\r", b"\n", b"..", b"a", b"bcd ef", b"\0", b"\xff"];
    proptest::collection::vec(select(tokens), 0..20).prop_map(|tokens| tokens.concat())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Smtp, Protocol::Lmtp][..])
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), proptest::collection::vec(1..50usize, 1..20), Just(vec![usize::MAX])]
}

fn setup(protocol: Protocol) -> SenderSetup {
    SenderSetup { protocol, helo: "mx.example".into(), ..SenderSetup::default() }
}

/// Gives the server's octets in pieces, and sends the messages one after the other, each as soon as it may begin.
fn play(protocol: Protocol, server: &[u8], letters: &[Letter], cuts: &[usize], sizes: &[usize]) -> Record {
    let mut driver = Driver::new(setup(protocol), sizes);
    let (mut rest, mut cuts, mut letters) = (server, cuts.iter().cycle(), letters.iter());
    while !rest.is_empty() {
        // Up to a line at a time: a server does not answer what it was not asked yet.
        let line = rest.iter().position(|octet| *octet == b'\n').map_or(rest.len(), |newline| newline + 1);
        let (piece, behind) = rest.split_at(line.min(*cuts.next().expect("it never ends")));
        rest = behind;
        driver.feed(piece);
        while driver.sender.can_begin() {
            let Some(letter) = letters.next() else { break };
            driver.send(letter.clone());
        }
    }
    driver.record
}

/// Sends a letter to a session of our own server.
fn deliver(protocol: Protocol, server: Setup, letter: &Letter, sizes: &[usize]) -> (Record, driver::Record) {
    let mut client = Driver::new(setup(protocol), sizes);
    let refusals = Refusals { rcpt: vec![("no@example.com".into(), replies::NO_SUCH_USER)], ..Refusals::default() };
    let mut server = driver::Driver::new(server, refusals);
    let (mut heard, mut said, mut begun) = (0, 0, false);
    loop {
        let replies = server.record().replies[heard..].to_vec();
        heard += replies.len();
        client.feed(&replies);
        if client.sender.is_idle() && !std::mem::replace(&mut begun, true) {
            client.send(letter.clone());
        }
        if client.is_handshaking {
            server.handshake();
            client.handshake();
        }
        let sent = client.record.sent[said..].to_vec();
        said += sent.len();
        for piece in sent.chunks(sizes[0]) {
            server.feed(piece);
        }
        if sent.is_empty() && replies.is_empty() {
            return (client.record, server.record().clone());
        }
    }
}

fn check_delivery(
    protocol: Protocol,
    tls: TlsUse,
    letter: &Letter,
    want: &[u8],
    sizes: &[usize],
) -> Result<(), TestCaseError> {
    let options = Options { message_size_max: ByteCount::mib(1), ..Options::default() };
    let server = Setup { options: Rc::new(options), protocol, tls, ..Setup::example() };
    let (client, server) = deliver(protocol, server, letter, sizes);
    let told = &client.done[0];
    for ((address, _, _), reply) in letter.to.iter().zip(told) {
        let want = match &**address {
            "no@example.com" => (550, Stage::Rcpt),
            "bad address" => (553, Stage::Unsent),
            _ => (250, Stage::End),
        };
        prop_assert_eq!((reply.code, reply.stage), want, "{}", address);
    }
    let taken: Vec<_> =
        letter.to.iter().filter(|to| ["bob@example.com", "carol@example.com"].contains(&&*to.0)).collect();
    prop_assert_eq!(server.messages.len(), usize::from(!taken.is_empty()));
    for message in &server.messages {
        prop_assert_eq!(message.to.len(), taken.len());
        prop_assert_eq!(message.body.escape_ascii().to_string(), want.escape_ascii().to_string());
    }
    Ok(())
}

/// Lines of any octets but CR and LF.
fn clean_lines() -> impl Strategy<Value = Vec<u8>> {
    let octet =
        prop_oneof![2 => Just(b'.'), 6 => any::<u8>().prop_filter("a line end", |b| *b != b'\r' && *b != b'\n')];
    let lines = proptest::collection::vec(proptest::collection::vec(octet, 0..30), 0..20);
    (lines, any::<bool>()).prop_map(|(lines, cut)| {
        let end: &[u8] = if cut || lines.is_empty() { b"" } else { b"\r\n" };
        [lines.join(&b"\r\n"[..]), end.to_vec()].concat()
    })
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_split_changes_nothing(
        protocol in protocol(),
        greeting in greeting(),
        said in proptest::collection::vec(reply(), 0..40),
        letters in proptest::collection::vec(body().prop_flat_map(letter), 1..4),
        cuts in sizes(),
        sizes in sizes(),
    ) {
        let server = [greeting, said.concat()].concat();
        let whole = play(protocol, &server, &letters, &[usize::MAX], &[usize::MAX]);
        let split = play(protocol, &server, &letters, &cuts, &sizes);
        prop_assert_eq!(whole.sent.escape_ascii().to_string(), split.sent.escape_ascii().to_string());
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn any_octets_are_survived(
        tls in select(&[SenderTls::Off, SenderTls::Opportunistic, SenderTls::Required][..]),
        greeting in greeting(),
        said in proptest::collection::vec(any::<u8>(), 0..6000),
        letter in letter(b"hello\r\n".to_vec()),
        size in 1..4000usize,
        end in select(&[Driver::quit, Driver::lose, Driver::reset][..]),
    ) {
        let mut driver = Driver::new(SenderSetup { tls, ..setup(Protocol::Smtp) }, &[3]);
        driver.feed(&greeting);
        if driver.sender.is_idle() {
            driver.send(letter);
        }
        said.chunks(size).for_each(|piece| driver.feed(piece));
        end(&mut driver);
    }

    #[test]
    fn nothing_is_sent_before_the_go_ahead(
        protocol in protocol(),
        said in proptest::collection::vec(reply(), 0..20),
        cuts in sizes(),
    ) {
        let letter = Letter { to: vec![("bob@example.com".into(), None, None)], body: b"MARK".to_vec(), ..Letter::default() };
        let server = [b"220 next\r\n250 next\r\n".to_vec(), said.concat()].concat();
        let record = play(protocol, &server, &[letter], &cuts, &[1]);
        if record.sent.windows(4).any(|window| window == b"MARK") {
            // Without extensions there are exactly three replies before it.
            let lines = server.split(|octet| *octet == b'\n').filter(|line| line.get(3) != Some(&b'-'));
            let codes: Vec<_> = lines.filter_map(|line| line.first()).collect();
            prop_assert_eq!(&codes[2..5], [&b'2', &b'2', &b'3']);
        }
    }

    #[test]
    fn only_the_sender_ends_data(body in body(), sizes in sizes()) {
        let letter = Letter { to: vec![("bob@example.com".into(), None, None)], body, ..Letter::default() };
        let server = b"220 next\r\n250 next\r\n250 ok\r\n250 ok\r\n354 go on\r\n";
        let record = play(Protocol::Smtp, server, &[letter], &[usize::MAX], &sizes);
        let begin = record.sent.windows(6).position(|window| window == b"DATA\r\n").expect("it was said");
        let sent = &record.sent[begin + 4..];
        // However loosely a server reads the ends of lines.
        let loose: Vec<u8> = sent.iter().copied().filter(|octet| *octet != b'\r').collect();
        let ends = loose.windows(3).filter(|window| window == b"\n.\n").count();
        prop_assert_eq!((ends, sent.ends_with(b"\r\n.\r\n")), (1, true), "{}", sent.escape_ascii());
        let pairs = sent.windows(2).filter(|window| window == b"\r\n").count();
        let halves = sent.iter().filter(|octet| **octet == b'\r' || **octet == b'\n').count();
        prop_assert_eq!(2 * pairs, halves, "{}", sent.escape_ascii());
    }

    /// Our server offers CHUNKING, so this is BDAT, before anything is answered.
    #[test]
    fn chunks_arrive_octet_for_octet(
        protocol in protocol(),
        tls in select(&[TlsUse::Off, TlsUse::Starttls][..]),
        letter in clean_lines().prop_flat_map(letter),
        sizes in sizes(),
    ) {
        check_delivery(protocol, tls, &letter, &letter.body, &sizes)?;
    }

    #[test]
    fn binary_octets_arrive_as_they_are(
        protocol in protocol(),
        letter in proptest::collection::vec(any::<u8>(), 0..200).prop_flat_map(letter),
        sizes in sizes(),
    ) {
        let letter = Letter { binary: true, ..letter };
        check_delivery(protocol, TlsUse::Off, &letter, &letter.body, &sizes)?;
    }

    /// The replies of our server, but for CHUNKING.
    #[test]
    fn data_arrives_octet_for_octet(body in clean_lines(), sizes in sizes()) {
        let letter = Letter { to: vec![("bob@example.com".into(), None, None)], body: body.clone(), ..Letter::default() };
        let server = b"220 next\r\n250-next\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go on\r\n";
        let sent = play(Protocol::Smtp, server, &[letter], &[usize::MAX], &sizes).sent;
        let mut session = driver::Driver::new(Setup { tls: TlsUse::Off, ..Setup::example() }, Refusals::default());
        sent.chunks(sizes[0]).for_each(|piece| session.feed(piece));
        let end: &[u8] = if body.is_empty() || body.ends_with(b"\r\n") { b"" } else { b"\r\n" };
        let arrived: Vec<_> = session.record().messages.iter().map(|message| message.body.clone()).collect();
        prop_assert_eq!(arrived, [[body, end.to_vec()].concat()]);
    }
}
