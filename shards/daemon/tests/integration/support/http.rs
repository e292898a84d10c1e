//! A small HTTP server that keeps what is posted to it and answers as a test says.

use super::net::own_address;
use super::programs::{program, run};
use super::{PATIENCE, wait_until};
use std::fs;
use std::io::{BufRead, BufReader, Error, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Takes a form apart as its Content-Type says (RFC 7578 section 4), and writes its parts as JSON: name, type, and the bytes in
/// hexadecimal.
const MULTIPART: &str = "
import email, json, sys
parse = lambda fields: email.message_from_bytes(fields + b'\\r\\n\\r\\n')
boundary = b'--' + parse(b'Content-Type: ' + sys.argv[2].encode()).get_param('boundary').encode()
pieces = (b'\\r\\n' + open(sys.argv[1], 'rb').read()).split(b'\\r\\n' + boundary)
assert pieces[0] == b'' and pieces[-1].strip() == b'--', (pieces[0], pieces[-1])
parts = []
for piece in pieces[1:-1]:
    head, content = piece.lstrip(b' \\t')[2:].split(b'\\r\\n\\r\\n', 1)
    head = parse(head)
    parts.append((head.get_param('name', header='content-disposition'), head.get_content_type(), content.hex()))
json.dump(parts, sys.stdout)
";

/// Writes the message in a JSON body in hexadecimal.
const MESSAGE: &str = "
import base64, json, sys
print(base64.b64decode(json.load(open(sys.argv[1]))['message'], validate=True).hex(), end='')
";

/// What a request's signature is to be, computed by Python.
const SIGNATURE: &str = "
import hashlib, hmac, sys
body = open(sys.argv[1], 'rb').read()
signed = sys.argv[3].encode() + b'.' + body
print(hmac.new(sys.argv[2].encode(), signed, hashlib.sha256).hexdigest(), end='')
";

/// A request that came whole.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The request line.
    pub(crate) line: String,
    /// Its header fields, with their names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A part of a multipart body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    /// The value of a field that must be there.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.fields))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// What a Python script makes of the body, which it gets as a file.
    #[track_caller]
    fn python(&self, script: &str, folder: &Path, arguments: &[&str]) -> String {
        let file = folder.join("body");
        fs::write(&file, &self.body).expect("written");
        let mut command = Command::new(program("python3", "python3"));
        run(command.arg("-c").arg(script).arg(&file).args(arguments), "").ok().out
    }

    /// The parts of the body, taken apart by Python.
    #[track_caller]
    pub(crate) fn parts(&self, folder: &Path) -> Vec<Part> {
        let told = self.python(MULTIPART, folder, &[self.field("content-type")]);
        let parts: Vec<(String, String, String)> = serde_json::from_str(&told).expect("JSON");
        parts.into_iter().map(|(name, kind, hex)| Part { name, kind, bytes: bytes(&hex) }).collect()
    }

    /// The message that a JSON body carries, decoded by Python.
    #[track_caller]
    pub(crate) fn message(&self, folder: &Path) -> Vec<u8> {
        bytes(&self.python(MESSAGE, folder, &[]))
    }

    /// Fails unless the signature is that of the body by this secret, computed by Python.
    #[track_caller]
    pub(crate) fn verify(&self, secret: &str, folder: &Path) {
        let value = self.field("ringpost-signature");
        let (at, signature) = value.split_once(",v1=").expect("a time and a signature");
        let at = at.strip_prefix("t=").expect("a time");
        assert_eq!(at, self.field("ringpost-timestamp"));
        let wanted = self.python(SIGNATURE, folder, &[secret, at]);
        assert_eq!(signature, wanted, "{value}");
    }
}

/// What stands there in hexadecimal.
fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("ASCII"));
    digits.map(|two| u8::from_str_radix(two, 16).expect("hexadecimal")).collect()
}

type Decide = dyn Fn(usize, &Request) -> (u16, String) + Send + Sync;

/// A running server, which ends when this value goes.
pub(crate) struct Http {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    requests: Mutex<Vec<Request>>,
    streams: Mutex<Vec<TcpStream>>,
    decide: Box<Decide>,
    ended: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the server has panicked")
}

impl Http {
    /// Starts one. `decide` gives the status and the body of the answer to each request, whose number, from 1, it is told.
    pub(crate) fn start(decide: impl Fn(usize, &Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_at((own_address(), 0).into(), decide)
    }

    /// The same at an address; with the port 0 it is any that is free.
    pub(crate) fn start_at(
        address: SocketAddr,
        decide: impl Fn(usize, &Request) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = listener.local_addr().expect("bound");
        let (requests, streams, ended) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { requests, streams, decide: Box::new(decide), ended });
        let accepting = shared.clone();
        let thread = std::thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared, thread: Some(thread) }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Waits for exactly so many requests.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Request> {
        wait_until(&format!("{count} requests"), || lock(&self.shared.requests).len() >= count);
        let requests = self.requests();
        assert_eq!(requests.len(), count, "requests");
        requests
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Whoever waits for a connection gets one.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            // Its panic was told when it happened.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.ended.load(Ordering::Acquire) {
            break;
        }
        lock(&shared.streams).push(stream.try_clone().expect("a copy"));
        let shared = shared.clone();
        // A connection that broke has brought no request.
        threads.push(std::thread::spawn(move || drop(serve(&shared, &stream))));
    }
    for stream in lock(&shared.streams).iter() {
        // One that the client has closed is as good.
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(shared: &Shared, stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let number = {
            let mut requests = lock(&shared.requests);
            requests.push(request.clone());
            requests.len()
        };
        let (status, body) = (shared.decide)(number, &request);
        let mut stream = stream;
        write!(stream, "HTTP/1.1 {status} As Decided\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
    Ok(())
}

/// Reads a request whose length is said; nothing at the end of the connection.
fn read(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0);
    let fields = lines.iter().filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let mut request = Request { line, fields, body: Vec::new() };
    let length = request.find("content-length").and_then(|length| length.parse().ok());
    let length: usize = length.ok_or_else(|| Error::other("a body of unknown length"))?;
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}
