//! A server that follows a script, in a thread of its own.
//!
//! A script is lines of text, and a server has one for each connection that it is to get:
//!
//! ```text
//! S 250 ok        says this line
//! C MAIL FROM     reads a line, which has to begin so
//! BODY            reads what DATA brings, to its end
//! BDAT            reads chunks with their commands, to the last; says 250 after each of the others
//! TLS             makes a TLS handshake
//! JUNK            answers a TLS handshake with something that is none
//! HANG            waits until the client closes
//! UNENDED         the same, and what came until then was a message without its end
//! MORE            waits for more; the script is over if the client closes
//! ```
//!
//! After the last line it closes.

use super::certificate::server_config;
use rustls::{ServerConnection, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a server waits for anything before it takes the client for stuck.
const PATIENCE: Duration = Duration::from_secs(20);

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A running server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    bodies: Receiver<Vec<u8>>,
    stop: Sender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Server {
    /// A server on TCP, with a script for each connection.
    pub(super) fn start(scripts: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("settable");
        let accept = move || {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Incoming::Tcp(stream))
        };
        Self::serve(address, scripts, accept)
    }

    /// The same on a unix socket.
    pub(super) fn start_unix(path: &Path, scripts: &[&str]) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        listener.set_nonblocking(true).expect("settable");
        let accept = move || {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Incoming::Unix(stream))
        };
        Self::serve("127.0.0.1:0".parse().expect("address"), scripts, accept)
    }

    fn serve(
        address: SocketAddr,
        scripts: &[&str],
        accept: impl Fn() -> std::io::Result<Incoming> + Send + 'static,
    ) -> Self {
        let scripts: Vec<String> = scripts.iter().map(|script| (*script).to_owned()).collect();
        let (bodies_in, bodies) = channel();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut played = Vec::new();
            let mut left = scripts.into_iter();
            loop {
                match accept() {
                    Ok(stream) => {
                        let script = left.next().ok_or("a connection that no script is for")?;
                        let bodies = bodies_in.clone();
                        played.push(std::thread::spawn(move || Connection::new(stream, bodies).play(&script)));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if stopped.try_recv().is_ok() {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
            for connection in played {
                connection.join().expect("a script's thread")?;
            }
            let unused = left.count();
            if unused == 0 { Ok(()) } else { Err(format!("{unused} connections fewer than scripts")) }
        });
        Self { address, bodies, stop, thread }
    }

    /// Ends it. All it was told to do must have happened; gives the messages that it took.
    pub(super) fn end(self) -> Vec<Vec<u8>> {
        let _ = self.stop.send(());
        let played = self.thread.join().expect("the server's thread");
        assert_eq!(played, Ok(()), "the server's script");
        self.bodies.try_iter().collect()
    }
}

enum Incoming {
    Tcp(TcpStream),
    Unix(UnixStream),
}

struct Connection {
    /// Empty only while TLS is begun.
    wire: Option<Box<dyn Wire>>,
    /// The same socket, for a handshake.
    tcp: Option<TcpStream>,
    buffer: Vec<u8>,
    bodies: Sender<Vec<u8>>,
}

impl Connection {
    fn new(stream: Incoming, bodies: Sender<Vec<u8>>) -> Self {
        let (wire, tcp): (Box<dyn Wire>, _) = match stream {
            Incoming::Tcp(stream) => (Box::new(stream.try_clone().expect("a descriptor")), Some(stream)),
            Incoming::Unix(stream) => (Box::new(stream), None),
        };
        Self { wire: Some(wire), tcp, buffer: Vec::new(), bodies }
    }

    fn play(mut self, script: &str) -> Result<(), String> {
        let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in lines {
            if line == "MORE" && self.buffer.is_empty() && self.more().is_err() {
                return Ok(());
            }
            self.play_line(line).map_err(|error| format!("at {line:?}: {error}"))?;
        }
        Ok(())
    }

    fn play_line(&mut self, line: &str) -> Result<(), String> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("S", text) => self.say(format!("{text}\r\n").as_bytes()),
            ("C", want) => {
                let got = self.line()?;
                if got.starts_with(want) { Ok(()) } else { Err(format!("the client said {got:?}")) }
            }
            ("BODY", _) => self.take_data(),
            ("BDAT", _) => self.take_chunks(),
            ("TLS", _) => self.secure(),
            ("JUNK", _) => {
                // Not before the client has begun: it would come with the reply to its command.
                self.more()?;
                self.say(b"this is no handshake, whatever the client may have hoped for\r\n")
            }
            ("HANG", _) => self.hang().map(drop),
            ("UNENDED", _) => self.take_unended(),
            ("MORE", _) => Ok(()),
            _ => Err("no such line in scripts".into()),
        }
    }

    fn wire(&mut self) -> &mut dyn Wire {
        self.wire.as_deref_mut().expect("a connection")
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.wire().write_all(bytes).and_then(|()| self.wire().flush()).map_err(|error| error.to_string())
    }

    /// Reads something more.
    fn more(&mut self) -> Result<(), String> {
        let mut piece = [0; 16 << 10];
        match self.wire().read(&mut piece) {
            Ok(0) => Err("the client has closed".into()),
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more()?;
        }
    }

    fn take_data(&mut self) -> Result<(), String> {
        let mut body = Vec::new();
        loop {
            // By lines, with the dots taken off again.
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if line == b".\r\n" {
                    return self.bodies.send(body).map_err(|error| error.to_string());
                }
                body.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            }
            self.more()?;
        }
    }

    fn take_chunks(&mut self) -> Result<(), String> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let words: Vec<&str> = line.split(' ').collect();
            let ["BDAT", size, last @ ..] = &words[..] else { return Err(format!("the client said {line:?}")) };
            let size: usize = size.parse().map_err(|_| format!("the client said {line:?}"))?;
            while self.buffer.len() < size {
                self.more()?;
            }
            body.extend(self.buffer.drain(..size));
            if *last == ["LAST"] {
                return self.bodies.send(body).map_err(|error| error.to_string());
            }
            self.say(b"250 2.0.0 go on\r\n")?;
        }
    }

    fn secure(&mut self) -> Result<(), String> {
        let tcp = self.tcp.take().ok_or("TLS only on TCP, and once")?;
        if !self.buffer.is_empty() {
            return Err("the client spoke before the handshake".into());
        }
        let tls = ServerConnection::new(server_config()).map_err(|error| error.to_string())?;
        let mut stream = StreamOwned::new(tls, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
        }
        self.wire = Some(Box::new(stream));
        Ok(())
    }

    /// Gives what came until the client closed.
    fn hang(&mut self) -> Result<Vec<u8>, String> {
        let mut came = std::mem::take(&mut self.buffer);
        let mut piece = [0; 16 << 10];
        loop {
            match self.wire().read(&mut piece) {
                Ok(0) => return Ok(came),
                Ok(read) => came.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err("the client waits too".into()),
                // Reset, or its TLS not closed in form: closed, all the same.
                Err(_) => return Ok(came),
            }
        }
    }

    fn take_unended(&mut self) -> Result<(), String> {
        let came = self.hang()?;
        let ended = match came.strip_prefix(b"BDAT ") {
            Some(chunk) => {
                let end = chunk.windows(2).position(|pair| pair == b"\r\n").ok_or("no line")?;
                let words = String::from_utf8_lossy(&chunk[..end]);
                let size = words.split(' ').next().and_then(|size| size.parse::<usize>().ok()).ok_or("no size")?;
                chunk.len() - end - 2 >= size
            }
            None => came.windows(5).any(|five| five == b"\r\n.\r\n"),
        };
        if ended { Err("the message has an end".into()) } else { Ok(()) }
    }
}
