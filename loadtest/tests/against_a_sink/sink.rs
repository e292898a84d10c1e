//! A minimal SMTP sink in this process: a thread a connection, everything kept, told what to refuse.
//!
//! It is a second reading of the protocol, on purpose: it takes nothing from the tool it tests.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// One message that the sink said 250 to.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) recipients: Vec<String>,
    /// As it would be stored: without stuffing.
    pub(crate) text: Vec<u8>,
    pub(crate) id: String,
}

/// What the sink does with the message of this number, counted from 0 over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Take,
    RefuseMail,
    RefuseRcpt,
    RefuseData,
    RefuseEnd,
    /// Say 421 to MAIL, and close.
    Close,
    /// Hang up in place of the last reply.
    HangUp,
    /// Store it, and hang up in place of the last reply.
    TakeAndHangUp,
}

/// How a connection ended, as the sink saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With QUIT, with FIN, or by the sink.
    InOrder,
    /// The client reset it.
    Reset,
    /// In any other way.
    Broken,
}

/// How long the sink may take to see the end of connections that the client has closed.
const ENDING_PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    received: Mutex<Vec<Received>>,
    messages: AtomicU64,
    connections: AtomicU64,
    noops: AtomicU64,
    handshakes: AtomicU64,
    resumed: AtomicU64,
    peers: Mutex<Vec<IpAddr>>,
    endings: Mutex<Vec<Ending>>,
    options: Options,
    tls: Option<Arc<ServerConfig>>,
}

pub(crate) struct Options {
    pub(crate) extensions: &'static [&'static str],
    pub(crate) fate: fn(u64) -> Fate,
    /// Store each message in `<maildir>/<recipient>/new`.
    pub(crate) maildir: Option<PathBuf>,
    pub(crate) tls: Tls,
    /// Say no in the banner of this connection.
    pub(crate) refuse_connection: fn(u64) -> bool,
    /// Say nothing before the client has.
    pub(crate) wait_for_client: bool,
    /// Say 421 when the client takes longer than this to say anything.
    pub(crate) patience: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    Off,
    Starttls,
    Implicit,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            extensions: &["PIPELINING", "SIZE 0", "CHUNKING", "8BITMIME"],
            fate: |_| Fate::Take,
            maildir: None,
            tls: Tls::Off,
            refuse_connection: |_| false,
            wait_for_client: false,
            patience: None,
        }
    }
}

impl Sink {
    pub(crate) fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("is bound");
        let tls = (options.tls != Tls::Off).then(tls_config);
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            messages: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            noops: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            peers: Mutex::default(),
            endings: Mutex::default(),
            options,
            tls,
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&own);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("no panic").clone()
    }

    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn noops(&self) -> u64 {
        self.shared.noops.load(Ordering::SeqCst)
    }

    /// TLS handshakes that were completed.
    pub(crate) fn handshakes(&self) -> u64 {
        self.shared.handshakes.load(Ordering::SeqCst)
    }

    /// Those of them that resumed a session.
    pub(crate) fn resumed(&self) -> u64 {
        self.shared.resumed.load(Ordering::SeqCst)
    }

    /// Where the connections came from.
    pub(crate) fn peers(&self) -> Vec<IpAddr> {
        self.shared.peers.lock().expect("no panic").clone()
    }

    /// How this many connections ended; waits for them.
    #[track_caller]
    pub(crate) fn endings(&self, count: usize) -> Vec<Ending> {
        let deadline = Instant::now() + ENDING_PATIENCE;
        loop {
            let endings = self.shared.endings.lock().expect("no panic").clone();
            if endings.len() >= count {
                return endings;
            }
            assert!(Instant::now() < deadline, "only {} of {count} connections have ended", endings.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn tls_config() -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).expect("makes a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key.into());
    Arc::new(config.expect("fits"))
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

struct Transaction {
    fate: Fate,
    recipients: Vec<String>,
    chunks: Vec<u8>,
}

enum Next {
    Done,
    Encrypt,
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        if let Ok(peer) = stream.peer_addr() {
            self.peers.lock().expect("no panic").push(peer.ip());
        }
        let ending = match self.serve_to_its_end(stream, number) {
            Ok(()) => Ending::InOrder,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ending::Reset,
            Err(_) => Ending::Broken,
        };
        self.endings.lock().expect("no panic").push(ending);
    }

    fn serve_to_its_end(&self, stream: TcpStream, number: u64) -> std::io::Result<()> {
        // Fails where the client has reset the connection already, as the next read will say.
        let _ = stream.set_nodelay(true);
        stream.set_read_timeout(self.options.patience)?;
        if self.options.wait_for_client {
            stream.peek(&mut [0])?;
        }
        let mut plain = BufReader::with_capacity(1 << 16, stream);
        if self.options.tls == Tls::Implicit {
            return self.serve_encrypted(plain.into_inner(), number, true);
        }
        match self.dialogue(&mut plain, number, true, self.options.tls == Tls::Starttls) {
            Ok(Next::Done) => Ok(()),
            Ok(Next::Encrypt) => {
                assert!(plain.buffer().is_empty(), "nothing may follow STARTTLS before the handshake");
                self.serve_encrypted(plain.into_inner(), number, false)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => say(&mut plain, "421 4.4.2 too slow").map(|_| ()),
            Err(error) => Err(error),
        }
    }

    fn serve_encrypted(&self, stream: TcpStream, number: u64, banner: bool) -> std::io::Result<()> {
        let config = self.tls.clone().expect("there is a configuration");
        let mut session = ServerConnection::new(config).expect("makes a session");
        let mut stream = stream;
        session.complete_io(&mut stream)?;
        self.handshakes.fetch_add(1, Ordering::SeqCst);
        if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            self.resumed.fetch_add(1, Ordering::SeqCst);
        }
        let stream = StreamOwned::new(session, stream);
        self.dialogue(&mut BufReader::with_capacity(1 << 16, stream), number, banner, false).map(|_| ())
    }

    fn dialogue<S: Duplex>(
        &self,
        stream: &mut BufReader<S>,
        number: u64,
        banner: bool,
        starttls: bool,
    ) -> std::io::Result<Next> {
        if banner && (self.options.refuse_connection)(number) {
            say(stream, "421 4.3.2 not now")?;
            return Ok(Next::Done);
        }
        if banner {
            say(stream, "220-mx.example\r\n220 ready")?;
        }
        let mut transaction = Transaction { fate: Fate::Take, recipients: Vec::new(), chunks: Vec::new() };
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            if !line.ends_with('\n') {
                return Ok(Next::Done);
            }
            assert!(line.ends_with("\r\n"), "a command ends in CRLF: {line:?}");
            let line = line.trim_end();
            let goes_on = match line.get(..4).unwrap_or_default() {
                "EHLO" => self.ehlo(stream, starttls)?,
                "STAR" => {
                    say(stream, "220 go ahead")?;
                    return Ok(Next::Encrypt);
                }
                "MAIL" => self.mail(stream, &mut transaction)?,
                "RCPT" => rcpt(stream, &mut transaction, line)?,
                "DATA" => self.data(stream, &mut transaction)?,
                "BDAT" => self.bdat(stream, &mut transaction, line)?,
                "NOOP" => {
                    self.noops.fetch_add(1, Ordering::SeqCst);
                    say(stream, "250 2.0.0 ok")?
                }
                "RSET" => {
                    transaction.recipients.clear();
                    say(stream, "250 2.0.0 ok")?
                }
                "QUIT" => {
                    say(stream, "221 2.0.0 bye")?;
                    false
                }
                _ => say(stream, "500 5.5.2 what?")?,
            };
            if !goes_on {
                return Ok(Next::Done);
            }
        }
    }

    fn ehlo<S: Duplex>(&self, stream: &mut BufReader<S>, starttls: bool) -> std::io::Result<bool> {
        let mut text = String::from("250-mx.example");
        for extension in self.options.extensions {
            text += &format!("\r\n250-{extension}");
        }
        text += if starttls { "\r\n250 STARTTLS" } else { "\r\n250 HELP" };
        say(stream, &text)
    }

    fn mail<S: Duplex>(&self, stream: &mut BufReader<S>, transaction: &mut Transaction) -> std::io::Result<bool> {
        transaction.fate = (self.options.fate)(self.messages.fetch_add(1, Ordering::SeqCst));
        transaction.recipients.clear();
        transaction.chunks.clear();
        match transaction.fate {
            Fate::RefuseMail => say(stream, "451 4.7.1 not this one"),
            Fate::Close => say(stream, "421 4.3.2 going down").map(|_| false),
            _ => say(stream, "250 2.1.0 ok"),
        }
    }

    fn data<S: Duplex>(&self, stream: &mut BufReader<S>, transaction: &mut Transaction) -> std::io::Result<bool> {
        if transaction.recipients.is_empty() {
            return say(stream, "503 5.5.1 RCPT first");
        }
        if transaction.fate == Fate::RefuseData {
            return say(stream, "452 4.3.1 no room");
        }
        say(stream, "354 go")?;
        let text = read_data(stream)?;
        let recipients = std::mem::take(&mut transaction.recipients);
        self.finish(stream, transaction.fate, &recipients, text)
    }

    fn bdat<S: Duplex>(
        &self,
        stream: &mut BufReader<S>,
        transaction: &mut Transaction,
        line: &str,
    ) -> std::io::Result<bool> {
        let mut words = line.split(' ').skip(1);
        let size: usize = words.next().and_then(|word| word.parse().ok()).expect("BDAT has a size");
        let mut chunk = vec![0; size];
        stream.read_exact(&mut chunk)?;
        transaction.chunks.extend_from_slice(&chunk);
        if transaction.recipients.is_empty() {
            return say(stream, "503 5.5.1 RCPT first");
        }
        if words.next() != Some("LAST") {
            return say(stream, "250 2.0.0 chunk");
        }
        let recipients = std::mem::take(&mut transaction.recipients);
        self.finish(stream, transaction.fate, &recipients, std::mem::take(&mut transaction.chunks))
    }

    /// The last reply; `false` ends the connection.
    fn finish<S: Duplex>(
        &self,
        stream: &mut BufReader<S>,
        fate: Fate,
        recipients: &[String],
        text: Vec<u8>,
    ) -> std::io::Result<bool> {
        match fate {
            Fate::HangUp => return Ok(false),
            Fate::RefuseEnd | Fate::RefuseData => {
                say(stream, "554 5.7.1 not like this")?;
                return Ok(true);
            }
            _ => {}
        }
        let header = String::from_utf8_lossy(&text).into_owned();
        // The messages of a flood have none.
        let id = header.lines().find_map(|line| line.strip_prefix("X-Ringpost-Load-Id: ")).unwrap_or_default();
        if let Some(maildir) = &self.options.maildir {
            for recipient in recipients {
                let new = maildir.join(recipient).join("new");
                fs::create_dir_all(&new)?;
                fs::write(new.join(id), &text)?;
            }
        }
        let received = Received { recipients: recipients.to_vec(), id: id.to_owned(), text };
        self.received.lock().expect("no panic").push(received);
        if fate == Fate::TakeAndHangUp {
            return Ok(false);
        }
        say(stream, "250 2.0.0 queued")?;
        Ok(true)
    }
}

fn rcpt<S: Duplex>(stream: &mut BufReader<S>, transaction: &mut Transaction, line: &str) -> std::io::Result<bool> {
    match transaction.fate {
        Fate::RefuseMail => say(stream, "503 5.5.1 MAIL first"),
        Fate::RefuseRcpt => say(stream, "550 5.1.1 nobody here"),
        _ => {
            transaction.recipients.push(line["RCPT TO:<".len()..line.len() - 1].to_owned());
            say(stream, "250 2.1.5 ok")
        }
    }
}

/// Says something; the session goes on.
fn say<S: Duplex>(stream: &mut BufReader<S>, text: &str) -> std::io::Result<bool> {
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
    stream.get_mut().flush()?;
    Ok(true)
}

fn read_data<S: Duplex>(stream: &mut BufReader<S>) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.as_slice() {
            b".\r\n" => return Ok(text),
            [b'.', rest @ ..] => text.extend_from_slice(rest),
            line => text.extend_from_slice(line),
        }
    }
}
