//! Times and numbers in words, lines broken to a width, and text of strangers made safe to show.

use ringpost_base::ByteCount;
use std::time::Duration;

/// Units of time, the longest first, in seconds.
const UNITS: [(&str, u64); 4] = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];

/// A duration in its two longest units, rounded down: `1 hour 5 minutes`.
pub(super) fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let Some(longest) = UNITS.iter().position(|(_, unit)| seconds >= *unit) else {
        return "less than a second".to_owned();
    };
    let mut left = seconds;
    let mut words = Vec::new();
    for (name, unit) in UNITS.iter().skip(longest).take(2) {
        match left / unit {
            0 => {}
            1 => words.push(format!("1 {name}")),
            count => words.push(format!("{count} {name}s")),
        }
        left %= unit;
    }
    words.join(" ")
}

/// A duration in its longest unit, rounded down, for a column of a table: `65m` is `1h`.
pub(super) fn in_short(span: Duration) -> String {
    let seconds = span.as_secs();
    let unit = UNITS.iter().find(|(_, unit)| seconds >= *unit);
    unit.map_or("0s".to_owned(), |(name, unit)| format!("{}{}", seconds / unit, &name[..1]))
}

/// A count in at most five characters, rounded down: `99999`, `100k`, `12M`.
pub(super) fn short_count(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..10_000_000 => format!("{}k", count / 1_000),
        10_000_000..10_000_000_000 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", (count / 1_000_000_000).min(9_999)),
    }
}

/// A number a second in at most five characters: `0.4`, `12`.
pub(super) fn short_rate(rate: f64) -> String {
    if rate < 9.95 { format!("{:.1}", rate.max(0.0)) } else { short_count(rate.round() as u64) }
}

/// Bytes in at most five characters, rounded down: `9999`, `120K`, `3G`.
pub(super) fn short_bytes(count: u64) -> String {
    let unit = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")].into_iter().find(|(unit, _)| count >= 10 * unit);
    unit.map_or(count.to_string(), |(unit, name)| format!("{}{name}", (count / unit).min(99_999)))
}

/// Seconds in at most five characters: `250µs`, `1.2ms`, `90ms`, `3.0s`.
pub(super) fn short_seconds(seconds: f64) -> String {
    let micros = (seconds.max(0.0) * 1e6).round();
    match micros {
        _ if micros < 1e3 => format!("{micros:.0}µs"),
        _ if micros < 1e4 => format!("{:.1}ms", micros / 1e3),
        _ if micros < 1e6 => format!("{:.0}ms", (micros / 1e3).floor()),
        _ if micros < 1e7 => format!("{:.1}s", micros / 1e6),
        _ => format!("{:.0}s", (micros / 1e6).min(9_999.0)),
    }
}

/// Text in lines of at most so many characters, broken between words; a word that is longer has a line for itself.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// So many messages, as a phrase.
pub(super) fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// Bytes in the largest unit that leaves a whole number of two digits or so.
pub(super) fn bytes(count: u64) -> String {
    let unit = [1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| count >= 10 * unit);
    let rounded = unit.map_or(count, |unit| count / unit * unit);
    ByteCount(rounded).to_string()
}

/// Text cut to so many characters, what can't be shown of it escaped.
pub(super) fn plain_within(text: &str, characters_max: usize) -> String {
    let shown = plain(text);
    if shown.chars().count() <= characters_max {
        return shown;
    }
    shown.chars().take(characters_max.saturating_sub(1)).chain(['…']).collect()
}

/// A word of a command line as a shell takes it.
pub(super) fn shell_word(word: &str) -> String {
    let bare = |character: char| character.is_ascii_alphanumeric() || "@%+=:,./-_".contains(character);
    if !word.is_empty() && word.chars().all(bare) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Microseconds in the unit that suits them, to three digits or so.
pub(super) fn took(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// Text that may be of a stranger's making, such as the name he gave in EHLO: what could control a terminal, end the
/// line, or turn the direction of writing is escaped.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// JSON with text of strangers in it: it means the same, and what could control a terminal or turn the direction of writing
/// is escaped. Its writer has escaped the controls of ASCII, and leaves all else as it is.
pub(super) fn plain_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_words() {
        for (seconds, words) in [
            (0, "less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (3_599, "59 minutes 59 seconds"),
            (3_600, "1 hour"),
            (3_659, "1 hour"),
            (90_000, "1 day 1 hour"),
            (86_400 * 30 + 59, "30 days"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words, "{seconds}");
        }
        for (micros, text) in [(0, "0 µs"), (999, "999 µs"), (1_240, "1.2 ms"), (2_500_000, "2.5 s")] {
            assert_eq!(took(micros), text);
        }
    }

    #[test]
    fn short_forms_for_tables() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (3_900, "1h"), (86_399, "23h"), (200_000, "2d")] {
            assert_eq!(in_short(Duration::from_secs(seconds)), text);
        }
        for (count, text) in [(0, "0"), (9_999, "9999"), (20_000, "19KiB"), (30_000_000, "28MiB")] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(
            (messages(0), messages(1), messages(2)),
            ("0 messages".into(), "1 message".into(), "2 messages".into())
        );
        for (text, most, shown) in [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("\n", 2, "\\n"), ("\n\n", 3, "\\n…")] {
            assert_eq!(plain_within(text, most), shown);
        }
    }

    #[test]
    fn numbers_that_fit_into_five_characters() {
        for (count, text) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100k"),
            (9_999_999, "9999k"),
            (10_000_000, "10M"),
            (9_999_999_999, "9999M"),
            (10_000_000_000, "10G"),
            (u64::MAX, "9999G"),
        ] {
            assert_eq!(short_count(count), text);
        }
        for (rate, text) in [(0.0, "0.0"), (-1.0, "0.0"), (9.94, "9.9"), (9.96, "10"), (123.6, "124"), (2e5, "200k")] {
            assert_eq!(short_rate(rate), text);
        }
        for (count, text) in [(0, "0"), (10_239, "10239"), (10_240, "10K"), (30 << 20, "30M"), (3 << 30, "3072M")] {
            assert_eq!(short_bytes(count), text);
        }
        for (seconds, text) in [
            (0.0, "0µs"),
            (0.000_25, "250µs"),
            (0.001_24, "1.2ms"),
            (0.09, "90ms"),
            (0.999_9, "999ms"),
            (3.0, "3.0s"),
            (250.4, "250s"),
        ] {
            assert_eq!(short_seconds(seconds), text);
        }
    }

    #[test]
    fn lines_are_broken_between_words() {
        for (text, width, lines) in [
            ("", 10, &[][..]),
            ("one two three", 7, &["one two", "three"]),
            ("one two three", 13, &["one two three"]),
            ("a longest-of-words b", 5, &["a", "longest-of-words", "b"]),
            ("größe zwei", 5, &["größe", "zwei"]),
        ] {
            assert_eq!(wrapped(text, width), lines, "{text}");
        }
    }

    #[test]
    fn words_that_a_shell_takes_as_they_are_meant() {
        for (word, text) in [
            ("a@example.org", "a@example.org"),
            ("<>", "'<>'"),
            ("", "''"),
            ("it's", "'it'\\''s'"),
            ("$(reboot)", "'$(reboot)'"),
        ] {
            assert_eq!(shell_word(word), text);
        }
    }

    #[test]
    fn text_of_strangers_cannot_control_the_terminal() {
        for (text, shown) in [
            ("mx.example.org", "mx.example.org"),
            ("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("it's \"fine\" \\ Grüße", "it's \"fine\" \\ Grüße"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("\u{9b}31m", "\\u{9b}31m"),
        ] {
            assert_eq!(plain(text), shown);
        }
    }

    #[test]
    fn json_of_strangers_cannot_control_the_terminal_and_means_the_same() {
        for (text, shown) in [
            ("Grüße\n", r#""Grüße\n""#),
            ("\u{1b}]0;owned\u{7}", r#""\u001b]0;owned\u0007""#),
            ("\u{9b}31m\u{7f}", r#""\u009b31m\u007f""#),
            ("\u{202e}txt.exe\u{2066}\u{200f}", r#""\u202etxt.exe\u2066\u200f""#),
        ] {
            let json = plain_json(&serde_json::to_string(text).expect("text"));
            assert_eq!(json, shown);
            assert_eq!(serde_json::from_str::<String>(&json).expect("as before"), text);
        }
    }
}
