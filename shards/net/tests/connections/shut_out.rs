//! A server stops while clients come without a pause.

use crate::support::{FOR_EVER, PATIENCE, Server, Tools, line};
use ringpost_base::NetworkLengths;
use ringpost_net::{Connection, bind};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many clients connect at a time, each again and again.
const CLIENTS: usize = 8;

/// How long one attempt to connect may take; who was shut out hears nothing.
const CONNECT: Duration = Duration::from_millis(100);

/// How many clients are served before the stop.
const SERVED: u64 = 200;

async fn greet(mut connection: Connection, _: Tools) {
    connection.allow(FOR_EVER, false);
    connection.send(&mut b"220\n".to_vec()).await.expect("sent");
    // The client is gone, or the server stops.
    let _ = line(&mut connection).await;
    connection.close(false).await;
}

/// Connects until that is refused; says what a client that was let in got instead of a greeting.
fn client(to: SocketAddr, served: &AtomicU64) -> Result<(), String> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        match TcpStream::connect_timeout(&to, CONNECT) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
                stream.read_exact(&mut [0; 4]).map_err(|error| format!("let in and not greeted: {error}"))?;
                served.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(error) => return Err(format!("not let in: {error}")),
        }
    }
    Err("never refused".to_owned())
}

/// The calling thread can't attach a filter to a socket from now on, as in a server that is not root.
fn give_up_net_admin() {
    const VERSION: u32 = 0x2008_0522;
    const NET_ADMIN: u32 = 12;
    let head = [VERSION, 0];
    // Effective, permitted and inheritable, of the capabilities up to 31 and then of those above.
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: both calls are about this thread and take a header and two structures of three integers, as this version has them.
    let done = unsafe {
        let got = libc::syscall(libc::SYS_capget, head.as_ptr(), sets.as_mut_ptr());
        sets[0][0] &= !(1 << NET_ADMIN);
        (got, libc::syscall(libc::SYS_capset, head.as_ptr(), sets.as_ptr()))
    };
    assert_eq!(done, (0, 0), "{}", std::io::Error::last_os_error());
}

/// Of a server of some shards, none of the clients that come during its stop may be reset.
fn check(shards: usize, steering: Option<NetworkLengths>, prepare: fn()) {
    let group = bind("127.0.0.1:0".parse().expect("address"), shards).expect("bound");
    group.listen_all(steering).expect("listening");
    let to = group.address();
    let share = group.share().expect("shared");
    drop(group);
    let servers: Vec<_> = share.into_iter().map(|bounds| Server::start_with(bounds, prepare, greet)).collect();
    let served = Arc::new(AtomicU64::new(0));
    let crowd: Vec<JoinHandle<_>> = (0..CLIENTS)
        .map(|_| {
            let served = served.clone();
            std::thread::spawn(move || client(to, &served))
        })
        .collect();
    let since = Instant::now();
    while served.load(Ordering::Relaxed) < SERVED && since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    servers.iter().for_each(Server::stop);
    drop(servers);
    for client in crowd {
        assert_eq!(client.join().expect("a client"), Ok(()), "{shards} shards, {steering:?}");
    }
    assert!(served.load(Ordering::Relaxed) >= SERVED);
}

#[test]
fn nobody_is_reset_by_a_stop() {
    check(2, Some(NetworkLengths::default()), || ());
}

#[test]
fn nobody_is_reset_by_a_stop_of_a_server_without_privileges() {
    for (shards, steering) in [(1, None), (2, None), (3, Some(NetworkLengths::default())), (2, None), (4, None)] {
        check(shards, steering, give_up_net_admin);
    }
}
