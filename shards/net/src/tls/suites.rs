//! The cipher suites and key exchange groups that are offered.
//!
//! They are listed here, and not taken from the library's defaults, so that a new version of it changes nothing unseen.
//! Every suite encrypts and authenticates at once (AEAD), and every key exchange is ephemeral, over elliptic curves.

use super::Strength;
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};

/// The suites, in the order in which we prefer them.
const SUITES: [(SupportedCipherSuite, Strength); 9] = [
    (suite::TLS13_AES_256_GCM_SHA384, Strength::Bits256),
    (suite::TLS13_AES_128_GCM_SHA256, Strength::Bits128),
    (suite::TLS13_CHACHA20_POLY1305_SHA256, Strength::Bits256),
    (suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, Strength::Bits256),
    (suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, Strength::Bits128),
    (suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, Strength::Bits256),
    (suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, Strength::Bits256),
    (suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, Strength::Bits128),
    (suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, Strength::Bits256),
];

/// What rustls is to use.
pub(crate) fn provider(min_strength: Strength, post_quantum: bool) -> CryptoProvider {
    let strong = SUITES.iter().filter(|(_, strength)| *strength >= min_strength);
    CryptoProvider {
        cipher_suites: strong.map(|(suite, _)| *suite).collect(),
        kx_groups: groups(post_quantum),
        ..aws_lc_rs::default_provider()
    }
}

/// The groups. Among those that both sides have, the one that the client names first is taken: rustls knows no other way.
fn groups(post_quantum: bool) -> Vec<&'static dyn SupportedKxGroup> {
    let hybrid: &[&dyn SupportedKxGroup] = if post_quantum { &[kx_group::X25519MLKEM768] } else { &[] };
    let classical: [&dyn SupportedKxGroup; 3] = [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    hybrid.iter().copied().chain(classical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(strength: Strength) -> Vec<&'static str> {
        let suites = provider(strength, true).cipher_suites;
        suites.iter().map(|suite| suite.suite().as_str().unwrap_or_default()).collect()
    }

    #[test]
    fn every_suite_is_ephemeral_and_authenticated() {
        for name in names(Strength::Bits128) {
            assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
            assert!(name.contains("_GCM_") || name.contains("_POLY1305_"), "{name}");
        }
    }

    #[test]
    fn suites_of_each_strength() {
        let all = names(Strength::Bits128);
        assert_eq!(all.len(), 9);
        let long: Vec<_> = all.into_iter().filter(|name| !name.contains("AES_128")).collect();
        assert_eq!(names(Strength::Bits256), long);
        assert_eq!(long.len(), 6);
    }

    #[test]
    fn groups_with_and_without_post_quantum() {
        let names = |post_quantum| {
            let groups = groups(post_quantum);
            groups.iter().map(|group| group.name().as_str().unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(names(true), ["X25519MLKEM768", "X25519", "secp256r1", "secp384r1"]);
        assert_eq!(names(false), ["X25519", "secp256r1", "secp384r1"]);
    }
}
