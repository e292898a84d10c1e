//! The bans as text, to be kept over a restart.
//!
//! A line of the version, then a line for each ban, with tabs between:
//!
//! ```text
//! ringpost bans 1
//! NETWORK  SINCE  UNTIL  BY  REASON
//! ```
//!
//! Times are microseconds since 1970 UTC; UNTIL is `-` for a ban without an end. In BY and REASON a backslash, tab, CR and LF
//! are written `\\`, `\t`, `\r` and `\n`. Empty lines and those that begin with `#` mean nothing.

use super::Ban;
use super::book::{BANS_MAX, BanBook};
use super::networks::canonical_network;
use ringpost_base::{Network, Timestamp};
use std::fmt::{self, Write};
use std::sync::Arc;

/// The first line.
const VERSION_LINE: &str = "ringpost bans 1";

/// A line that is no ban, and was passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl BanBook {
    /// The text of all bans. The protected networks and the allow list are not in it; they come from the config file.
    pub fn encode(&self) -> String {
        let mut text = format!("{VERSION_LINE}\n");
        for ban in self.list(Timestamp::default()) {
            let _ = write!(text, "{}\t{}\t", ban.network, ban.since.unix_micros());
            let _ = match ban.until {
                Some(until) => write!(text, "{}", until.unix_micros()),
                None => text.write_char('-'),
            };
            let _ = writeln!(text, "\t{}\t{}", escaped(&ban.by), escaped(&ban.reason));
        }
        text
    }

    /// The book of a text. What is damaged is passed over and returned; the rest holds. Of two bans of one network the later
    /// line counts. [`BanBook::protect`] and [`BanBook::allow`] are to be called next.
    pub fn decode(text: &str) -> (BanBook, Vec<BadLine>) {
        let (mut book, mut bad) = (BanBook::default(), Vec::new());
        for (at, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let is_version = at == 0 && line == VERSION_LINE;
            if is_version || line.is_empty() || line.starts_with('#') {
                continue;
            }
            let result = match parse(line) {
                Ok(ban) if book.len() < BANS_MAX => Ok(ban),
                Ok(_) => Err(format!("there are {BANS_MAX} bans before it")),
                Err(_) if at == 0 => Err(format!("is neither {VERSION_LINE:?} nor a ban")),
                Err(reason) => Err(reason),
            };
            match result {
                Ok(ban) => drop(book.insert(Arc::new(ban))),
                Err(reason) => bad.push(BadLine { line: at + 1, reason }),
            }
        }
        (book, bad)
    }
}

fn parse(line: &str) -> Result<Ban, String> {
    let mut fields = line.splitn(5, '\t');
    let mut next = |name: &str| fields.next().ok_or_else(|| format!("has no {name}"));
    let network: Network = next("network")?.parse().map_err(|error| format!("the network is {error}"))?;
    let network = canonical_network(network);
    BanBook::check_width(&network).map_err(|error| format!("{network} {error}"))?;
    let since = time(next("beginning")?)?;
    let until = match next("end")? {
        "-" => None,
        end => Some(time(end)?),
    };
    let by = unescaped(next("author")?)?;
    if by.is_empty() {
        return Err("has no author".to_owned());
    }
    Ok(Ban { network, since, until, by, reason: unescaped(next("reason")?)? })
}

fn time(text: &str) -> Result<Timestamp, String> {
    let micros = text.parse().map_err(|_| format!("{text:?} is not a time in microseconds"))?;
    Ok(Timestamp::from_unix_micros(micros))
}

const ESCAPES: [(char, char); 4] = [('\\', '\\'), ('\t', 't'), ('\r', 'r'), ('\n', 'n')];

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match ESCAPES.iter().find(|(plain, _)| *plain == c) {
            Some((_, letter)) => out.extend(['\\', *letter]),
            None => out.push(c),
        }
    }
    out
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let letter = chars.next().ok_or("ends with a lone backslash")?;
        let (plain, _) = ESCAPES.iter().find(|(_, known)| *known == letter).ok_or(format!("has \\{letter}"))?;
        out.push(*plain);
    }
    Ok(out)
}
