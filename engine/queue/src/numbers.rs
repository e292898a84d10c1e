//! Numbers, and sets of them, in few bytes.
//!
//! ```text
//! number = groups of 7 bits, the lowest first
//! set    = %x00 count *(gap length) / %x01 size *byte
//! ```
//!
//! A set is in runs, each with its distance to the end of the one before and its length less one, or, where that is longer,
//! a byte for each eight numbers, the lowest bit first.

/// Numbers in all sets of one reader, at most: a few bytes that are damaged must not become gigabytes.
pub(crate) const NUMBERS_MAX: usize = 4 << 20;

const RUNS: u8 = 0;
const BITS: u8 = 1;

pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Puts a set of numbers, which are ascending, each once.
pub(crate) fn put_set(out: &mut Vec<u8>, numbers: &[u32]) {
    let (mut count, mut end) = (0, 0);
    let mut runs = Vec::new();
    for run in numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
        let first = run.first().copied().map_or(end, u64::from);
        put(&mut runs, first - end);
        put(&mut runs, run.len() as u64 - 1);
        (count, end) = (count + 1, first + run.len() as u64);
    }
    let size = numbers.last().map_or(0, |last| *last as usize / 8 + 1);
    if size >= runs.len() {
        out.push(RUNS);
        put(out, count);
        return out.extend(runs);
    }
    out.push(BITS);
    put(out, size as u64);
    let bits = out.len();
    out.resize(bits + size, 0);
    numbers.iter().for_each(|number| out[bits + *number as usize / 8] |= 1 << (number % 8));
}

/// Reads what was put.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// How many numbers its sets may yet have.
    numbers: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, numbers: NUMBERS_MAX }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    pub(crate) fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let [byte] = *self.take(1)? else { return None };
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return T::try_from(number).ok();
            }
        }
        None
    }

    /// A number of things of at least so many bytes each: no more than there can be.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Option<usize> {
        self.number()
            .filter(|count: &usize| count.checked_mul(bytes_min).is_some_and(|least| least <= self.bytes.len()))
    }

    pub(crate) fn set(&mut self) -> Option<Vec<u32>> {
        let [form] = *self.take(1)? else { return None };
        match form {
            RUNS => self.runs(),
            BITS => self.bits(),
            _ => None,
        }
    }

    fn runs(&mut self) -> Option<Vec<u32>> {
        let (mut numbers, mut end) = (Vec::new(), 0_u64);
        for _ in 0..self.count(2)? {
            let first = end.checked_add(self.number::<u64>()?)?;
            let last = first.checked_add(self.number::<u64>()?)?;
            let (first, last) = (u32::try_from(first).ok()?, u32::try_from(last).ok()?);
            self.numbers = self.numbers.checked_sub((last - first) as usize + 1)?;
            numbers.extend(first..=last);
            end = u64::from(last) + 1;
        }
        Some(numbers)
    }

    fn bits(&mut self) -> Option<Vec<u32>> {
        let size = self.count(1)?;
        let bytes = self.take(size)?;
        let count = bytes.iter().map(|byte| byte.count_ones() as usize).sum();
        self.numbers = self.numbers.checked_sub(count)?;
        let all = u32::try_from(size).ok()?.checked_mul(8)?;
        Some((0..all).filter(|number| bytes[*number as usize / 8] & 1 << (number % 8) != 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(numbers: &[u32], bytes_max: usize) {
        let mut out = Vec::new();
        put_set(&mut out, numbers);
        assert!(out.len() <= bytes_max, "{} bytes", out.len());
        let mut reader = Reader::new(&out);
        assert_eq!(reader.set().as_deref(), Some(numbers));
        assert!(reader.is_at_end());
    }

    #[test]
    fn a_set_takes_few_bytes_whatever_is_in_it() {
        check(&[], 2);
        check(&[0], 4);
        check(&[u32::MAX - 1, u32::MAX], 8);
        check(&(0..50_000).collect::<Vec<_>>(), 6);
        check(&(0..50_000).step_by(2).collect::<Vec<_>>(), 6_300);
        check(&(0..50_000).filter(|number| number % 1000 != 7).collect::<Vec<_>>(), 300);
    }

    proptest! {
        #[test]
        fn there_and_back(
            sparse in prop::collection::btree_set(any::<u32>(), 0..20),
            dense in prop::collection::btree_set(0_u32..300, 0..300),
        ) {
            for numbers in [sparse, dense] {
                check(&numbers.into_iter().collect::<Vec<_>>(), usize::MAX);
            }
        }
    }

    #[test]
    fn a_damaged_set_is_nothing_and_fills_nothing() {
        let mut endless = vec![RUNS, 1, 0];
        put(&mut endless, u64::from(u32::MAX) - 1);
        let beyond = [&[RUNS, 2][..], &[0xff, 0xff, 0xff, 0xff, 0x0f, 0], &[0, 0]].concat();
        for bytes in [&endless[..], &beyond, &[RUNS, 0xff, 0x7f, 0, 0], &[BITS, 9, 1], &[7, 0], &[]] {
            assert_eq!(Reader::new(bytes).set(), None, "{bytes:?}");
        }
    }
}
