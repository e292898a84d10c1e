//! The two places that are answered at, and their end.
//!
//! Invariants: [`Admin::start`] returns only once both places are there; at most [`CONNECTIONS_MAX`] connections of each
//! are served at a time, each with a bounded header and time to send it; [`Admin::stop`] returns within a second,
//! finished answers or not. A panic in a handler ends its connection, not the thread. It refuses HTTP/2, upgrades, and
//! to restart by itself.

use crate::Error;
use crate::control::Control;
use crate::routes::{self, Shared};
use crate::socket::{SocketFile, admits};
use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use ringpost_control::Board;
use ringpost_metrics::Block;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Connections at a time, of each place: some scrapers and people. More wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;

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

/// Between two publications when nobody scrapes: bounds the work that one scrape finds.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);

/// Rest after a failed accept (no descriptors left), so as not to spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

const _: () = assert!(STOP_PATIENCE.as_millis() + ACCEPT_REST.as_millis() < STOP_WAIT.as_millis());

/// Where to answer, from the config's `[admin]`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The TCP address of health and metrics. Port 0 takes any free port; [`Admin::address`] tells which. Nothing: off.
    pub listen: Option<SocketAddr>,
    /// The unix socket of the API, best as an absolute path. Nothing: off.
    pub socket: Option<PathBuf>,
}

/// Where the answers come from.
pub struct Sources {
    /// The control board.
    pub board: Arc<Board>,
    /// The metrics of each shard, by its number.
    pub blocks: Vec<Arc<Block>>,
    /// Why the server is degraded, in words for an operator; may be empty. Called for each `/readyz`: must not block.
    pub reasons: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// The server's version.
    pub version: &'static str,
    /// When the server was started.
    pub started: Instant,
    /// Who carries out what is asked over the socket.
    pub control: Arc<dyn Control>,
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
}

/// Health, metrics and the socket, as long as they are answered. Dropped without [`stop`](Self::stop), they end as well,
/// and are not waited for.
pub struct Admin {
    address: Option<SocketAddr>,
    socket: Option<SocketFile>,
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
        let shared = Arc::new(Shared::new(sources)?);
        let tcp = options.listen.map(bind).transpose()?;
        let socket = options.socket.as_deref().map(SocketFile::listen).transpose()?;
        let (stop, stopped) = watch::channel(());
        let (ending, ended) = mpsc::channel();
        let watch = Watch { stop: stopped, _ended: ending };
        // What is made from a descriptor belongs to the runtime that is entered.
        let entered = handle.enter();
        let mut address = None;
        if let Some((listener, bound)) = tcp {
            address = Some(bound);
            let listener =
                TcpListener::from_std(listener).map_err(|source| Error::Listen { address: bound, source })?;
            handle.spawn(serve(listener, routes::public(Arc::clone(&shared)), watch.clone()));
        }
        let mut file = None;
        if let Some((made, listener)) = socket {
            let path = made.path().to_owned();
            let listener = UnixListener::from_std(listener).map_err(|source| Error::Socket { path, source })?;
            handle.spawn(serve(listener, routes::private(Arc::clone(&shared)), watch.clone()));
            file = Some(made);
        }
        handle.spawn(keep_up(shared, watch));
        drop(entered);
        Ok(Self { address, socket: file, stop, ended })
    }

    /// The address of health and metrics, if they are on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The path of the socket, if it is on.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(SocketFile::path)
    }

    /// Stops: removes the socket, closes both listeners, lets answers under way finish for half a second. To be called
    /// before the runtime ends, and not from one of its tasks.
    pub fn stop(self) {
        let Self { socket, stop, ended, .. } = self;
        drop(socket);
        drop(stop);
        // Nothing is ever sent: this waits for the last sender to go.
        if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(STOP_WAIT) {
            tracing::error!("the services thread does not answer; health and metrics were perhaps not answered before");
        }
    }
}

impl Watch {
    /// Returns when the stop has begun.
    async fn stopped(&mut self) {
        // Nothing is ever sent: the channel is closed to stop.
        while self.stop.changed().await.is_ok() {}
    }
}

fn bind(address: SocketAddr) -> Result<(StdTcpListener, SocketAddr), Error> {
    let listen_error = |source| Error::Listen { address, source };
    let listener = StdTcpListener::bind(address).map_err(listen_error)?;
    listener.set_nonblocking(true).map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;
    Ok((listener, bound))
}

/// A place that clients come to.
trait Place: Send + Sync + 'static {
    /// A client's connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next client, with what answers it; nothing if it may not be answered.
    fn next(&self, app: &Router) -> impl Future<Output = io::Result<Option<(Self::Stream, Router)>>> + Send;
}

impl Place for TcpListener {
    type Stream = TcpStream;

    async fn next(&self, app: &Router) -> io::Result<Option<(TcpStream, Router)>> {
        let (stream, _) = self.accept().await?;
        Ok(Some((stream, app.clone())))
    }
}

impl Place for UnixListener {
    type Stream = UnixStream;

    async fn next(&self, app: &Router) -> io::Result<Option<(UnixStream, Router)>> {
        let (stream, _) = self.accept().await?;
        let peer = Peer { uid: stream.peer_cred()?.uid() };
        if !admits(peer) {
            tracing::warn!(uid = peer.uid, "a user that may not was turned away from the admin socket");
            return Ok(None);
        }
        Ok(Some((stream, app.clone().layer(Extension(peer)))))
    }
}

/// Answers at a place until the stop.
async fn serve<P: Place>(place: P, app: Router, mut watch: Watch) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = watch.stopped() => break,
            Some(ended) = connections.join_next() => note_panic(ended),
            client = place.next(&app), if connections.len() < CONNECTIONS_MAX => match client {
                Ok(Some((stream, app))) => {
                    connections.spawn(serve_connection(stream, app, &graceful));
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

/// Publishes metrics every now and then until the stop.
async fn keep_up(shared: Arc<Shared>, mut watch: Watch) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = watch.stopped() => break,
            _ = ticks.tick() => shared.upkeep(),
        }
    }
}
