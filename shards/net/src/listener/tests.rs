//! Whether the kernel steers as the program says, also sockets that another process has opened.

use super::*;
use ringpost_base::owner;
use socket2::SockAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::fd::OwnedFd;
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

/// Which shard the next connection comes to.
fn taken_by(shards: &[Vec<Bound>]) -> usize {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        let takes = |bounds: &Vec<Bound>| bounds.iter().any(|bound| bound.socket.accept().is_ok());
        if let Some(index) = shards.iter().position(takes) {
            return index;
        }
        std::thread::yield_now();
    }
    panic!("no socket has the connection");
}

/// Lets clients in; gives the sockets of each shard.
fn listening(group: &Group, steering: Option<NetworkLengths>) -> Vec<Vec<Bound>> {
    group.listen_all(steering).expect("listening");
    group.share().expect("shared")
}

/// Connects from some networks; each connection has to come to its owner.
#[track_caller]
fn check_steered(group: &Group, shards: &[Vec<Bound>], lengths: NetworkLengths) {
    for third in 0..50 {
        let from = IpAddr::from([127, 7, third, 1]);
        let _client = connect(from, group.address()).expect("connected");
        assert_eq!(taken_by(shards), owner(from, lengths, shards.len()).index(), "{from}");
    }
}

#[track_caller]
fn check(address: &str, from: impl Iterator<Item = IpAddr>, lengths: NetworkLengths) {
    // Where there is no IPv6 at all there is nothing to steer.
    let Ok(group) = bind(address.parse().expect("address"), SHARDS) else { return };
    let bounds = listening(&group, Some(lengths));
    for from in from {
        let Some(client) = connect(from, group.address()) else { continue };
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
    group.listen_all(Some(lengths)).expect("listening");
    check_steered(&group, &bounds, lengths);
}

#[test]
fn a_program_that_listens_on_the_port_is_found_out() {
    let group = bind("127.0.0.1:0".parse().expect("address"), 1).expect("bound");
    let address = group.address();
    group.listen_all(None).expect("listening");
    assert!(matches!(bind(address, 1), Err(NetError::Bind { .. })));
}

#[test]
fn a_shard_that_has_closed_its_socket_is_passed_over() {
    let group = bind("127.0.0.1:0".parse().expect("address"), SHARDS).expect("bound");
    let mut bounds = listening(&group, Some(NetworkLengths::default()));
    let address = group.address();
    drop(group);
    bounds.pop();
    for third in 0..50 {
        let _client = connect(IpAddr::from([127, 7, third, 1]), address).expect("connected");
        assert!(taken_by(&bounds) < bounds.len());
    }
}

/// What another process hands over.
fn handed_over(shards: usize) -> (SocketAddr, Vec<OwnedFd>) {
    let former = bind("127.0.0.1:0".parse().expect("address"), shards).expect("bound");
    former.listen_all(Some(NetworkLengths::default())).expect("listening");
    (former.address(), former.descriptors().expect("duplicates"))
}

#[test]
fn inherited_sockets_are_steered_to_as_many_shards_as_there_are_now() {
    for (former, now) in [(4, 4), (1, 1), (2, 5), (5, 2), (4, 2), (1, 3), (3, 1)] {
        let (address, sockets) = handed_over(former);
        let group = inherit(address, sockets, now).expect("inherited");
        let lengths = NetworkLengths { v4: 24, v6: 64 };
        let shards = listening(&group, Some(lengths));
        assert_eq!(shards.len(), now);
        check_steered(&group, &shards, lengths);
        // And once more, by one that inherits what this one has.
        let again = inherit(address, group.descriptors().expect("duplicates"), former).expect("inherited");
        drop((group, shards));
        check_steered(&again, &listening(&again, Some(lengths)), lengths);
    }
}

#[test]
fn a_single_socket_is_shared_where_the_kernel_lets_no_other_join_it() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
    socket.listen(16).expect("listening");
    let address = socket.local_addr().expect("address").as_socket().expect("IPv4");
    let group = inherit(address, vec![socket.into()], 3).expect("inherited");
    let shards = listening(&group, Some(NetworkLengths::default()));
    assert_eq!(shards.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(group.descriptors().expect("duplicates").len(), 1);
    // Each of the shards could take any connection.
    for bounds in &shards {
        let _client = connect(IpAddr::from([127, 0, 0, 1]), address).expect("connected");
        assert_eq!(taken_by(std::slice::from_ref(bounds)), 0);
    }
    group.rudder().expect("one").steer(None);
}

#[test]
fn no_socket_that_was_handed_over_is_left_out() {
    let (address, sockets) = handed_over(5);
    let group = inherit(address, sockets, 2).expect("inherited");
    let shards = listening(&group, None);
    assert_eq!(shards.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
    for third in 0..50 {
        let _client = connect(IpAddr::from([127, 7, third, 1]), address).expect("connected");
        taken_by(&shards);
    }
}

#[test]
fn a_socket_that_shut_clients_out_lets_them_in_for_its_heir() {
    let (address, sockets) = handed_over(1);
    let socket = Socket::from(sockets.into_iter().next().expect("one"));
    crate::accept::drop_syns(&socket).expect("a filter");
    let group = inherit(address, vec![socket.into()], 1).expect("inherited");
    let _client = connect(IpAddr::from([127, 0, 0, 1]), address).expect("connected");
    assert_eq!(taken_by(&listening(&group, None)), 0);
}

#[test]
fn sockets_that_are_not_for_an_address_are_refused() {
    let (address, sockets) = handed_over(1);
    let (other, _) = handed_over(1);
    let check = |address, sockets, words: &str| {
        let error = inherit(address, sockets, 1).err().expect("it is refused").to_string();
        assert!(error.contains(words) && error.contains(&address.to_string()), "{error}");
    };
    check(address, Vec::new(), "there is none");
    check(other, sockets, &format!("it is bound to {address}"));
    let idle = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    check(address, vec![idle.into()], "no listening socket");
    let datagrams = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("socket");
    check(address, vec![datagrams.into()], "no listening socket");
}

/// How long a client that was shut out waits for an answer in vain.
const SHUT_OUT: Duration = Duration::from_millis(30);

/// What becomes of clients now; nothing if one is let in.
fn refusal(to: SocketAddr) -> Option<io::ErrorKind> {
    let refusals = (0_u8..4).map(|_| {
        let client = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).expect("socket");
        client.connect_timeout(&to.into(), SHUT_OUT).err().map(|error| error.kind())
    });
    refusals.min().expect("some clients")
}

/// How many sockets listen on a port.
fn listening_on(port: u16) -> usize {
    let [v4, v6] = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let (local, state) = (format!(":{port:04X}"), "0A");
    let of_port = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|field| field.ends_with(&local)) && fields.nth(1) == Some(state)
    };
    v4.lines().chain(v6.lines()).filter(of_port).count()
}

/// A server without privileges shuts clients out of a group; its sockets are closed one by one, first the one at `first`.
#[track_caller]
fn check_sinks(address: &str, steering: Option<NetworkLengths>, first: usize) {
    // Where there is no IPv6 at all there is nothing to shut.
    let Ok(group) = bind(address.parse().expect("address"), SHARDS) else { return };
    let mut bounds: Vec<Bound> = listening(&group, steering).into_iter().flatten().collect();
    let mut to = group.address();
    to.set_ip(if to.is_ipv4() { [127, 0, 0, 1].into() } else { Ipv6Addr::LOCALHOST.into() });
    drop(group);
    assert_eq!(listening_on(to.port()), SHARDS, "sinks don't listen before the stop");
    let _waiting = TcpStream::connect(to).expect("connected");
    for bound in &bounds {
        bound.member.as_ref().expect("of a group with sinks").shut_out(&bound.socket).expect("shut out");
    }
    bounds.rotate_left(first);
    let mut shards: Vec<Vec<Bound>> = bounds.into_iter().map(|bound| vec![bound]).collect();
    while !shards.is_empty() {
        assert_eq!(refusal(to), Some(io::ErrorKind::TimedOut), "{} are open still", shards.len());
        if shards.len() == SHARDS {
            // Whom the kernel had taken before is served.
            taken_by(&shards);
        }
        let came = |bound: &Bound| bound.socket.accept().is_ok();
        assert!(!shards.iter().flatten().any(came), "nobody comes to a socket that is about to close");
        shards.remove(0);
    }
    assert_eq!(refusal(to), Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(listening_on(to.port()), 0);
}

#[test]
fn clients_are_shut_out_by_sinks_in_whatever_order_the_sockets_close() {
    for first in 0..SHARDS {
        check_sinks("127.0.0.1:0", None, first);
    }
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        check_sinks(address, Some(NetworkLengths::default()), SHARDS - 1);
    }
}

#[test]
fn clients_are_shut_out_by_sinks_after_a_socket_was_lost() {
    let group = bind("127.0.0.1:0".parse().expect("address"), SHARDS).expect("bound");
    let mut bounds: Vec<Bound> = listening(&group, None).into_iter().flatten().collect();
    let to = group.address();
    drop(group);
    bounds.remove(1);
    bounds[0].member.as_ref().expect("of a group with sinks").shut_out(&bounds[0].socket).expect("shut out");
    assert_eq!(refusal(to), Some(io::ErrorKind::TimedOut));
}

#[test]
fn sinks_of_a_group_that_another_process_is_in_shut_out_nobody() {
    let (address, sockets) = handed_over(2);
    let more = join_group(address).expect("bound");
    more.listen(BACKLOG).expect("listening");
    let group = inherit(address, sockets, 2).expect("inherited");
    let bounds: Vec<Bound> = listening(&group, None).into_iter().flatten().collect();
    let member = bounds[0].member.as_ref().expect("of a group with sinks");
    assert!(member.shut_out(&bounds[0].socket).is_err() && member.shut_out(&bounds[1].socket).is_err());
    assert_eq!(listening_on(address.port()), 3);
    for _ in 0..20 {
        TcpStream::connect_timeout(&address, PATIENCE).expect("somebody takes it");
    }
}

#[test]
fn a_group_that_never_listened_has_nobody_to_shut_out() {
    let group = bind("127.0.0.1:0".parse().expect("address"), 1).expect("bound");
    let bound = group.share().expect("shared").remove(0).remove(0);
    bound.member.as_ref().expect("of a group with sinks").shut_out(&bound.socket).expect("nothing to do");
    assert_eq!(listening_on(group.address().port()), 0);
}
