//! Connections that we open, against peers of every kind: those that answer, that are slow, that never do, that go away,
//! and that are not who they should be.

mod tls;
mod world;

use ringpost_net::{Awaited, Endpoint, Outbound, OutboundError};
use ringpost_runtime::{after, sleep};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use world::{PATIENCE, Peer, SHORT, on_shard};

/// Reads until the peer closes.
pub(crate) async fn read_all(outbound: &mut Outbound, max: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let before = all.len();
        let read = outbound.read(&mut all, max, PATIENCE).await.expect("read");
        assert_eq!(all.len() - before, read);
        assert!(read <= max, "{read} of {max}");
        if read == 0 {
            return all;
        }
    }
}

/// Bytes of which no two stretches are alike, so that none can be lost or doubled unseen.
pub(crate) fn body(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

#[test]
fn there_and_back_over_tcp() {
    let peer = Peer::start(1, |mut socket| {
        let mut said = [0; 6];
        socket.read_exact(&mut said).expect("said");
        assert_eq!(&said, b"hello\n");
        socket.write_all(b"hello yourself\n").expect("answered");
    });
    let endpoint = peer.endpoint();
    let answer = on_shard(move || async move {
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        assert_eq!((outbound.peer(), outbound.is_secure()), (&endpoint, false));
        outbound.write_all(b"hello\n", PATIENCE).await.expect("sent");
        read_all(&mut outbound, 4).await
    });
    assert_eq!(answer, b"hello yourself\n");
    peer.done();
}

#[test]
fn there_and_back_over_a_unix_socket() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("lmtp");
    let listener = UnixListener::bind(&path).expect("bound");
    let peer = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("accepted");
        let mut said = Vec::new();
        (&socket).take(6).read_to_end(&mut said).expect("said");
        socket.write_all(&said).expect("answered");
    });
    let answer = on_shard(move || async move {
        let endpoint = Endpoint::Unix(path);
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        assert!(outbound.is_alive());
        outbound.write_all(b"hello\n", PATIENCE).await.expect("sent");
        let answer = read_all(&mut outbound, 100).await;
        assert!(!outbound.is_alive());
        answer
    });
    assert_eq!(answer, b"hello\n");
    peer.join().expect("the peer ends in order");
}

#[test]
fn connections_come_from_the_address_that_is_wanted() {
    let (sender, from) = channel();
    let peer = Peer::start(1, move |socket| sender.send(socket.peer_addr().expect("address").ip()).expect("told"));
    let endpoint = peer.endpoint();
    let local = IpAddr::from([127, 0, 0, 2]);
    on_shard(
        move || async move { drop(Outbound::connect(&endpoint, PATIENCE, Some(local)).await.expect("connected")) },
    );
    assert_eq!(from.recv(), Ok(local));
    peer.done();
}

/// Checks what is said where nobody can be connected to.
fn check_refused(endpoint: Endpoint, want: &str) {
    let error =
        on_shard(move || async move { Outbound::connect(&endpoint, PATIENCE, None).await.expect_err("refused") });
    assert!(matches!(error, OutboundError::Connect { .. }) && !error.is_of_tls(), "{error:?}");
    assert!(error.to_string().contains(want), "{error}");
}

#[test]
fn nobody_listens() {
    let unused = Peer::start(0, |_| ());
    let endpoint = unused.endpoint();
    unused.done();
    check_refused(endpoint, "Connection refused (os error 111) (nothing listens there");
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("lmtp");
    check_refused(Endpoint::Unix(path.clone()), "(there is no such socket");
    drop(UnixListener::bind(&path).expect("bound"));
    check_refused(Endpoint::Unix(path), "(nothing listens there");
    check_refused(Endpoint::Unix("x".repeat(200).into()), "unix:xxx");
}

/// A listener that has as many connections waiting as it can hold, so that a further one hangs.
fn full() -> (Socket, Vec<TcpStream>, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
    listener.listen(1).expect("listening");
    let address = listener.local_addr().expect("address").as_socket().expect("of IP");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, SHORT) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "a listener that takes more than it said");
    }
    (listener, waiting, address)
}

/// Sockets of this machine that try to connect to a port.
fn connecting_to(address: SocketAddr) -> usize {
    const SYN_SENT: &str = "02";
    let port = format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("table");
    let connecting = |line: &&str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        cells.get(2).is_some_and(|remote| remote.ends_with(&port)) && cells.get(3) == Some(&SYN_SENT)
    };
    table.lines().filter(connecting).count()
}

#[test]
fn connects_that_are_given_up_leave_no_socket_behind() {
    let (_listener, _waiting, address) = full();
    on_shard(move || async move {
        let endpoint = Endpoint::Tcp(address);
        let error = Outbound::connect(&endpoint, SHORT, None).await.expect_err("too late");
        assert!(matches!(error, OutboundError::Timeout { awaited: Awaited::Connection, .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{address} did not accept a connection within 200ms"));
        for _ in 0..20 {
            // As when the whole delivery is given up.
            let dropped = after(Duration::from_millis(5), Outbound::connect(&endpoint, PATIENCE, None)).await;
            assert!(dropped.is_none());
        }
        let since = Instant::now();
        while connecting_to(address) > 0 {
            assert!(since.elapsed() < PATIENCE, "{} are left", connecting_to(address));
            sleep(Duration::from_millis(10)).await;
        }
        let connecting = Outbound::connect(&endpoint, PATIENCE, None);
        let seen = async {
            sleep(SHORT).await;
            connecting_to(address)
        };
        let seen = futures_lite::future::or(seen, async {
            let _ = connecting.await;
            0
        });
        assert_eq!(seen.await, 1, "one that is under way is seen");
    });
}

#[test]
fn a_unix_socket_without_room_is_waited_for() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("lmtp");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
    let address = SockAddr::unix(&path).expect("address");
    listener.bind(&address).expect("bound");
    listener.listen(0).expect("listening");
    let waiting = Socket::new(Domain::UNIX, Type::STREAM, None).expect("socket");
    waiting.connect(&address).expect("connected");
    on_shard(move || async move {
        let endpoint = Endpoint::Unix(path);
        let error = Outbound::connect(&endpoint, SHORT, None).await.expect_err("too late");
        assert!(matches!(error, OutboundError::Timeout { awaited: Awaited::Connection, .. }), "{error:?}");
        let accepting = std::thread::spawn(move || {
            std::thread::sleep(SHORT);
            [listener.accept().expect("the first"), listener.accept().expect("ours")]
        });
        Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        accepting.join().expect("accepted");
    });
}

#[test]
fn a_silent_peer_is_not_waited_for() {
    let (sender, done) = channel::<()>();
    let peer = Peer::start(1, move |_socket| assert!(done.recv().is_err()));
    let endpoint = peer.endpoint();
    on_shard(move || async move {
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        let mut buffer = Vec::new();
        let error = outbound.read(&mut buffer, 100, SHORT).await.expect_err("too late");
        assert!(matches!(error, OutboundError::Timeout { awaited: Awaited::Bytes, .. }), "{error:?}");
        drop(sender);
        // A read that was given up has lost nothing.
        assert_eq!(outbound.read(&mut buffer, 100, PATIENCE).await.expect("read"), 0);
    });
    peer.done();
}

#[test]
fn a_peer_that_does_not_read_is_not_waited_for() {
    let (sender, done) = channel::<()>();
    let peer = Peer::start(1, move |_socket| assert!(done.recv().is_err()));
    let endpoint = peer.endpoint();
    on_shard(move || async move {
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        let error = outbound.write_all(&body(32 << 20), SHORT).await.expect_err("too late");
        assert!(matches!(error, OutboundError::Timeout { awaited: Awaited::Room, .. }), "{error:?}");
        drop(sender);
    });
    peer.done();
}

#[test]
fn a_large_body_arrives_as_it_was_sent() {
    const SIZE: usize = 50 << 20;
    let peer = Peer::start(1, |mut socket| {
        let mut got = Vec::new();
        socket.read_to_end(&mut got).expect("read");
        assert!(got == body(SIZE), "{} bytes, or others", got.len());
    });
    let endpoint = peer.endpoint();
    on_shard(move || async move {
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        outbound.write_all(&body(SIZE), PATIENCE).await.expect("sent");
    });
    peer.done();
}

#[test]
fn what_is_left_of_an_idle_connection() {
    let (sender, go) = channel::<()>();
    let mut round = 0;
    let peer = Peer::start(4, move |mut socket| {
        go.recv().expect("go");
        match round {
            0 => {}
            1 => socket.write_all(b"421 closing\r\n").expect("said"),
            2 => {
                // A reset in place of a closing.
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("option");
            }
            _ => {
                socket.read_exact(&mut [0; 1]).expect("asked");
                socket.write_all(b"250 ok\r\n").expect("answered");
                go.recv().expect("go");
            }
        }
        round += 1;
    });
    let endpoint = peer.endpoint();
    on_shard(move || async move {
        for _ in 0..3 {
            let outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
            assert!(outbound.is_alive());
            sender.send(()).expect("the peer is there");
            let since = Instant::now();
            while outbound.is_alive() {
                assert!(since.elapsed() < PATIENCE);
                sleep(Duration::from_millis(5)).await;
            }
        }
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        sender.send(()).expect("the peer is there");
        outbound.write_all(b"x", PATIENCE).await.expect("sent");
        outbound.read(&mut Vec::new(), 100, PATIENCE).await.expect("read");
        assert!(outbound.is_alive(), "what was asked for is read, and it is used again");
        sender.send(()).expect("the peer is there");
    });
    peer.done();
}

#[test]
fn to_drop_it_is_to_close_it() {
    let (sender, closed) = channel();
    let peer = Peer::start(1, move |mut socket| sender.send(socket.read(&mut [0; 1]).expect("read")).expect("told"));
    let endpoint = peer.endpoint();
    on_shard(move || async move {
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        // A read that was given up before must not keep it open.
        assert!(after(Duration::from_millis(20), outbound.read(&mut Vec::new(), 1, PATIENCE)).await.is_none());
        drop(outbound);
        let since = Instant::now();
        loop {
            match closed.try_recv() {
                Ok(read) => return assert_eq!(read, 0),
                Err(_) => assert!(since.elapsed() < PATIENCE, "the shard goes on and the connection is open"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    peer.done();
}

#[test]
fn a_connection_that_breaks_says_so() {
    let peer = Peer::start(1, |socket| {
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("option");
        // Not before the other side knows that it is connected.
        (&socket).read_exact(&mut [0]).expect("a byte");
    });
    let endpoint = peer.endpoint();
    let error = on_shard(move || async move {
        let mut outbound = Outbound::connect(&endpoint, PATIENCE, None).await.expect("connected");
        loop {
            if let Err(error) = outbound.write_all(b"x", PATIENCE).await {
                return error;
            }
        }
    });
    let OutboundError::Lost { reason, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(reason.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    peer.done();
}
