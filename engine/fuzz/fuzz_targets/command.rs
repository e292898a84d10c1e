//! Single command lines, in every state that a session can be in between two commands: each is used up, has one answer,
//! and means the same in capitals and small letters.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_fuzz::choices::{Choices, Pieces};
use ringpost_fuzz::play::{Case, Player, Record, open_setup};
use ringpost_smtp::{Protocol, Setup, Step, TlsUse, Trust};

/// What was said before the line.
const BEFORE: [&str; 6] = [
    "EHLO client.example\r\n",
    "",
    "EHLO client.example\r\nMAIL FROM:<a@b.example> SMTPUTF8\r\n",
    "EHLO client.example\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\n",
    "EHLO client.example\r\nMAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<c@d.example>\r\n",
    "EHLO client.example\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nBDAT 2\r\nab",
];

fuzz_target!(|input: &[u8]| {
    let (mut choices, line) = Choices::of(input);
    let protocol = choices.pick(&[Protocol::Smtp, Protocol::Lmtp]);
    let tls = choices.pick(&[TlsUse::Starttls, TlsUse::Off, TlsUse::StarttlsRequired, TlsUse::Implicit]);
    let trusted = choices.pick(&[false, true]);
    let before = choices.pick(&BEFORE);
    let refused = choices.byte();
    let secure = tls == TlsUse::Implicit;
    let trust = Trust { xclient: trusted, xforward: trusted };
    let setup = Setup { protocol, tls, secure, trust, ..open_setup() };
    let before = if protocol == Protocol::Lmtp { before.replace("EHLO", "LHLO") } else { before.to_owned() };

    let line = match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => line[..=end].to_vec(),
        None => [line, b"\r\n"].concat(),
    };
    let case = Case { setup, refused, ..Case::open(b"") };
    let answer = say(&case, before.as_bytes(), &line);
    one_answer(&answer, &line, protocol);

    // The verb is what stands before the first blank. PROXY is not one of SMTP's and stands as it is sent.
    let verb = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    if !line[..verb].eq_ignore_ascii_case(b"PROXY") {
        let mut other = line.clone();
        other[..verb].iter_mut().for_each(|byte| *byte = swapped(*byte));
        assert_eq!(say(&case, before.as_bytes(), &other), answer);
    }
});

/// What came of one line: its steps, its replies, and how much was used.
type Answer = (Vec<Step>, String, usize);

fn say(case: &Case<'_>, before: &[u8], line: &[u8]) -> Answer {
    // What was said before is answered well, so that its state is reached.
    let mut player = Player::new(&Case { refused: 0, ..case.clone() });
    player.feed(before, Pieces::Whole);
    player.refuse(case.refused, case.refusal.clone());
    let (steps, replies) = (player.record().steps.len(), player.record().replies.len());
    let used = player.feed(line, Pieces::Whole);
    let Record { steps: all, replies: sent, .. } = player.finish();
    let steps = all.into_iter().skip(steps).map(|(_, step)| step).collect();
    (steps, sent[replies..].escape_ascii().to_string(), used)
}

fn one_answer((steps, replies, used): &Answer, line: &[u8], protocol: Protocol) {
    assert_eq!(*used, line.len(), "{steps:?}");
    let finals = replies.split(r"\r\n").filter(|reply| reply.as_bytes().get(3) == Some(&b' ')).count();
    let verb = line.get(..4).unwrap_or_default();
    if verb.eq_ignore_ascii_case(b"BDAT") && finals == 0 {
        // Its octets are still to come.
        return;
    }
    assert_eq!(finals, 1, "{replies} after {} in {protocol:?}", line.escape_ascii());
    let questions = steps.iter().filter(|step| matches!(step, Step::Mail(_) | Step::Rcpt(_) | Step::Begin));
    assert!(questions.count() <= 1, "{steps:?}");
    if steps.last() == Some(&Step::Close) {
        // Nothing else ends a session that has no limits.
        assert!(["QUIT", "BDAT", "PROX"].iter().any(|closing| verb.eq_ignore_ascii_case(closing.as_bytes())));
    }
}

fn swapped(byte: u8) -> u8 {
    if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
}
