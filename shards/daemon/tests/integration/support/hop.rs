//! A next hop that does what a test wants it to do: SMTP in threads, in the clear or with STARTTLS.

use super::authority::Issued;
use super::net::own_address;
use super::{PATIENCE, wait_until};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// A moment at which a hop decides what it says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment<'a> {
    /// A connection has come.
    Banner,
    /// A command other than those below.
    Command,
    /// MAIL.
    Mail,
    /// RCPT, with all of its line.
    Rcpt(&'a str),
    /// DATA.
    Data,
    /// The end of a message.
    End,
}

/// What a hop does at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// What a server does that likes everything.
    Usual,
    /// This line, without its CRLF, instead.
    Say(&'static str),
    /// The connection is closed without a word.
    Close,
    /// Nothing, until the client closes or the hop ends.
    Silence,
    /// The usual, once [`Hop::release`] has let it.
    Hold,
}

/// A message that came to its end.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// The line of MAIL.
    pub(crate) mail: String,
    /// The lines of RCPT that were answered 250.
    pub(crate) rcpt: Vec<String>,
    /// Without the dots of DATA.
    pub(crate) body: Vec<u8>,
    /// Whether it came by BDAT.
    pub(crate) chunked: bool,
    /// Whether it came inside TLS.
    pub(crate) secure: bool,
    /// The name in EHLO.
    pub(crate) helo: String,
}

/// What a hop does at each moment, where it needs to remember nothing for that.
pub(crate) type Manners = fn(Moment<'_>) -> Answer;

type Decide = dyn Fn(Moment<'_>) -> Answer + Send + Sync;

/// What a hop is to be.
#[derive(Clone, Default)]
pub(crate) struct Manner {
    extensions: Vec<&'static str>,
    tls: Option<Arc<ServerConfig>>,
    address: Option<SocketAddr>,
}

impl Manner {
    /// What EHLO offers, besides STARTTLS.
    pub(crate) fn offers(mut self, extensions: &[&'static str]) -> Self {
        self.extensions = extensions.to_vec();
        self
    }

    /// It has TLS, with this certificate.
    pub(crate) fn secure(mut self, issued: &Issued) -> Self {
        let chain = CertificateDer::pem_file_iter(&issued.cert).expect("a PEM file");
        let chain = chain.collect::<std::result::Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&issued.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that the provider has")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        self.tls = Some(Arc::new(config));
        self
    }

    /// Where it is to be.
    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Starts it. `decide` is asked at every moment.
    pub(crate) fn start(self, decide: impl Fn(Moment<'_>) -> Answer + Send + Sync + 'static) -> Hop {
        let wanted = self.address.unwrap_or_else(|| (own_address(), 0).into());
        let listener = TcpListener::bind(wanted).unwrap_or_else(|error| panic!("{wanted}: {error}"));
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            manner: self,
            decide: Mutex::new(Arc::new(decide)),
            state: Mutex::default(),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let thread = std::thread::spawn(move || accept(&listener, &accepting));
        Hop { address, shared, thread: Some(thread) }
    }
}

/// A running hop, which ends when this value goes.
pub(crate) struct Hop {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    taken: Vec<Taken>,
    /// Streams of the connections there are, to end them.
    open: Vec<(usize, TcpStream)>,
    connections: usize,
    /// Connections with a message between MAIL and its reply.
    busy: Vec<usize>,
    /// The most that there were at a time.
    peak: usize,
    held: usize,
    permits: usize,
}

struct Shared {
    manner: Manner,
    decide: Mutex<Arc<Decide>>,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the hop has panicked")
    }

    fn decide(&self, moment: Moment<'_>) -> Answer {
        let decide = self.decide.lock().expect("no thread of the hop has panicked").clone();
        decide(moment)
    }
}

impl Hop {
    /// A hop that takes everything.
    pub(crate) fn obliging() -> Self {
        Manner::default().start(|_| Answer::Usual)
    }

    /// Decides otherwise from now on.
    pub(crate) fn change(&self, decide: impl Fn(Moment<'_>) -> Answer + Send + Sync + 'static) {
        *self.shared.decide.lock().expect("no thread of the hop has panicked") = Arc::new(decide);
    }

    /// The messages that came to their end, in that order, whatever was said to them.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.shared.state().taken.clone()
    }

    /// How many there are of them.
    pub(crate) fn count(&self) -> usize {
        self.shared.state().taken.len()
    }

    /// Waits for exactly so many messages.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Taken> {
        wait_until(&format!("{count} messages at the hop"), || self.count() >= count);
        let taken = self.taken();
        assert_eq!(taken.len(), count, "messages at the hop");
        taken
    }

    /// Waits for exactly one message.
    #[track_caller]
    pub(crate) fn only(&self) -> Taken {
        self.wait_for(1).remove(0)
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Connections there are.
    pub(crate) fn open(&self) -> usize {
        self.shared.state().open.len()
    }

    /// The most messages that were under way at a time, from MAIL to their reply.
    pub(crate) fn peak(&self) -> usize {
        self.shared.state().peak
    }

    /// Answers that are held.
    pub(crate) fn held(&self) -> usize {
        self.shared.state().held
    }

    /// Lets so many answers go that are held, or will be.
    pub(crate) fn release(&self, answers: usize) {
        self.shared.state().permits += answers;
        self.shared.changed.notify_all();
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        for (_, stream) in &self.shared.state().open {
            // One that the client has closed is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
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
    loop {
        let Ok((stream, _)) = listener.accept() else { break };
        if shared.ended.load(Ordering::Acquire) {
            break;
        }
        let number = {
            let mut state = shared.state();
            state.connections += 1;
            let number = state.connections;
            state.open.push((number, stream.try_clone().expect("a copy")));
            number
        };
        let shared = shared.clone();
        threads.push(std::thread::spawn(move || {
            // However it ended: what matters is what was taken.
            let _ = serve(&shared, stream, number);
            let mut state = shared.state();
            state.open.retain(|(open, _)| *open != number);
            state.busy.retain(|busy| *busy != number);
        }));
    }
    for (_, stream) in &shared.state().open {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(shared: &Shared, stream: TcpStream, number: usize) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let bare = stream.try_clone()?;
    Visit { shared, wire: BufReader::new(Box::new(stream)), bare: Some(bare), number, helo: String::new() }.run()
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// A connection.
struct Visit<'a> {
    shared: &'a Shared,
    wire: BufReader<Box<dyn Wire>>,
    /// Nothing inside TLS.
    bare: Option<TcpStream>,
    number: usize,
    helo: String,
}

/// Why a connection is over: it was to be.
fn over() -> Error {
    Error::other("over")
}

impl Visit<'_> {
    fn run(&mut self) -> Result<()> {
        self.at(Moment::Banner, "220 hop.example.net ESMTP")?;
        let mut envelope: Option<(String, Vec<String>)> = None;
        loop {
            let line = self.line()?;
            let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    self.helo = line.split(' ').nth(1).unwrap_or_default().to_owned();
                    let offers = self.offers();
                    self.at(Moment::Command, &offers)?;
                }
                "STARTTLS" => self.secure()?,
                "MAIL" => {
                    self.busy(true);
                    if self.at(Moment::Mail, "250 2.1.0 ok")? {
                        envelope = Some((line, Vec::new()));
                    }
                }
                "RCPT" => {
                    let taken = envelope.is_some() && self.at(Moment::Rcpt(&line), "250 2.1.5 ok")?;
                    match &mut envelope {
                        Some((_, rcpt)) if taken => rcpt.push(line),
                        Some(_) => {}
                        None => self.say("503 5.5.1 MAIL first")?,
                    }
                }
                "DATA" | "BDAT" => {
                    let chunk = (verb == "BDAT").then_some(line.as_str());
                    self.message(&mut envelope, chunk)?;
                }
                "QUIT" => return self.say("221 2.0.0 bye"),
                "RSET" => {
                    envelope = None;
                    self.busy(false);
                    self.at(Moment::Command, "250 2.0.0 ok")?;
                }
                _ => drop(self.at(Moment::Command, "250 2.0.0 ok")?),
            }
        }
    }

    fn offers(&self) -> String {
        let manner = &self.shared.manner;
        let tls = (manner.tls.is_some() && self.bare.is_some()).then_some("STARTTLS");
        let mut all = vec!["hop.example.net"];
        all.extend(manner.extensions.iter().copied().chain(tls));
        let last = all.len() - 1;
        let lines =
            all.iter().enumerate().map(|(at, offer)| format!("250{}{offer}", if at < last { '-' } else { ' ' }));
        lines.collect::<Vec<_>>().join("\r\n")
    }

    /// Does what was decided; true if it was the usual.
    fn at(&mut self, moment: Moment<'_>, usual: &str) -> Result<bool> {
        let line = match self.shared.decide(moment) {
            Answer::Usual => usual,
            Answer::Say(line) => line,
            Answer::Close => return Err(over()),
            Answer::Silence => {
                std::io::copy(&mut self.wire, &mut std::io::sink())?;
                return Err(over());
            }
            Answer::Hold => {
                self.hold()?;
                usual
            }
        };
        if matches!(moment, Moment::End) {
            // Before it is told: who hears of it may begin another one elsewhere.
            self.busy(false);
        }
        self.say(line).map(|()| line.starts_with('2'))
    }

    fn busy(&self, begins: bool) {
        let mut state = self.shared.state();
        state.busy.retain(|busy| *busy != self.number);
        if begins {
            state.busy.push(self.number);
            state.peak = state.peak.max(state.busy.len());
        }
    }

    fn hold(&self) -> Result<()> {
        let mut state = self.shared.state();
        state.held += 1;
        let ended = || self.shared.ended.load(Ordering::Acquire);
        while state.permits == 0 && !ended() {
            state = self.shared.changed.wait(state).expect("no thread of the hop has panicked");
        }
        state.held -= 1;
        state.permits = state.permits.saturating_sub(1);
        if ended() { Err(over()) } else { Ok(()) }
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let wire = self.wire.get_mut();
        wire.write_all(format!("{line}\r\n").as_bytes())?;
        wire.flush()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.wire.read_until(b'\n', &mut line)?;
        let text = line.strip_suffix(b"\r\n").ok_or_else(over)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn secure(&mut self) -> Result<()> {
        let Some(tls) = self.shared.manner.tls.clone() else { return self.say("502 5.5.1 no TLS here") };
        if !self.at(Moment::Command, "220 2.0.0 go on")? {
            return Ok(());
        }
        let bare = self.bare.take().ok_or_else(over)?;
        let connection = ServerConnection::new(tls).map_err(Error::other)?;
        let mut stream = StreamOwned::new(connection, bare);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        self.wire = BufReader::new(Box::new(stream));
        Ok(())
    }

    /// DATA, or the first chunk and all others up to the last.
    fn message(&mut self, envelope: &mut Option<(String, Vec<String>)>, chunk: Option<&str>) -> Result<()> {
        let willing = envelope.as_ref().is_some_and(|(_, rcpt)| !rcpt.is_empty());
        let body = match chunk {
            None if !willing => return self.say("554 5.5.1 no valid recipients"),
            None => {
                match self.shared.decide(Moment::Data) {
                    Answer::Usual => self.say("354 go on")?,
                    Answer::Say(line) => return self.say(line),
                    Answer::Close | Answer::Silence | Answer::Hold => return Err(over()),
                }
                self.data()?
            }
            Some(first) => match self.chunks(first, willing)? {
                Some(body) => body,
                None => return Ok(()),
            },
        };
        let (mail, rcpt) = envelope.take().ok_or_else(over)?;
        let (secure, helo) = (self.bare.is_none(), self.helo.clone());
        let taken = Taken { mail, rcpt, body, chunked: chunk.is_some(), secure, helo };
        self.shared.state().taken.push(taken);
        self.at(Moment::End, "250 2.0.0 taken").map(drop)
    }

    fn data(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            self.wire.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\r\n") {
                return Err(over());
            }
            if line == b".\r\n" {
                return Ok(body);
            }
            body.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    /// Nothing, if there was nobody to take it for.
    fn chunks(&mut self, first: &str, willing: bool) -> Result<Option<Vec<u8>>> {
        let (mut body, mut line) = (Vec::new(), first.to_owned());
        loop {
            let mut words = line.split(' ').skip(1);
            let size: u64 = words.next().and_then(|word| word.parse().ok()).ok_or_else(over)?;
            let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
            let before = body.len() as u64;
            (&mut self.wire).take(size).read_to_end(&mut body)?;
            match (body.len() as u64 - before == size, willing, last) {
                (false, ..) => return Err(over()),
                (true, false, true) => return self.say("554 5.5.1 no valid recipients").map(|()| None),
                (true, true, true) => return Ok(Some(body)),
                (true, ..) => self.say("250 2.0.0 more")?,
            }
            line = self.line()?;
            if !line.to_ascii_uppercase().starts_with("BDAT ") {
                return Err(over());
            }
        }
    }
}
