//! Writing what strangers have said: as the value of a field, folded (RFC 5322 section 2.2.3), or as a paragraph.

use std::borrow::Cow;

/// Where lines are broken if there is a space to break them at (RFC 5322 section 2.1.1).
const COLUMNS_MAX: usize = 78;

/// Where lines are broken in any case: below the 998 octets that a line may have, by what stands before a value.
pub(super) const OCTETS_MAX: usize = 900;

/// Appends a field. The value has been through [`clean`] or [`address::shown`](super::address::shown), or is our own.
pub(super) fn field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    wrap(value, name.len() + 2, " ", out);
}

/// Appends lines of text, each indented.
pub(super) fn paragraph(indent: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(indent.as_bytes());
    wrap(text, indent.len(), indent, out);
}

/// Writes words, on a line that has `column` octets, and ends it. Further lines begin with `indent`.
fn wrap(text: &str, mut column: usize, indent: &str, out: &mut Vec<u8>) {
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 {
            // Of several spaces in a row the last one is where a line may end: a line of nothing but spaces has no meaning.
            let fits = if word.is_empty() { column < OCTETS_MAX } else { column + 1 + word.len() <= COLUMNS_MAX };
            if fits {
                out.push(b' ');
                column += 1;
            } else {
                column = next_line(indent, out);
            }
        }
        for c in word.chars() {
            // A word without end is broken, which adds a space to it: better than a line that no server takes.
            if column + c.len_utf8() > OCTETS_MAX {
                column = next_line(indent, out);
            }
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            column += c.len_utf8();
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn next_line(indent: &str, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(indent.as_bytes());
    indent.len()
}

/// A text in one line: white space and control characters are spaces, never two in a row. Without `utf8`, what is beyond
/// ASCII is a question mark.
pub(super) fn clean(text: &str, utf8: bool) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let words =
        words.map(|word| if utf8 { Cow::Borrowed(word) } else { word.replace(|c: char| !c.is_ascii(), "?").into() });
    words.fold(String::new(), |mut line, word| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clean_line() {
        for (text, utf8, want) in [
            ("", true, ""),
            (" a \r\n\tb\u{0}c\u{85}d\u{2028}e ", true, "a b c d e"),
            ("caf\u{e9}\u{7f}", true, "caf\u{e9}"),
            ("caf\u{e9} \u{1f600}", false, "caf? ?"),
            ("x\r\nAction: delivered", false, "x Action: delivered"),
        ] {
            assert_eq!(clean(text, utf8), want, "{text:?}");
        }
    }

    fn folded(name: &str, value: &str) -> String {
        let mut out = Vec::new();
        field(name, value, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn fields_are_folded_at_spaces() {
        assert_eq!(folded("Subject", "short"), "Subject: short\r\n");
        let words = ["word"; 40].join(" ");
        let text = folded("Diagnostic-Code", &words);
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.len() <= COLUMNS_MAX), "{text}");
        assert_eq!(text.replace("\r\n ", " "), format!("Diagnostic-Code: {words}\r\n"), "unfolded it is the same");
    }

    #[test]
    fn a_word_without_end_is_broken() {
        for value in ["x".repeat(5000), "\u{1f600}".repeat(1000), format!("a {}", "y".repeat(2000)), " ".repeat(3000)] {
            let text = folded("X", &value);
            assert!(text.lines().all(|line| line.len() <= OCTETS_MAX), "{text}");
            assert!(text.split_inclusive("\r\n").skip(1).all(|line| line.starts_with(' ')), "{text}");
            let kept = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            assert_eq!(kept(&text), kept(&value) + "X:".len());
        }
    }

    #[test]
    fn paragraphs_are_indented_in_every_line() {
        let mut out = Vec::new();
        paragraph("    ", &["--boundary"; 30].join(" "), &mut out);
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().count() > 3 && text.lines().all(|line| line.starts_with("    --") && line.len() <= 78));
    }
}
