//! The hash by which names are remembered over a restart: FNV-1a of 32 bits. It must never change, as it is on disk.

/// The hash of these bytes.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The hash of a destination's name. Never [`EVERYWHERE`].
pub(crate) fn of_name(name: &str) -> u32 {
    fnv1a(name.bytes()).max(1)
}

/// In place of a destination: all that the recipient had.
pub(crate) const EVERYWHERE: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (text, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(fnv1a(text.bytes()), hash, "{text}");
        }
    }
}
