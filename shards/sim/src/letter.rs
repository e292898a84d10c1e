//! What clients send: messages whose every octet is known, with what is hard on line ends, dots and chunks.

use crate::dice::Dice;
use crate::plan;

/// What leads from a message to the letter that it is.
const MARK: &[u8] = b"X-Letter: ";

/// A message that a client wants to be rid of.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// NOTIFY= for all recipients.
    pub(crate) notify: Option<&'static str>,
    /// RET= of the message.
    pub(crate) ret: Option<&'static str>,
    /// Octets that are not lines: it can only go by BDAT.
    pub(crate) binary: bool,
    pub(crate) body: Vec<u8>,
}

impl Letter {
    pub(crate) fn new(number: usize, size_max: usize, dice: &mut Dice) -> Self {
        let mut to: Vec<String> = (0..dice.pick(&[1, 1, 1, 2, 3, 6])).map(|_| plan::recipient(dice)).collect();
        to.sort();
        to.dedup();
        let binary = dice.one_in(12);
        Self {
            from: plan::sender(dice),
            to,
            notify: dice.pick(&[
                None,
                None,
                None,
                Some("NEVER"),
                Some("FAILURE"),
                Some("SUCCESS,FAILURE,DELAY"),
                Some("SUCCESS"),
            ]),
            ret: dice.pick(&[None, None, Some("FULL"), Some("HDRS")]),
            binary,
            body: body(number, size_max, binary, dice),
        }
    }
}

fn body(number: usize, size_max: usize, binary: bool, dice: &mut Dice) -> Vec<u8> {
    let mut out = b"Subject: a letter\r\n".to_vec();
    out.extend_from_slice(MARK);
    out.extend_from_slice(format!("{number}\r\nMessage-ID: <{number}@letters.sim>\r\n").as_bytes());
    // Some have been on their way for too long.
    for _ in 0..if dice.one_in(40) { 6 } else { 0 } {
        out.extend_from_slice(b"Received: from here by there\r\n");
    }
    out.extend_from_slice(b"\r\n");
    let size = match dice.roll(12) {
        0 => dice.range(0, 3 * size_max as u64),
        1..=4 => dice.range(0, size_max as u64),
        _ => dice.range(0, 600),
    };
    let size = out.len() + size as usize;
    while out.len() < size {
        match dice.roll(if binary { 7 } else { 6 }) {
            0 => out.extend_from_slice(b".\r\n"),
            1 => out.extend_from_slice(b"..a dot\r\n"),
            2 => out.extend_from_slice(b"\r\n"),
            3 => out.extend_from_slice(b"RPr1 looks like a record\r\n"),
            6 => out.extend_from_slice(&dice.entropy()),
            _ => {
                let length = dice.range(1, 75) as usize;
                let character = b'a' + dice.roll(26) as u8;
                out.extend(std::iter::repeat_n(character, length));
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    out
}

/// The letter that a message says it is.
pub(crate) fn number_of(message: &[u8]) -> Option<usize> {
    let window = &message[..message.len().min(2048)];
    let at = window.windows(MARK.len()).position(|bytes| bytes == MARK)? + MARK.len();
    let digits: Vec<u8> = window[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}
