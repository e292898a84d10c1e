//! The two places that are answered at, and their end.
//!
//! Invariants: [`Admin::start`] returns only once both places are there; at most [`CONNECTIONS_MAX`] connections of each
//! are served at a time, and of readers at most [`READERS_MAX`] besides, so that they keep no operator out; each with a
//! bounded header and time to send it. [`Admin::stop`] returns within a second,
//! finished answers or not. A panic in a handler ends its connection, not the thread. It refuses HTTP/2, upgrades, and
//! to restart by itself.

use crate::Error;
use crate::access::{Access, Role};
use crate::api::{CanaryView, ProbeView};
use crate::audit::Audit;
use crate::control::Control;
use crate::history;
use crate::routes::{self, Shared};
use crate::seldom::Seldom;
use crate::socket::{SocketFile, is_at};
use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use ringpost_base::Timestamp;
use ringpost_control::Board;
use ringpost_metrics::{Block, ProcessReading};
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Connections at a time, of each place: some scrapers and people. More wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;

/// Connections of readers at a time, of all of them: dashboards and scripts. One more is told to come again.
const READERS_MAX: usize = 32;

/// What a reader is told for whom there is no room.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 64\r\n\
    connection: close\r\n\r\n{\"error\":\"too many connections of readers are open; try again\"}\n";

/// How often a log line tells of those who were turned away from the socket.
const STRANGERS_EVERY: Duration = Duration::from_secs(1);

/// Time from the connection, or the last answer, to the end of the next request's header. Idle connections end with it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's header that are read.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Time that a connection gets altogether, however slowly its reader takes the answers.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Time that answers under way get at the stop.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Time that the stop gives the services thread to notice all this.
const STOP_WAIT: Duration = Duration::from_millis(900);

/// Rest after a failed accept (no descriptors left), so as not to spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

const _: () = assert!(STOP_PATIENCE.as_millis() + ACCEPT_REST.as_millis() < STOP_WAIT.as_millis());

/// Where to answer, from the config's `[admin]`.
#[derive(Debug, Default)]
pub struct Options {
    /// The TCP address of health and metrics. Port 0 takes any free port; [`Admin::address`] tells which. Nothing: off.
    pub listen: Option<SocketAddr>,
    /// The unix socket of the API, best as an absolute path. Nothing: off.
    pub socket: Option<PathBuf>,
    /// Who besides the server's own user and root may use the socket.
    pub access: Access,
    /// Where changes are written down.
    pub audit: Audit,
    /// A listening socket to use in place of one of our own making, for `listen`.
    pub tcp: Option<StdTcpListener>,
    /// The same for `socket`. Its file is the other process's until [`Admin::own`].
    pub unix: Option<StdUnixListener>,
}

/// Where the answers come from.
pub struct Sources {
    /// The control board.
    pub board: Arc<Board>,
    /// The metrics of each shard, by its number.
    pub blocks: Vec<Arc<Block>>,
    /// What is watched, and how it is. Called for each `/readyz`: must not block, and no other of these may.
    pub probes: Arc<dyn Fn() -> Vec<ProbeView> + Send + Sync>,
    /// The metrics of the process.
    pub process: Arc<dyn Fn() -> Vec<ProcessReading> + Send + Sync>,
    /// The signs of life of each shard, by its number.
    pub vitals: Arc<dyn Fn() -> Vec<Vital> + Send + Sync>,
    /// What is under way with the server as a whole.
    pub situation: Arc<dyn Fn() -> Situation + Send + Sync>,
    /// Who the server is.
    pub identity: Identity,
    /// The server's version.
    pub version: &'static str,
    /// When the server was started.
    pub started: Instant,
    /// Who carries out what is asked over the socket.
    pub control: Arc<dyn Control>,
}

/// A shard's sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vital {
    /// CPU time of its thread so far; nothing if that is not known.
    pub cpu: Option<Duration>,
    /// How long it has given no sign of life, if that is too long.
    pub stalled: Option<Duration>,
}

/// What is under way with the server as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Situation {
    /// The canary that runs.
    pub canary: Option<CanaryView>,
    /// How far an upgrade is, in words.
    pub upgrade: Option<String>,
    /// When the first of the certificates in use ends.
    pub certificate_expires: Option<Timestamp>,
}

/// Who the server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The config file; nothing if it runs by the defaults.
    pub config_file: Option<String>,
    /// The number of each shard's CPU.
    pub cpus: Vec<usize>,
}

/// Health, metrics and the socket, as long as they are answered. Dropped without [`stop`](Self::stop), they end as well,
/// and are not waited for.
pub struct Admin {
    address: Option<SocketAddr>,
    socket: Option<SocketFile>,
    /// The sockets again, for a process that takes over.
    tcp: Option<StdTcpListener>,
    unix: Option<StdUnixListener>,
    audit: Audit,
    /// Dropped to stop.
    stop: watch::Sender<()>,
    /// Closed once all tasks have ended.
    ended: mpsc::Receiver<()>,
}

/// What each task holds: told when to stop, and telling by its end.
#[derive(Clone)]
struct Watch {
    stop: watch::Receiver<()>,
    _ended: mpsc::Sender<()>,
}

impl Admin {
    /// Binds the address, makes the socket, and begins to answer at both, on the runtime of `handle`.
    ///
    /// # Errors
    /// If the address is taken or the socket can't be made. The message says what to do; neither is left behind.
    pub fn start(handle: &Handle, options: Options, sources: Sources) -> Result<Self, Error> {
        let Options { listen, socket, access, audit, tcp, unix } = options;
        let shared = Arc::new(Shared::new(sources, audit.clone()));
        let tcp = listen.map(|address| tcp_listener(address, tcp)).transpose()?;
        let socket = socket.as_deref().map(|path| unix_listener(path, unix, &access)).transpose()?;
        let (stop, stopped) = watch::channel(());
        let (ending, ended) = mpsc::channel();
        let watch = Watch { stop: stopped, _ended: ending };
        let mut admin = Self { address: None, socket: None, tcp: None, unix: None, audit, stop, ended };
        // What is made from a descriptor belongs to the runtime that is entered.
        let entered = handle.enter();
        if let Some((listener, bound)) = tcp {
            let listen_error = |source| Error::Listen { address: bound, source };
            admin.address = Some(bound);
            admin.tcp = Some(listener.try_clone().map_err(listen_error)?);
            let listener = TcpListener::from_std(listener).map_err(listen_error)?;
            handle.spawn(serve(listener, routes::public(Arc::clone(&shared)), watch.clone()));
        }
        if let Some((file, listener)) = socket {
            let path = file.path().to_owned();
            let socket_error = |source| Error::Socket { path: path.clone(), source };
            admin.socket = Some(file);
            admin.unix = Some(listener.try_clone().map_err(socket_error)?);
            let listener = UnixListener::from_std(listener).map_err(socket_error)?;
            let door = Door::new(listener, access);
            handle.spawn(serve(door, routes::private(Arc::clone(&shared)), watch.clone()));
        }
        handle.spawn(keep_up(shared, watch));
        drop(entered);
        Ok(admin)
    }

    /// The address of health and metrics, if they are on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The path of the socket, if it is on.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(SocketFile::path)
    }

    /// Takes notes of what is changed by others than those who come to the socket.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Takes the file of an inherited socket over, since the process that it was of has been told: from here on it has the
    /// mode of this config, and is removed at the stop. Before, a start that fails leaves it as it was.
    pub fn own(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        if let Err(error) = socket.own() {
            tracing::error!(path = %socket.path().display(), %error, "the admin socket's mode can't be set");
        }
    }

    /// Both listening sockets once more, that of the address and the unix socket, for a process that takes over.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn share(&self) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        let tcp = self.tcp.as_ref().map(StdTcpListener::try_clone).transpose()?;
        let unix = self.unix.as_ref().map(StdUnixListener::try_clone).transpose()?;
        Ok((tcp.map(OwnedFd::from), unix.map(OwnedFd::from)))
    }

    /// Stops: removes the socket, closes both listeners, lets answers under way finish for half a second, and has
    /// the audit log written. To be called before the runtime ends, and not from one of its tasks.
    pub fn stop(self) {
        let Self { socket, tcp, unix, audit, stop, ended, .. } = self;
        drop((socket, tcp, unix));
        end(stop, &ended);
        audit.finish();
    }

    /// Stops in the same way, but leaves the socket's file to the process that has taken over; if that one answers elsewhere,
    /// the file is removed.
    pub fn hand_over(self) {
        let Self { socket, tcp, unix, audit, stop, ended, .. } = self;
        drop((tcp, unix));
        end(stop, &ended);
        if let Some(socket) = socket {
            socket.leave();
        }
        audit.finish();
    }
}

fn end(stop: watch::Sender<()>, ended: &mpsc::Receiver<()>) {
    drop(stop);
    // Nothing is ever sent: this waits for the last sender to go.
    if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(STOP_WAIT) {
        tracing::error!("the services thread does not answer; health and metrics were perhaps not answered before");
    }
}

impl Watch {
    /// Returns when the stop has begun.
    async fn stopped(&mut self) {
        // Nothing is ever sent: the channel is closed to stop.
        while self.stop.changed().await.is_ok() {}
    }
}

/// The inherited socket if it is that of the address, else one that is bound to it.
fn tcp_listener(address: SocketAddr, inherited: Option<StdTcpListener>) -> Result<(StdTcpListener, SocketAddr), Error> {
    let listen_error = |source| Error::Listen { address, source };
    // The config may have another address than that of the process which is taken over from.
    let inherited = inherited.filter(|listener| {
        listener.local_addr().is_ok_and(|bound| bound == address || (address.port() == 0 && bound.ip() == address.ip()))
    });
    let listener = inherited.map_or_else(|| StdTcpListener::bind(address), Ok).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;
    Ok((listener, bound))
}

/// The inherited socket if its file is the one at the path, else one that is made there.
fn unix_listener(
    path: &Path,
    inherited: Option<StdUnixListener>,
    access: &Access,
) -> Result<(SocketFile, StdUnixListener), Error> {
    let inherited = inherited.filter(|listener| is_at(listener, path));
    let Some(listener) = inherited else { return SocketFile::listen(path, access.is_open()) };
    let socket_error = |source| Error::Socket { path: path.to_owned(), source };
    listener.set_nonblocking(true).map_err(socket_error)?;
    let file = SocketFile::take_over(path, access.is_open())?;
    Ok((file, listener))
}

/// A place that clients come to.
trait Place: Send + Sync + 'static {
    /// A client's connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next client; nothing if it may not be answered.
    fn next(&self, app: &Router) -> impl Future<Output = io::Result<Option<Client<Self::Stream>>>> + Send;
}

/// Somebody who is answered.
struct Client<S> {
    stream: S,
    /// What answers.
    app: Router,
    /// Held as long as that takes, by those who do not count towards the connections of all.
    permit: Option<OwnedSemaphorePermit>,
}

impl Place for TcpListener {
    type Stream = TcpStream;

    async fn next(&self, app: &Router) -> io::Result<Option<Client<TcpStream>>> {
        let (stream, _) = self.accept().await?;
        Ok(Some(Client { stream, app: app.clone(), permit: None }))
    }
}

/// The unix socket, and who may come in.
struct Door {
    listener: UnixListener,
    access: Access,
    readers: Arc<Semaphore>,
    strangers: Mutex<Seldom>,
}

impl Door {
    fn new(listener: UnixListener, access: Access) -> Self {
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        Self { listener, access, readers, strangers: Mutex::new(Seldom::new(STRANGERS_EVERY)) }
    }

    /// Tells of somebody who may not come in. Anybody on the machine can come as often as they like, so not each time.
    fn turn_away(&self, uid: u32) {
        let turn = self.strangers.lock().unwrap_or_else(PoisonError::into_inner).turn(Instant::now());
        if let Some(unsaid) = turn {
            tracing::warn!(uid, unsaid, "a user that may not was turned away from the admin socket");
        }
    }
}

impl Place for Door {
    type Stream = UnixStream;

    async fn next(&self, app: &Router) -> io::Result<Option<Client<UnixStream>>> {
        let (stream, _) = self.listener.accept().await?;
        let peer = match self.access.admit(&stream.peer_cred()?, stream.as_fd()) {
            Ok(peer) => peer,
            Err(uid) => {
                self.turn_away(uid);
                return Ok(None);
            }
        };
        let permit = match peer.role {
            Role::Operator => None,
            Role::Reader => match Arc::clone(&self.readers).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    // It fits into the socket's buffer, or nobody reads it.
                    let _ = stream.try_write(NO_ROOM);
                    return Ok(None);
                }
            },
        };
        Ok(Some(Client { stream, app: app.clone().layer(Extension(peer)), permit }))
    }
}

/// Answers at a place until the stop.
async fn serve<P: Place>(place: P, app: Router, mut watch: Watch) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = watch.stopped() => break,
            Some(ended) = connections.join_next() => note_panic(ended),
            client = place.next(&app), if room.available_permits() > 0 => match client {
                Ok(Some(Client { stream, app, permit })) => {
                    // There is one: nobody else takes any.
                    let permit = permit.or_else(|| Arc::clone(&room).try_acquire_owned().ok());
                    let connection = serve_connection(stream, app, &graceful);
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of the services");
                    sleep(ACCEPT_REST).await;
                }
            },
        }
    }
    drop(place);
    // Connections still open after this end with the set.
    let _ = timeout(STOP_PATIENCE, graceful.shutdown()).await;
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err() {
        tracing::error!("answering a request panicked; this is a bug, other requests are answered");
    }
}

fn serve_connection<S>(stream: S, app: Router, graceful: &GracefulShutdown) -> impl Future<Output = ()> + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let watched = graceful.watch(connection);
    async move {
        // A client that errs or dawdles has only itself to tell.
        let _ = timeout(CONNECTION_TIMEOUT, watched).await;
    }
}

/// Notes every now and then how the server is, until the stop.
async fn keep_up(shared: Arc<Shared>, mut watch: Watch) {
    let mut observation = interval(history::INTERVAL);
    observation.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = watch.stopped() => break,
            _ = observation.tick() => shared.observe(),
        }
    }
}
