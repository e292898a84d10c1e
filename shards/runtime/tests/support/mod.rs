//! Shards to look at from outside.

#![allow(dead_code, reason = "each test program uses a part of it")]

use crossbeam::channel::{Receiver, unbounded};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use ringpost_base::ShardId;
use ringpost_control::Board;
use ringpost_metrics::Block;
use ringpost_runtime::{Plan, Pulse, Shard, ShardThread, cores, start};
use std::net::SocketAddr;
use std::sync::Arc;

/// A shard on the first CPU.
pub(crate) struct Running {
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) block: Arc<Block>,
    pub(crate) ended: Receiver<ShardId>,
    pub(crate) thread: ShardThread<()>,
}

/// Starts a shard with this number that runs `body`.
pub(crate) fn shard<F: Future<Output = ()> + 'static>(
    id: u16,
    body: impl FnOnce(Shard) -> F + Send + 'static,
) -> Running {
    let shard = ShardId(id);
    let seat = Board::new(1).seat(ShardId(0)).expect("the first");
    let (pulse, block) = (Pulse::new(shard), Arc::new(Block::new()));
    let (sender, ended) = unbounded();
    let plan = Plan { shard, cpu: cores()[0], block: block.clone(), seat, pulse: pulse.clone(), ended: sender };
    Running { pulse, block, ended, thread: start(plan, body).expect("starts") }
}

/// A server that sends back what it gets, one byte a connection, and where it is.
pub(crate) fn echo() -> (impl Future<Output = ()>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address of this machine");
    let address = listener.local_addr().expect("it is bound");
    let server = async move {
        loop {
            let mut stream = listener.accept().await.expect("a connection");
            ringpost_runtime::spawn("answer", async move {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.expect("a byte");
                stream.write_all(&byte).await.expect("takes it");
            });
        }
    };
    (server, address)
}

/// Sends a byte there and waits for it.
pub(crate) async fn call(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(b"x").await.expect("takes it");
    let mut byte = [0];
    stream.read_exact(&mut byte).await.expect("the byte comes back");
    assert_eq!(byte, *b"x");
}
