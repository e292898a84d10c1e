//! What only clients do that mean no good, or that a test needs: to stay and say nothing, to listen for as long as it
//! takes, to write single bytes, to leave with a reset.

use std::time::Duration;

use rustls::ClientConnection;

use super::{CLOSE_WAIT, Connection, Dial};
use crate::reply::{Reply, parse_reply};
use crate::stats::BreakKind;
use crate::stream::Break;

/// Bytes of what a server says unasked that are taken before room is made for a whole reply.
const UNASKED_BYTES: usize = 16;

impl Connection {
    /// Waits, with as little memory as possible, until the server says something unasked, which is then taken as a
    /// reply, or ends the session, which is an error.
    pub(crate) async fn rest(&mut self) -> Result<Reply, Break> {
        self.out = Vec::new();
        if self.start == self.end {
            (self.read, self.start, self.end) = (Vec::new(), 0, 0);
            let mut unasked = [0; UNASKED_BYTES];
            let count = self.stream.read_unbounded(&mut unasked).await?;
            self.read.extend_from_slice(&unasked[..count]);
            self.filled(count)?;
        }
        self.reply().await
    }

    /// Takes the next reply, however long it takes to come. Nothing is lost when the wait is given up.
    pub(crate) async fn hear(&mut self) -> Result<Reply, Break> {
        loop {
            match parse_reply(&self.read[..self.end], self.start) {
                Ok(Some(reply)) => {
                    self.start = reply.bytes.end;
                    self.recorder.stats().reply(reply.code);
                    return Ok(reply);
                }
                Ok(None) => {
                    self.make_room();
                    let count = self.stream.read_unbounded(&mut self.read[self.end..]).await?;
                    self.filled(count)?;
                }
                Err(_) => return Err(Break::new(BreakKind::Protocol, "not an SMTP reply")),
            }
        }
    }

    /// Waits until the server says anything at all, which is thrown away.
    pub(crate) async fn hear_something(&mut self) -> Result<(), Break> {
        let mut some = [0; 1];
        match self.stream.read(&mut some, self.timeout).await? {
            0 => Err(Break::new(BreakKind::Eof, "the server closed the connection in the middle of the handshake")),
            _ => Ok(()),
        }
    }

    /// Waits for the end of the connection, whatever comes before.
    pub(crate) async fn hear_the_end(&mut self) -> Break {
        let mut rest = [0; 256];
        loop {
            match self.stream.read_unbounded(&mut rest).await {
                Ok(0) => return Break::new(BreakKind::Eof, "the server closed the connection"),
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Break> {
        self.stream.write_all(bytes, self.timeout).await
    }

    /// The first flight of a TLS handshake with the target of this turn, which is then for the caller to send.
    pub(crate) fn client_hello(dial: &Dial, turn: usize) -> Result<Vec<u8>, Break> {
        let wrong = |what: &dyn std::fmt::Display| Break::new(BreakKind::Tls, format!("no ClientHello: {what}"));
        let config = dial.connector().config().clone();
        let name = dial.target(turn).name.clone();
        let mut session = ClientConnection::new(config, name).map_err(|error| wrong(&error))?;
        let mut hello = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut hello).map_err(|error| wrong(&error))?;
        }
        Ok(hello)
    }

    /// Closes without QUIT, and waits until the server has closed too.
    pub(crate) async fn hang_up(mut self) -> Result<(), Break> {
        self.stream.shutdown(self.timeout).await?;
        let end = async { Ok(self.hear_the_end().await) };
        within(CLOSE_WAIT, end).await?;
        Ok(())
    }

    /// Leaves with a reset.
    pub(crate) fn abort(self) -> Result<(), Break> {
        self.stream.abort()
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Break>>) -> Result<T, Break> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Break::new(BreakKind::Timeout, format!("the server didn't close within {limit:?}"))),
    }
}
