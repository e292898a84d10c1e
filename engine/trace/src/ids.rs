//! Ids of traces and spans, and which messages are sampled: all from the message's id.

use ringpost_base::{Entropy, SpoolId};
use std::fmt;

/// The id of a trace (W3C Trace Context, trace-id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// The id of a span (W3C Trace Context, parent-id). Never all zero: that means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl SpanId {
    /// The id with this number; of the number that means none another one.
    const fn of(number: u64) -> Self {
        Self(if number == 0 { 1_u64.to_be_bytes() } else { number.to_be_bytes() })
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The trace of a message: the 128 bits of its id, so that either can be looked up by the other.
pub const fn trace_id(id: SpoolId) -> TraceId {
    TraceId(id.to_bytes())
}

/// The root span of a message's trace.
pub fn root_span(id: SpoolId) -> SpanId {
    SpanId::of(mixed(id, ROOT_SEED))
}

/// Apart from each other, so that what is sampled has no particular root spans.
const ROOT_SEED: u64 = 0x726f_6f74_2073_7061;
const SAMPLE_SEED: u64 = 0x7361_6d70_6c69_6e67;

/// All bits of an id in one number. Ids count up and have the time in front: unmixed, any part of them is far from random.
fn mixed(id: SpoolId, seed: u64) -> u64 {
    let bytes = id.to_bytes();
    bytes.as_chunks::<8>().0.iter().fold(seed, |so_far, half| scrambled(so_far ^ u64::from_be_bytes(*half)))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), on the next
/// number of its sequence.
const fn scrambled(number: u64) -> u64 {
    let number = number.wrapping_add(GOLDEN);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// What SplitMix64 counts by.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Says which messages are sampled: by their id alone, so that the answer is the same everywhere and at all times for as
/// long as the share is. A message that a smaller share takes is one that every larger share takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Messages whose number is below it are taken; nothing: all are.
    below: Option<u64>,
}

impl Sampler {
    /// Takes this share of all messages: 0.0 none, 1.0 all; what is not a number none.
    pub fn new(share: f64) -> Self {
        // As a cast saturates, and what is not a number becomes 0.
        Self { below: if share >= 1.0 { None } else { Some((share.max(0.0) * 2.0_f64.powi(64)) as u64) } }
    }

    /// Whether it takes this message.
    pub fn takes(&self, id: SpoolId) -> bool {
        match self.below {
            None => true,
            // The common case where nothing is sampled computes nothing.
            Some(0) => false,
            Some(below) => mixed(id, SAMPLE_SEED) < below,
        }
    }
}

/// Makes the ids of spans that are no roots, for one shard.
#[derive(Debug)]
pub struct SpanIds {
    state: u64,
}

impl SpanIds {
    /// A maker whose ids no other makes, as far as 64 bits of entropy go.
    pub fn new(entropy: Entropy) -> Self {
        Self { state: entropy.long() }
    }

    /// The next id.
    pub fn next_id(&mut self) -> SpanId {
        let id = SpanId::of(scrambled(self.state));
        self.state = self.state.wrapping_add(GOLDEN);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_base::{MessageIds, ShardId, Timestamp};
    use std::collections::HashSet;

    const MESSAGES: usize = 200_000;

    /// Ids as a busy server makes them: many within a millisecond, and all with the same entropy.
    fn messages() -> Vec<SpoolId> {
        let mut ids = MessageIds::new(ShardId(1), Entropy([7; 16]));
        (0..MESSAGES as u64).map(|n| ids.next(Timestamp::from_unix_micros(1_700_000_000_000_000 + n * 50))).collect()
    }

    #[test]
    fn the_share_is_the_share_of_messages_however_alike_their_ids_are() {
        let messages = messages();
        for share in [0.0, 0.001, 0.01, 0.5, 0.9, 1.0] {
            let sampler = Sampler::new(share);
            let taken = messages.iter().filter(|id| sampler.takes(**id)).count() as f64;
            let wanted = share * MESSAGES as f64;
            // Six standard deviations: chance alone does not come to that.
            let tolerance = 6.0 * (wanted * (1.0 - share)).sqrt();
            assert!((taken - wanted).abs() <= tolerance, "{share}: {taken} of {wanted}");
        }
    }

    #[test]
    fn a_larger_share_takes_what_a_smaller_one_takes() {
        let (small, large) = (Sampler::new(0.01), Sampler::new(0.02));
        assert!(messages().into_iter().all(|id| !small.takes(id) || large.takes(id)));
    }

    #[test]
    fn shares_that_are_none() {
        let id = messages()[0];
        for share in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            assert!(!Sampler::new(share).takes(id), "{share}");
        }
        assert!(Sampler::new(f64::INFINITY).takes(id));
    }

    #[test]
    fn roots_differ_and_are_those_of_any_later_day() {
        let messages = messages();
        let roots: HashSet<SpanId> = messages.iter().map(|id| root_span(*id)).collect();
        assert_eq!(roots.len(), MESSAGES);
        // What is on disk today is delivered by the version of next year.
        let id: SpoolId = "06EHV1C6E9N9PWRPA14GWQCX7C".parse().expect("an id");
        assert_eq!(root_span(id).to_string(), "55ad4528b1e9276d");
        assert_eq!(mixed(id, SAMPLE_SEED), 0x6ffb7d28d6671543);
    }

    #[test]
    fn ids_of_spans_differ_from_each_other_and_from_none() {
        let mut ids = SpanIds::new(Entropy([1; 16]));
        let made: HashSet<SpanId> = (0..MESSAGES).map(|_| ids.next_id()).collect();
        assert_eq!(made.len(), MESSAGES);
        assert_ne!(SpanId::of(0), SpanId([0; 8]));
        assert_ne!(SpanIds::new(Entropy([1; 16])).next_id(), SpanIds::new(Entropy([2; 16])).next_id());
    }
}
