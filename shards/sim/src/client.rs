//! Clients: they have letters to be rid of, say what SMTP wants to hear, one command at a time or many at once, are cut off,
//! fall silent, talk nonsense, and come again with whatever was not accepted.

use crate::book::Answer;
use crate::calendar::Event;
use crate::fault::Fault;
use crate::letter::Letter;
use crate::link::LinkId;
use crate::plan::SECOND;
use crate::world::World;
use ringpost_base::SpoolId;
use std::collections::VecDeque;

/// How often a client comes with one letter.
const TRIES_MAX: u32 = 5;

/// How long a client waits for a reply.
const PATIENCE: u64 = 100 * SECOND;

/// What a reply is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Banner,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Chunk,
    End,
    Other,
}

/// A client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Letters by number, and how often each was tried.
    pub(crate) letters: VecDeque<(usize, u32)>,
    link: Option<LinkId>,
    greeted: bool,
    /// It says nothing any more, whatever it hears.
    silent: bool,
    input: Vec<u8>,
    /// What replies are waited for.
    asked: VecDeque<Asked>,
    /// What is still to be said, each when all before it is answered.
    unsaid: VecDeque<(Asked, Vec<u8>)>,
    /// The letter under way.
    current: Option<(usize, u32)>,
    recipients_taken: u32,
    /// It speaks LMTP: a final reply for each recipient; and how many of these are still to come.
    pub(crate) lmtp: bool,
    finals: u32,
    chunk_refused: bool,
    /// The last letter came to nothing: RSET goes before the next one.
    reset_due: bool,
    /// The worst reply to the letter so far.
    worst: u16,
    heard: u64,
    timer: u64,
}

impl Client {
    /// Whether it has nothing left.
    pub(crate) fn is_done(&self) -> bool {
        self.letters.is_empty() && self.current.is_none() && self.link.is_none()
    }

    fn reset(&mut self) {
        let (letters, timer, lmtp) = (std::mem::take(&mut self.letters), self.timer, self.lmtp);
        *self = Self { letters, timer, lmtp, ..Self::default() };
    }
}

impl World {
    /// A client's timer: it connects, or finds that it has waited for too long.
    pub(crate) fn client_acts(&mut self, number: usize) {
        let (now, faulty) = (self.now, self.faulty);
        let client = &mut self.clients[number];
        if now < client.timer {
            return;
        }
        if let Some(link) = client.link {
            if now < client.heard + PATIENCE {
                let wait = client.heard + PATIENCE - now;
                return self.wake_client(number, wait);
            }
            self.tear(link, 0);
            return self.client_gives_up_connection(number);
        }
        if !faulty {
            // Faults have ceased: nobody comes any more, and who has not been accepted keeps the letter.
            client.letters.clear();
        }
        if client.letters.is_empty() {
            return;
        }
        match self.accept_client(number) {
            Some(link) => {
                let client = &mut self.clients[number];
                client.link = Some(link);
                client.asked.push_back(Asked::Banner);
                client.heard = now;
                self.wake_client(number, PATIENCE);
            }
            None => {
                let wait = self.dice.range(1, 10) * SECOND;
                self.wake_client(number, wait);
            }
        }
    }

    fn wake_client(&mut self, number: usize, after: u64) {
        self.clients[number].timer = self.now + after;
        self.after(after, Event::Client(number));
    }

    /// The connection is gone: what is under way is tried again.
    pub(crate) fn client_cut_off(&mut self, number: usize, link: LinkId) {
        if self.clients[number].link == Some(link) {
            self.client_gives_up_connection(number);
        }
    }

    fn client_gives_up_connection(&mut self, number: usize) {
        if self.clients[number].current.is_some() {
            self.letter_failed(number);
        }
        self.clients[number].reset();
        let wait = self.dice.range(1, 20) * SECOND;
        self.wake_client(number, wait);
    }

    /// The letter under way was not accepted, or nobody knows; it is tried again, but not for ever.
    fn letter_failed(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if let Some((letter, tries)) = client.current.take().filter(|(_, tries)| *tries < TRIES_MAX) {
            client.letters.push_back((letter, tries + 1));
        }
    }

    pub(crate) fn client_reads(&mut self, number: usize, link: LinkId, bytes: &[u8]) {
        if self.clients[number].link != Some(link) {
            return;
        }
        self.clients[number].heard = self.now;
        self.clients[number].input.extend_from_slice(bytes);
        while self.clients[number].link.is_some() {
            let client = &mut self.clients[number];
            let Some(end) = client.input.iter().position(|byte| *byte == b'\n') else { break };
            let line: Vec<u8> = client.input.drain(..=end).collect();
            if line.get(3) == Some(&b'-') {
                continue;
            }
            let code = line.get(..3).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
            match code {
                Some(code) => self.client_hears(number, code, &line),
                None => {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    self.book.violate(format!("a client hears what is no reply: {line:?}"));
                }
            }
        }
    }

    fn client_hears(&mut self, number: usize, code: u16, line: &[u8]) {
        if code == 421 {
            if let Some(link) = self.clients[number].link {
                self.hang_up(link, 0);
            }
            return self.client_gives_up_connection(number);
        }
        let client = &mut self.clients[number];
        let Some(asked) = client.asked.pop_front() else {
            let line = String::from_utf8_lossy(line).into_owned();
            return self.book.violate(format!("a client hears a reply that it did not ask for: {line:?}"));
        };
        if code >= 400 && !matches!(asked, Asked::Rcpt | Asked::Other | Asked::End) {
            client.worst = client.worst.max(code);
        }
        match asked {
            Asked::Rcpt if code < 400 => client.recipients_taken += 1,
            Asked::Data if code == 354 => {
                self.client_sends_content(number);
                return;
            }
            Asked::Mail | Asked::Data | Asked::Chunk if code >= 400 => {
                client.chunk_refused |= asked == Asked::Chunk;
                client.unsaid.clear();
            }
            Asked::End => return self.letter_answered(number, code, line),
            _ => {}
        }
        self.client_speaks(number);
    }

    /// Says what is next, once everything said before is answered.
    fn client_speaks(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if !client.asked.is_empty() {
            return;
        }
        if let Some((asked, said)) = client.unsaid.pop_front() {
            client.asked.push_back(asked);
            return self.client_says(number, &said);
        }
        if client.current.is_some() {
            if client.recipients_taken > 0 || client.worst > 0 {
                let code = client.worst;
                return self.letter_over(number, code);
            }
            return self.letter_over(number, 554);
        }
        self.client_goes_on(number);
    }

    fn client_says(&mut self, number: usize, said: &[u8]) {
        let Some(link) = self.clients[number].link.filter(|_| !self.clients[number].silent) else { return };
        if self.strikes(Fault::ClientHang) {
            let part = self.dice.place(said.len() + 1);
            self.clients[number].silent = true;
            return self.send(link, 0, &said[..part]);
        }
        self.send(link, 0, said);
    }

    /// The end of a letter is answered.
    fn letter_answered(&mut self, number: usize, code: u16, line: &[u8]) {
        let Some((letter, _)) = self.clients[number].current else { return };
        let client = &mut self.clients[number];
        // A message of which a chunk was refused is over: what comes behind gets one reply.
        if client.lmtp && client.finals == 0 && !client.chunk_refused {
            client.finals = client.recipients_taken;
        }
        client.finals = client.finals.saturating_sub(1);
        let more = client.finals > 0;
        if more {
            client.asked.push_front(Asked::End);
        }
        if code == 250 {
            let text = String::from_utf8_lossy(line).into_owned();
            let id = text.split_whitespace().find_map(|word| word.parse::<SpoolId>().ok());
            let facts = id.and_then(|id| self.book.facts(id));
            if !facts.is_some_and(|facts| facts.letter == Some(letter) && facts.answer == Answer::Accepted) {
                self.book.violate(format!("the client of letter {letter} hears {text:?}, and that is not so"));
            }
        }
        if !more {
            self.letter_over(number, if code >= 400 { code } else { 0 });
        }
    }

    fn letter_over(&mut self, number: usize, refused_with: u16) {
        match refused_with {
            0 => self.clients[number].current = None,
            400..=499 => self.letter_failed(number),
            _ => self.clients[number].current = None,
        }
        let client = &mut self.clients[number];
        client.reset_due = refused_with > 0;
        client.unsaid.clear();
        if client.asked.is_empty() {
            self.client_goes_on(number);
        }
    }

    /// Begins the session, the next letter, or the end.
    fn client_goes_on(&mut self, number: usize) {
        let Some(link) = self.clients[number].link else { return };
        let client = &mut self.clients[number];
        (client.worst, client.recipients_taken, client.finals, client.chunk_refused) = (0, 0, 0, false);
        let rude = self.strikes(Fault::ClientRude);
        let client = &mut self.clients[number];
        if rude {
            client.asked.push_back(Asked::Other);
            let said =
                self.dice.pick(&[&b"RSET\r\n"[..], b"NOOP\r\n", b"BLAH blah\r\n", b"RCPT TO:<a@b>\r\n", b"MAIL\r\n"]);
            return self.client_says(number, said);
        }
        if !std::mem::replace(&mut client.greeted, true) {
            client.asked.push_back(Asked::Ehlo);
            let lmtp = client.lmtp;
            return self.client_says(number, if lmtp { b"LHLO client.sim\r\n" } else { b"EHLO client.sim\r\n" });
        }
        let Some((letter, tries)) = client.letters.pop_front() else {
            self.send(link, 0, b"QUIT\r\n");
            self.clients[number].reset();
            return;
        };
        client.current = Some((letter, tries));
        self.client_begins_letter(number, letter);
    }

    fn client_begins_letter(&mut self, number: usize, letter: usize) {
        let how = self.dice.roll(3);
        let chunks = how == 2 || self.book.letters[letter].binary;
        let mut says = self.envelope(letter);
        if std::mem::take(&mut self.clients[number].reset_due) {
            says.insert(0, (Asked::Other, b"RSET\r\n".to_vec()));
        }
        if chunks {
            let body = self.book.letters[letter].body.clone();
            says.extend(self.chunks(&body));
        } else {
            says.push((Asked::Data, b"DATA\r\n".to_vec()));
        }
        if self.strikes(Fault::ClientRude) {
            // It thinks better of it.
            let at = self.dice.range(1, says.len() as u64) as usize;
            says.truncate(at);
            says.push((Asked::Other, b"RSET\r\n".to_vec()));
        }
        let client = &mut self.clients[number];
        if how == 0 {
            client.unsaid = says.into();
            return self.client_speaks(number);
        }
        let said: Vec<u8> = says.iter().flat_map(|(_, said)| said.iter().copied()).collect();
        client.asked.extend(says.iter().map(|(asked, _)| *asked));
        self.client_says(number, &said);
    }

    fn envelope(&self, letter: usize) -> Vec<(Asked, Vec<u8>)> {
        let Letter { from, to, notify, ret, binary, body } = &self.book.letters[letter];
        let mut mail = format!("MAIL FROM:<{from}> SIZE={}", body.len());
        if *binary {
            mail.push_str(" BODY=BINARYMIME");
        }
        ret.iter().for_each(|ret| mail.push_str(&format!(" RET={ret}")));
        let mut says = vec![(Asked::Mail, format!("{mail}\r\n").into_bytes())];
        for address in to {
            let notify = notify.map_or(String::new(), |notify| format!(" NOTIFY={notify}"));
            says.push((Asked::Rcpt, format!("RCPT TO:<{address}>{notify}\r\n").into_bytes()));
        }
        says
    }

    fn chunks(&mut self, body: &[u8]) -> Vec<(Asked, Vec<u8>)> {
        let mut says = Vec::new();
        let mut rest = body;
        loop {
            let size = if self.dice.one_in(2) { rest.len() } else { self.dice.place(rest.len() + 1) };
            let (chunk, behind) = rest.split_at(size);
            rest = behind;
            let last = rest.is_empty();
            let command = format!("BDAT {size}{}\r\n", if last { " LAST" } else { "" });
            let asked = if last { Asked::End } else { Asked::Chunk };
            says.push((asked, [command.as_bytes(), chunk].concat()));
            if last {
                return says;
            }
        }
    }

    /// The content of a letter after DATA: dots doubled, and the end.
    fn client_sends_content(&mut self, number: usize) {
        let Some((letter, _)) = self.clients[number].current else { return };
        let mut said = Vec::new();
        for line in self.book.letters[letter].body.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                said.push(b'.');
            }
            said.extend_from_slice(line);
        }
        if !said.is_empty() && !said.ends_with(b"\r\n") {
            said.extend_from_slice(b"\r\n");
        }
        said.extend_from_slice(b".\r\n");
        self.clients[number].asked.push_front(Asked::End);
        self.client_says(number, &said);
    }
}
