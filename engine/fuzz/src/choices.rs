//! The first line of an input: a character for each choice that the rest doesn't say.

/// Longest line of choices. A longer first line is read up to here.
const CHOICES_MAX: usize = 24;

/// The choices of an input that are not taken yet.
#[derive(Clone, Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Takes the first line off an input.
    pub fn of(input: &'a [u8]) -> (Self, &'a [u8]) {
        let head = &input[..input.len().min(CHOICES_MAX)];
        match head.iter().position(|byte| *byte == b'\n') {
            Some(end) => (Self(&input[..end]), &input[end + 1..]),
            None => (Self(head), &input[head.len()..]),
        }
    }

    /// The next character, as its distance from `0`.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first.wrapping_sub(b'0')
    }

    /// One of these, by the next character; `0` is the first.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()].clone()
    }
}

/// How an input is cut into pieces: sizes without end.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// All of it at once.
    Whole,
    /// Single bytes.
    Bytes,
    /// Sizes up to the limit, from a seed.
    Mixed {
        /// What the next size comes from.
        seed: u32,
        /// The largest size.
        limit: u32,
    },
}

impl Pieces {
    /// A mixture that two characters choose.
    pub fn chosen(choices: &mut Choices<'_>) -> Self {
        let seed = u32::from(choices.byte()) + 1;
        Self::Mixed { seed, limit: choices.pick(&[4, 2, 16, 64, 700]) }
    }
}

impl Iterator for Pieces {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        match self {
            Self::Whole => Some(usize::MAX),
            Self::Bytes => Some(1),
            Self::Mixed { seed, limit } => {
                *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Some(((*seed >> 16) % *limit) as usize + 1)
            }
        }
    }
}
