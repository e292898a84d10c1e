//! Sizes in bytes, and how people write them.

use std::{fmt, str::FromStr};

/// A number of bytes. Text form: `4096`, `4KiB`, `50MiB`, `8GiB` (powers of 1024 only, so that nobody has to guess).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// `n` times 1024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` times 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` times 1024³ bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The count as a length in memory. Saturates where `usize` is smaller than the count.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if shift > 0 && self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseByteCountError;

impl fmt::Display for ParseByteCountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a size: write bytes as a number, or with KiB, MiB or GiB, as in \"50MiB\"")
    }
}

impl std::error::Error for ParseByteCountError {}

impl FromStr for ByteCount {
    type Err = ParseByteCountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (digits, shift) = UNITS
            .iter()
            .find_map(|(unit, shift)| text.strip_suffix(unit).map(|rest| (rest.trim_end(), *shift)))
            .unwrap_or((text, 0));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseByteCountError);
        }
        let number: u64 = digits.parse().map_err(|_| ParseByteCountError)?;
        number.checked_mul(1 << shift).map(ByteCount).ok_or(ParseByteCountError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, bytes) in [("0", 0), ("17", 17), ("4KiB", 4096), ("50MiB", 50 << 20), ("8GiB", 8 << 30)] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
            assert_eq!(ByteCount(bytes).to_string(), text);
        }
        for bad in ["", "KiB", "-1", "1.5MiB", "4kb", "99999999999GiB"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
    }
}
