//! How a connection becomes secure.

use crate::connection::{Closed, Connection, keep};
use crate::gate::Turn;
use crate::scratch::{self, SCRATCH, Scratch};
use crate::tls::{Acceptor, Handshake};
use rustls::ProtocolVersion;
use std::future::poll_fn;
use std::io::Read;
use std::task::{Context, Poll, ready};

/// Bytes that are taken at one time while shaking hands. rustls has room for that many whenever it has worked on what came
/// before; a hello with a post-quantum key share is 1,800.
const TAKE_MAX: usize = 4096;

/// A handshake under way.
struct Shaking {
    /// Input that was read before TLS began and belongs to it.
    unread: Vec<u8>,
    turn: Turn,
    /// rustls has been given input that it has not worked on.
    loaded: bool,
}

impl Connection {
    pub(crate) async fn shake_hands(&mut self, acceptor: &Acceptor, unread: Vec<u8>) -> Result<Handshake, Closed> {
        let tls = acceptor.connection().map_err(|error| {
            tracing::error!(%error, "no TLS session can be made");
            Closed::Tls
        })?;
        self.tls = Some(Box::new(tls));
        let mut shaking = Shaking { unread, turn: Turn::new(self.entry.gate()), loaded: false };
        let shaken = poll_fn(|cx| self.poll_handshake(cx, &mut shaking)).await;
        drop(shaking);
        if let Err(closed) = shaken {
            if closed == Closed::Tls {
                let why = self.tls_failure().unwrap_or_else(|| "too much input at once".to_owned());
                tracing::debug!(peer = %self.peer(), why, "TLS handshake failed");
            }
            // The alert, if one is to go out; the connection is over whether it arrives or not.
            let _ = self.send_tls().await;
            return Err(closed);
        }
        let tls = self.tls.as_ref().ok_or(Closed::Tls)?;
        Ok(acceptor.describe(tls, ringpost_runtime::now().wall))
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>, shaking: &mut Shaking) -> Poll<Result<(), Closed>> {
        loop {
            let Some(tls) = &self.tls else { return Poll::Ready(Err(Closed::Tls)) };
            let done = !tls.is_handshaking() && shaking.unread.is_empty();
            // What is left to send then in TLS 1.3 is a ticket, which can go with the first reply instead of in a packet of its
            // own; in TLS 1.2 the client waits for it.
            if done && tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_send_tls(cx))?;
            if done {
                return Poll::Ready(Ok(()));
            }
            // A message can't be under way yet.
            self.over(true)?;
            if !shaking.loaded {
                match scratch::with(|scratch| self.poll_load(cx, scratch, shaking)) {
                    Poll::Ready(loaded) => loaded?,
                    Poll::Pending => {
                        self.entry.wait(cx.waker());
                        return Poll::Pending;
                    }
                }
            }
            // Working on it is what costs; reading is not.
            if shaking.turn.poll_enter(cx).is_pending() {
                self.entry.wait(cx.waker());
                return Poll::Pending;
            }
            shaking.loaded = false;
            let worked = scratch::with(|scratch| self.work(scratch));
            shaking.turn.leave();
            worked?;
        }
    }

    /// Gives rustls what has come, without working on it.
    fn poll_load(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        shaking: &mut Shaking,
    ) -> Poll<Result<(), Closed>> {
        let length = if shaking.unread.is_empty() {
            ready!(self.poll_read(cx, &mut scratch.socket[..TAKE_MAX]))?
        } else {
            let length = shaking.unread.len().min(TAKE_MAX);
            scratch.socket[..length].copy_from_slice(&shaking.unread[..length]);
            shaking.unread.drain(..length);
            length
        };
        let mut cipher = &scratch.socket[..length];
        let Some(tls) = &mut self.tls else { return Poll::Ready(Err(Closed::Tls)) };
        while !cipher.is_empty() {
            if !matches!(tls.read_tls(&mut cipher), Ok(1..)) {
                return Poll::Ready(Err(Closed::Tls));
            }
        }
        shaking.loaded = true;
        Poll::Ready(Ok(()))
    }

    /// Works on what rustls was given. Application data behind the handshake is kept for the machine.
    fn work(&mut self, scratch: &mut Scratch) -> Result<(), Closed> {
        let tls = self.tls.as_mut().ok_or(Closed::Tls)?;
        let state = tls.process_new_packets().map_err(|_| Closed::Tls)?;
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let got = tls.reader().read(&mut scratch.plain[..left.min(SCRATCH)]).map_err(|_| Closed::Tls)?;
            left -= got;
            keep(&mut self.carry, &mut self.starved, &scratch.plain[..got]);
        }
        if state.peer_has_closed() { Err(Closed::Peer) } else { Ok(()) }
    }
}
