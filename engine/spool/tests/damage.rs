//! A disk that changes what it was given: whatever the bytes are, reading the log back ends, gives out nothing but whole
//! messages, tells what it could not read, and the log goes on.

mod support;

use proptest::prelude::*;
use ringpost_base::Entropy;
use ringpost_spool::*;
use std::collections::BTreeMap;
use support::{Disk, id, number, options, read_back, run_all};

const KIB: u64 = 16;
const MESSAGES: u64 = 60;

fn body(number: u64) -> Vec<u8> {
    vec![number as u8; (number * 97 % 3000) as usize]
}

/// Messages 1 to [`MESSAGES`], every third of which is settled, in segments of which some were used before.
fn log() -> Disk {
    let (mut spool, mut disk) = (Spool::new(options(KIB), Entropy([8; 16])), Disk::default());
    for number in 1..=MESSAGES {
        let body = body(number);
        let parts = MessageParts { id: id(number), envelope: b"env", bytes: &body, body_file: None };
        assert!(spool.append(Token(number), &parts));
        if number.is_multiple_of(2) {
            run_all(&mut spool, &mut disk, options(KIB));
        }
        if number.is_multiple_of(3) {
            spool.note(id(number), b"noted");
            spool.settle(id(number - 1));
        }
    }
    run_all(&mut spool, &mut disk, options(KIB));
    disk
}

fn alive() -> impl Iterator<Item = u64> {
    (1..=MESSAGES).filter(|number| number % 3 != 2)
}

/// The segment written last. What is wrong at its end can't be told from a write that a crash cut off.
fn newest(disk: &Disk) -> Slot {
    let headers = disk.0.iter().filter_map(|(slot, file)| Some((SegmentHeader::parse(file)?.sequence, *slot)));
    headers.max().expect("a segment").1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damage_loses_what_it_hits_and_is_told(
        hits in prop::collection::vec((0..30usize, 0..16_384usize, 1..700usize, any::<u8>()), 1..4),
    ) {
        let mut disk = log();
        let before = read_back(&mut disk, options(KIB), 1).expect("known versions");
        let places: BTreeMap<u64, Location> =
            alive().map(|number| (number, before.spool.locate(id(number)).expect("alive"))).collect();
        let newest = newest(&disk);
        for (file, at, len, change) in hits {
            let files = disk.0.len();
            let file = disk.0.values_mut().nth(file % files).expect("there");
            let end = (at + len).min(file.len());
            // The byte that says the version is left alone: what follows from that is another test's.
            (at..end).filter(|at| ![7, 2055].contains(at)).for_each(|at| file[at] ^= change | 1);
        }
        let mut back = read_back(&mut disk, options(KIB), 2).expect("known versions");
        let found: BTreeMap<u64, _> = back.live.iter().map(|message| (number(message.id), message)).collect();
        for (number, place) in &places {
            let told = back.damage.iter().any(|damage| damage.slot == place.slot);
            let there = found.contains_key(number) || place.slot == newest;
            prop_assert!(there || told, "message {number} is lost in silence");
        }
        for (number, message) in found {
            let location = back.spool.locate(message.id).expect("alive");
            let record = parse_message(disk.read(location), location.key).expect("whole");
            prop_assert_eq!(record.content, Content::Inline(&body(number)));
        }
        let parts = MessageParts { id: id(MESSAGES + 1), envelope: b"env", bytes: b"new", body_file: None };
        prop_assert!(back.spool.append(Token(1), &parts));
        let completions = run_all(&mut back.spool, &mut disk, options(KIB));
        prop_assert!(completions[0].result.is_ok());
    }

    #[test]
    fn bytes_that_mean_nothing_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..9000), with_header in any::<bool>()) {
        let mut file = bytes;
        if with_header {
            let disk = log();
            let segment = disk.0.values().next_back().expect("a segment");
            file.splice(..0, segment[..BLOCK + 600].iter().copied());
        }
        file.resize(file.len().max(BLOCK), 0);
        if let Some(header) = SegmentHeader::parse(&file) {
            inspect(&header, &file, &mut |_| {});
        }
        let mut disk = Disk(BTreeMap::from([(Slot(3), file)]));
        if let Ok(back) = read_back(&mut disk, options(KIB), 2) {
            prop_assert!(back.live.len() <= 3);
        }
    }
}

#[test]
fn the_log_that_is_damaged_here_is_of_use() {
    let mut disk = log();
    let back = read_back(&mut disk, options(KIB), 1).expect("known versions");
    assert_eq!((back.damage, back.missing, back.live.len()), (vec![], vec![], alive().count()));
    assert!(disk.0.len() > 10);
}
