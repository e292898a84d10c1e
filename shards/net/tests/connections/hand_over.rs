//! One server takes over from another, which in a test are two in one process: to the kernel, sockets are what counts.

use crate::support::{FOR_EVER, PATIENCE, Server, Tools, line};
use ringpost_base::NetworkLengths;
use ringpost_net::{Connection, Group, bind, inherit, strays};
use ringpost_runtime::sleep;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many clients connect at a time, each again and again.
const CLIENTS: u8 = 8;

/// A session that says who it is of and goes once the client says something.
fn greeter(
    who: &'static str,
) -> impl Fn(Connection, Tools) -> std::pin::Pin<Box<dyn Future<Output = ()>>> + Clone + Send {
    move |mut connection, _| {
        Box::pin(async move {
            connection.allow(FOR_EVER, false);
            let said = connection.send(&mut format!("220 {who}\n").into_bytes()).await;
            assert_eq!(said, Ok(()));
            // The client may be gone already.
            let _ = line(&mut connection).await;
            connection.close(false).await;
        })
    }
}

/// Connects from an address, and gives the greeting.
fn greeted(from: IpAddr, to: SocketAddr) -> std::io::Result<String> {
    let client = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    client.bind(&SocketAddr::new(from, 0).into())?;
    client.connect(&to.into())?;
    let mut client = TcpStream::from(client);
    client.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    let mut byte = [0];
    while text.last() != Some(&b'\n') {
        if client.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.push(byte[0]);
    }
    client.write_all(b"QUIT\n")?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Clients that connect all the time.
struct Crowd {
    stop: Arc<AtomicBool>,
    served: [Arc<AtomicU64>; 2],
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn new(to: SocketAddr) -> Self {
        let mut crowd =
            Self { stop: Arc::default(), served: Default::default(), failed: Arc::default(), threads: Vec::new() };
        for number in 0..CLIENTS {
            let (stop, served, failed) = (crowd.stop.clone(), crowd.served.clone(), crowd.failed.clone());
            crowd.threads.push(std::thread::spawn(move || {
                let mut round = 0_u8;
                while !stop.load(Ordering::Relaxed) {
                    round = round.wrapping_add(1);
                    match greeted(IpAddr::from([127, 9, round, number + 1]), to).as_deref() {
                        Ok("220 former") => served[0].fetch_add(1, Ordering::Relaxed),
                        Ok("220 next") => served[1].fetch_add(1, Ordering::Relaxed),
                        other => return failed.lock().expect("a list").push(format!("{other:?}")),
                    };
                }
            }));
        }
        crowd
    }

    /// Waits until one of the two has served some more.
    fn wait_served(&self, which: usize, more: u64) {
        let until = self.served[which].load(Ordering::Relaxed) + more;
        let since = Instant::now();
        while self.served[which].load(Ordering::Relaxed) < until && self.failed.lock().expect("a list").is_empty() {
            assert!(since.elapsed() < PATIENCE, "clients wait and nobody serves them");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[track_caller]
    fn end(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client"));
        assert!(self.failed.lock().expect("a list").is_empty(), "{what}: {:?}", self.failed.lock().expect("a list"));
    }
}

/// Starts a server for each shard of a group that listens.
fn servers(group: &Group, who: &'static str) -> Vec<Server> {
    group.share().expect("shared").into_iter().map(|bounds| Server::start_on(bounds, greeter(who))).collect()
}

/// The former server gives its sockets up while clients come without a pause.
fn check_hand_over(former: Group, shards: usize) {
    let what = format!("to {shards} shards from {}", former.descriptors().expect("duplicates").len());
    former.listen_all(Some(NetworkLengths::default())).expect("listening");
    let address = former.address();
    let first = servers(&former, "former");
    let crowd = Crowd::new(address);
    crowd.wait_served(0, 100);
    let group = inherit(address, former.descriptors().expect("duplicates"), shards).expect("inherited");
    let second = servers(&group, "next");
    group.listen_all(Some(NetworkLengths::default())).expect("listening");
    crowd.wait_served(1, 20);
    drop(former);
    first.into_iter().for_each(Server::hand_over);
    crowd.wait_served(1, 100);
    crowd.end(&what);
    drop(second);
    assert_eq!(strays(&[address]).expect("looked").len(), 0, "{what}");
}

#[test]
fn nobody_is_turned_away_while_one_takes_over_from_another() {
    for (former, next) in [(1, 1), (2, 2), (1, 3), (3, 1)] {
        check_hand_over(bind("127.0.0.1:0".parse().expect("address"), former).expect("bound"), next);
    }
}

/// As a service manager opens it, without SO_REUSEPORT.
fn single_socket(address: SocketAddr, only_v6: bool) -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
    if address.is_ipv6() {
        socket.set_only_v6(only_v6).expect("set");
    }
    socket.bind(&address.into()).expect("bound");
    socket.listen(1024).expect("listening");
    let address = socket.local_addr().expect("address").as_socket().expect("an address");
    (address, socket)
}

#[test]
fn nobody_is_turned_away_on_the_socket_of_a_service_manager() {
    let (address, socket) = single_socket("127.0.0.1:0".parse().expect("address"), true);
    let own = socket.try_clone().expect("duplicate");
    check_hand_over(inherit(address, vec![own.into()], 2).expect("inherited"), 2);
    // Between two runs nobody serves, and clients wait.
    let client = std::thread::spawn(move || greeted(IpAddr::from([127, 0, 0, 1]), address));
    std::thread::sleep(Duration::from_millis(100));
    let group = inherit(address, vec![socket.into()], 1).expect("inherited");
    let _servers = servers(&group, "next");
    assert_eq!(client.join().expect("a client").expect("served"), "220 next");
}

#[test]
fn a_client_of_a_socket_for_both_families_has_its_own_address() {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    // Where there is no IPv6 there is no such socket.
    if Socket::new(Domain::IPV6, Type::STREAM, None).is_err() {
        return;
    }
    let (address, socket) = single_socket(any, false);
    let group = inherit(address, vec![socket.into()], 1).expect("inherited");
    group.listen_all(Some(NetworkLengths::default())).expect("listening");
    let session =
        |connection: Connection, tools: Tools| async move { tools.report(connection.peer().ip().to_string()) };
    let server = Server::start_on(group.share().expect("shared").remove(0), session);
    let _client = TcpStream::connect(("127.0.0.1", address.port())).expect("connected");
    assert_eq!(server.told(), "127.0.0.1");
}

/// A connection that is taken, and the client of it.
fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("timeout");
    (listener.accept().expect("taken").0, client)
}

#[test]
fn connections_that_nobody_began_to_serve_are_found_and_no_others() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("address");
    let [silent, mut early, over, mut greeted, mut heard] = [(); 5].map(|()| pair(&listener));
    early.1.write_all(b"EHLO\n").expect("sent");
    (&over.1).write_all(b"EHLO\n").expect("sent");
    over.1.shutdown(Shutdown::Write).expect("shut down");
    greeted.0.write_all(b"220\n").expect("sent");
    heard.1.write_all(b"EHLO\n").expect("sent");
    heard.0.read_exact(&mut [0; 3]).expect("read");
    // What was sent has arrived when the other end has it in hand.
    early.0.peek(&mut [0]).expect("there");
    over.0.peek(&mut [0]).expect("there");
    std::thread::sleep(Duration::from_millis(50));
    // Open twice, it is one connection still.
    let _again = silent.0.try_clone().expect("duplicate");
    let any = SocketAddr::new("0.0.0.0".parse().expect("address"), address.port());
    let other = SocketAddr::new("127.0.0.2".parse().expect("address"), address.port());
    for (addresses, expected) in [
        (vec![address], Some(address)),
        (vec![any], Some(any)),
        (vec![any, address], Some(address)),
        (vec![other, any], Some(any)),
        (vec![other], None),
    ] {
        let mut found: Vec<_> =
            strays(&addresses).expect("looked").into_iter().map(|(of, stray)| (of, peer(stray))).collect();
        found.sort_unstable();
        let clients = [&silent, &early, &over].map(|(_, client)| client.local_addr().expect("address"));
        let mut wanted: Vec<_> = expected.into_iter().flat_map(|of| clients.map(|client| (of, client))).collect();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{addresses:?}");
    }
}

fn peer(stray: OwnedFd) -> SocketAddr {
    TcpStream::from(stray).peer_addr().expect("address")
}

#[test]
fn a_connection_of_a_former_process_is_served_with_what_its_client_has_said() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let (taken, mut client) = pair(&listener);
    client.write_all(b"early\n").expect("sent");
    let found = strays(&[listener.local_addr().expect("address")]).expect("looked");
    let stray = found.into_iter().next().expect("it is found").1.into_raw_fd();
    // The former process ends.
    drop((taken, listener));
    let server = Server::start(move |_, tools| async move {
        // SAFETY: it is the duplicate that was found above, and the test connects once.
        let stray = unsafe { OwnedFd::from_raw_fd(stray) };
        let mut connection = Connection::from_inherited(stray, &tools.table).expect("the client is there");
        connection.allow(FOR_EVER, false);
        let early = line(&mut connection).await;
        tools.report(format!("{early:?} {}", connection.peer()));
        connection.send(&mut b"250\n".to_vec()).await.expect("sent");
        sleep(Duration::from_millis(1)).await;
        connection.close(false).await;
    });
    let _another = server.connect();
    assert_eq!(server.told(), format!("Ok(\"early\") {}", client.local_addr().expect("address")));
    let mut said = String::new();
    client.read_to_string(&mut said).expect("said and closed");
    assert_eq!(said, "250\n");
}

/// A program that the server starts would hold the client's connection open.
#[test]
fn connections_are_inherited_by_no_program_that_is_started() {
    let server = Server::start(|mut connection, _| async move {
        connection.allow(FOR_EVER, false);
        connection.send(&mut b"220\n".to_vec()).await.expect("sent");
        let _ = line(&mut connection).await;
    });
    let mut client = server.connect();
    client.read_exact(&mut [0; 4]).expect("greeted");
    let of_server = |fd: &TcpStream| fd.local_addr().is_ok_and(|local| local == server.address);
    let mut seen = 0;
    for entry in fs::read_dir("/proc/self/fd").expect("a directory") {
        let number =
            entry.expect("an entry").file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
        // SAFETY: it is only looked at, and given up again without being closed.
        let socket = std::mem::ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(number) });
        if of_server(&socket) {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", socket.as_raw_fd())).expect("told");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
            assert_eq!(u32::from_str_radix(flags, 8).expect("octal") & 0o2_000_000, 0o2_000_000, "{info}");
            seen += 1;
        }
    }
    assert!(seen >= 2, "the listening socket and the connection");
}
