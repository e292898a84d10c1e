//! Steering: the kernel hands a connection to the shard that owns its address.
//!
//! What is counted by address or network is counted by its owner ([`ringpost_base::owner`]). A classic BPF program on the
//! group of listening sockets computes the same number from the packet, so nearly always the shard that serves a
//! connection is also the one that counts it, and asks nobody. The program's answer is an index into the group, which
//! the kernel keeps in the order in which the sockets began to listen.
//!
//! Nothing depends on it: a connection that comes to another shard, since the program could not be attached, or a socket
//! of the group is closed, or the connection was presented by a proxy, is counted by its owner all the same, by a message.

use crate::filter::{
    Program, and, attach, detach, give_accumulator, keep_in_index, load_word, modulo, multiply, recall, shift_right,
    store, xor_index,
};
use ringpost_base::{NetworkLengths, OWNER_FACTORS, OWNER_FINAL};
use std::{io, os::fd::AsFd};

/// Where the source address is in the header of a packet, and how many words of 32 bits it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    V4,
    V6,
}

impl Source {
    fn offset(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    fn words(self) -> usize {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }
}

/// Attaches the program to the group that a listening socket is in. Needs no privilege; kernels before 4.5 can't.
pub(crate) fn steer(socket: &impl AsFd, v4: bool, lengths: NetworkLengths, shards: usize) -> io::Result<()> {
    let source = if v4 { Source::V4 } else { Source::V6 };
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program(source, lengths, shards))
}

/// Takes the program away: the kernel spreads connections evenly again. Nothing happens where there is none.
pub(crate) fn let_go(socket: &impl AsFd) -> io::Result<()> {
    detach(socket, SO_DETACH_REUSEPORT_BPF)
}

/// From Linux 5.3 on; the same number on all architectures that glommio runs on.
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

/// [`ringpost_base::owner`] as a program. All sockets of a group are of one family, so it does not look which.
fn program(source: Source, lengths: NetworkLengths, shards: usize) -> Program {
    let masks = lengths.masks(source == Source::V4);
    let mut program = Program::new();
    for (word, (mask, factor)) in masks.into_iter().zip(OWNER_FACTORS).enumerate().take(source.words()) {
        // What is masked away adds nothing.
        if word > 0 && mask == 0 {
            break;
        }
        // Offsets that are negative by this much count from the network header.
        let offset = libc::SKF_NET_OFF.cast_unsigned() + source.offset() + 4 * word as u32;
        program.extend([load_word(offset), and(mask), multiply(factor)]);
        if word > 0 {
            program.extend([recall(), xor_index()]);
        }
        program.push(store());
    }
    program.extend([keep_in_index(), shift_right(16), xor_index(), multiply(OWNER_FINAL), shift_right(16)]);
    // The kernel takes no division by zero.
    program.extend([modulo(shards.max(1) as u32), give_accumulator()]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{
        BPF_A, BPF_ABS, BPF_ALU, BPF_AND, BPF_K, BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET,
        BPF_RSH, BPF_ST, BPF_TAX, BPF_W, BPF_X, BPF_XOR,
    };
    use ringpost_base::owner;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// Runs a program over a packet that begins at its network header, as the kernel documents the instructions.
    fn interpret(program: &[libc::sock_filter], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; 16]);
        for op in program {
            let code = u32::from(op.code);
            if code == BPF_LD | BPF_W | BPF_ABS {
                let at = op.k.wrapping_sub(libc::SKF_NET_OFF.cast_unsigned()) as usize;
                a = u32::from_be_bytes(packet[at..at + 4].try_into().expect("four bytes"));
            } else if code == BPF_LDX | BPF_MEM | BPF_W {
                x = memory[op.k as usize];
            } else if code == BPF_ST {
                memory[op.k as usize] = a;
            } else if code == BPF_MISC | BPF_TAX {
                x = a;
            } else if code == BPF_ALU | BPF_AND | BPF_K {
                a &= op.k;
            } else if code == BPF_ALU | BPF_MUL | BPF_K {
                a = a.wrapping_mul(op.k);
            } else if code == BPF_ALU | BPF_RSH | BPF_K {
                a >>= op.k;
            } else if code == BPF_ALU | BPF_MOD | BPF_K {
                a %= op.k;
            } else if code == BPF_ALU | BPF_XOR | BPF_X {
                a ^= x;
            } else if code == BPF_RET | BPF_A {
                return a;
            } else {
                panic!("instruction {code:#x} is not one of ours");
            }
        }
        panic!("a program ends with its answer");
    }

    fn packet(source: IpAddr) -> Vec<u8> {
        // What is not the source address is noise that must not count.
        let mut packet = vec![0xA5; 64];
        match source {
            IpAddr::V4(v4) => packet[12..16].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => packet[8..24].copy_from_slice(&v6.octets()),
        }
        packet
    }

    #[track_caller]
    fn check(address: IpAddr, lengths: NetworkLengths, shards: usize) {
        let source = if address.is_ipv4() { Source::V4 } else { Source::V6 };
        let steered = interpret(&program(source, lengths, shards), &packet(address));
        let expected = owner(address, lengths, shards).index();
        assert_eq!(steered as usize, expected, "{address}, {lengths:?}, {shards} shards");
    }

    /// Numbers without a pattern that are the same in every run.
    fn noise() -> impl Iterator<Item = u64> {
        std::iter::successors(Some(0x9E37_79B9_7F4A_7C15_u64), |x| {
            let x = x ^ x << 13;
            let x = x ^ x >> 7;
            Some(x ^ x << 17)
        })
    }

    #[test]
    fn the_program_comes_to_the_number_of_the_owner() {
        let mut noise = noise();
        let mut draw = || noise.next().unwrap_or_default();
        for lengths in [(24, 64), (8, 16), (32, 128), (20, 48), (31, 97), (17, 33)] {
            let lengths = NetworkLengths { v4: lengths.0, v6: lengths.1 };
            for shards in [1, 2, 3, 4, 7, 16, 64] {
                for _ in 0..200 {
                    check(IpAddr::V4(Ipv4Addr::from_bits(draw() as u32)), lengths, shards);
                    let bits = u128::from(draw()) << 64 | u128::from(draw());
                    check(IpAddr::V6(Ipv6Addr::from_bits(bits)), lengths, shards);
                }
            }
        }
    }

    #[test]
    fn addresses_of_one_network_go_to_one_shard() {
        let lengths = NetworkLengths::default();
        let to = |address: &str| interpret(&program(Source::V6, lengths, 64), &packet(address.parse().expect("IPv6")));
        assert_eq!(to("2001:db8:1:2::1"), to("2001:db8:1:2:ffff::9"));
        assert_ne!(to("2001:db8:1:2::1"), to("2001:db8:1:3::1"), "for these two; others may meet");
    }
}
