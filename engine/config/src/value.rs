//! Values of one key: numbers, sizes, durations and words, in the range that the key's row gives.

use crate::{
    config::Share,
    keys::{Choice, Key, Kind, Range as Bounds, names},
    reader::{Entry, Trouble},
    suggest,
};
use ringpost_base::{ByteCount, Span};

/// A whole number in the range of the row.
pub(crate) fn count(entry: &Entry<'_>, row: &Key) -> Result<usize, Trouble> {
    let number = entry.integer().ok_or_else(|| entry.wants(&row.kind.wants()))?;
    let (min, max) = if let Kind::Count { min, max } = row.kind { (min, max) } else { (0, u64::MAX) };
    match u64::try_from(number).ok().filter(|number| (min..=max).contains(number)).map(usize::try_from) {
        Some(Ok(number)) => Ok(number),
        _ => Err(out_of_range(&number.to_string(), &Bounds(min, max), row)),
    }
}

/// A whole number in the range of the row, below zero too.
pub(crate) fn integer(entry: &Entry<'_>, row: &Key) -> Result<i64, Trouble> {
    let number = entry.integer().ok_or_else(|| entry.wants(&row.kind.wants()))?;
    match row.kind {
        Kind::Integer { min, max } if !(min..=max).contains(&number) => {
            Err(out_of_range(&number.to_string(), &Bounds(min, max), row))
        }
        _ => Ok(number),
    }
}

/// A whole number in the range of the row, or none.
pub(crate) fn count_or_off(entry: &Entry<'_>, row: &Key) -> Result<Option<u64>, Trouble> {
    if let Some(text) = entry.text() {
        let guess = suggest::nearest(text, ["off"]);
        return if text == "off" {
            Ok(None)
        } else {
            Err(Trouble::from(format!("{text:?} is not {}", row.kind.wants())).suggest(guess))
        };
    }
    let number = entry.integer().ok_or_else(|| entry.wants(&row.kind.wants()))?;
    let (min, max) = if let Kind::CountOrOff { min, max } = row.kind { (min, max) } else { (0, u64::MAX) };
    match u64::try_from(number).ok().filter(|number| (min..=max).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(out_of_range(&number.to_string(), &Bounds(min, max), row)),
    }
}

/// A number from 0 to 1.
pub(crate) fn share(entry: &Entry<'_>, row: &Key) -> Result<Share, Trouble> {
    let number = entry.number().ok_or_else(|| entry.wants(&row.kind.wants()))?;
    Share::of(number).ok_or_else(|| out_of_range(entry.raw, &Bounds(0, 1), row))
}

/// Yes or no.
pub(crate) fn flag(entry: &Entry<'_>, row: &Key) -> Result<bool, Trouble> {
    entry.flag().ok_or_else(|| {
        let quotes = if entry.text().is_some() { " without quotes" } else { "" };
        entry.wants(&format!("{}{quotes}", row.kind.wants()))
    })
}

/// A number of bytes in the range of the row.
pub(crate) fn size(entry: &Entry<'_>, row: &Key) -> Result<ByteCount, Trouble> {
    let size = match (entry.text(), entry.integer()) {
        (Some(text), _) => text
            .parse::<ByteCount>()
            .map_err(|error| Trouble::from(format!("{text:?} is {error}")).suggest(suggest::size(text)))?,
        (None, Some(number)) => {
            ByteCount(u64::try_from(number).map_err(|_| Trouble::from(format!("{number} is not a number of bytes")))?)
        }
        (None, None) => return Err(entry.wants(&row.kind.wants())),
    };
    match row.kind {
        Kind::Size { min, max } if !(min..=max).contains(&size) => Err(out_of_range(entry.raw, &Bounds(min, max), row)),
        _ => Ok(size),
    }
}

/// A duration in the range of the row.
pub(crate) fn time(entry: &Entry<'_>, row: &Key) -> Result<Span, Trouble> {
    let text = entry.text().ok_or_else(|| entry.wants(&row.kind.wants()))?;
    let span = text
        .parse::<Span>()
        .map_err(|error| Trouble::from(format!("{text:?} is {error}")).suggest(suggest::time(text)))?;
    match row.kind {
        Kind::Time { min, max } if !(min..=max).contains(&span) => Err(out_of_range(entry.raw, &Bounds(min, max), row)),
        _ => Ok(span),
    }
}

/// The value of a word.
pub(crate) fn choice<T: Choice>(word: &str) -> Result<T, Trouble> {
    if let Some((_, value)) = T::ALL.iter().find(|(name, _)| *name == word) {
        return Ok(*value);
    }
    let known = names::<T>();
    if T::LATER.contains(&word) {
        return Err(format!("{word:?} is not available in this version, which has {}", known.join(", ")).into());
    }
    let reason = format!("{word:?} is not one of {}", known.join(", "));
    Err(Trouble::from(reason).suggest(suggest::nearest(word, known)))
}

fn out_of_range<T: std::fmt::Display>(found: &str, bounds: &Bounds<T>, row: &Key) -> Trouble {
    let because = row.because.map(|because| format!("; {because}")).unwrap_or_default();
    format!("{found} is out of range: {bounds}{because}").into()
}
