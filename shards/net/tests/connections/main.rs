//! Connections of a shard, over real sockets.

mod hand_over;
mod shut_out;
mod support;

use ringpost_base::Deadline;
use ringpost_net::Connection;
use ringpost_runtime::{sleep, tick};
use rustls::{ClientConnection, StreamOwned};
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;
use support::{FOR_EVER, PATIENCE, Server, Tools, hello, line, tls_client};

/// Closes at once, with a reset in place of a FIN.
fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
}

/// Reads until the other end closes.
fn rest(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("text and a FIN");
    text
}

#[test]
fn a_presented_address_takes_the_place_of_the_proxys() {
    let server = Server::start(|mut connection, tools| async move {
        let before = (connection.peer(), connection.hop());
        connection.await_presentation();
        let presented = line(&mut connection).await.expect("line");
        connection.present(presented.parse().expect("address"));
        tools.report(format!("{} {}", before.0 == before.1, connection.hop() == before.0));
        tools.report(connection.peer().to_string());
    });
    for (presented, expected) in [
        ("192.0.2.7:1025", "192.0.2.7:1025"),
        ("[::ffff:192.0.2.7]:25", "192.0.2.7:25"),
        ("[2001:db8::1]:1", "[2001:db8::1]:1"),
    ] {
        let mut client = server.connect();
        writeln!(client, "{presented}").expect("sent");
        assert_eq!((&*server.told(), &*server.told()), ("true true", expected));
    }
}

#[test]
fn silence_speech_and_a_closed_door_are_told_apart() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, false);
        let quiet = connection.quiet(Duration::from_millis(200)).await;
        tools.report(format!("{quiet:?} {:?}", line(&mut connection).await));
    });
    let mut late = server.connect();
    std::thread::sleep(Duration::from_millis(400));
    late.write_all(b"late\n").expect("sent");
    assert_eq!(server.told(), "Ok(true) Ok(\"late\")");
    server.connect().write_all(b"early\n").expect("sent");
    assert_eq!(server.told(), "Ok(false) Ok(\"early\")");
    drop(server.connect());
    assert_eq!(server.told(), "Err(Peer) Err(Peer)");
}

#[test]
fn silence_is_looked_for_inside_tls_too() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, false);
        connection.open_secure(&tools.acceptor).await.expect("handshake");
        let quiet = connection.quiet(FOR_EVER).await;
        tools.report(format!("{quiet:?} {:?}", line(&mut connection).await));
    });
    let mut client = StreamOwned::new(tls_client(), server.connect());
    client.write_all(b"early\n").expect("sent");
    assert_eq!(server.told(), "Ok(false) Ok(\"early\")");
}

#[test]
fn a_pause_ends_with_its_time_or_its_reason() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, false);
        let span = line(&mut connection).await.expect("line").parse().expect("milliseconds");
        let paused = connection.pause(Duration::from_millis(span)).await;
        tools.report(format!("{paused:?} {:?}", line(&mut connection).await));
    });
    let mut patient = server.connect();
    patient.write_all(b"100\nnext\n").expect("sent");
    assert_eq!(server.told(), "Ok(()) Ok(\"next\")");
    let mut leaving = server.connect();
    leaving.write_all(b"3600000\n").expect("sent");
    leaving.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(server.told(), "Ok(()) Err(Peer)", "who has left is not waited for");
    let mut gone = server.connect();
    gone.write_all(b"3600000\n").expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    reset(gone);
    assert_eq!(server.told(), "Err(Peer) Err(Peer)");
    let mut stopped = server.connect();
    stopped.write_all(b"3600000\n").expect("sent");
    // The pause is over at once; the read, which may not be stopped, ends when the shard cuts it off.
    server.stop();
    assert_eq!(server.told(), "Ok(()) Err(Timeout)");
}

#[test]
fn a_session_ends_when_its_whole_time_is_over_and_still_says_why() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow_session(Duration::from_millis(300));
        // A client that is never silent for long, and would have for ever.
        connection.allow(FOR_EVER, true);
        let closed = loop {
            if let Err(closed) = line(&mut connection).await {
                break closed;
            }
        };
        connection.allow(PATIENCE, false);
        let said = connection.send(&mut b"421 too long\r\n".to_vec()).await;
        tools.report(format!("{closed:?} {said:?}"));
        connection.close(false).await;
    });
    let client = server.connect();
    let talking = talk(client.try_clone().expect("handle"));
    assert_eq!(server.told(), "Overtime Ok(())");
    talking.join().expect("ends");
    // The rest may be cut off, since the client kept on talking to nobody.
    let mut said = [0; 14];
    (&client).read_exact(&mut said).expect("the last words");
    assert_eq!(&said, b"421 too long\r\n");
}

/// Says a line every few milliseconds until nobody takes it.
fn talk(mut client: TcpStream) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while client.write_all(b"NOOP\n").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    })
}

#[test]
fn an_answer_that_comes_after_its_deadline_still_goes_out() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow_session(Duration::from_millis(10));
        connection.allow(Duration::from_millis(10), false);
        sleep(Duration::from_millis(50)).await;
        tools.report(format!("{:?}", connection.send(&mut b"250 queued\r\n".to_vec()).await));
    });
    let client = server.connect();
    assert_eq!(server.told(), "Ok(())");
    assert_eq!(rest(client), "250 queued\r\n");
}

#[test]
fn evicted_addresses_end_and_others_go_on() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, false);
        loop {
            match line(&mut connection).await.as_deref() {
                Ok("ban") => {
                    let banned = IpAddr::from([127, 0, 0, 2]);
                    tools.report(format!("evicted {}", tools.table.evict(|address| address == banned)));
                }
                Ok(line) => tools.report(line),
                Err(closed) => {
                    tools.report(format!("{closed:?} {}", connection.peer().ip()));
                    let said = connection.send(&mut b"421 banned\r\n".to_vec()).await;
                    assert_eq!(said, Ok(()));
                    return connection.close(true).await;
                }
            }
        }
    });
    let mut good = server.connect();
    let mut bad = server.connect_from(IpAddr::from([127, 0, 0, 2]));
    bad.write_all(b"hello\n").expect("sent");
    assert_eq!(server.told(), "hello");
    good.write_all(b"ban\n").expect("sent");
    assert_eq!((&*server.told(), &*server.told()), ("evicted 1", "Evicted 127.0.0.2"));
    assert_eq!(rest(bad), "421 banned\r\n");
    good.write_all(b"still here\n").expect("sent");
    assert_eq!(server.told(), "still here");
}

#[test]
fn what_follows_a_proxys_header_is_the_handshake() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, false);
        let header = line(&mut connection).await;
        let shaken = connection.open_secure(&tools.acceptor).await.map(|handshake| handshake.server_name);
        tools.report(format!("{header:?} {shaken:?} {:?}", line(&mut connection).await));
    });
    let expected = "Ok(\"PROXY\") Ok(Some(\"mx.example.org\")) Ok(\"EHLO\")";
    // In one packet, and byte by byte.
    for piece in [usize::MAX, 1] {
        let (mut tls, mut socket) = (tls_client(), server.connect());
        let begin = [b"PROXY\n", &hello(&mut tls)[..]].concat();
        begin.chunks(piece.min(begin.len())).for_each(|piece| socket.write_all(piece).expect("sent"));
        StreamOwned::new(tls, socket).write_all(b"EHLO\n").expect("sent");
        assert_eq!(server.told(), expected);
    }
}

#[test]
fn what_was_said_before_the_handshake_is_thrown_away() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, false);
        let begin = line(&mut connection).await;
        // All of it is there before it is looked at.
        sleep(Duration::from_millis(50)).await;
        let quiet = connection.quiet(Duration::from_millis(1)).await;
        connection.send(&mut b"220 go\r\n".to_vec()).await.expect("sent");
        let injected = connection.secure(&tools.acceptor).await.map(|(_, injected)| injected);
        tools.report(format!("{begin:?} {quiet:?} {injected:?} {:?}", line(&mut connection).await));
    });
    let mut socket = server.connect();
    socket.write_all(b"STARTTLS\nRSET\n").expect("sent");
    socket.read_exact(&mut [0; 8]).expect("go");
    StreamOwned::new(tls_client(), socket).write_all(b"EHLO\n").expect("sent");
    assert_eq!(server.told(), "Ok(\"STARTTLS\") Ok(false) Ok(5) Ok(\"EHLO\")");
}

#[test]
fn a_failed_handshake_says_why() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, false);
        let failed = connection.open_secure(&tools.acceptor).await.err();
        tools.report(format!("{failed:?} {:?}", connection.tls_failure()));
    });
    server.connect().write_all(b"EHLO client.example.org\r\n").expect("sent");
    let told = server.told();
    assert!(told.starts_with("Some(Tls) Some(\"received corrupt message"), "{told}");
    let mut tls = tls_client();
    let mut socket = server.connect();
    socket.write_all(&hello(&mut tls)).expect("sent");
    // A client that does not like the certificate says so in the clear if it has no key yet: unknown_ca.
    socket.write_all(&[21, 3, 3, 0, 2, 2, 48]).expect("sent");
    let told = server.told();
    assert!(told.starts_with("Some(Tls) Some(\"received fatal alert: UnknownCA"), "{told}");
    drop(server.connect());
    assert_eq!(server.told(), "Some(Peer) None");
}

/// Takes a handshake and a line, and answers it.
async fn greet(mut connection: Connection, tools: Tools) {
    connection.allow(FOR_EVER, false);
    if connection.open_secure(&tools.acceptor).await.is_ok() {
        tools.report(line(&mut connection).await.unwrap_or_default());
        assert_eq!(connection.send(&mut b"250\n".to_vec()).await, Ok(()));
    }
}

/// Shakes hands, says a line, and has it answered.
fn whole_session(client: ClientConnection, socket: TcpStream) {
    let mut stream = StreamOwned::new(client, socket);
    stream.write_all(b"EHLO\n").expect("sent");
    stream.read_exact(&mut [0; 4]).expect("answered");
}

#[test]
fn half_a_hello_holds_up_no_other_handshake() {
    let server = Server::start(greet);
    let slow: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut socket = server.connect();
            let hello = hello(&mut tls_client());
            socket.write_all(&hello[..hello.len() / 2]).expect("sent");
            socket
        })
        .collect();
    for _ in 0..20 {
        whole_session(tls_client(), server.connect());
        assert_eq!(server.told(), "EHLO");
    }
    drop(slow);
}

#[test]
fn a_flood_of_handshakes_is_served_in_full() {
    let server = Server::start(greet);
    let mut clients: Vec<(ClientConnection, TcpStream)> = Vec::new();
    for _ in 0..100 {
        let (mut tls, mut socket) = (tls_client(), server.connect());
        socket.write_all(&hello(&mut tls)).expect("sent");
        clients.push((tls, socket));
    }
    for (tls, socket) in clients {
        whole_session(tls, socket);
    }
    assert!((0..100).all(|_| server.told() == "EHLO"));
}

#[test]
fn abrupt_resets_leave_nothing_behind() {
    let server = Server::start(|mut connection, tools| async move {
        connection.allow(FOR_EVER, true);
        if connection.quiet(Duration::from_millis(1)).await.is_err() {
            return;
        }
        match line(&mut connection).await.as_deref() {
            Ok("tls") => {
                // Whatever comes of it.
                let _ = connection.secure(&tools.acceptor).await;
                let _ = line(&mut connection).await;
            }
            Ok("pause") => drop(connection.pause(FOR_EVER).await),
            Ok("left") => {
                let patience = tick().deadline(PATIENCE);
                // This one, and whoever is still found to be gone.
                while tools.table.len() > 1 && !Deadline::passed(patience, tick()) {
                    sleep(Duration::from_millis(10)).await;
                }
                tools.report(format!("{} {}", tools.table.len(), tools.table.handshakes_waiting()));
            }
            _ => {}
        }
        connection.close(true).await;
    });
    let greeting = hello(&mut tls_client());
    for round in 0..2000 {
        let mut socket = server.connect();
        let said: &[&[u8]] = match round % 5 {
            0 => &[],
            1 => &[b"half a li"],
            2 => &[b"pause\n"],
            3 => &[b"tls\n", &greeting[..100]],
            _ => &[b"tls\n", &greeting],
        };
        for part in said {
            match socket.write_all(part) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
                _ => {}
            }
        }
        reset(socket);
    }
    let mut last = server.connect();
    last.write_all(b"left\n").expect("sent");
    assert_eq!(server.told(), "1 0");
}
