//! An HTTP server that answers as it is told, and tells what it was sent.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long anything is waited for before it counts as stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Reads it and says this; then closes, if that says so.
    Say(String),
    /// Says this when it has read the head.
    SayEarly(String),
    /// Reads it, says nothing, and waits for the client to close.
    Hang,
    /// Closes when it has read the head.
    Close,
}

/// An answer with a status and a text.
pub(super) fn say(status: &str, body: &str) -> Answer {
    say_with(status, "Content-Type: text/plain\r\n", body)
}

/// The same with other header fields.
pub(super) fn say_with(status: &str, fields: &str, body: &str) -> Answer {
    Answer::Say(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The connection it came on, counted from 0.
    pub(super) connection: usize,
    /// The request line and the header fields, with names in lower case.
    pub(super) line: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether as much came as was announced.
    pub(super) complete: bool,
}

impl Request {
    /// The value of a field that is there once.
    #[track_caller]
    pub(super) fn field(&self, name: &str) -> &str {
        let values: Vec<&String> =
            self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value).collect();
        assert_eq!(values.len(), 1, "{name} in {:?}", self.fields);
        values[0]
    }

    fn head(text: &str, connection: usize) -> Self {
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let field =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Self { connection, line, fields: lines.filter_map(field).collect(), body: Vec::new(), complete: false }
    }

    fn size(&self) -> usize {
        self.field("content-length").parse().expect("a number")
    }
}

/// A running server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Receiver<Request>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

impl Server {
    /// A server with an answer for each request, in the order they come.
    pub(super) fn start(answers: &[Answer]) -> Self {
        Self::serve(answers, None)
    }

    pub(super) fn start_tls(answers: &[Answer], config: Arc<ServerConfig>) -> Self {
        Self::serve(answers, Some(config))
    }

    fn serve(answers: &[Answer], tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("settable");
        let (sender, requests) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, answers) = (stop.clone(), Arc::new(Mutex::new(VecDeque::from(answers.to_vec()))));
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let stream = match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                };
                let (number, sender, answers, tls) = (connections.len(), sender.clone(), answers.clone(), tls.clone());
                connections.push(std::thread::spawn(move || {
                    let rest = stream.try_clone().expect("a second handle");
                    let mut wire = wire(stream, tls);
                    while one(&mut *wire, number, &answers, &sender).is_some() {}
                    part(rest);
                }));
            }
            for connection in connections {
                connection.join().expect("no connection panics");
            }
        });
        Self { address, requests, stop, thread }
    }

    /// Waits for the next request.
    pub(super) fn request(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request")
    }

    /// What has come, once the clients are gone.
    pub(super) fn stop(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the server does not panic");
        self.requests.try_iter().collect()
    }
}

/// Closes in order: a reset would take what was said last away from the client.
fn part(mut stream: TcpStream) {
    // The client may have closed already.
    let _ = stream.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

fn wire(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Box<dyn Wire> {
    stream.set_nonblocking(false).expect("settable");
    stream.set_read_timeout(Some(PATIENCE)).expect("settable");
    match tls {
        None => Box::new(stream),
        Some(config) => {
            let session = ServerConnection::new(config).expect("a session");
            Box::new(StreamOwned::new(session, stream))
        }
    }
}

/// Serves one request; nothing if there is none, or the connection is of no further use.
fn one(
    wire: &mut dyn Wire,
    connection: usize,
    answers: &Mutex<VecDeque<Answer>>,
    sender: &Sender<Request>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        wire.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let mut request = Request::head(&String::from_utf8(head).expect("ASCII"), connection);
    let answer = answers.lock().expect("not poisoned").pop_front();
    match answer.unwrap_or_else(|| panic!("more requests than answers: {request:?}")) {
        Answer::Say(text) => {
            let complete = read_body(wire, &mut request);
            sender.send(request).ok()?;
            complete.then_some(())?;
            wire.write_all(text.as_bytes()).ok()?;
            (!text.contains("Connection: close")).then_some(())
        }
        Answer::SayEarly(text) => {
            wire.write_all(text.as_bytes()).ok()?;
            read_body(wire, &mut request);
            sender.send(request).ok()
        }
        Answer::Hang => {
            read_body(wire, &mut request);
            // It ends when the client closes.
            let _ = wire.read(&mut [0]);
            sender.send(request).ok()?;
            None
        }
        Answer::Close => {
            sender.send(request).ok()?;
            None
        }
    }
}

fn read_body(wire: &mut dyn Wire, request: &mut Request) -> bool {
    let size = request.size();
    let mut piece = vec![0; 64 << 10];
    while request.body.len() < size {
        let room = piece.len().min(size - request.body.len());
        match wire.read(&mut piece[..room]) {
            Ok(0) | Err(_) => break,
            Ok(read) => request.body.extend_from_slice(&piece[..read]),
        }
    }
    request.complete = request.body.len() == size;
    request.complete
}
