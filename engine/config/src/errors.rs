//! What is wrong with a config file, told the way a compiler would.
//!
//! A reader of a config file never stops at the first fault: everything that can be said about the file is collected
//! in one [`Errors`], in the order of the file. An [`Error`] carries its place as data, for `check --json`, and its
//! two text forms: `{}` is one line, `{:#}` adds the line of the file with the fault underlined. Nothing here decides
//! what a fault is.

use std::{fmt, ops::Range};

/// One fault of a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// The file, as named by whoever handed its text in.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The dotted path of the key, such as `listener[0].tls`. Empty where the text is not TOML.
    pub key: String,
    /// What is wrong, and what is wanted.
    pub reason: String,
    /// What was probably meant: a key, a value or a name.
    pub suggestion: Option<String>,
    excerpt: Excerpt,
}

/// The line of the file that a fault is in, and how much of it is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    width: usize,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, key, reason, suggestion, excerpt } = self;
        write!(f, "{file}:{line}:{column}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(reason)?;
        if let Some(suggestion) = suggestion {
            write!(f, "; did you mean \"{suggestion}\"?")?;
        }
        if f.alternate() {
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            // Tabs stay tabs, so that the underline stands where the terminal puts the text above it.
            let indent: String =
                excerpt.line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n{gutter} |\n{number} | {}\n{gutter} | {indent}{}", excerpt.line, "^".repeat(excerpt.width))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Everything that is wrong with a config file, in the order of the file. Never empty when it is returned.
///
/// `{}` is one line for each fault; `{:#}` one paragraph, with the line of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// The faults, first of the file first.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }

    /// How many faults there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'e> IntoIterator for &'e Errors {
    type Item = &'e Error;
    type IntoIter = std::slice::Iter<'e, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Errors {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            match (n, f.alternate()) {
                (0, false) => write!(f, "{error}")?,
                (0, true) => write!(f, "{error:#}")?,
                (_, false) => write!(f, "\n{error}")?,
                (_, true) => write!(f, "\n\n{error:#}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A fault as the reader finds it, by its bytes in the text.
pub(crate) struct Fault {
    pub(crate) place: Range<usize>,
    pub(crate) key: String,
    pub(crate) reason: String,
    pub(crate) suggestion: Option<String>,
}

/// Turns faults into errors: sorts them by place and counts lines and columns.
pub(crate) fn locate(file: &str, text: &str, mut faults: Vec<Fault>) -> Errors {
    faults.sort_by_key(|fault| fault.place.start);
    Errors(faults.into_iter().map(|fault| locate_one(file, text, fault)).collect())
}

fn locate_one(file: &str, text: &str, fault: Fault) -> Error {
    let start = floor_boundary(text, fault.place.start);
    let end = floor_boundary(text, fault.place.end.max(start));
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let line = text[line_start..line_end].trim_end_matches('\r');
    let shown = (line_start + line.len()).min(end).max(start);
    Error {
        file: file.to_owned(),
        line: text[..start].matches('\n').count() + 1,
        column: text[line_start..start].chars().count() + 1,
        key: fault.key,
        reason: fault.reason,
        suggestion: fault.suggestion,
        excerpt: Excerpt { line: printable(line), width: text[start..shown].chars().count().max(1) },
    }
}

/// The last character boundary at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// A line of the file may hold anything, terminal escapes included; what is printed of it may not.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, place: Range<usize>, long: &str) {
        let fault = Fault { place, key: "a.b".into(), reason: "is wrong".into(), suggestion: Some("c".into()) };
        assert_eq!(format!("{:#}", locate("x.toml", text, vec![fault])), long);
    }

    #[test]
    fn the_long_form_underlines_the_fault() {
        check(
            "[a]\nb = \"né\" # no\n",
            8..13,
            "x.toml:2:5: a.b: is wrong; did you mean \"c\"?\n  |\n2 | b = \"né\" # no\n  |     ^^^^",
        );
        check(
            "\t\tb = 1\r\n",
            6..7,
            "x.toml:1:7: a.b: is wrong; did you mean \"c\"?\n  |\n1 | \t\tb = 1\n  | \t\t    ^",
        );
    }

    #[test]
    fn places_outside_the_text_or_inside_a_character_do_no_harm() {
        check("", 0..0, "x.toml:1:1: a.b: is wrong; did you mean \"c\"?\n  |\n1 | \n  | ^");
        check("é\u{1b}", 1..99, "x.toml:1:1: a.b: is wrong; did you mean \"c\"?\n  |\n1 | é\u{fffd}\n  | ^^");
        check("a\nb", 0..3, "x.toml:1:1: a.b: is wrong; did you mean \"c\"?\n  |\n1 | a\n  | ^");
    }

    #[test]
    fn faults_come_in_the_order_of_the_file() {
        let fault = |at: usize| Fault { place: at..at, key: String::new(), reason: at.to_string(), suggestion: None };
        let errors = locate("x", "abcdef", vec![fault(4), fault(1), fault(2)]);
        assert_eq!(errors.to_string(), "x:1:2: 1\nx:1:3: 2\nx:1:5: 4");
        assert_eq!(errors.len(), errors.iter().count());
    }
}
