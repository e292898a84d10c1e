//! Guesses what a misspelt word was meant to be.
//!
//! A guess is only made when it is close: a wrong guess costs a reader more than none.

use crate::{keys::Section, reference::SECTIONS};

/// The candidate that `word` most likely is, if any is close: at most every third letter differs.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let folded = fold(word);
    let distance_max = (folded.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&folded, &fold(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= distance_max && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

/// What differs only in case or between `-` and `_` does not differ.
fn fold(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// The key that was meant by a name that `section` does not have: a similar one of the section, or the same name in
/// another one, given by its path.
pub(crate) fn key(name: &str, section: &Section) -> Option<String> {
    nearest(name, section.keys.iter().map(|key| key.name)).or_else(|| elsewhere(name, section))
}

fn elsewhere(name: &str, section: &Section) -> Option<String> {
    let below = format!("{}.", section.path);
    let mut homes = SECTIONS.iter().filter(|other| other.key(name).is_some());
    let home = homes.clone().find(|other| other.path.starts_with(&below)).or_else(|| {
        let only = homes.next();
        if homes.next().is_none() { only } else { None }
    })?;
    Some(home.path_of(name))
}

/// A size as it should have been written: `50MB`, `50M`, `50 mib` all become `50MiB`.
pub(crate) fn size(text: &str) -> Option<String> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

/// A duration as it should have been written: `5 min` and `5M` become `5m`.
pub(crate) fn time(text: &str) -> Option<String> {
    let (number, unit) = number_and_unit(text)?;
    let unit = match unit.to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millis" | "milliseconds" => "ms",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

fn number_and_unit(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    if number.is_empty() { None } else { Some((number, unit.trim())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_guessed_and_far_ones_are_not() {
        let words = ["off", "starttls", "starttls-required", "implicit"];
        for (word, guess) in [
            ("startls", Some("starttls")),
            ("STARTTLS", Some("starttls")),
            ("starttls_required", Some("starttls-required")),
            ("implict", Some("implicit")),
            ("of", Some("off")),
            ("required", None),
            ("", None),
            ("xyz", None),
        ] {
            assert_eq!(nearest(word, words).as_deref(), guess, "{word}");
        }
        assert_eq!(nearest("x", ["y"]), None, "a word of which nothing is left is no guess");
    }

    #[test]
    fn units_of_other_programs_are_understood() {
        for (text, guess) in [("50MB", Some("50MiB")), ("4 k", Some("4KiB")), ("1g", Some("1GiB")), ("5 apples", None)]
        {
            assert_eq!(size(text).as_deref(), guess, "{text}");
        }
        for (text, guess) in [("5min", Some("5m")), ("30 sec", Some("30s")), ("2 Hours", Some("2h")), ("m", None)] {
            assert_eq!(time(text).as_deref(), guess, "{text}");
        }
    }
}
