//! Where all chance in a simulation comes from: one seed.

/// A row of numbers that look random, from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The row of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `sides` numbers from 0; 0 where there are none.
    pub fn roll(&mut self, sides: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(sides)) >> 64) as u64
    }

    /// The same for places in a list.
    pub fn place(&mut self, len: usize) -> usize {
        self.roll(len as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll(high.saturating_sub(low) + 1)
    }

    /// Whether it is the one of so many.
    pub fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.place(of.len())]
    }

    /// Sixteen bytes of it, as machines take them.
    pub fn entropy(&mut self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.draw().to_le_bytes());
        out[8..].copy_from_slice(&self.draw().to_le_bytes());
        out
    }
}
