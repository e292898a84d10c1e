//! Many names in little memory, and patterns that are matched in linear time.

/// Names in one text, sorted, with the end of each.
#[derive(Debug, Default)]
pub(super) struct Names {
    text: Box<str>,
    ends: Box<[u32]>,
}

impl Names {
    /// Of names with the numbers of their lines. One that is there twice is kept once; `twice` is told its first and
    /// second line.
    pub(super) fn new(mut names: Vec<(Box<str>, u32)>, mut twice: impl FnMut(u32, u32)) -> Self {
        names.sort_unstable();
        names.dedup_by(|(later, second), (earlier, first)| {
            let same = later == earlier;
            if same {
                twice(*first, *second);
            }
            same
        });
        let mut text = String::with_capacity(names.iter().map(|(name, _)| name.len()).sum());
        let ends = names.iter().map(|(name, _)| {
            text.push_str(name);
            text.len() as u32
        });
        let ends = ends.collect();
        Self { text: text.into(), ends }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn contain(&self, name: &str) -> bool {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.name(at))
    }

    /// What they take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }

    fn name(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[start as usize..self.ends[at] as usize]
    }
}

/// What has to be there, in this order, with anything in between.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    prefix: Box<str>,
    middle: Box<[Box<str>]>,
    suffix: Box<str>,
}

impl Pattern {
    /// Of a text with `*` in it, in lower case.
    pub(super) fn new(text: &str) -> Self {
        let (prefix, rest) = text.split_once('*').unwrap_or((text, ""));
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|part| !part.is_empty()).map(Box::from).collect();
        Self { prefix: prefix.into(), middle, suffix: suffix.into() }
    }

    /// Whether it fits a local part in lower case. Each part is looked for once, from where the one before it ended: what
    /// comes first leaves the most room for the rest, so there is nothing to go back for.
    pub(super) fn fits(&self, local: &str) -> bool {
        let Some(mut rest) = local.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_suffix(&*self.suffix)) else {
            return false;
        };
        for part in &self.middle {
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The same by trying everything.
    fn fits_by_trying(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some((b'*', rest)), None) => fits_by_trying(rest, text),
            (Some((b'*', rest)), Some((_, tail))) => fits_by_trying(rest, text) || fits_by_trying(pattern, tail),
            (Some((byte, rest)), Some((first, tail))) => byte == first && fits_by_trying(rest, tail),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_fit_what_trying_everything_fits(pattern in "[ab]{0,2}\\*[ab*]{0,6}", text in "[ab]{0,9}") {
            prop_assert_eq!(Pattern::new(&pattern).fits(&text), fits_by_trying(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn names_are_found(all in prop::collection::vec("[a-dé]{1,3}", 0..60), asked in "[a-dé]{1,3}") {
            let mut twice = 0;
            let names = Names::new(all.iter().map(|name| (name.as_str().into(), 1)).collect(), |_, _| twice += 1);
            let model: BTreeSet<&str> = all.iter().map(String::as_str).collect();
            prop_assert_eq!(names.contain(&asked), model.contains(asked.as_str()));
            prop_assert!(all.iter().all(|name| names.contain(name)));
            prop_assert_eq!(names.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(names.len() + twice, all.len());
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        // With a matcher that goes back, this would take longer than the world has existed.
        let pattern = Pattern::new(&format!("{}b", "a*".repeat(30)));
        assert!(!pattern.fits(&"a".repeat(64)));
    }
}
