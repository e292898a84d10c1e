//! The whole session machine: any bytes on any kind of listener, whatever policy says. How they are cut into pieces
//! changes nothing, and only the client ends a message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_fuzz::choices::{Choices, Pieces};
use ringpost_fuzz::play::Case;
use ringpost_fuzz::reference;

/// Longer inputs aren't played byte by byte too: what that could find it finds in short ones, at many times the rate.
const BYTEWISE_MAX: usize = 1000;

fuzz_target!(|input: &[u8]| {
    let (mut choices, sent) = Choices::of(input);
    let case = Case::chosen(&mut choices, sent);
    let mixed = Pieces::chosen(&mut choices);
    let whole = case.play(&Pieces::Whole);
    reference::check(&case, &whole);
    let mut cuts = vec![mixed];
    if input.len() < BYTEWISE_MAX {
        cuts.push(Pieces::Bytes);
    }
    for pieces in cuts {
        let cut = case.play(&pieces);
        let [whole_replies, cut_replies] = [&whole, &cut].map(|record| String::from_utf8_lossy(&record.replies));
        assert!(whole_replies == cut_replies, "{pieces:?}: {whole_replies}\nand in pieces {cut_replies}");
        assert_eq!(whole, cut);
    }
});
