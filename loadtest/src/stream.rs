//! A TCP connection, encrypted or not, and how it can break.
//!
//! Every wait is bounded by the same timeout. Nothing here knows SMTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::stats::BreakKind;

/// A connection that is no more.
#[derive(Debug)]
pub(crate) struct Break {
    pub(crate) kind: BreakKind,
    pub(crate) detail: String,
}

impl Break {
    pub(crate) fn new(kind: BreakKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    fn timeout(what: &str, limit: Duration) -> Self {
        Self::new(BreakKind::Timeout, format!("{what} took more than {limit:?}"))
    }
}

impl From<io::Error> for Break {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => BreakKind::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                BreakKind::Reset
            }
            io::ErrorKind::TimedOut => BreakKind::Timeout,
            io::ErrorKind::UnexpectedEof => BreakKind::Eof,
            // What tokio-rustls makes of a TLS error.
            io::ErrorKind::InvalidData => BreakKind::Tls,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => BreakKind::Local,
            _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS)) => BreakKind::Local,
            _ => BreakKind::Other,
        };
        Self { kind, detail: error.to_string() }
    }
}

/// The bytes to and from a server.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects, from a chosen local address if one is given.
    pub(crate) async fn connect(target: SocketAddr, source: Option<IpAddr>, limit: Duration) -> Result<Self, Break> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A message is few writes, each complete: waiting to join them would only add to what is measured.
        socket.set_nodelay(true)?;
        if let Some(source) = source {
            leave_port_to_connect(&socket)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        match timeout(limit, socket.connect(target)).await {
            Ok(connected) => Ok(Self::Plain(connected?)),
            Err(_) => Err(Break::timeout("the connection", limit)),
        }
    }

    /// Turns a plain connection into an encrypted one.
    pub(crate) async fn encrypt(
        self,
        connector: &TlsConnector,
        name: ServerName<'static>,
        limit: Duration,
    ) -> Result<Self, Break> {
        let Self::Plain(tcp) = self else {
            return Err(Break::new(BreakKind::Tls, "the connection is encrypted already"));
        };
        match timeout(limit, connector.connect(name, tcp)).await {
            Ok(Ok(tls)) => Ok(Self::Tls(Box::new(tls))),
            Ok(Err(error)) => {
                let mut broken = Break::from(error);
                // A server that hangs up in the middle of a handshake failed at TLS, however it hung up.
                if broken.kind == BreakKind::Eof {
                    broken.kind = BreakKind::Tls;
                }
                Err(broken)
            }
            Err(_) => Err(Break::timeout("the TLS handshake", limit)),
        }
    }

    /// TLS version and cipher suite, if encrypted.
    pub(crate) fn tls_label(&self) -> Option<String> {
        let Self::Tls(tls) = self else { return None };
        Some(crate::tls::label(tls.get_ref().1))
    }

    /// Writes all of it, within the limit.
    pub(crate) async fn write_all(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Break> {
        let write = async {
            match self {
                Self::Plain(tcp) => tcp.write_all(bytes).await,
                Self::Tls(tls) => {
                    tls.write_all(bytes).await?;
                    tls.flush().await
                }
            }
        };
        match timeout(limit, write).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Break::timeout("a write", limit)),
        }
    }

    /// Reads some bytes, within the limit; 0 at the end of the stream.
    pub(crate) async fn read(&mut self, buffer: &mut [u8], limit: Duration) -> Result<usize, Break> {
        match timeout(limit, self.read_unbounded(buffer)).await {
            Ok(read) => Ok(read?),
            Err(_) => Err(Break::timeout("a reply", limit)),
        }
    }

    /// Says that nothing more will be written: under TLS with the closing alert, and then with FIN.
    pub(crate) async fn shutdown(&mut self, limit: Duration) -> Result<(), Break> {
        let shutdown = async {
            match self {
                Self::Plain(tcp) => tcp.shutdown().await,
                Self::Tls(tls) => tls.shutdown().await,
            }
        };
        match timeout(limit, shutdown).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Break::timeout("closing", limit)),
        }
    }

    /// Ends the connection with a reset: what is not yet sent, or not yet read, is gone on both sides.
    pub(crate) fn abort(self) -> Result<(), Break> {
        let tcp = match &self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        // Closing a socket with a linger time of zero sends RST; dropping `self` closes it.
        Ok(tcp.set_zero_linger()?)
    }

    /// Reads some bytes, however long that takes; 0 at the end of the stream.
    pub(crate) async fn read_unbounded(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer).await,
            Self::Tls(tls) => tls.read(buffer).await,
        }
    }
}

/// Has the port of a bound socket chosen when it connects, so that one local address gives as many connections to each
/// target as there are ports, and not only as many in all.
fn leave_port_to_connect(socket: &TcpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the pointer and the length describe `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
