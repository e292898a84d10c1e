//! The sender: any bytes of a server, at any split. How they are cut changes nothing, no message goes out that the server has
//! not asked for, nobody is told of a success that there was none of, and what is kept of a server's words is bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_fuzz::choices::{Choices, Pieces};
use ringpost_smtp::Protocol;
use ringpost_smtp::sender::{
    ANSWER_LINE_MAX, ANSWER_TEXT_MAX, Outgoing, OutgoingRecipient, RecipientReply, Sender, SenderFault, SenderSetup,
    SenderStep, SenderTls, Stage,
};

/// What stands between what the server sends in clear and what it sends after the handshake.
const HANDSHAKE: &[u8] = b"=== TLS ===\r\n";

/// Longer inputs aren't played byte by byte too.
const BYTEWISE_MAX: usize = 1000;

/// Most octets of a text: a reply's, and what we say of it.
const TEXT_MAX: usize = ANSWER_TEXT_MAX + 100;

/// Most messages of a session: those to nobody are over at once.
const MESSAGES_MAX: usize = 20;

const RECIPIENTS: [&str; 4] = ["a@b.example", "c@d.example", "no address", "\u{e9}@f.example"];

/// All that can be seen from outside.
#[derive(Debug, Default, PartialEq, Eq)]
struct Record {
    sent: Vec<u8>,
    done: Vec<Vec<RecipientReply>>,
    unsendable: usize,
    fault: Option<SenderFault>,
    closed: bool,
}

/// What is sent to which kind of server.
#[derive(Clone)]
struct Case<'a> {
    setup: SenderSetup,
    /// How many recipients each message has.
    recipients: usize,
    body: &'static [u8],
    binary: bool,
    /// Sizes of the pieces of a body.
    pieces: Pieces,
    clear: &'a [u8],
    secured: &'a [u8],
}

fuzz_target!(|input: &[u8]| {
    let (mut choices, said) = Choices::of(input);
    let at = said.windows(HANDSHAKE.len()).position(|window| window == HANDSHAKE);
    let (clear, secured) = at.map_or((said, &[][..]), |at| (&said[..at], &said[at + HANDSHAKE.len()..]));
    let setup = SenderSetup {
        protocol: choices.pick(&[Protocol::Smtp, Protocol::Lmtp]),
        tls: choices.pick(&[SenderTls::Off, SenderTls::Opportunistic, SenderTls::Required]),
        secure: choices.pick(&[false, true]),
        helo: "mx.example".into(),
    };
    let case = Case {
        setup,
        recipients: choices.pick(&[1, 2, 4, 100, 0]),
        body: choices.pick(&[&b"MARK\r\n.\r\n"[..], b"", b"MARK\n.\n", b"MARK"]),
        binary: choices.pick(&[false, true]),
        pieces: Pieces::Whole,
        clear,
        secured,
    };
    let whole = play(&case, Pieces::Whole);
    let mixed = Pieces::chosen(&mut choices);
    let mut cuts = vec![mixed];
    if input.len() < BYTEWISE_MAX {
        cuts.push(Pieces::Bytes);
    }
    for pieces in cuts {
        let cut = play(&Case { pieces: pieces.clone(), ..case.clone() }, pieces.clone());
        let [whole_sent, cut_sent] = [&whole, &cut].map(|record| String::from_utf8_lossy(&record.sent));
        assert!(whole_sent == cut_sent, "{pieces:?}: {whole_sent}\nand in pieces {cut_sent}");
        assert_eq!(whole, cut);
    }
});

fn play(case: &Case<'_>, pieces: Pieces) -> Record {
    let mut player = Player::new(case);
    player.feed(case.clear, pieces.clone());
    if player.is_handshaking && player.input.is_empty() {
        player.is_handshaking = false;
        player.sender.secured(&mut player.record.sent);
        player.feed(case.secured, pieces);
    }
    player.record
}

struct Player<'a> {
    case: &'a Case<'a>,
    sender: Sender,
    input: Vec<u8>,
    /// The first byte of the last line that was used.
    class: u8,
    /// Where in what was sent the message under way begins, and whether its body was given.
    message: Option<(usize, bool)>,
    is_handshaking: bool,
    record: Record,
}

impl<'a> Player<'a> {
    fn new(case: &'a Case<'a>) -> Self {
        let (sender, record) = (Sender::new(case.setup.clone()), Record::default());
        Self { case, sender, input: Vec::new(), class: 0, message: None, is_handshaking: false, record }
    }

    /// Gives what the server sends, up to a line at a time: it does not answer what it was not asked yet.
    fn feed(&mut self, mut said: &[u8], pieces: Pieces) {
        for size in pieces {
            if said.is_empty() {
                return;
            }
            let line = said.iter().position(|byte| *byte == b'\n').map_or(said.len(), |newline| newline + 1);
            let (piece, rest) = said.split_at(line.min(size));
            said = rest;
            self.input.extend_from_slice(piece);
            self.advance();
        }
    }

    fn advance(&mut self) {
        while !self.record.closed {
            let (used, step) = self.sender.advance(&self.input, &mut self.record.sent);
            let mut lines = self.input[..used].split_inclusive(|byte| *byte == b'\n');
            self.class = lines.next_back().map_or(self.class, |line| line[0]);
            self.input.drain(..used);
            match step {
                SenderStep::Need => return self.check_rest(),
                SenderStep::Idle if self.may_begin() => self.begin(),
                SenderStep::Idle => return self.check_rest(),
                SenderStep::StartTls => {
                    self.is_handshaking = true;
                    return;
                }
                SenderStep::Body => self.body(),
                SenderStep::Done(replies) => self.done(replies),
                SenderStep::Refused(fault) => return self.refused(fault),
                SenderStep::Closed => self.record.closed = true,
            }
        }
    }

    fn check_rest(&self) {
        let unfinished = self.input.len() < ANSWER_LINE_MAX && !self.input.contains(&b'\n');
        assert!(unfinished, "left unused: {}", self.input.escape_ascii());
    }

    fn may_begin(&self) -> bool {
        self.sender.can_begin() && self.record.unsendable == 0 && self.record.done.len() < MESSAGES_MAX
    }

    fn begin(&mut self) {
        assert_eq!(self.message, None, "the message before this one was never told of");
        let recipients: Vec<_> = RECIPIENTS
            .iter()
            .filter(|address| address.is_ascii() || self.sender.extensions().smtp_utf8)
            .cycle()
            .take(self.case.recipients)
            .map(|address| OutgoingRecipient { address, notify: Some("DELAY"), orcpt: Some("rfc822;x") })
            .collect();
        let Case { body, binary, .. } = *self.case;
        let outgoing = Outgoing { recipients: &recipients, size: body.len() as u64, binary, ..Outgoing::default() };
        let begin = self.record.sent.len();
        match self.sender.begin(&outgoing, &mut self.record.sent) {
            Ok(()) => self.message = Some((begin, false)),
            Err(_) => self.record.unsendable += 1,
        }
    }

    fn body(&mut self) {
        let (begin, given) = self.message.as_mut().expect("a body of some message");
        assert!(!std::mem::replace(given, true), "it is asked for once");
        let data = self.record.sent[*begin..].windows(6).any(|window| window == b"DATA\r\n");
        if data {
            assert_eq!(self.class, b'3', "there was no go-ahead");
        } else {
            assert!(self.sender.extensions().chunking, "nobody asked for it");
        }
        let mut rest = self.case.body;
        for size in self.case.pieces.clone() {
            let (piece, behind) = rest.split_at(rest.len().min(size));
            rest = behind;
            self.sender.body(piece, rest.is_empty(), &mut self.record.sent);
            if rest.is_empty() {
                return;
            }
        }
    }

    fn done(&mut self, replies: Vec<RecipientReply>) {
        let (begin, given) = self.message.take().expect("a message that is over was begun");
        let marked = self.record.sent[begin..].windows(4).any(|window| window == b"MARK");
        assert_eq!(marked, given && !self.case.body.is_empty());
        assert_eq!(replies.len(), self.case.recipients);
        for reply in &replies {
            assert!(reply.text.len() <= TEXT_MAX && reply.text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            assert!(!reply.is_positive() || (given && reply.stage == Stage::End), "{reply:?}");
        }
        self.record.done.push(replies);
    }

    fn refused(&mut self, fault: SenderFault) {
        assert_eq!(self.message, None, "the message under way was never told of");
        assert!(fault.text.len() <= TEXT_MAX && !self.sender.can_begin());
        assert!(self.record.fault.as_ref().is_none_or(|before| *before == fault), "it stays the same");
        self.is_handshaking = false;
        self.record.fault = Some(fault);
    }
}
