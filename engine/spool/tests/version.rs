//! Logs of other versions of the format: one of version 1 is read, gone on with and compacted into the present one; one
//! of a version to come is left alone.

mod support;

use ringpost_base::{Accepted, ByteCount, Entropy};
use ringpost_spool::*;
use std::collections::BTreeSet;
use support::{Disk, number, options, read_back, run_all};

/// A log written by the program as it was when it wrote version 1: segments of 16 KiB, messages 1 to 24 in them, of which
/// 1 to 8 and 14 are settled, 20 has a body file, and of 10 and 13 some recipients are done. The oldest segment was used
/// again, and the number of a message is every byte of its id.
const FORMAT_1: &str = include_str!("fixtures/format-1.txt");

fn of_format_1() -> Disk {
    let (mut disk, mut slot) = (Disk::default(), Slot(0));
    for line in FORMAT_1.lines() {
        if let Some(rest) = line.strip_prefix("segment ") {
            let (name, size) = rest.split_once(' ').expect("name and size");
            slot = Slot(name.parse().expect("a number"));
            disk.create(slot, size.parse().expect("a number"));
            continue;
        }
        let (offset, digits) = line.split_once(' ').expect("offset and bytes");
        let digits = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
        let bytes: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair, 16).expect("a byte")).collect();
        disk.write(slot, u64::from_str_radix(offset, 16).expect("an offset"), &bytes);
    }
    disk
}

fn live() -> BTreeSet<u8> {
    (9..=24).filter(|number| *number != 14).collect()
}

fn body(number: u8) -> Vec<u8> {
    let times = if number.is_multiple_of(5) { 150 } else { 3 };
    format!("message {number}\r\n").repeat(times).into_bytes()
}

/// Every message of the old log is there, as it was, with which recipients are done or what was noted since.
fn check(disk: &mut Disk, expected: &BTreeSet<u8>, state_of_13: &[u8]) -> Spool {
    let back = read_back(disk, options(16), 9).expect("known versions");
    assert_eq!((&back.damage[..], &back.missing[..]), (&[][..], &[][..]));
    let old: Vec<_> = back.live.iter().filter(|message| message.id.to_bytes()[0] != 0).collect();
    assert_eq!(old.iter().map(|message| message.id.to_bytes()[0]).collect::<BTreeSet<_>>(), *expected);
    for message in old {
        let number = message.id.to_bytes()[0];
        let envelope = format!("envelope of {number}").into_bytes();
        assert_eq!(message.digest, envelope);
        let location = back.spool.locate(message.id).expect("alive");
        let record = parse_message(disk.read(location), location.key).expect("whole");
        let (content, body) = (record.content, body(number));
        match number {
            20 => assert_eq!(content, Content::File(BodyFile { len: 123_456, crc: 0x1234_5678 })),
            _ => assert_eq!(content, Content::Inline(&body)),
        }
        assert_eq!((message.size, message.has_body_file), (content.size(), number == 20));
        let done: &[u32] = match number {
            10 => &[1, 3, 70_000],
            13 if state_of_13.is_empty() => &[0],
            _ => &[],
        };
        let state = if number == 13 { state_of_13 } else { &[] };
        assert_eq!((&message.legacy_done[..], &message.state[..]), (done, state), "message {number}");
        assert_eq!(back.spool.state(message.id).unwrap_or_default(), state);
    }
    back.spool
}

/// The versions of the segments that a reading of the log would read.
fn versions(disk: &Disk) -> BTreeSet<u8> {
    let headers: Vec<_> = disk.0.values().filter_map(|file| SegmentHeader::parse(file)).collect();
    let newest = headers.iter().max_by_key(|header| header.sequence).expect("a segment");
    headers.iter().filter(|header| newest.needs(header.sequence)).map(|header| header.version).collect()
}

#[test]
fn version_1_is_read_and_gone_on_with() {
    let mut disk = of_format_1();
    assert_eq!(versions(&disk), BTreeSet::from([1]));
    let mut spool = check(&mut disk, &live(), b"");
    let id = |number: u8| ringpost_base::SpoolId::from_bytes([number; 16]);
    spool.settle(id(9));
    spool.note(id(13), b"noted since");
    let parts = MessageParts { id: support::id(1), envelope: b"new", bytes: b"message", body_file: None };
    assert!(spool.append(Token(1), &parts));
    let completions = run_all(&mut spool, &mut disk, options(16));
    assert_eq!(completions[0].result.as_ref().expect("durable").id(), support::id(1));
    assert_eq!(versions(&disk), BTreeSet::from([1, 2]));
    let mut expected = live();
    expected.remove(&9);
    check(&mut disk, &expected, b"noted since");
}

#[test]
fn version_1_is_compacted_into_the_present_one() {
    let mut disk = of_format_1();
    let mut spool = check(&mut disk, &live(), b"");
    // One long-lived message after the other is what fills the log; all but the old ones are settled.
    for round in 0..200 {
        let parts = MessageParts { id: support::id(round), envelope: b"new", bytes: &[b'x'; 3000], body_file: None };
        assert!(spool.append(Token(round), &parts));
        run_all(&mut spool, &mut disk, options(16));
        spool.settle(support::id(round));
    }
    run_all(&mut spool, &mut disk, options(16));
    assert!(spool.stats().compacted >= live().len() as u64, "{:?}", spool.stats());
    assert_eq!(versions(&disk), BTreeSet::from([FORMAT_VERSION]));
    check(&mut disk, &live(), b"");
}

#[test]
fn what_version_1_says_is_adopted() {
    let mut disk = of_format_1();
    let back = read_back(&mut disk, options(16), 1).expect("known versions");
    let (mut spool, mut other) = (Spool::new(options(16), Entropy([3; 16])), Disk::default());
    for message in &back.live {
        let location = back.spool.locate(message.id).expect("alive");
        let (bytes, key, done) = (disk.read(location), location.key, &message.legacy_done);
        assert!(spool.adopt_legacy(Token(0), bytes, key, done));
    }
    assert_eq!(run_all(&mut spool, &mut other, options(16)).len(), live().len());
    check(&mut other, &live(), b"");
}

#[test]
fn a_version_to_come_is_an_error_and_not_an_unused_file() {
    let mut disk = of_format_1();
    let mut spool = check(&mut disk, &live(), b"");
    spool.settle(ringpost_base::SpoolId::from_bytes([9; 16]));
    run_all(&mut spool, &mut disk, options(16));
    let (slot, file) = disk.0.iter_mut().find(|(_, file)| file.starts_with(b"RPSPOOL\x02")).expect("a new segment");
    file[7] = 3;
    let unknown = UnknownVersion { slot: *slot, version: 3 };
    let before = disk.clone();
    assert_eq!(read_back(&mut disk, options(16), 1).err(), Some(unknown));
    assert_eq!(disk, before);
    let text = unknown.to_string();
    assert!(text.contains("version 3") && text.contains("nothing has been changed"), "{text}");
}

#[test]
fn a_header_survives_the_loss_of_either_sector() {
    for (lost, damaged) in [(0..512, 0), (2048..2560, 0), (0..4096, 1)] {
        let (mut spool, mut disk) = (Spool::new(options(16), Entropy([3; 16])), Disk::default());
        let parts = MessageParts { id: support::id(7), envelope: b"new", bytes: b"message", body_file: None };
        assert!(spool.append(Token(1), &parts));
        run_all(&mut spool, &mut disk, options(16));
        let slot = spool.locate(support::id(7)).expect("alive").slot;
        disk.0.get_mut(&slot).expect("there")[lost.clone()].fill(0xee);
        let mut back = read_back(&mut disk, options(16), 1).expect("known versions");
        assert_eq!((back.damage.len(), back.live.len()), (damaged, 1 - damaged), "{lost:?}");
        // Neither is the damaged file used again, nor its number.
        let before = disk.0[&slot].clone();
        assert!(back.spool.append(Token(1), &MessageParts { id: support::id(8), ..parts }));
        run_all(&mut back.spool, &mut disk, options(16));
        assert_eq!(disk.0[&slot], before);
        assert_eq!(back.spool.ids().map(number).max(), Some(8));
    }
}

#[test]
fn segments_of_another_size_are_gone_on_with() {
    let mut disk = of_format_1();
    let larger = Options { segment_size: ByteCount::kib(64), ..options(64) };
    let mut back = read_back(&mut disk, larger, 2).expect("known versions");
    let parts = MessageParts { id: support::id(1), envelope: b"new", bytes: &[b'x'; 40_000], body_file: None };
    assert!(back.spool.append(Token(1), &parts));
    run_all(&mut back.spool, &mut disk, larger);
    assert_eq!(back.spool.stats().live, live().len() + 1);
}
