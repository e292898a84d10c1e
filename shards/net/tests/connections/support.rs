//! A shard that serves connections with a given session, and clients of it.

use ringpost_base::ShardId;
use ringpost_control::{Board, Phase};
use ringpost_metrics::Block;
use ringpost_net::{
    Acceptor, Bound, CertificateFiles, Closed, Connection, Stop, Table, Ticketing, TlsOptions, bind, serve,
    stored_or_made,
};
use ringpost_runtime::local::Bell;
use ringpost_runtime::{Plan, Pulse, Shard, ShardThread, cores, sleep, spawn, spawn_vital, start, tick};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use socket2::{Domain, Socket, Type};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any test: who waits for that long has been ended by something else.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(3600);

/// What a session has to work with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) table: Rc<Table>,
    pub(crate) acceptor: Acceptor,
    reports: Sender<String>,
}

impl Tools {
    /// Says something to the test.
    pub(crate) fn report(&self, what: impl Into<String>) {
        self.reports.send(what.into()).expect("the test listens");
    }
}

/// A running shard with one listener.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    reports: Receiver<String>,
    board: Arc<Board>,
    hands_over: Arc<AtomicBool>,
    thread: Option<ShardThread<()>>,
}

impl Server {
    /// Starts a shard that gives every connection to `session`.
    pub(crate) fn start<F>(session: impl Fn(Connection, Tools) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let group = bind("127.0.0.1:0".parse().expect("address"), 1).expect("bound");
        group.listen_all(None).expect("listening");
        let bounds = group.share().expect("shared").remove(0);
        Self::start_on(bounds, session)
    }

    /// The same on sockets of one address that listen.
    pub(crate) fn start_on<F>(
        bounds: Vec<Bound>,
        session: impl Fn(Connection, Tools) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self::start_with(bounds, || (), session)
    }

    /// The same after the shard's thread has called `prepare`.
    pub(crate) fn start_with<F>(
        bounds: Vec<Bound>,
        prepare: fn(),
        session: impl Fn(Connection, Tools) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let address = bounds[0].address();
        let board = Board::new(1);
        let seat = board.seat(ShardId(0)).expect("the first");
        let (sender, reports) = channel();
        let (ended, _) = crossbeam::channel::unbounded();
        let (block, pulse) = (Arc::new(Block::new()), Pulse::new(ShardId(0)));
        let plan = Plan { shard: ShardId(0), cpu: cores()[0], block, seat, pulse, ended };
        let hands_over = Arc::new(AtomicBool::new(false));
        let stop = hands_over.clone();
        let body = move |shard: Shard| async move {
            prepare();
            let table = Table::new();
            spawn_vital(table.clone().keep_swept());
            let tools = Tools { table: table.clone(), acceptor: acceptor().clone(), reports: sender };
            let listening = Rc::new(Cell::new(bounds.len()));
            let mut stops = Vec::new();
            for bound in bounds {
                let (tools, session, bell) = (tools.clone(), session.clone(), Rc::new(Bell::default()));
                stops.push(bell.clone());
                let take = move |connection| spawn("session", session(connection, tools.clone()));
                let (table, block, stop, listening) =
                    (table.clone(), shard.block.clone(), stop.clone(), listening.clone());
                let stopped = async move {
                    bell.heard().await;
                    if stop.load(Ordering::Relaxed) { Stop::HandOver } else { Stop::Close }
                };
                spawn_vital(async move {
                    serve(bound, table, block, take, stopped).await;
                    listening.set(listening.get() - 1);
                });
            }
            let mut seat = shard.seat;
            while !seat.changed().await.phase.is_final() {}
            let hands_over = stop.load(Ordering::Relaxed);
            stops.iter().for_each(|bell| bell.ring());
            if !hands_over {
                table.stop();
            }
            while listening.get() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
            // Whom another one does not serve is served to the end.
            let end = tick().deadline(PATIENCE);
            while hands_over && !table.is_empty() && !end.passed(tick()) {
                sleep(Duration::from_millis(5)).await;
            }
            table.cut_off();
            while !table.is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        Self { address, reports, board, hands_over, thread: Some(start(plan, body).expect("shard")) }
    }

    /// Gives the sockets up to another one, serves who is there, and ends.
    pub(crate) fn hand_over(self) {
        self.hands_over.store(true, Ordering::Relaxed);
    }

    /// The next thing that a session says.
    pub(crate) fn told(&self) -> String {
        self.reports.recv_timeout(PATIENCE).expect("a report in time")
    }

    /// Begins to stop.
    pub(crate) fn stop(&self) {
        self.board.publish_phase(Phase::Draining);
    }

    /// Connects from this machine's usual address.
    pub(crate) fn connect(&self) -> TcpStream {
        self.connect_from(IpAddr::from([127, 0, 0, 1]))
    }

    /// Connects from an address.
    pub(crate) fn connect_from(&self, from: IpAddr) -> TcpStream {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        client.bind(&SocketAddr::new(from, 0).into()).expect("bound");
        client.connect(&self.address.into()).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("timeout");
        client.set_tcp_nodelay(true).expect("no delay");
        client.into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let joined = self.thread.take().map(ShardThread::join);
        if !std::thread::panicking() {
            joined.expect("a thread").expect("the shard ends in order, with an empty table");
        }
    }
}

/// One for all tests: to make a certificate takes long.
fn acceptor() -> &'static Acceptor {
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    ACCEPTOR.get_or_init(|| {
        let directory = tempfile::tempdir().expect("directory");
        let (cert, key) = stored_or_made(directory.path(), "mx.example.org").expect("certificate");
        let certificates = vec![CertificateFiles { cert, key, ocsp: None }];
        let options = TlsOptions { certificates, ..TlsOptions::default() };
        Acceptor::all(&options, &Ticketing::new().expect("key"), 1).expect("acceptor").remove(0)
    })
}

/// Takes any server.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS client that has not said anything.
pub(crate) fn tls_client() -> ClientConnection {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from("mx.example.org").expect("name")).expect("client")
}

/// The first bytes of a TLS client.
pub(crate) fn hello(client: &mut ClientConnection) -> Vec<u8> {
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).expect("memory");
    }
    hello
}

/// The next line, as a session reads it.
pub(crate) async fn line(connection: &mut Connection) -> Result<String, Closed> {
    let machine = |input: &[u8]| match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (end + 1, Some(String::from_utf8_lossy(&input[..end]).into_owned())),
        None => (0, None),
    };
    connection.feed(false, machine).await
}
