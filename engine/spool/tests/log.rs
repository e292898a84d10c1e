//! The log, case by case: order of calls that hardly happens, operations that fail, records that can't be read.

mod support;

use ringpost_base::{Accepted, Durability, Entropy};
use ringpost_spool::*;
use support::{Disk, Fate, id, number, options, read_back, run, run_all};

const KIB: u64 = 16;

struct Log {
    spool: Spool,
    disk: Disk,
}

impl Log {
    fn new() -> Self {
        Self { spool: Spool::new(options(KIB), Entropy([5; 16])), disk: Disk::default() }
    }

    fn append(&mut self, number: u64, size: usize) -> bool {
        let bytes = vec![number as u8; size];
        self.spool
            .append(Token(number), &MessageParts { id: id(number), envelope: b"env", bytes: &bytes, body_file: None })
    }

    fn run(&mut self) -> Vec<(u64, Result<(), Failure>)> {
        self.run_with(&mut |_| Fate::Done)
    }

    fn run_with(&mut self, fate: &mut dyn FnMut(&Op) -> Fate) -> Vec<(u64, Result<(), Failure>)> {
        let completions = run(&mut self.spool, &mut self.disk, options(KIB), fate);
        completions.into_iter().map(|completion| (completion.token.0, completion.result.map(|_| ()))).collect()
    }

    /// Until the first write of a batch fails, with the store's pause behind it.
    fn fail_a_batch(&mut self, failure: Failure) -> Vec<(u64, Result<(), Failure>)> {
        let mut failed = false;
        self.run_with(&mut |op| match op {
            Op::Write { offset: 1.., .. } if !failed => {
                failed = true;
                Fate::Fails(failure)
            }
            _ => Fate::Done,
        })
    }

    /// The process is gone; this is what the next one finds.
    fn restart(&mut self) -> Vec<(u64, Vec<u8>)> {
        let back = read_back(&mut self.disk, options(KIB), 6).expect("known versions");
        assert_eq!((&back.damage[..], &back.missing[..], &back.lost[..]), (&[][..], &[][..], &[][..]));
        self.spool = back.spool;
        back.live.into_iter().map(|message| (number(message.id), message.state.into_vec())).collect()
    }

    /// Messages that come and go until the log has been gone through, so that what is alive is copied forward.
    fn churn(&mut self, numbers: std::ops::Range<u64>, fate: &mut dyn FnMut(&Op) -> Fate) {
        for number in numbers {
            assert!(self.append(number, 3000));
            self.run_with(fate);
            self.spool.settle(id(number));
        }
        self.run_with(fate);
    }
}

#[test]
fn settled_before_it_is_durable() {
    let mut log = Log::new();
    assert!(log.append(1, 10) && log.append(2, 10));
    log.spool.settle(id(1));
    assert!(log.spool.locate(id(1)).is_none() && log.spool.entry(id(1)).is_none());
    assert_eq!(log.run(), [(1, Ok(())), (2, Ok(()))]);
    assert_eq!(log.spool.ids().collect::<Vec<_>>(), [id(2)]);
    assert_eq!(log.restart(), [(2, vec![])]);
}

#[test]
fn noted_before_it_is_durable() {
    let mut log = Log::new();
    assert!(log.append(1, 10));
    assert!(log.spool.note(id(1), b"early"));
    assert!(log.spool.note(id(9), b"of nobody"));
    assert!(!log.spool.is_idle());
    log.run();
    assert!(log.spool.is_idle());
    assert_eq!(log.restart(), [(1, b"early".to_vec())]);
    assert_eq!(log.spool.state(id(1)), Some(&b"early"[..]));
}

#[test]
fn the_last_of_two_notes_counts() {
    let mut log = Log::new();
    assert!(log.append(1, 10) && log.append(2, 10));
    log.run();
    log.spool.note(id(1), b"first");
    log.spool.note(id(1), b"second");
    log.spool.note(id(2), b"first");
    log.run();
    log.spool.note(id(2), b"");
    let records = log.spool.stats().records;
    log.run();
    assert_eq!(log.spool.stats().records, records + 1);
    assert_eq!(log.restart(), [(1, b"second".to_vec()), (2, vec![])]);
}

#[test]
fn a_state_is_bounded() {
    let mut spool = Spool::new(Options::default(), Entropy([5; 16]));
    spool.append(Token(1), &MessageParts { id: id(1), envelope: b"", bytes: b"", body_file: None });
    assert!(spool.note(id(1), &[1; STATE_MAX]));
    assert!(!spool.note(id(1), &[2; STATE_MAX + 1]));
    assert_eq!(spool.state(id(1)), Some(&[1; STATE_MAX][..]));
    let mut small = Log::new();
    assert!(small.append(1, 10) && !small.spool.note(id(1), &[1; 9000]));
}

#[test]
fn what_is_known_without_reading() {
    let mut log = Log::new();
    let body_file = Some(BodyFile { len: 77, crc: 5 });
    assert!(log.append(1, 10));
    assert!(log.spool.append(Token(2), &MessageParts { id: id(2), envelope: b"env", bytes: b"", body_file }));
    assert!(!log.append(1, 10), "it is here already");
    assert!(!log.append(3, 9000), "larger than a segment");
    log.run();
    for _ in 0..2 {
        let known = |number| log.spool.entry(id(number)).map(|entry| (entry.size, entry.has_body_file));
        assert_eq!([known(1), known(2), known(3)], [Some((10, false)), Some((77, true)), None]);
        assert_eq!(log.spool.stats().live_bytes, 40 + 4 + 3 + 10 + 40 + 4 + 3 + 12);
        assert_eq!(log.restart().len(), 2);
    }
}

#[test]
fn a_receipt_of_memory_is_no_receipt_of_the_disk() {
    let mut log = Log::new();
    let receipt = log.spool.kept_in_memory(id(1));
    assert_eq!((receipt.id(), receipt.durability()), (id(1), Durability::Memory));
    assert!(log.append(1, 10));
    let completions = run_all(&mut log.spool, &mut log.disk, options(KIB));
    assert_eq!(completions[0].result.as_ref().expect("durable").durability(), Durability::Fsync);
}

#[test]
fn without_a_segment_messages_fail_and_settlements_do_not() {
    for failure in [Failure::Full, Failure::Io] {
        let mut log = Log::new();
        assert!(log.append(1, 10) && log.append(2, 10));
        log.run();
        // The process goes on with a log that has no segment to write to.
        log.restart();
        log.spool.settle(id(1));
        log.spool.note(id(2), b"state");
        assert!(log.append(3, 10));
        let mut failed = 0;
        let completions = log.run_with(&mut |op| match op {
            Op::Create(_) if failed == 0 => {
                failed += 1;
                Fate::Fails(failure)
            }
            _ => Fate::Done,
        });
        assert_eq!(completions, [(3, Err(failure))]);
        assert_eq!(log.restart(), [(2, b"state".to_vec())]);
    }
}

#[test]
fn a_segment_that_can_not_be_made_harms_nobody_while_there_is_another() {
    let mut log = Log::new();
    let mut fate = |op: &Op| match op {
        Op::Create(Slot(slot)) if *slot > 0 => Fate::Stop,
        _ => Fate::Done,
    };
    assert!(log.append(1, 7000));
    assert_eq!(log.run_with(&mut fate), [(1, Ok(()))]);
    // The next one is asked for ahead of time, and can't be had: what still fits is written.
    assert!(log.spool.created(Slot(1), Err(Failure::Full)).is_empty());
    assert!(log.append(2, 1000));
    assert_eq!(log.run_with(&mut fate), [(2, Ok(()))]);
}

#[test]
fn headers_that_fail_twice_and_then_not() {
    for failure in [Failure::Full, Failure::Io] {
        let mut log = Log::new();
        let mut failures = 2;
        for (number, expected) in [(1, Err(failure)), (2, Err(failure)), (3, Ok(()))] {
            assert!(log.append(number, 10));
            let completions = log.run_with(&mut |op| match op {
                Op::Write { offset: 0, .. } if failures > 0 => {
                    failures -= 1;
                    Fate::Fails(failure)
                }
                _ => Fate::Done,
            });
            assert_eq!(completions, [(number, expected)]);
        }
        assert_eq!(log.restart(), [(3, vec![])]);
        // Nothing was written behind a header that failed, and none of those files is kept.
        assert!(log.disk.0.len() <= 2, "{:?}", log.disk.0.keys());
    }
}

#[test]
fn a_file_whose_header_fails_for_ever_is_replaced() {
    let mut log = Log::new();
    let mut fate = |op: &Op| match op {
        Op::Write { slot: Slot(0), offset: 0, .. } => Fate::Fails(Failure::Io),
        _ => Fate::Done,
    };
    assert!(log.append(1, 10));
    assert_eq!(log.run_with(&mut fate), [(1, Err(Failure::Io))]);
    assert!(log.append(2, 10));
    assert_eq!(log.run_with(&mut fate), [(2, Ok(()))]);
    // It goes once there is another one to spare, which is made when the segment is half full.
    assert!(log.append(3, 3000));
    assert_eq!(log.run_with(&mut fate), [(3, Ok(()))]);
    assert!(!log.disk.0.contains_key(&Slot(0)));
}

#[test]
fn without_a_new_file_one_that_failed_is_tried_again() {
    let mut log = Log::new();
    let mut headers = 0;
    let mut fate = |op: &Op| match op {
        Op::Write { offset: 0, .. } if headers == 0 => {
            headers += 1;
            Fate::Fails(Failure::Io)
        }
        Op::Create(Slot(1)) => Fate::Fails(Failure::Full),
        _ => Fate::Done,
    };
    assert!(log.append(1, 10));
    assert_eq!(log.run_with(&mut fate), [(1, Err(Failure::Io))]);
    assert!(log.append(2, 10));
    assert_eq!(log.run_with(&mut fate), [(2, Ok(()))]);
    assert_eq!(log.restart(), [(2, vec![])]);
}

#[test]
fn a_batch_that_fails_loses_no_settlement_and_no_state() {
    for failure in [Failure::Full, Failure::Io] {
        let mut log = Log::new();
        for number in 1..=3 {
            assert!(log.append(number, 10));
        }
        log.run();
        log.spool.settle(id(1));
        log.spool.note(id(2), b"state");
        assert!(log.append(4, 10));
        assert_eq!(log.fail_a_batch(failure), [(4, Err(failure))]);
        assert!(log.spool.is_idle() && log.spool.locate(id(4)).is_none());
        assert_eq!(log.restart(), [(2, b"state".to_vec()), (3, vec![])]);
    }
}

/// The write says that it failed, and all of it is on the disk all the same.
#[test]
fn a_message_that_was_refused_is_not_delivered_although_it_is_there() {
    for failure in [Failure::Full, Failure::Io] {
        let mut log = Log::new();
        assert!(log.append(1, 10));
        let mut written = None;
        while let Some(op) = log.spool.poll_op() {
            match op {
                Op::Create(slot) => {
                    log.disk.create(slot, KIB << 10);
                    log.spool.created(slot, Ok(()));
                }
                Op::Write { slot, offset, bytes } => {
                    log.disk.write(slot, offset, &bytes);
                    let fails = offset > 0 && written.is_none();
                    written = written.or(fails.then_some(offset));
                    log.spool.written(if fails { Err(failure) } else { Ok(()) });
                }
                op => unreachable!("{op:?}"),
            }
        }
        assert_eq!(log.restart(), []);
    }
}

#[test]
fn a_message_appended_once_more_after_a_failure_stays() {
    let mut log = Log::new();
    assert!(log.append(1, 10));
    // The settlement that declares the first attempt dead fails as well, while the second attempt is staged behind it.
    let mut failures = 0;
    let completions = log.run_with(&mut |op| match op {
        Op::Write { offset: 1.., .. } if failures == 0 => {
            failures += 1;
            Fate::Fails(Failure::Io)
        }
        Op::Write { offset: 1.., .. } => Fate::Stop,
        _ => Fate::Done,
    });
    assert_eq!(completions, [(1, Err(Failure::Io))]);
    assert!(log.append(1, 20));
    assert!(log.spool.written(Err(Failure::Io)).is_empty());
    assert_eq!(log.run(), [(1, Ok(()))]);
    assert_eq!(log.restart(), [(1, vec![])]);
    assert_eq!(log.spool.entry(id(1)).map(|entry| entry.size), Some(20));
}

#[test]
fn notes_that_can_not_be_written_do_not_pile_up() {
    let mut log = Log::new();
    assert!(log.append(1, 10));
    log.run();
    for round in 0..500u32 {
        log.spool.note(id(1), &round.to_le_bytes());
        let mut failures = 1;
        log.run_with(&mut |op| match op {
            Op::Write { .. } if failures > 0 => {
                failures -= 1;
                Fate::Fails(Failure::Io)
            }
            Op::Write { bytes, .. } => {
                assert!(bytes.len() <= 2 * BLOCK, "{} bytes for one state", bytes.len());
                Fate::Fails(Failure::Io)
            }
            Op::Create(_) => Fate::Stop,
            _ => Fate::Done,
        });
        log.spool.created(Slot(0), Err(Failure::Full));
    }
    assert_eq!(log.spool.stats().live, 1);
}

#[test]
fn what_comes_while_a_segment_is_begun_shares_one_write() {
    let mut log = Log::new();
    assert!(log.append(1, 10));
    let Some(Op::Create(slot)) = log.spool.poll_op() else { panic!("a segment is to be made") };
    log.disk.create(slot, KIB << 10);
    assert!(log.append(2, 10));
    assert_eq!(log.spool.poll_op(), None);
    log.spool.created(slot, Ok(()));
    assert!(matches!(log.spool.poll_op(), Some(Op::Write { offset: 0, .. })));
    assert!(log.append(3, 10));
    log.spool.written(Ok(()));
    let mut writes = 0;
    let completions = log.run_with(&mut |op| {
        writes += u32::from(matches!(op, Op::Write { .. }));
        Fate::Done
    });
    assert_eq!((completions.len(), writes), (3, 1));
}

/// Goes through a log in which some messages can't be read, or not any more, and says how often each was tried.
fn churn_with_unreadable(log: &mut Log, unreadable: &[u64], numbers: std::ops::Range<u64>) -> u32 {
    let mut tried = 0;
    log.churn(numbers, &mut |op| match op {
        Op::Copy { id, .. } if unreadable.contains(&number(*id)) => {
            tried += 1;
            Fate::Fails(Failure::Io)
        }
        _ => Fate::Done,
    });
    tried
}

#[test]
fn a_message_that_can_not_be_read_does_not_hold_the_log() {
    let mut log = Log::new();
    for number in 1..=3 {
        assert!(log.append(number, 100));
    }
    log.run();
    log.spool.note(id(1), b"of one");
    log.spool.note(id(2), b"of two");
    let there = log.spool.locate(id(2));
    let tried = churn_with_unreadable(&mut log, &[2], 100..600);
    // It is tried again only when the log has been gone through once more.
    assert!((1..100).contains(&tried), "{tried} times");
    let stats = log.spool.stats();
    assert!(stats.segments < 24 && stats.pinned == 1, "{stats:?}");
    assert_eq!(log.spool.locate(id(2)), there);
    assert_ne!(log.spool.locate(id(1)), log.spool.locate(id(2)));
    assert_eq!(log.spool.entry(id(2)).map(|entry| entry.size), Some(100));
    for _ in 0..2 {
        let expected = [(1, b"of one".to_vec()), (2, b"of two".to_vec()), (3, vec![])];
        assert_eq!(log.restart(), expected);
        assert_eq!(log.spool.locate(id(2)), there);
        assert_eq!(log.spool.stats().pinned, 1);
    }
    // What is noted of it meanwhile goes with it, and once it can be read it is moved like others.
    log.spool.note(id(2), b"noted since");
    churn_with_unreadable(&mut log, &[2], 1000..1300);
    assert_eq!(log.restart()[1], (2, b"noted since".to_vec()));
    churn_with_unreadable(&mut log, &[], 2000..2300);
    assert_eq!(log.spool.stats().pinned, 0);
    assert_eq!(log.restart()[1], (2, b"noted since".to_vec()));
    assert_ne!(log.spool.locate(id(2)), there);
}

#[test]
fn a_message_that_can_not_be_read_may_be_settled() {
    let mut log = Log::new();
    for number in 1..=3 {
        assert!(log.append(number, 100));
    }
    log.run();
    churn_with_unreadable(&mut log, &[1, 2], 100..400);
    log.spool.settle(id(1));
    churn_with_unreadable(&mut log, &[2], 500..800);
    assert_eq!((log.spool.stats().pinned, log.restart()), (1, vec![(2, vec![]), (3, vec![])]));
    log.spool.settle(id(2));
    assert_eq!(log.spool.stats().pinned, 0);
    churn_with_unreadable(&mut log, &[], 900..1200);
    assert_eq!(log.restart(), [(3, vec![])]);
}

#[test]
fn a_message_that_is_damaged_is_told_and_gone_after_a_restart() {
    let mut log = Log::new();
    for number in 1..=3 {
        assert!(log.append(number, 100));
    }
    log.run();
    let there = log.spool.locate(id(2)).expect("alive");
    log.disk.0.get_mut(&there.slot).expect("there")[there.offset as usize + 60] ^= 1;
    let mut refused = 0;
    for number in 100..400 {
        assert!(log.append(number, 3000));
        while let Some(op) = log.spool.poll_op() {
            match op {
                Op::Create(slot) => {
                    log.disk.create(slot, KIB << 10);
                    log.spool.created(slot, Ok(()));
                }
                Op::Write { slot, offset, bytes } => {
                    log.disk.write(slot, offset, &bytes);
                    log.spool.written(Ok(()));
                }
                Op::Copy { id, location } => {
                    let whole = log.spool.copied(id, Some(log.disk.read(location)));
                    assert_eq!(whole, id != support::id(2));
                    refused += u32::from(!whole);
                }
                Op::Remove(slot) => drop(log.disk.0.remove(&slot)),
            }
        }
        log.spool.settle(id(number));
    }
    assert!(refused > 0);
    let back = read_back(&mut log.disk, options(KIB), 6).expect("known versions");
    let found: Vec<u64> = back.live.iter().map(|message| number(message.id)).filter(|number| *number < 100).collect();
    assert_eq!(found, [1, 3]);
    assert_eq!(back.damage, [Damage { slot: there.slot, offset: there.offset, len: there.len.into() }]);
    assert_eq!(back.lost.iter().map(|lost| lost.id).collect::<Vec<_>>(), [id(2)]);
    assert_eq!(back.spool.stats().pinned, 0);
}

#[test]
fn as_many_segments_are_kept_for_unreadable_messages_as_a_header_can_name() {
    let mut log = Log::new();
    let unreadable: Vec<u64> = (1..=PINNED_MAX as u64 + 6).collect();
    for number in &unreadable {
        // One in each segment, all the rest of which is dead.
        assert!(log.append(*number, 100));
        log.run();
        churn_with_unreadable(&mut log, &unreadable, number * 100..number * 100 + 4);
    }
    let tried = churn_with_unreadable(&mut log, &unreadable, 10_000..10_400);
    assert_eq!(log.spool.stats().pinned, PINNED_MAX);
    assert!(tried < 200, "{tried} times");
    let found: Vec<u64> = log.restart().into_iter().map(|(number, _)| number).collect();
    assert_eq!(found, unreadable);
    // The log has grown, since nothing behind them could be freed; that ends when some of them are settled.
    let grown = log.spool.stats().segments;
    assert!(grown > 50, "{grown}");
    for number in &unreadable[..8] {
        log.spool.settle(id(*number));
    }
    churn_with_unreadable(&mut log, &unreadable, 20_000..20_400);
    let stats = log.spool.stats();
    assert!(stats.segments < grown / 2 && stats.pinned <= PINNED_MAX, "{stats:?}");
    let found: Vec<u64> = log.restart().into_iter().map(|(number, _)| number).collect();
    assert_eq!(found, unreadable[8..]);
}

#[test]
fn compaction_does_not_hold_up_those_who_wait() {
    let mut log = Log::new();
    // Many small messages fill the oldest segment and stay; what comes after goes.
    for number in 1..=60 {
        assert!(log.append(number, 10));
    }
    log.run();
    let mut waited = 0;
    for number in 1000..1040 {
        assert!(log.append(number, 3000));
        let mut copies = 0;
        log.run_with(&mut |op| {
            match op {
                Op::Copy { .. } => copies += 1,
                Op::Write { .. } => {
                    waited = copies.max(waited);
                    copies = 0;
                }
                _ => {}
            }
            Fate::Done
        });
        log.spool.settle(id(number));
    }
    assert!((1..=16).contains(&waited), "{waited} copies before a write");
    assert!(log.spool.stats().compacted >= 60);
}

#[test]
fn states_go_with_messages_that_are_copied_and_adopted() {
    let mut log = Log::new();
    for number in 1..=3 {
        assert!(log.append(number, 100));
    }
    log.run();
    log.spool.note(id(1), &[7; 5000]);
    log.spool.note(id(2), b"two");
    log.churn(100..400, &mut |_| Fate::Done);
    assert!(log.spool.stats().compacted > 0);
    let expected = [(1, vec![7; 5000]), (2, b"two".to_vec()), (3, vec![])];
    assert_eq!(log.restart(), expected);
    let mut other = Log::new();
    for number in 1..=3 {
        let location = log.spool.locate(id(number)).expect("alive");
        let state = log.spool.state(id(number)).unwrap_or_default();
        let bytes = log.disk.read(location).to_vec();
        assert!(other.spool.adopt(Token(number), &bytes, location.key, state));
        assert!(!other.spool.adopt(Token(number), &bytes, location.key, state), "it is here already");
        assert!(!other.spool.adopt(Token(9), &bytes, location.key ^ 1, state), "not whole");
    }
    assert_eq!(other.run(), [(1, Ok(())), (2, Ok(())), (3, Ok(()))]);
    assert_eq!(other.restart(), expected);
}

#[test]
fn a_message_larger_than_the_segments_of_today_is_adopted_into_a_file() {
    let (large, body) = (options(64), vec![b'x'; 40_000]);
    let (mut spool, mut disk) = (Spool::new(large, Entropy([5; 16])), Disk::default());
    assert!(spool.append(Token(1), &MessageParts { id: id(1), envelope: b"env", bytes: &body, body_file: None }));
    run_all(&mut spool, &mut disk, large);
    let location = spool.locate(id(1)).expect("alive");
    let (record, key) = (disk.read(location), location.key);
    for (done, state, legacy_done) in [(&[][..], &b"state"[..], vec![]), (&[3, 7], b"", vec![3, 7])] {
        let (mut log, file) = (Log::new(), BodyFile { len: body.len() as u64, crc: 9 });
        assert!(!log.spool.adopt(Token(1), record, key, state), "it is too large");
        assert!(!log.spool.adopt_into_file(Token(1), record, key ^ 1, (state, done), file), "not whole");
        assert!(log.spool.adopt_into_file(Token(1), record, key, (state, done), file));
        assert_eq!(log.run(), [(1, Ok(()))]);
        let back = read_back(&mut log.disk, options(KIB), 6).expect("known versions");
        let expected = Recovered {
            id: id(1),
            digest: b"env".to_vec(),
            size: file.len,
            has_body_file: true,
            state: state.into(),
            legacy_done,
        };
        assert_eq!(back.live, [expected]);
        let location = back.spool.locate(id(1)).expect("alive");
        let record = parse_message(log.disk.read(location), location.key).expect("whole");
        assert_eq!(record.content, Content::File(file));
    }
}

#[test]
fn a_message_larger_than_the_segments_of_today_does_not_hold_the_log() {
    let (large, small) = (options(64), options(16));
    let (mut spool, mut disk) = (Spool::new(large, Entropy([5; 16])), Disk::default());
    let body = vec![b'x'; 40_000];
    assert!(spool.append(Token(1), &MessageParts { id: id(1), envelope: b"env", bytes: &body, body_file: None }));
    run_all(&mut spool, &mut disk, large);
    let mut log = Log { spool: read_back(&mut disk, small, 6).expect("known versions").spool, disk };
    log.churn(100..400, &mut |_| Fate::Done);
    let stats = log.spool.stats();
    assert!(stats.segments < 24 && stats.pinned == 1, "{stats:?}");
    assert_eq!(log.restart(), [(1, vec![])]);
    let location = log.spool.locate(id(1)).expect("alive");
    let record = parse_message(log.disk.read(location), location.key).expect("whole");
    assert_eq!(record.content, Content::Inline(&body));
}

#[test]
fn a_state_larger_than_the_segments_of_today_is_kept() {
    let (large, small) = (options(64), options(16));
    let (mut spool, mut disk) = (Spool::new(large, Entropy([5; 16])), Disk::default());
    assert!(spool.append(Token(1), &MessageParts { id: id(1), envelope: b"env", bytes: b"body", body_file: None }));
    assert!(spool.note(id(1), &[7; 30_000]));
    run_all(&mut spool, &mut disk, large);
    let mut log = Log { spool: read_back(&mut disk, small, 6).expect("known versions").spool, disk };
    // Neither copied nor referred to, so nothing behind it is freed, until the queue notes something smaller.
    log.churn(100..200, &mut |_| Fate::Done);
    assert_eq!((log.spool.stats().compacted, log.spool.stats().pinned), (0, 0));
    assert_eq!(log.spool.state(id(1)), Some(&[7; 30_000][..]));
    log.spool.note(id(1), b"smaller");
    log.churn(200..300, &mut |_| Fate::Done);
    assert!(log.spool.stats().compacted > 0 && log.spool.stats().segments < 24, "{:?}", log.spool.stats());
    assert_eq!(log.restart(), [(1, b"smaller".to_vec())]);
}

#[test]
fn a_walk_shows_what_is_in_a_segment() {
    let mut log = Log::new();
    assert!(log.append(1, 100) && log.append(2, 10));
    log.run();
    log.spool.settle(id(1));
    log.spool.note(id(2), b"two");
    log.run();
    let file = log.disk.0.values().find(|file| SegmentHeader::parse(file).is_some()).expect("a segment");
    let header = SegmentHeader::parse(file).expect("a header");
    let mut seen = Vec::new();
    let end = inspect(&header, file, &mut |what| {
        seen.push(match what {
            Seen::Message { at, len, record } => format!("{at}+{len} message {}", number(record.id)),
            Seen::Settled { id } => format!("settled {}", number(id)),
            Seen::State { id, state } => format!("state {} {state:?}", number(id)),
            other => format!("{other:?}"),
        });
    });
    assert_eq!(seen, ["4096+147 message 1", "4243+57 message 2", "settled 1", "state 2 [116, 119, 111]"]);
    assert_eq!(end, 2 * BLOCK as u64 + 83);
}
