//! Whether the kernel steers as the program says.

use super::*;
use ringpost_base::owner;
use socket2::SockAddr;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

const SHARDS: usize = 4;

/// How long a connection may take to show up at a socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects from an address; nothing if this machine has no such address.
fn connect(from: IpAddr, to: SocketAddr) -> Option<Socket> {
    let client = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).expect("socket");
    client.bind(&SockAddr::from(SocketAddr::new(from, 0))).ok()?;
    client.connect(&to.into()).expect("connected");
    Some(client)
}

/// Which socket the next connection comes to.
fn taken_by(bounds: &[Bound]) -> usize {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Some(index) = bounds.iter().position(|bound| bound.socket.accept().is_ok()) {
            return index;
        }
        std::thread::yield_now();
    }
    panic!("no socket has the connection");
}

#[track_caller]
fn check(address: &str, from: impl Iterator<Item = IpAddr>, lengths: NetworkLengths) {
    // Where there is no IPv6 at all there is nothing to steer.
    let Ok(group) = bind(address.parse().expect("address"), SHARDS) else { return };
    let bounds = group.listen_all(Some(lengths)).expect("listening");
    for from in from {
        let Some(client) = connect(from, bounds[0].address()) else { continue };
        assert_eq!(taken_by(&bounds), owner(from, lengths, SHARDS).index(), "{from}, {lengths:?}");
        drop(client);
    }
}

#[test]
fn connections_go_to_the_shard_that_owns_their_address() {
    // All over 127.0.0.0/8, whose addresses are all this machine's.
    let spread =
        || (0_u32..300).map(|at| IpAddr::V4(Ipv4Addr::from_bits(0x7F00_0001 + at.wrapping_mul(50_021) % 0xFF_0000)));
    check("127.0.0.1:0", spread(), NetworkLengths::default());
    check("127.0.0.1:0", spread(), NetworkLengths { v4: 32, v6: 128 });
    check("[::1]:0", ["::1".parse().expect("address")].into_iter().cycle().take(8), NetworkLengths::default());
}

#[test]
fn handles_that_were_shared_early_listen_with_their_group() {
    let group = bind("127.0.0.1:0".parse().expect("address"), SHARDS).expect("bound");
    let bounds = group.share().expect("shared");
    let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("socket");
    assert!(client.connect(&group.address().into()).is_err(), "nobody is let in before all is ready");
    let lengths = NetworkLengths::default();
    drop(group.listen_all(Some(lengths)).expect("listening"));
    for third in 0..50 {
        let from = IpAddr::from([127, 7, third, 1]);
        let _client = connect(from, bounds[0].address()).expect("connected");
        assert_eq!(taken_by(&bounds), owner(from, lengths, SHARDS).index(), "{from}");
    }
}

#[test]
fn a_program_that_listens_on_the_port_is_found_out() {
    let group = bind("127.0.0.1:0".parse().expect("address"), 1).expect("bound");
    let address = group.address();
    let _bounds = group.listen_all(None).expect("listening");
    assert!(matches!(bind(address, 1), Err(NetError::Bind { .. })));
}

#[test]
fn a_shard_that_has_closed_its_socket_is_passed_over() {
    let group = bind("127.0.0.1:0".parse().expect("address"), SHARDS).expect("bound");
    let mut bounds = group.listen_all(Some(NetworkLengths::default())).expect("listening");
    bounds.pop();
    for third in 0..50 {
        let _client = connect(IpAddr::from([127, 7, third, 1]), bounds[0].address()).expect("connected");
        assert!(taken_by(&bounds) < bounds.len());
    }
}
