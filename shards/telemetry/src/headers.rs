//! The file with header fields for the collector: what it knows us by is a secret, and so not in the config.

use crate::options::Headers;
use hyper::header::{HeaderName, HeaderValue};
use std::path::Path;
use thiserror::Error;

/// Longest file, in bytes: servers refuse more than some KiB of header fields.
const FILE_BYTES_MAX: usize = 16 << 10;

/// Why header fields can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeadersError {
    /// The file can't be read.
    #[error("can't be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is too long.
    #[error("is longer than {FILE_BYTES_MAX} bytes")]
    Long,
    /// A line of it is no header field. What it is instead is not repeated: it may be a secret.
    #[error("line {0} is not a header field, such as \"Authorization: Bearer SECRET\"")]
    Line(usize),
}

/// Reads header fields from a file, one a line; empty lines and those that begin with `#` don't count.
///
/// # Errors
/// If the file can't be read, or holds something else.
pub fn read_headers(path: &Path) -> Result<Headers, HeadersError> {
    parse(&std::fs::read(path)?)
}

fn parse(bytes: &[u8]) -> Result<Headers, HeadersError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(HeadersError::Long);
    }
    let mut headers = Headers::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let (name, mut value) = field(line).ok_or(HeadersError::Line(number))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<&[(&str, &str)], &str>) {
        let got = parse(text.as_bytes());
        let got: Result<Vec<(String, String)>, String> = match &got {
            Ok(headers) => {
                assert!(headers.values().all(HeaderValue::is_sensitive), "{text:?}");
                let pair = |(name, value): (&HeaderName, &HeaderValue)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                };
                Ok(headers.iter().map(pair).collect())
            }
            Err(error) => Err(error.to_string()),
        };
        let want = want.map(|all| all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
        assert_eq!(got, want.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn files() {
        check("", Ok(&[]));
        check("# a comment\r\n\r\nX-Token:  a b:c \r\n", Ok(&[("x-token", "a b:c")]));
        check("a: 1\nb:2", Ok(&[("a", "1"), ("b", "2")]));
        let wrong = |line| format!("line {line} is not a header field, such as \"Authorization: Bearer SECRET\"");
        for (text, line) in [("secret", 1), ("a: 1\n\n: 2", 3), ("a b: 1", 1), ("a: \u{1}", 1)] {
            check(text, Err(&wrong(line)));
        }
        check(&"x".repeat(FILE_BYTES_MAX + 1), Err("is longer than 16384 bytes"));
    }
}
