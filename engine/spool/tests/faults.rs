//! What the log once did wrong on a disk that fails: each test has the name of the fault.

mod support;

use ringpost_base::Entropy;
use ringpost_spool::*;
use support::{Disk, Fate, ReadBack, id, number, options, read_back, run, run_all};

const KIB: u64 = 16;

struct Log {
    spool: Spool,
    disk: Disk,
    next: u64,
    /// Messages that can't be read for compaction.
    unreadable: Vec<u64>,
}

impl Log {
    fn new() -> Self {
        let spool = Spool::new(options(KIB), Entropy([5; 16]));
        Self { spool, disk: Disk::default(), next: 1000, unreadable: Vec::new() }
    }

    fn append(&mut self, number: u64, size: usize) {
        let bytes = vec![number as u8; size];
        let parts = MessageParts { id: id(number), envelope: b"env", bytes: &bytes, body_file: None };
        assert!(self.spool.append(Token(number), &parts));
    }

    fn run(&mut self) {
        run(&mut self.spool, &mut self.disk, options(KIB), &mut |op| match op {
            Op::Copy { id, .. } if self.unreadable.contains(&number(*id)) => Fate::Fails(Failure::Io),
            _ => Fate::Done,
        });
    }

    /// Messages that come and go.
    fn churn(&mut self, count: u64) {
        for _ in 0..count {
            self.next += 1;
            self.append(self.next, 3000);
            self.run();
            self.spool.settle(id(self.next));
        }
        self.run();
    }

    /// Whether records in a segment refer to both messages.
    fn refers_to(&self, slot: Slot, messages: [u64; 2]) -> bool {
        let file = &self.disk.0[&slot];
        let header = SegmentHeader::parse(file).expect("a header");
        let mut referred = Vec::new();
        inspect(&header, file, &mut |seen| {
            if let Seen::Elsewhere { id, .. } = seen {
                referred.push(number(id));
            }
        });
        messages.iter().all(|message| referred.contains(message))
    }

    fn read_back(&mut self) -> ReadBack {
        read_back(&mut self.disk, options(KIB), 6).expect("known versions")
    }

    /// The process is gone; gives what the next one finds.
    fn restart(&mut self) -> Vec<u64> {
        let back = self.read_back();
        assert_eq!((&back.damage[..], &back.missing[..], &back.lost[..]), (&[][..], &[][..], &[][..]));
        self.spool = back.spool;
        back.live.iter().map(|message| number(message.id)).collect()
    }
}

/// A segment is kept for two messages; the one that refers to both is itself kept for a third. What it says of the first was
/// believed when the settlement of that was gone, and then counted off twice.
#[test]
fn a_settled_message_comes_back_from_a_pinned_segment() {
    let mut log = Log::new();
    log.append(1, 100);
    log.append(2, 100);
    log.run();
    log.unreadable = vec![1, 2];
    let mut candidates = 10..500;
    let third = loop {
        let candidate = candidates.next().expect("one stands beside what refers to both");
        log.next += 1;
        log.append(log.next, 3000);
        log.append(candidate, 10);
        log.run();
        log.spool.settle(id(log.next));
        let slot = log.spool.locate(id(candidate)).expect("alive").slot;
        if log.refers_to(slot, [1, 2]) {
            break candidate;
        }
        log.spool.settle(id(candidate));
    };
    log.unreadable.push(third);
    log.churn(300);
    assert_eq!(log.spool.stats().pinned, 2);
    log.spool.settle(id(1));
    log.churn(300);
    assert_eq!((log.restart(), log.spool.stats().pinned), (vec![2, third], 2));
    log.spool.settle(id(2));
    assert_eq!(log.spool.stats().pinned, 1);
    log.churn(300);
    assert_eq!(log.restart(), [third]);
    log.spool.settle(id(third));
    log.churn(300);
    assert_eq!((log.restart(), log.spool.stats().pinned), (vec![], 0));
}

/// Each header that failed left a file behind, as long as files could be made.
#[test]
fn files_pile_up_while_no_header_can_be_written() {
    let mut log = Log::new();
    log.append(1, 10);
    log.run();
    log.restart();
    for number in 2..60 {
        log.append(number, 10);
        run(&mut log.spool, &mut log.disk, options(KIB), &mut |op| match op {
            Op::Write { offset: 0, .. } => Fate::Fails(Failure::Io),
            _ => Fate::Done,
        });
    }
    assert!(log.disk.0.len() <= 6, "{:?}", log.disk.0.keys());
    assert_eq!(log.restart(), [1]);
    log.append(100, 10);
    log.churn(100);
    assert_eq!(log.restart(), [1, 100]);
    assert!(log.disk.0.len() <= 16, "{:?}", log.disk.0.keys());
}

/// One that the head had not passed yet stood before it.
#[test]
fn a_file_that_failed_stays_behind_another() {
    let mut log = Log::new();
    let fail = |log: &mut Log, what: fn(u64) -> bool| {
        let mut failures = 1;
        run(&mut log.spool, &mut log.disk, options(KIB), &mut |op| match op {
            Op::Write { offset, .. } if failures > 0 && what(*offset) => {
                failures -= 1;
                Fate::Fails(Failure::Io)
            }
            _ => Fate::Done,
        });
    };
    log.append(1, 3000);
    log.run();
    let first = log.spool.locate(id(1)).expect("alive").slot;
    log.append(10, 10);
    fail(&mut log, |offset| offset > 0);
    log.append(2, 3000);
    log.run();
    log.append(11, 8000);
    fail(&mut log, |offset| offset == 0);
    log.append(3, 8000);
    log.run();
    log.spool.settle(id(1));
    log.append(4, 8000);
    log.append(5, 8000);
    log.run();
    assert!(!log.disk.0.contains_key(&first), "{:?}", log.disk.0.keys());
    assert_eq!(log.restart(), [2, 3, 4, 5]);
}

/// What is referred to is not there, and nobody was told.
#[test]
fn a_pinned_segment_that_is_gone_is_missed() {
    let mut log = Log::new();
    for number in 1..=3 {
        log.append(number, 100);
    }
    log.run();
    log.unreadable = vec![2];
    log.churn(300);
    assert_eq!(log.restart(), [1, 2, 3]);
    let there = log.spool.locate(id(2)).expect("alive");
    log.disk.0.remove(&there.slot);
    let back = log.read_back();
    assert_eq!(back.missing, [there.sequence]);
    assert_eq!(back.lost.iter().map(|lost| lost.id).collect::<Vec<_>>(), [id(2)]);
    assert_eq!(back.live.len(), 2);
}

/// Settled, and its segment removed before the settlement was on the disk: nobody has lost anything.
#[test]
fn a_message_settled_a_moment_ago_is_not_missed() {
    let mut log = Log::new();
    for number in 1..=3 {
        log.append(number, 100);
    }
    log.run();
    log.unreadable = vec![2];
    log.churn(300);
    log.spool.settle(id(2));
    run(&mut log.spool, &mut log.disk, options(KIB), &mut |op| match op {
        Op::Write { .. } => Fate::Stop,
        _ => Fate::Done,
    });
    let back = log.read_back();
    assert_eq!((&back.damage[..], &back.missing[..], &back.lost[..]), (&[][..], &[][..], &[][..]));
}

/// Zeros in place of what can't be read: the rest is found, and what is told is what was not.
#[test]
fn a_piece_that_can_not_be_read_is_damage_and_no_more() {
    let mut log = Log::new();
    for number in 1..=9 {
        log.append(number, 1500);
    }
    run_all(&mut log.spool, &mut log.disk, options(KIB));
    let there = log.spool.locate(id(3)).expect("alive");
    let block = there.offset / BLOCK as u64 * BLOCK as u64;
    let mut recovery: Recovery<()> = Recovery::new();
    log.disk.0.iter().for_each(|(slot, file)| recovery.header(*slot, &file[..BLOCK]).expect("a known version"));
    recovery.unreadable_header(Slot(77));
    let order = recovery.order();
    recovery.take_unused();
    for (slot, header) in order {
        let mut file = log.disk.0[&slot].clone();
        if slot == there.slot {
            file[block as usize..][..BLOCK].fill(0);
            recovery.unreadable(slot, block, BLOCK as u64);
        }
        recovery.segment(slot, &header, &file, &mut |_, _| ());
    }
    let told = recovery.damage().to_vec();
    assert!(told.contains(&Damage { slot: Slot(77), offset: 0, len: BLOCK as u64 }), "{told:?}");
    assert!(told.contains(&Damage { slot: there.slot, offset: block, len: BLOCK as u64 }), "{told:?}");
    let (mut spool, live) = recovery.finish(options(KIB), Entropy([1; 16]));
    let found: Vec<u64> = live.iter().map(|message| number(message.id)).collect();
    assert!(!found.contains(&3) && (4..9).contains(&found.len()), "{found:?}");
    // The number of the file that is left alone is not given to another.
    let parts = MessageParts { id: id(20), envelope: b"env", bytes: b"new", body_file: None };
    assert!(spool.append(Token(1), &parts));
    assert_eq!(spool.poll_op(), Some(Op::Create(Slot(78))));
}
