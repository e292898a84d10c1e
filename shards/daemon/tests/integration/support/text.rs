//! Message text to send.

/// A message with a few header fields and this body, whose lines end in CRLF.
pub(crate) fn message(subject: &str, body: &str) -> Vec<u8> {
    let header = "From: sender@example.org\r\nTo: alice@example.com\r\nDate: Fri, 20 Nov 2026 10:31:25 +0000\r\n";
    format!("{header}Subject: {subject}\r\nMessage-ID: <{subject}@example.org>\r\n\r\n{body}").into_bytes()
}

/// A body of about this many bytes in lines of up to 76 characters, every twelfth of which begins with a dot.
pub(crate) fn lines(seed: u64, bytes: usize) -> String {
    let mut random = Random::new(seed);
    let mut text = String::with_capacity(bytes + 80);
    while text.len() < bytes {
        if random.below(12) == 0 {
            text.push('.');
        }
        for _ in 0..random.below(75) {
            text.push(char::from(b'a' + random.below(26) as u8));
        }
        text.push_str("\r\n");
    }
    text
}

/// Numbers that look random and follow from a seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed from the clock, for what should differ from run to run; the test says which it was when it fails.
    pub(crate) fn seed() -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
