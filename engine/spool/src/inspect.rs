//! Walking over one segment's bytes: what recovery does, and what an offline check shows without building anything.

use crate::record::{self, Attached, Elsewhere, Kind, MessageRecord, Raw};
use crate::{BLOCK, SegmentHeader};
use memchr::memmem;
use ringpost_base::SpoolId;

/// What a walk comes by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen<'a> {
    /// A message, whole and true; whether it is alive the records behind it tell.
    Message {
        /// Offset of its record in the segment, in bytes.
        at: u64,
        /// Length of the record in bytes.
        len: u64,
        /// What it holds.
        record: MessageRecord<'a>,
    },
    /// A message is settled.
    Settled {
        /// The message.
        id: SpoolId,
    },
    /// What the queue keeps with a message; it replaces what it kept before. In a copy of a message it comes with it.
    State {
        /// The message.
        id: SpoolId,
        /// What is kept; not understood here.
        state: &'a [u8],
    },
    /// Which recipients of a message are done, as format 1 says it.
    Done {
        /// The message.
        id: SpoolId,
        /// Their numbers.
        recipients: Vec<u32>,
    },
    /// A message could not be copied forward and is alive in an older segment.
    Elsewhere {
        /// The message.
        id: SpoolId,
        /// The segment's place in the log.
        sequence: u64,
        /// Offset of its record there, in bytes.
        offset: u64,
    },
    /// Bytes that are no record, although they were synced: a batch was written behind them.
    Damage {
        /// Offset of the first, in bytes.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// A record that is not whole, with no batch behind it: where a write was cut off by a crash, or failed. Before the
    /// end that the next segment's header says it is damage.
    TornTail {
        /// Its offset, in bytes.
        offset: u64,
    },
}

/// Walks over one segment's bytes, its header included, and shows what is in it. Gives the offset at which the last whole
/// record ends; where the header of the next segment says a greater one ([`SegmentHeader::previous_end`]), what is between
/// was synced once and is damaged.
pub fn inspect(header: &SegmentHeader, bytes: &[u8], see: &mut dyn FnMut(Seen<'_>)) -> u64 {
    walk(header, bytes, 0, &mut |step| match step {
        Step::Damage { offset, len } => see(Seen::Damage { offset, len }),
        Step::TornTail { offset } => see(Seen::TornTail { offset }),
        Step::Record { at, raw } => {
            seen(at as u64, &raw).into_iter().for_each(&mut *see);
            if let Some(Attached { state, legacy }) = raw.attached {
                see(state_seen(raw.id, state, legacy));
            }
        }
    })
}

fn seen<'a>(at: u64, raw: &Raw<'a>) -> Option<Seen<'a>> {
    let id = raw.id;
    Some(match raw.kind {
        Kind::Message | Kind::MessageFile => {
            Seen::Message { at, len: raw.len() as u64, record: record::message_of(raw)? }
        }
        Kind::Settled => Seen::Settled { id },
        Kind::State | Kind::Progress => state_seen(id, raw.payload, raw.kind == Kind::Progress),
        Kind::Elsewhere => {
            let Elsewhere { sequence, offset, .. } = Elsewhere::parse(raw.payload)?;
            Seen::Elsewhere { id, sequence, offset: u64::from(offset) }
        }
    })
}

fn state_seen(id: SpoolId, state: &[u8], legacy: bool) -> Seen<'_> {
    if legacy { Seen::Done { id, recipients: record::progress_of(state) } } else { Seen::State { id, state } }
}

pub(crate) enum Step<'a> {
    Record { at: usize, raw: Raw<'a> },
    Damage { offset: u64, len: u64 },
    TornTail { offset: u64 },
}

/// Goes over the records of a segment, and gives the offset up to which all is whole but for the damage: behind it a
/// torn batch may have left some. What is known to have been synced up to `sealed` is damaged where it is no record; behind
/// it only where another batch follows.
pub(crate) fn walk<'a>(header: &SegmentHeader, bytes: &'a [u8], sealed: u64, step: &mut dyn FnMut(Step<'a>)) -> u64 {
    let mut walk = Walk::new(*header, sealed);
    while walk.go_on(bytes, step) {}
    walk.end(bytes, step)
}

/// The same, record by record, for who has something else to do in between.
pub(crate) struct Walk {
    header: SegmentHeader,
    sealed: u64,
    at: usize,
    gaps: Vec<(usize, usize)>,
}

impl Walk {
    pub(crate) fn new(header: SegmentHeader, sealed: u64) -> Self {
        Self { header, sealed, at: BLOCK, gaps: Vec::new() }
    }

    /// Goes to the next record; false if there is none.
    pub(crate) fn go_on<'a>(&mut self, bytes: &'a [u8], step: &mut dyn FnMut(Step<'a>)) -> bool {
        // Records stand behind one another, batches at the next block: whatever is between is zeros, or something went wrong.
        let at = self.at;
        let Some((start, raw)) = next_record(bytes, at, self.header.key) else { return false };
        let gap = bytes[at..start].iter().any(|byte| *byte != 0);
        // Format 1 does not say where batches begin.
        if gap && (self.header.version == 1 || (at as u64) < self.sealed) {
            step(Step::Damage { offset: at as u64, len: (start - at) as u64 });
        } else if gap {
            self.gaps.push((at, start));
        }
        if raw.begins_batch {
            for (from, to) in self.gaps.drain(..) {
                step(Step::Damage { offset: from as u64, len: (to - from) as u64 });
            }
        }
        self.at = start + raw.len();
        step(Step::Record { at: start, raw });
        true
    }

    /// Looks at what is behind the last record; gives where all is whole up to.
    pub(crate) fn end<'a>(&self, bytes: &'a [u8], step: &mut dyn FnMut(Step<'a>)) -> u64 {
        let Self { header, sealed, at, gaps } = self;
        if (*at as u64) < *sealed {
            step(Step::Damage { offset: *at as u64, len: sealed - *at as u64 });
        }
        let torn = gaps.first().map(|(from, _)| *from);
        if let Some(offset) = torn.or_else(|| torn_record(bytes, (*at).max(*sealed as usize), header.key)) {
            step(Step::TornTail { offset: offset as u64 });
        }
        gaps.first().map_or(*at, |(from, _)| *from) as u64
    }
}

/// The next whole and true record at `from` or behind it, and where it begins.
fn next_record(bytes: &[u8], from: usize, key: u64) -> Option<(usize, Raw<'_>)> {
    let rest = bytes.get(from..)?;
    if let Some(raw) = record::parse(rest, key) {
        return Some((from, raw));
    }
    memmem::find_iter(rest, &record::MAGIC).find_map(|at| record::parse(&rest[at..], key).map(|raw| (from + at, raw)))
}

/// What begins as a record of this segment begins, at `from` or behind it. An earlier tenant's records have another key.
fn torn_record(bytes: &[u8], from: usize, key: u64) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let ours = |at: &usize| record::key_of(&rest[*at..]) == Some(key);
    memmem::find_iter(rest, &record::MAGIC).find(ours).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PINNED_MAX;

    const HEADER: SegmentHeader = SegmentHeader {
        version: 2,
        sequence: 1,
        head: 1,
        key: 77,
        size: 0,
        previous: 0,
        previous_end: 0,
        pinned: [0; PINNED_MAX],
    };

    /// A segment of batches of messages of so many bytes, and where each message begins.
    fn segment(batches: &[&[usize]]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (HEADER.block(), Vec::new());
        for batch in batches {
            for (number, size) in batch.iter().enumerate() {
                let start = bytes.len();
                let id = SpoolId::from_bytes([starts.len() as u8 + 1; 16]);
                record::append(Kind::Message, id, &[&0u32.to_le_bytes(), &vec![b'x'; *size]], None, &mut bytes);
                record::seal(&mut bytes[start..], HEADER.key, number == 0);
                starts.push(start);
            }
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        (bytes, starts)
    }

    /// What is seen of a segment, in short: messages by their number, damage and tails by their offset.
    fn check(bytes: &[u8], sealed: u64, expected: &[&str], why: &str) {
        let mut seen = Vec::new();
        walk(&HEADER, bytes, sealed, &mut |step| {
            seen.push(match step {
                Step::Record { raw, .. } => format!("message {}", raw.id.to_bytes()[0]),
                Step::Damage { offset, .. } => format!("damage {offset}"),
                Step::TornTail { offset } => format!("torn {offset}"),
            });
        });
        assert_eq!(seen, expected, "{why}");
    }

    #[test]
    fn a_damaged_record_loses_no_more_than_itself() {
        let (mut bytes, starts) = segment(&[&[100, 5000, 30], &[40]]);
        bytes[starts[1] + 50] ^= 1;
        let damage = format!("damage {}", starts[1]);
        check(&bytes, 0, &["message 1", "message 3", &damage, "message 4"], "another batch follows");
    }

    #[test]
    fn a_torn_end_is_no_damage_unless_it_was_sealed() {
        let (mut bytes, starts) = segment(&[&[100, 200]]);
        let end = starts[1] + record::HEADER + 204;
        bytes[starts[1] + 100..].fill(0xee);
        let torn = format!("torn {}", starts[1]);
        check(&bytes, 0, &["message 1", &torn], "the last record");
        let damage = format!("damage {}", starts[1]);
        check(&bytes, end as u64, &["message 1", &damage], "the next header says it was there");
    }

    #[test]
    fn a_torn_batch_is_no_damage_although_its_end_is_there() {
        let (mut bytes, starts) = segment(&[&[100], &[100, 6000, 50]]);
        bytes[starts[1]..starts[1] + BLOCK].fill(0xee);
        let torn = starts[0] + record::HEADER + 104;
        check(&bytes, 0, &["message 1", "message 4", &format!("torn {torn}")], "the last batch");
    }

    #[test]
    fn what_an_earlier_tenant_left_is_neither() {
        let (mut bytes, starts) = segment(&[&[100], &[200]]);
        record::seal(&mut bytes[starts[1]..starts[1] + record::HEADER + 204], 76, true);
        check(&bytes, 0, &["message 1"], "another key");
    }
}
