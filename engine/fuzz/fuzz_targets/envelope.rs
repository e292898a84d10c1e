//! Stored envelopes: any bytes are answered, what is read is written and read the same, and nothing that is cut short or
//! has something behind it is taken for an envelope.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost_message::Envelope;

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::decode(bytes) else { return };
    let mut stored = Vec::new();
    envelope.encode(&mut stored);
    assert_eq!(Envelope::decode(&stored).as_ref(), Ok(&envelope));
    // The stored form of a version has one way to write an envelope.
    if bytes.first() == stored.first() {
        assert_eq!(bytes, stored);
    }
    for cut in 0..stored.len().min(300) {
        assert!(Envelope::decode(&stored[..cut]).is_err(), "cut at {cut}");
        assert!(Envelope::decode(&stored[..stored.len() - 1 - cut]).is_err(), "cut {cut} before its last byte");
    }
    stored.push(0);
    assert!(Envelope::decode(&stored).is_err(), "a byte behind it");
});
