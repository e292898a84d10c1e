//! The first line of an SMTP server, to see that it is up.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest wait, for the connection and for the line.
const PATIENCE: Duration = Duration::from_secs(2);

/// The banner, when there is one.
pub(crate) fn banner(address: SocketAddr) -> Option<String> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    // Leaving politely keeps the server's log clean.
    let _ = reader.get_mut().write_all(b"QUIT\r\n");
    (!line.is_empty()).then_some(line)
}
