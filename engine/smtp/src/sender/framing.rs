//! The octets of a message on their way out: dots doubled for DATA, or one chunk of BDAT.

use memchr::memchr2;

/// How the message that is under way is framed.
#[derive(Debug)]
pub(super) enum Framing {
    /// DATA.
    Dotted(Dotted),
    /// BDAT.
    Chunk(Chunk),
}

/// What is wrong with a message that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongSize;

impl Framing {
    /// Appends a piece of the message, and its end behind the last. After an error nothing is written, and what was
    /// written before is not a whole message.
    pub(super) fn piece(&mut self, piece: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), WrongSize> {
        match self {
            Self::Dotted(dotted) => {
                dotted.piece(piece, out);
                if last {
                    dotted.end(out);
                }
                Ok(())
            }
            Self::Chunk(chunk) => chunk.piece(piece, last, out),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    Text,
    /// After a CR, which is not written yet.
    Cr,
}

/// Lines whose leading dots are doubled (RFC 5321 section 4.5.2). A CR or LF outside a pair becomes a pair, since RFC 5321
/// section 2.3.8 forbids to send it, and since there are servers to which it is the end of a line: what stands behind
/// it could end the message there, and begin another one.
#[derive(Debug, Default)]
pub(super) struct Dotted {
    at: At,
}

impl Dotted {
    fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(byte) = rest.first() {
            match (self.at, byte) {
                (At::Cr, b'\n') => {
                    self.end_line(out);
                    rest = &rest[1..];
                }
                (At::Cr, _) => self.end_line(out),
                (At::LineStart, b'.') => {
                    out.push(b'.');
                    self.at = At::Text;
                }
                (_, b'\r') => {
                    self.at = At::Cr;
                    rest = &rest[1..];
                }
                (_, b'\n') => {
                    self.end_line(out);
                    rest = &rest[1..];
                }
                (_, _) => rest = self.run(rest, out),
            }
        }
    }

    /// Copies whole lines and parts of lines, up to the next thing that needs a decision.
    fn run<'a>(&mut self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let mut end = 0;
        self.at = At::Text;
        loop {
            let Some(found) = memchr2(b'\r', b'\n', &text[end..]).map(|at| end + at) else {
                end = text.len();
                break;
            };
            match &text[found..] {
                [b'\r', b'\n', b'.', ..] | [b'\r', b'\n'] => {
                    end = found + 2;
                    self.at = At::LineStart;
                    break;
                }
                [b'\r', b'\n', ..] => end = found + 2,
                _ => {
                    end = found;
                    break;
                }
            }
        }
        out.extend_from_slice(&text[..end]);
        &text[end..]
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
        self.at = At::LineStart;
    }

    /// RFC 5321 section 4.1.1.4: the line of the dot begins behind a CRLF, which a message that has none at its end gets.
    fn end(&mut self, out: &mut Vec<u8>) {
        if self.at != At::LineStart {
            self.end_line(out);
        }
        out.extend_from_slice(b".\r\n");
    }
}

/// One chunk that is the whole message, so that it has one reply, and no more than that is waited for whether the server
/// takes pipelined commands or not (RFC 3030 section 2).
#[derive(Debug)]
pub(super) struct Chunk {
    size: u64,
    begun: bool,
    left: u64,
    /// The last octet of the message, if it was given and the caller has not said that it is the last: a message that turns
    /// out to be longer than its chunk must not be taken for whole.
    held: Option<u8>,
}

impl Chunk {
    pub(super) fn new(size: u64) -> Self {
        Self { size, begun: false, left: size, held: None }
    }

    fn piece(&mut self, piece: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), WrongSize> {
        let length = piece.len() as u64;
        if length > self.left || (last && length < self.left) {
            return Err(WrongSize);
        }
        self.left -= length;
        if !self.begun && (last || length > 0) {
            self.begun = true;
            out.extend_from_slice(format!("BDAT {} LAST\r\n", self.size).as_bytes());
        }
        match piece.split_last() {
            Some((octet, before)) if self.left == 0 && !last => {
                out.extend_from_slice(before);
                self.held = Some(*octet);
            }
            _ => {
                out.extend(self.held.take_if(|_| last));
                out.extend_from_slice(piece);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written of `message`, given in every two-way split.
    fn check(message: &str, want: &str) {
        for split in 0..=message.len() {
            let (mut framing, mut out) = (Framing::Dotted(Dotted::default()), Vec::new());
            let (first, second) = message.as_bytes().split_at(split);
            framing.piece(first, false, &mut out).expect("there is no size");
            framing.piece(second, true, &mut out).expect("there is no size");
            assert_eq!(out.escape_ascii().to_string(), want.as_bytes().escape_ascii().to_string(), "split at {split}");
        }
    }

    #[test]
    fn dots_are_doubled() {
        check("", ".\r\n");
        check("a\r\n", "a\r\n.\r\n");
        check(".\r\n", "..\r\n.\r\n");
        check(".a\r\n..\r\n\r\n.", "..a\r\n...\r\n\r\n..\r\n.\r\n");
        check("a.b\r\nc.\r\n", "a.b\r\nc.\r\n.\r\n");
        check("\r\n\r\n.\r\n", "\r\n\r\n..\r\n.\r\n");
        check("no end", "no end\r\n.\r\n");
        check("a\0.\0\r\n\0.", "a\0.\0\r\n\0.\r\n.\r\n");
    }

    #[test]
    fn smuggled_end_of_data_is_not_sent() {
        for attempt in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\n.\r", "\r\n.\r"] {
            check(&format!("a{attempt}b"), "a\r\n..\r\nb\r\n.\r\n");
        }
        check("a\r", "a\r\n.\r\n");
        check("a\r\r\n\n", "a\r\n\r\n\r\n.\r\n");
    }

    /// What a chunk of this size makes of these pieces, the last of them said to be the last.
    fn chunk(size: u64, pieces: &[&str]) -> (String, Result<(), WrongSize>) {
        let (mut chunk, mut out) = (Chunk::new(size), Vec::new());
        let (last, before) = pieces.split_last().expect("some pieces");
        let result = before
            .iter()
            .try_for_each(|piece| chunk.piece(piece.as_bytes(), false, &mut out))
            .and_then(|()| chunk.piece(last.as_bytes(), true, &mut out));
        (String::from_utf8(out).expect("text"), result)
    }

    #[test]
    fn a_chunk_is_the_whole_message_or_never_whole() {
        let head = "BDAT 4 LAST\r\n";
        for (pieces, want, result) in [
            (&["abcd"][..], "abcd", Ok(())),
            (&["a", "bc", "d"], "abcd", Ok(())),
            (&["abcd", ""], "abcd", Ok(())),
            (&["", "abcd", "", ""], "abcd", Ok(())),
            (&["ab", "c"], "ab", Err(WrongSize)),
            (&["ab", "cde"], "ab", Err(WrongSize)),
            (&["abcd", "e"], "abc", Err(WrongSize)),
            (&["abcd", "e", "f"], "abc", Err(WrongSize)),
        ] {
            assert_eq!(chunk(4, pieces), (format!("{head}{want}"), result), "{pieces:?}");
        }
        assert_eq!(chunk(4, &["abcde"]), (String::new(), Err(WrongSize)));
        assert_eq!(chunk(0, &["", ""]), ("BDAT 0 LAST\r\n".to_owned(), Ok(())));
        assert_eq!(chunk(0, &["", "a"]), (String::new(), Err(WrongSize)));
    }
}
