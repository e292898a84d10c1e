//! The whole session machine: any bytes on any kind of listener, whatever policy says. How they are cut into pieces
//! changes nothing, and only the client ends a message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_fuzz::choices::{Choices, Pieces};
use ringpost_fuzz::play::Case;
use ringpost_fuzz::reference;

fuzz_target!(|input: &[u8]| {
    let (mut choices, sent) = Choices::of(input);
    let case = Case::chosen(&mut choices, sent);
    let mixed = Pieces::chosen(&mut choices);
    let whole = case.play(&Pieces::Whole);
    reference::check(&case, &whole);
    for pieces in [mixed, Pieces::Bytes] {
        let cut = case.play(&pieces);
        assert_eq!(whole.replies.escape_ascii().to_string(), cut.replies.escape_ascii().to_string());
        assert_eq!(whole, cut);
    }
});
