//! Addresses of a test's own, what listens on them, and HTTP by hand.

use super::PATIENCE;
use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long the admin listener may take to answer.
const HTTP_PATIENCE: Duration = Duration::from_secs(10);

/// The TCP sockets of the thread's network, which may be another than the process's.
const TCP_TABLE: &str = "/proc/thread-self/net/tcp";

const TCP6_TABLE: &str = "/proc/thread-self/net/tcp6";

/// The state of a listening socket in these tables.
const LISTENING: &str = "0A";

/// An address in 127.0.0.0/8 that nothing else uses, of which no client's own port can take anything away: clients
/// connect from 127.0.0.1.
pub(crate) fn own_address() -> Ipv4Addr {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at once differ in their ids, and tests of one process in their numbers.
    let process = std::process::id();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 + (process >> 8 & 0x7f) as u8, process as u8, 1 + (number % 250) as u8)
}

/// A port of that address that is free now.
pub(crate) fn free_port(address: impl Into<IpAddr>) -> SocketAddr {
    let listener = TcpListener::bind((address.into(), 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

/// An address in 127.0.0.0/8 for a client to come from: in the network of this number, a /24, the host of this number.
pub(crate) fn client_address(network: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(127, 1, network, host).into()
}

/// Connects from an address of this machine.
pub(crate) fn connect_from(source: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It bounds the wait for the connection too.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// How many sockets listen on an address.
pub(crate) fn listening_sockets(address: SocketAddr) -> usize {
    let (table, wanted) = (if address.is_ipv4() { TCP_TABLE } else { TCP6_TABLE }, as_in_proc(address));
    let text = std::fs::read_to_string(table).expect(table);
    let rows = text.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 3 && row[1] == wanted && row[3] == LISTENING).count()
}

/// The kernel prints the address's bytes four by four, each four as one number in its own byte order.
fn as_in_proc(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let word = |four: &[u8]| format!("{:08X}", u32::from_ne_bytes([four[0], four[1], four[2], four[3]]));
    format!("{}:{:04X}", bytes.chunks(4).map(word).collect::<String>(), address.port())
}

/// GET; the status and the body.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_PATIENCE)?;
    stream.set_read_timeout(Some(HTTP_PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let wrong = || std::io::Error::other(format!("not HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(wrong)?;
    Ok((status, body.to_owned()))
}

/// Ends a connection with RST instead of FIN.
pub(crate) fn reset(stream: TcpStream) {
    // A connection that the server has closed meanwhile is as good.
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
}
