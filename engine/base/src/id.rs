//! Ids of shards, sessions and messages.
//!
//! Session and message ids are printed in Crockford's base 32 (no I, L, O, U), so that they sort by time, survive being
//! read over a telephone, and are safe in file names and header fields.

use crate::Timestamp;
use std::{fmt, str::FromStr};

/// A shard: the number of a core's engine, from 0. Not the number of the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard's place in a list of all shards.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Randomness drawn outside the engine and handed in.
#[derive(Clone, Copy)]
pub struct Entropy(pub [u8; 16]);

impl Entropy {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// Eight bytes of it as a number.
    pub fn long(&self) -> u64 {
        u64::from(self.word(0)) << 32 | u64::from(self.word(4))
    }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

fn encode<const N: usize>(mut value: u128) -> [u8; N] {
    let mut text = [b'0'; N];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    text
}

fn decode<const N: usize>(text: &str, bits: u32) -> Result<u128, ParseIdError> {
    if text.len() != N {
        return Err(ParseIdError);
    }
    let mut value: u128 = 0;
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|c| *c == byte.to_ascii_uppercase()).ok_or(ParseIdError)?;
        value = value.checked_mul(32).ok_or(ParseIdError)? | digit as u128;
    }
    if bits < 128 && value >> bits != 0 { Err(ParseIdError) } else { Ok(value) }
}

/// Text that is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id: ids are letters and digits as printed in replies and log lines")
    }
}

impl std::error::Error for ParseIdError {}

/// A message's id, from the moment MAIL is accepted, through the spool, to every delivery. Shaped like a ULID: 48 bits
/// of milliseconds, 16 of shard, 32 of counter, 32 of the process's entropy; 26 characters as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(u128);

impl SpoolId {
    /// Characters in the text form.
    pub const TEXT_LEN: usize = 26;

    /// The id as its 16 bytes on disk.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id from its 16 bytes on disk.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The text form without an allocation.
    pub fn text(self) -> [u8; Self::TEXT_LEN] {
        encode(self.0)
    }

    /// When it was made, to the millisecond.
    pub const fn made(self) -> Timestamp {
        Timestamp::from_unix_micros((self.0 >> 80) as u64 * 1000)
    }
}

impl fmt::Display for SpoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl FromStr for SpoolId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode::<{ Self::TEXT_LEN }>(text, 128).map(Self)
    }
}

/// Makes the message ids of one shard.
#[derive(Debug)]
pub struct MessageIds {
    shard: ShardId,
    counter: u32,
    entropy: u32,
    last_millis: u64,
}

impl MessageIds {
    /// A maker of ids that no other shard, and no other run of the process, makes.
    pub fn new(shard: ShardId, entropy: Entropy) -> Self {
        Self { shard, counter: 0, entropy: entropy.word(0), last_millis: 0 }
    }

    /// The next id. Ids of one maker only grow, also when the wall clock is set back.
    pub fn next(&mut self, now: Timestamp) -> SpoolId {
        let millis = now.unix_micros() / 1000;
        if millis > self.last_millis {
            self.last_millis = millis;
            self.counter = 0;
        }
        let (counter, wrapped) = self.counter.overflowing_add(1);
        self.counter = counter;
        self.last_millis += u64::from(wrapped);
        SpoolId(
            u128::from(self.last_millis) << 80
                | u128::from(self.shard.0) << 64
                | u128::from(self.counter) << 32
                | u128::from(self.entropy),
        )
    }
}

/// A session's id: 32 bits of seconds, 10 of shard, 22 of counter; 13 characters as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// Characters in the text form.
    pub const TEXT_LEN: usize = 13;

    /// The id as a number, for keeping it in few bytes.
    pub const fn to_number(self) -> u64 {
        self.0
    }

    /// The id of a number.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: [u8; Self::TEXT_LEN] = encode(u128::from(self.0));
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for SessionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode::<{ Self::TEXT_LEN }>(text, 64).map(|value| Self(value as u64))
    }
}

/// Makes the session ids of one shard.
#[derive(Debug)]
pub struct SessionIds {
    shard: ShardId,
    counter: u32,
}

impl SessionIds {
    /// A maker of session ids. The counter starts at a random place, so that a restart within a second repeats none.
    pub fn new(shard: ShardId, entropy: Entropy) -> Self {
        Self { shard, counter: entropy.word(4) }
    }

    /// The next id.
    pub fn next(&mut self, now: Timestamp) -> SessionId {
        self.counter = self.counter.wrapping_add(1);
        SessionId(
            (now.unix_seconds() & 0xffff_ffff) << 32
                | u64::from(self.shard.0 & 0x3ff) << 22
                | u64::from(self.counter & 0x3f_ffff),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_grow_even_when_the_clock_goes_back() {
        let mut ids = MessageIds::new(ShardId(1), Entropy([9; 16]));
        let mut last = ids.next(Timestamp::from_unix_micros(9_000_000));
        for micros in [9_000_000, 8_000_000, 9_000_001, 1, 10_000_000] {
            let next = ids.next(Timestamp::from_unix_micros(micros));
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn session_ids_differ_and_read_back() {
        let mut ids = SessionIds::new(ShardId(1023), Entropy([0xff; 16]));
        let now = Timestamp::from_unix_micros(1_700_000_000_000_000);
        let (a, b) = (ids.next(now), ids.next(now));
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse(), Ok(a));
        assert!("!".parse::<SessionId>().is_err());
        assert!("ZZZZZZZZZZZZZ".parse::<SessionId>().is_err(), "more than 64 bits");
    }
}
