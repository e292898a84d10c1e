//! The thread, its listener, and its end.
//!
//! Invariants: [`Services::start`] returns only once the address is bound; at most [`CONNECTIONS_MAX`] connections are
//! served at a time, each with a bounded header and time to send it; [`Services::stop`] returns within a second,
//! finished answers or not. A panic in a handler ends its connection, not the thread. It refuses HTTP/2, upgrades, and
//! to restart by itself.

use crate::Error;
use crate::exporter::Exporter;
use crate::routes::{Shared, router, upkeep};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use ringpost_control::Board;
use ringpost_metrics::Block;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Connections at a time: some scrapers and people. More wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;

/// Time from the connection, or the last answer, to the end of the next request's header. Idle connections end with it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's header that are read.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Time that a connection gets altogether, however slowly its reader takes the answers.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Time that answers under way get when the services stop.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Between two publications when nobody scrapes: bounds the work that one scrape finds.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);

/// Rest after a failed accept (no descriptors left), so as not to spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How the services are to run, from the config's `[admin]`.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where to answer HTTP. Port 0 takes any free port; [`Services::address`] tells which.
    pub listen: SocketAddr,
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
}

/// The running services thread. Dropped without [`stop`](Self::stop), it is told to stop and not waited for.
pub struct Services {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Services {
    /// Binds the address and starts the thread.
    ///
    /// # Errors
    /// If the address is taken or the thread can't be started. The message says what to do.
    pub fn start(options: Options, sources: Sources) -> Result<Self, Error> {
        let address = options.listen;
        let listen_error = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let exporter = Mutex::new(Exporter::new(sources.blocks.clone())?);
        let shared = Arc::new(Shared { sources, exporter });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("services".to_owned())
            .spawn(move || runtime.block_on(serve(listener, shared, stopped)))
            .map_err(Error::Thread)?;
        Ok(Self { address, stop, thread })
    }

    /// The address answered on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: closes the listener, lets answers under way finish for half a second, ends the thread.
    pub fn stop(self) {
        // It fails only when the thread has ended already.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the services thread had panicked; health and metrics were not answered since");
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "cannot watch the listener for health and metrics"),
    };
    let app = router(Arc::clone(&shared));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut ticks = interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let accept = async || {
        // The semaphore is never closed.
        let permit = Arc::clone(&connections).acquire_owned().await.ok();
        (listener.accept().await, permit)
    };
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => upkeep(&shared),
            (accepted, permit) = accept() => match accepted {
                Ok((stream, _)) => {
                    let served = serve_connection(stream, app.clone(), &graceful);
                    tokio::spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for health and metrics");
                    sleep(ACCEPT_REST).await;
                }
            },
        }
    }
    drop(listener);
    // Connections still open after this end with the runtime.
    let _ = timeout(STOP_PATIENCE, graceful.shutdown()).await;
}

fn serve_connection(stream: TcpStream, app: Router, graceful: &GracefulShutdown) -> impl Future<Output = ()> + use<> {
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
