//! The trace context in the form of the W3C (Trace Context, section 3.2), as HTTP carries it.
//!
//! ```text
//! traceparent = version "-" trace-id "-" parent-id "-" trace-flags
//! version     = 2HEXDIGLC
//! trace-id    = 32HEXDIGLC
//! parent-id   = 16HEXDIGLC
//! trace-flags = 2HEXDIGLC
//! ```

use crate::{SpanId, TraceId};

/// The flag of a trace that is sampled.
const SAMPLED: u8 = 1;

/// Characters of the form in version 0, which is how every later one begins.
const LENGTH: usize = 55;

/// The value of the field `traceparent`.
pub fn traceparent(trace: TraceId, span: SpanId, sampled: bool) -> String {
    format!("00-{trace}-{span}-{:02x}", if sampled { SAMPLED } else { 0 })
}

/// Reads such a value: the trace, the span that is the parent there, and whether it is sampled. Nothing, if it is none.
pub fn parse_traceparent(text: &str) -> Option<(TraceId, SpanId, bool)> {
    let bytes = text.as_bytes();
    let (known, more) = (bytes.get(..LENGTH)?, &bytes[LENGTH..]);
    let [version] = hexadecimal(&known[..2])?;
    // A later version may have more behind it; version 255 is none.
    let sound = match version {
        0 => more.is_empty(),
        255 => false,
        _ => more.is_empty() || more[0] == b'-',
    };
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let (trace, span, [flags]) =
        (hexadecimal(&known[3..35])?, hexadecimal(&known[36..52])?, hexadecimal(&known[53..])?);
    let given = trace != [0; 16] && span != [0; 8];
    (sound && dashes && given).then_some((TraceId(trace), SpanId(span), flags & SAMPLED != 0))
}

/// Bytes from twice as many lower case digits.
fn hexadecimal<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// What a value is read as, written again.
    #[track_caller]
    fn check(text: &str, want: Option<&str>) {
        let read = parse_traceparent(text).map(|(trace, span, sampled)| traceparent(trace, span, sampled));
        assert_eq!(read.as_deref(), want, "{text:?}");
    }

    #[test]
    fn the_example_of_the_specification() {
        check(EXAMPLE, Some(EXAMPLE));
        let (trace, span, sampled) = parse_traceparent(EXAMPLE).expect("sound");
        assert_eq!((trace.0[0], span.0[7], sampled), (0x4b, 0xb7, true));
        check(&EXAMPLE.replace("-01", "-00"), Some(&EXAMPLE.replace("-01", "-00")));
        check(&EXAMPLE.replace("-01", "-03"), Some(EXAMPLE));
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        check(&EXAMPLE.replacen("00", "cc", 1), Some(EXAMPLE));
        check(&format!("{}-what-comes", EXAMPLE.replacen("00", "cc", 1)), Some(EXAMPLE));
        check(&format!("{}.what", EXAMPLE.replacen("00", "cc", 1)), None);
        check(&EXAMPLE.replacen("00", "ff", 1), None);
    }

    #[test]
    fn values_that_are_none() {
        for text in [
            "",
            "00",
            &EXAMPLE[..54],
            &format!("{EXAMPLE}-"),
            &format!("{EXAMPLE}0"),
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &EXAMPLE.replace("00f067aa0ba902b7", "0000000000000000"),
            &EXAMPLE.replace("4bf9", "4bg9"),
            &EXAMPLE.replace("-01", "-+1"),
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-01",
        ] {
            check(text, None);
        }
    }
}
